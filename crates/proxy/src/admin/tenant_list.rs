//! Tenant list: all tenants and operators, as operators of the proxy see them, without secrets.

use std::collections::BTreeMap;

use gatepay_core::Kind;
use gatepay_tenancy::facts::time;
use gatepay_tenancy::{DatedCredential, Party, PartyRef, Rate, Standing};
use serde::Serialize;

use crate::generation::Generation;
use crate::generation::credential_usage::CredentialUsage;
use crate::generation::refusal_counts::RefusalView;
use crate::generation::suspension::SuspendedBy;
use crate::generation::tenant_limits::TenantLimitsView;
use crate::process::clock::Clock;
use crate::process::state_dir::SuspensionList;

/// The number of parties in one answer; `next` names the start of the following page.
const PAGE: usize = 1_000;

/// A page of tenants and operators.
#[derive(Serialize)]
pub struct PartyPage<'a> {
    /// The time since which uses are counted.
    since: String,
    parties: Vec<PartyEntry<'a>>,
    /// The `after` of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

/// A tenant or an operator.
#[derive(Serialize)]
pub struct PartyEntry<'a> {
    id: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_account: Option<&'a str>,
    /// The standing in force: that of its file, unless the party is suspended by hand.
    standing: &'static str,
    /// The standing in its file, if it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_standing: Option<&'static str>,
    /// The suspension by hand: the operator and the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended: Option<SuspendedBy>,
    #[serde(flatten)]
    tenant_limits: TenantLimitsView,
    #[serde(flatten)]
    refusals: RefusalView,
    /// The rates of single kinds of calls, if any are set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    by_kind: BTreeMap<&'static str, RateEntry>,
    credentials: Vec<CredentialEntry<'a>>,
}

#[derive(Serialize)]
struct RateEntry {
    requests_per_second: u32,
    burst: u32,
}

#[derive(Serialize)]
struct CredentialEntry<'a> {
    client_id: &'a str,
    not_before: Option<String>,
    not_after: Option<String>,
    valid: bool,
    uses: u64,
    last_used: Option<String>,
    /// Requests with a right signature that were refused lately because this credential is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_in_force: Option<NotInForce>,
}

#[derive(Serialize)]
struct NotInForce {
    requests: u64,
    since: String,
    last: String,
}

/// One page of parties after the id `after`: tenants by id, then operators by id.
///
/// `None` if no party has the id `after`; the party may just have been removed.
pub fn page<'a>(
    generation: &'a Generation,
    suspended: &SuspensionList,
    after: Option<&str>,
    clock: &Clock,
    since_ms: u64,
) -> Option<PartyPage<'a>> {
    let begin = match after {
        Some(id) => generation.registry.position(id)? + 1,
        None => 0,
    };
    let mut rest = generation.registry.parties().enumerate().skip(begin);
    let page = rest.by_ref().take(PAGE);
    let parties: Vec<_> = page
        .map(|(position, who)| one(generation, suspended, (position, who), clock))
        .collect();
    let more = rest.next().is_some();
    Some(PartyPage {
        since: time(since_ms),
        next: parties.last().map(|last| last.id).filter(|_| more),
        parties,
    })
}

/// The party with this id.
pub fn named<'a>(
    generation: &'a Generation,
    suspended: &SuspensionList,
    id: &str,
    clock: &Clock,
) -> Option<PartyEntry<'a>> {
    let position = generation.registry.position(id)?;
    let who = generation.registry.at(position);
    Some(one(generation, suspended, (position, who), clock))
}

fn one<'a>(
    generation: &'a Generation,
    suspended: &SuspensionList,
    (position, who): (usize, PartyRef<'a>),
    clock: &Clock,
) -> PartyEntry<'a> {
    let Party {
        id,
        standing,
        limits,
        credentials,
        ..
    } = who.party();
    let pace = |rate: Rate| RateEntry {
        requests_per_second: rate.per_second.get(),
        burst: rate.burst.get(),
    };
    let by_kind = Kind::ALL
        .iter()
        .filter_map(|kind| Some((kind.as_str(), pace(limits.of_kind(*kind)?))));
    let suspension = suspended.get(id);
    let in_force = suspension.map_or(*standing, |_| Standing::Suspended);
    let now_ms = clock.unix_ms();
    let key = |(index, dated)| key(dated, generation.used(position, index), now_ms);
    let tenant_limits = generation.tenant_limits(position);
    PartyEntry {
        id: id.as_str(),
        kind: who.word(),
        sub_account: match who {
            PartyRef::Tenant(tenant) => Some(tenant.sub_account.as_str()),
            PartyRef::Operator(_) => None,
        },
        standing: in_force.as_str(),
        file_standing: (in_force != *standing).then(|| standing.as_str()),
        suspended: suspension.map(SuspendedBy::from),
        tenant_limits: tenant_limits.view(clock.elapsed()),
        refusals: tenant_limits.refusals.view(),
        by_kind: by_kind.collect(),
        credentials: credentials.iter().enumerate().map(key).collect(),
    }
}

fn key<'a>(dated: &'a DatedCredential, used: &CredentialUsage, now_ms: u64) -> CredentialEntry<'a> {
    CredentialEntry {
        client_id: dated.credential.client_id.as_str(),
        not_before: dated.not_before.map(time),
        not_after: dated.not_after.map(time),
        valid: dated.valid_at(now_ms),
        uses: used.count(),
        last_used: used.last_ms().map(time),
        not_in_force: used.not_in_force(dated, now_ms).map(|used| NotInForce {
            requests: used.requests,
            since: time(used.since_ms),
            last: time(used.last_ms),
        }),
    }
}
