//! Admit: may this verified request go ahead, now? Whoever is refused here gets back what it took.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use gatepay_core::check::{self, Strictness};
use gatepay_core::guard::{Own, Steering, guard};
use gatepay_core::{Kind, Operation};
use gatepay_tenancy::{Standing, Tenant};
use http::HeaderMap;

use crate::headers;
use crate::lane::Lane;
use crate::limiter::{Limiter, Seat};
use crate::refusal::{Refusal, Stale};
use crate::replay::{Fingerprint, Replay, Unusable};

/// The right to be in flight, until dropped.
pub struct Permit {
    _seat: Seat,
}

/// Whether the tenant may make this call at all, wherever and whenever.
pub fn allowed(
    tenant: &Tenant,
    position: usize,
    operation: &Operation,
    peer: IpAddr,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    if tenant.party.standing == Standing::Suspended {
        return Err(Refusal::TenantSuspended);
    }
    if !tenant.party.allows_address(peer) {
        return Err(Refusal::AddressNotAllowed);
    }
    if let Some(why) = operation.off() {
        return Err(Refusal::OperationNotAllowed(
            format!("{} is off, because {why}", operation.name).into(),
        ));
    }
    if !tenant.party.permissions.allows(position) {
        return Err(Refusal::OperationNotAllowed(
            format!("you may not call {}", operation.name).into(),
        ));
    }
    if tenant.party.standing == Standing::ReadOnly && operation.kind != Kind::Read {
        return Err(Refusal::OperationNotAllowed(
            "you may only read at present".into(),
        ));
    }
    match headers::single(headers, &headers::ON_BEHALF_OF) {
        Ok(None) => Ok(()),
        Ok(Some(account)) if account.as_bytes() == tenant.sub_account.as_str().as_bytes() => Ok(()),
        Ok(Some(_)) | Err(headers::Repeated) => {
            let what = "leave X-GatePay-On-Behalf-Of out, or name your own sub-account";
            Err(Refusal::OnBehalfOfMismatch(what.to_owned()))
        }
    }
}

/// Whether the body acts for the tenant alone, in one reading, and is one GatePay might accept; gives the idempotency
/// key it carries.
pub fn body(
    operation: &Operation,
    query: Option<&str>,
    body: &[u8],
    own: Own<'_>,
    rules: &Rules,
) -> Result<Option<String>, Refusal> {
    guard(operation, query, body, own, rules.callbacks).map_err(|steering| match steering {
        Steering::Account(_) => Refusal::OnBehalfOfMismatch(steering.to_string()),
        Steering::Callback => Refusal::OperationNotAllowed(steering.to_string().into()),
        Steering::NotOneText { .. } | Steering::Repeated { .. } => {
            Refusal::InvalidBody(steering.to_string())
        }
    })?;
    check::inspect(operation, query, body, rules.strictness)
        .map(|inspected| inspected.key)
        .map_err(|fault| Refusal::InvalidBody(fault.to_string()))
}

/// How bodies are judged, for all tenants alike.
pub struct Rules {
    /// How much of what GatePay would refuse is refused here.
    pub strictness: Strictness,
    /// Whether a body may make GatePay call the tenant directly.
    pub callbacks: bool,
}

/// The idempotency key a body carries, whatever else is wrong with it.
pub fn key(operation: &Operation, query: Option<&str>, body: &[u8]) -> Option<String> {
    check::inspect(operation, query, body, Strictness::Off)
        .ok()
        .and_then(|inspected| inspected.key)
}

/// Takes tokens and a seat, then records the stamp: last, so that the nonce of a refused request is not spent.
pub fn enter(
    lane: &Lane,
    quota: &Limiter,
    replay: &Replay,
    kind: Kind,
    print: Fingerprint,
    now_ms: u64,
    advice: impl FnOnce() -> Cow<'static, str>,
) -> Result<Permit, Refusal> {
    let own = lane
        .take(kind)
        .map_err(|retry| Refusal::RateLimited { retry })?;
    let shared = quota
        .take()
        .map_err(|retry| Refusal::InstitutionQuota { retry })?;
    let seat = lane.seats.take().ok_or(Refusal::TooManyInFlight {
        seats: lane.seats.taken(),
    })?;
    replay
        .record(print, now_ms)
        .map_err(|unusable| refuse(unusable, now_ms, advice))?;
    own.spend();
    shared.spend();
    Ok(Permit { _seat: seat })
}

/// What a stamp that cannot be used is answered with; `advice` says how to learn what became of its first copy.
pub fn refuse(
    unusable: Unusable,
    now_ms: u64,
    advice: impl FnOnce() -> Cow<'static, str>,
) -> Refusal {
    match unusable {
        Unusable::Seen { admitted_ms } => Refusal::Replayed {
            admitted_ms_ago: now_ms.saturating_sub(admitted_ms),
            advice: advice(),
        },
        Unusable::Guarded { wait_ms } => Refusal::Starting {
            retry: Duration::from_millis(wait_ms),
        },
        Unusable::Forgotten => Refusal::StaleTimestamp(Stale::Forgotten),
        Unusable::HandedOver => Refusal::Overloaded(
            "this process is ending; the same request may be sent again as it is",
        ),
        Unusable::Full => Refusal::Overloaded(
            "the replay memory is full; the same request may be sent again as it is",
        ),
    }
}
