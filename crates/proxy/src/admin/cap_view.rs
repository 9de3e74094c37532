//! `GET /caps?tenant=`: the money caps in force in the store, the amounts that they count, and the rest.

use gatepay_core::money::CurrencyCode;
use gatepay_store::admission::StoredText;
use gatepay_store::caps::early_raise::PendingRaise;
use gatepay_store::caps::report::{CapReport, CapState, CapUse};
use gatepay_store::caps::rule::{CapMeasure, CapScope};
use gatepay_tenancy::facts::time;
use gatepay_tenancy::{PartyId, PartyRef, Registry};
use http::StatusCode;
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::admin::notification_view::{away, bad};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::admin::suspend::unknown_party;
use crate::app::App;
use crate::cluster::store_calls::LongReader;

/// The caps, as the answer shows them.
#[derive(Serialize)]
struct CapList {
    /// The store's clock.
    at: String,
    /// How long a raised or removed cap holds as it was, in milliseconds.
    raise_after_ms: Option<u64>,
    /// A shorter time, which holds only once the longer one is over.
    shorter_raise_after: Option<ShorterDelay>,
    caps: Vec<CapEntry>,
    /// The raises that wait, which operators can have hold at once.
    waiting: Vec<WaitingEntry>,
}

#[derive(Serialize)]
struct ShorterDelay {
    ms: u64,
    at: String,
}

/// The changes of one sub-account, or of all, that wait.
#[derive(Serialize)]
struct WaitingEntry {
    /// The first digits of the digest.
    id: String,
    /// SHA-256 of the changes.
    digest: String,
    account: Option<String>,
    tenants: Vec<String>,
    changes: Vec<ChangeEntry>,
    approved_by: Vec<String>,
}

/// A change of one cap.
#[derive(Serialize)]
struct ChangeEntry {
    cap: &'static str,
    calls: Vec<String>,
    currency: Option<String>,
    shadow: bool,
    exempt: Vec<String>,
    /// The limit in force.
    from: String,
    limit: Option<String>,
    removed: bool,
    /// Whether the change opens currencies that had no cap and could not be spent.
    opens: bool,
}

/// One cap.
#[derive(Serialize)]
struct CapEntry {
    /// The sub-account; null for a cap over all together.
    account: Option<String>,
    /// The first tenant that acts for the sub-account; null if there is none any more, and for a cap over all.
    tenant: Option<String>,
    /// All tenants that act for the sub-account.
    tenants: Vec<String>,
    cap: &'static str,
    /// The names under which calls are counted.
    calls: Vec<String>,
    /// Null for a cap that counts each currency but the exempt ones by itself.
    currency: Option<String>,
    /// The currencies with caps of their own in the same file, each with a call behind it if that is so for that call only.
    exempt: Vec<String>,
    shadow: bool,
    limit: String,
    /// For the refusal of currencies without a cap: from when on they may be spent, if it ends. Null for all other caps.
    opens_at: Option<String>,
    /// When the cap ends, if it is removed.
    ends_at: Option<String>,
    raise: Option<WaitingRaise>,
    /// The largest part of the limit that is used in any currency, from 0 to 1.
    used_ratio: f64,
    uses: Vec<UseEntry>,
}

#[derive(Serialize)]
struct WaitingRaise {
    limit: String,
    at: String,
}

#[derive(Serialize)]
struct UseEntry {
    currency: String,
    counted: String,
    reserved: String,
    unknown: String,
    spent: String,
    left: String,
    /// The earliest time at which room can come free.
    frees_at: Option<String>,
}

/// Answers `GET /caps`.
pub(super) async fn caps(app: &App, query: Option<&str>) -> AdminResponse {
    let list = list(app, query).await;
    list.unwrap_or_else(AdminFailure::answer)
}

async fn list(app: &App, query: Option<&str>) -> Result<AdminResponse, AdminFailure> {
    let cluster = app.cluster.as_ref().ok_or(AdminFailure(
        StatusCode::CONFLICT,
        "proxy.toml has no [store], which caps need\n".into(),
    ))?;
    let [tenant] = query_fields(query, ["tenant"])?;
    let is_id = |id: &str| PartyId::parse(id).ok();
    let tenant = tenant.map(|id| {
        let party = is_id(&id).and_then(|id| StoredText::parse(id.as_str()));
        party.ok_or(bad("tenant= is the id of a tenant or an operator\n"))
    });
    let tenant = tenant.transpose()?;
    let account = tenant.map(|id| account_of(&app.generation.load().registry, &id));
    let account = account.transpose()?;
    let of = account.clone();
    let facts = cluster
        .calls()
        .call_in_turn(LongReader::Institution, move |store| async move {
            store.cap_facts(of).await
        });
    let facts = facts.await.map_err(|error| away(&error))?;
    let generation = app.generation.load_full();
    // The report about every sub-account is long, and this thread also answers `/ready`.
    let made = spawn_blocking(move || {
        let report = facts.report(account.as_ref());
        json(StatusCode::OK, &CapList::new(report, &generation.registry))
    });
    made.await.map_err(|_panicked| {
        let text = "the report has failed: see the log\n";
        AdminFailure(StatusCode::INTERNAL_SERVER_ERROR, text.into())
    })
}

/// The sub-account of a party. An operator has none, and so no caps but those over all.
fn account_of(registry: &Registry, id: &StoredText) -> Result<StoredText, AdminFailure> {
    let position = registry.position(id.as_str());
    let position = position
        .ok_or_else(|| unknown_party("caps of a sub-account without a tenant are in GET /caps"))?;
    let account = match registry.at(position) {
        PartyRef::Tenant(tenant) => StoredText::parse(tenant.sub_account.as_str()),
        PartyRef::Operator(_) => None,
    };
    Ok(account.unwrap_or_default())
}

impl CapList {
    fn new(report: CapReport, registry: &Registry) -> Self {
        let CapReport {
            now_ms,
            delay,
            caps,
            waiting,
        } = report;
        let shorter = delay.and_then(|delay| delay.shorter);
        Self {
            at: time(now_ms),
            raise_after_ms: delay.map(|delay| delay.ms),
            shorter_raise_after: shorter.map(|(ms, from_ms)| ShorterDelay {
                ms,
                at: time(from_ms),
            }),
            caps: caps
                .into_iter()
                .map(|cap| entry(cap, now_ms, registry))
                .collect(),
            waiting: waiting
                .into_iter()
                .map(|(waiting, signers)| waiting_entry(waiting, &signers, registry))
                .collect(),
        }
    }
}

fn entry(cap: CapState, now_ms: u64, registry: &Registry) -> CapEntry {
    let used_ratio = cap.used_ratio();
    let CapState {
        name,
        state,
        limit,
        uses,
    } = cap;
    let raise = state.raise.filter(|(_, from_ms)| *from_ms > now_ms);
    let is_no_cap = name.measure == CapMeasure::NoCap;
    let (account, tenants) = owner(&name.scope, registry);
    CapEntry {
        account,
        tenant: tenants.first().cloned(),
        tenants,
        cap: name.measure.as_str(),
        calls: name.calls.into_iter().collect(),
        currency: name.currency.as_ref().map(text),
        exempt: name.exempt.into_iter().collect(),
        shadow: name.shadow,
        limit: limit.to_string(),
        opens_at: state.ends_ms.filter(|_| is_no_cap).map(time),
        ends_at: state.ends_ms.map(time),
        raise: raise.map(|(limit, from_ms)| WaitingRaise {
            limit: limit.to_string(),
            at: time(from_ms),
        }),
        used_ratio,
        uses: uses.into_iter().map(UseEntry::from).collect(),
    }
}

/// The sub-account of a scope, and the tenants that act for it.
fn owner(scope: &CapScope, registry: &Registry) -> (Option<String>, Vec<String>) {
    let CapScope::Account(account) = scope else {
        return (None, Vec::new());
    };
    let tenants = registry.tenants_of(account.as_str());
    let mut tenants: Vec<String> = tenants.map(|it| it.party.id.to_string()).collect();
    tenants.sort();
    (Some(account.as_str().to_owned()), tenants)
}

fn waiting_entry(
    waiting: PendingRaise,
    signers: &[StoredText],
    registry: &Registry,
) -> WaitingEntry {
    let (account, tenants) = owner(&waiting.scope, registry);
    let changes = waiting.changes.into_iter().map(|change| ChangeEntry {
        cap: change.name.measure.as_str(),
        calls: change.name.calls.into_iter().collect(),
        currency: change.name.currency.as_ref().map(text),
        exempt: change.name.exempt.into_iter().collect(),
        shadow: change.name.shadow,
        from: change.limit.to_string(),
        limit: change.raised.map(|limit| limit.to_string()),
        removed: change.is_removed,
        opens: change.name.measure == CapMeasure::NoCap,
    });
    WaitingEntry {
        id: waiting.digest.id().to_string(),
        digest: waiting.digest.to_string(),
        account,
        tenants,
        changes: changes.collect(),
        approved_by: signers.iter().map(|it| it.as_str().to_owned()).collect(),
    }
}

impl From<CapUse> for UseEntry {
    fn from(used: CapUse) -> Self {
        let CapUse {
            currency,
            counted,
            reserved,
            unknown,
            spent,
            left,
            frees_ms,
        } = used;
        Self {
            currency: text(&currency),
            counted: counted.to_string(),
            reserved: reserved.to_string(),
            unknown: unknown.to_string(),
            spent: spent.to_string(),
            left: left.to_string(),
            frees_at: frees_ms.map(time),
        }
    }
}

fn text(currency: &CurrencyCode) -> String {
    currency.as_str().to_owned()
}
