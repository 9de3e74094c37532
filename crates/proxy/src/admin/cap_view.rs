//! `GET /caps?tenant=`: the money caps in force in the store, the amounts that they count, and the rest.

use gatepay_core::money::CurrencyCode;
use gatepay_store::admission::StoredText;
use gatepay_store::caps::report::{CapReport, CapState, CapUse};
use gatepay_store::caps::rule::CapScope;
use gatepay_tenancy::PartyId;
use gatepay_tenancy::facts::time;
use http::StatusCode;
use serde::Serialize;

use crate::admin::notification_view::{away, bad};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::app::App;

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
}

#[derive(Serialize)]
struct ShorterDelay {
    ms: u64,
    at: String,
}

/// One cap.
#[derive(Serialize)]
struct CapEntry {
    /// The tenant or operator; none: over all together.
    tenant: Option<String>,
    cap: &'static str,
    /// The names under which calls are counted.
    calls: Vec<String>,
    /// None: each currency without a cap of its own, by itself.
    currency: Option<String>,
    shadow: bool,
    limit: String,
    /// From when on the currency may be spent, if it may not yet.
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
    list.map_or_else(AdminFailure::answer, |list| json(StatusCode::OK, &list))
}

async fn list(app: &App, query: Option<&str>) -> Result<CapList, AdminFailure> {
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
    let of = tenant.clone();
    let facts = cluster
        .calls()
        .call(move |store| async move { store.cap_facts(of).await });
    let facts = facts.await.map_err(|error| away(&error))?;
    Ok(facts.report(tenant.as_ref()).into())
}

impl From<CapReport> for CapList {
    fn from(report: CapReport) -> Self {
        let CapReport {
            now_ms,
            delay,
            caps,
        } = report;
        let shorter = delay.and_then(|delay| delay.shorter);
        Self {
            at: time(now_ms),
            raise_after_ms: delay.map(|delay| delay.ms),
            shorter_raise_after: shorter.map(|(ms, from_ms)| ShorterDelay {
                ms,
                at: time(from_ms),
            }),
            caps: caps.into_iter().map(|cap| entry(cap, now_ms)).collect(),
        }
    }
}

fn entry(cap: CapState, now_ms: u64) -> CapEntry {
    let used_ratio = cap.used_ratio();
    let CapState {
        name,
        state,
        limit,
        uses,
    } = cap;
    let raise = state.raise.filter(|(_, from_ms)| *from_ms > now_ms);
    CapEntry {
        tenant: match name.scope {
            CapScope::All => None,
            CapScope::Party(party) => Some(party.as_str().to_owned()),
        },
        cap: name.measure.as_str(),
        calls: name.calls.into_iter().collect(),
        currency: name.currency.as_ref().map(text),
        shadow: name.shadow,
        limit: limit.to_string(),
        opens_at: (state.opens_ms > now_ms).then(|| time(state.opens_ms)),
        ends_at: state.ends_ms.map(time),
        raise: raise.map(|(limit, from_ms)| WaitingRaise {
            limit: limit.to_string(),
            at: time(from_ms),
        }),
        used_ratio,
        uses: uses.into_iter().map(UseEntry::from).collect(),
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
