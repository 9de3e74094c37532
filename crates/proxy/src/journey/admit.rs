//! Admit: may this verified request go ahead now? A refused request gives back the tokens and seats that it took.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::amount::BodyAmounts;
use gatepay_core::body::BodyReading;
use gatepay_core::check::{self, Strictness};
use gatepay_core::guard::{CallerIdentity, SteeringAttempt, guard};
use gatepay_core::operation::AccountHeader;
use gatepay_core::{Catalogue, Kind, Operation};
use gatepay_tenancy::settings::{FixedAddressCallback, Institution, Settings};
use gatepay_tenancy::{PartyRef, Registry, Standing};

use crate::admission::limit_name::{LimitName, LimitSet};
use crate::admission::quota::{QuotaDenied, QuotaGrant};
use crate::admission::replay::{Replay, StampFingerprint, UnusableStamp};
use crate::generation::tenant_limits::{TakenTokens, TenantLimits};
use crate::headers::AtMostOnce;
use crate::process::clock::Clock;
use crate::process::yielding::{OffloadThreads, YIELD_AFTER};
use crate::refusal::{Refusal, StaleStamp};

/// A request's permit to be in flight, until dropped.
pub struct Permit {
    lane: Arc<TenantLimits>,
    tokens: Option<TakenTokens>,
    grant: Option<QuotaGrant>,
    clock: Clock,
    seated: bool,
    spent: bool,
    /// Limits that would have refused the call, had they been enforced.
    pub shadow: LimitSet,
}

impl Permit {
    /// The limits of the party that makes the call.
    pub fn tenant_limits(&self) -> &TenantLimits {
        &self.lane
    }

    /// Sets whether the call goes ahead. A permit that is dropped before that gives back its tokens and its grant.
    pub fn spend(&mut self, goes_ahead: bool) {
        self.spent = goes_ahead;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let lane = &self.lane;
        if self.seated {
            lane.leave_seat();
        }
        if self.spent {
            if let Some(grant) = self.grant {
                lane.share.vacate(grant);
            }
            return;
        }
        let now = self.clock.elapsed();
        if let Some(grant) = self.grant {
            lane.share.give_back(grant, now);
        }
        if let Some(tokens) = self.tokens {
            lane.give_back(tokens, now);
        }
    }
}

/// Whether this party may make this call from this address at all, apart from rates and stamps.
pub fn allowed(
    who: PartyRef<'_>,
    lane: &TenantLimits,
    position: usize,
    operation: &Operation,
    peer: IpAddr,
) -> Result<(), Refusal> {
    let party = who.party();
    let refuse = |why: Cow<'static, str>| Err(Refusal::OperationNotAllowed(why));
    if party.standing == Standing::Suspended || lane.is_suspended() {
        return Err(Refusal::TenantSuspended);
    }
    if !party.allows_address(peer) {
        return Err(Refusal::AddressNotAllowed);
    }
    if let Some(why) = operation.off() {
        let name = &operation.name;
        return match who {
            // Only the institution is told how to turn the operation on.
            PartyRef::Tenant(_) => Err(Refusal::OperationOff {
                operation: name.clone().into_owned(),
                why,
            }),
            PartyRef::Operator(_) => refuse(format!("{name} is off: {why}").into()),
        };
    }
    if !party.permissions.allows(position) {
        return refuse(format!("you may not call {}", operation.name).into());
    }
    if party.standing == Standing::ReadOnly && operation.kind != Kind::Read {
        return refuse("you may only read at present".into());
    }
    Ok(())
}

/// The account that GatePay is told a call is for. These headers are unsigned, so a tenant cannot choose them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acting<'a> {
    /// The account goes into `X-GatePay-On-Behalf-Of`.
    OnBehalfOf(&'a str),
    /// The account goes into `X-GatePay-MerchantId`: for fee settings.
    Merchant(&'a str),
    /// Neither: creating, querying and listing sub-accounts names no account.
    Nobody,
}

impl<'a> Acting<'a> {
    /// The account, in whichever header it is sent.
    pub fn account(&self) -> Option<&'a str> {
        match self {
            Self::OnBehalfOf(account) | Self::Merchant(account) => Some(account),
            Self::Nobody => None,
        }
    }
}

/// The account a call is for: a tenant's own sub-account, or for an operator a known account. `named` is the value of
/// the head's `X-GatePay-On-Behalf-Of`.
pub fn acting<'a>(
    who: PartyRef<'a>,
    operation: &Operation,
    named: AtMostOnce<'a>,
    registry: &Registry,
    institution: &'a Institution,
) -> Result<Acting<'a>, Refusal> {
    let mismatch = |what: &str| Err(Refusal::OnBehalfOfMismatch(what.to_owned()));
    let Ok(named) = named else {
        return mismatch("X-GatePay-On-Behalf-Of stands more than once");
    };
    match (who, operation.account) {
        (PartyRef::Tenant(tenant), _) => {
            let own = tenant.sub_account.as_str();
            match named {
                Some(named) if named != own.as_bytes() => {
                    mismatch("leave X-GatePay-On-Behalf-Of out, or name your own sub-account")
                }
                _ => Ok(Acting::OnBehalfOf(own)),
            }
        }
        (PartyRef::Operator(_), AccountHeader::OnBehalfOf) => {
            let known = |account: &&str| {
                registry.knows_account(account)
                    || institution.account_id.as_deref() == Some(account)
            };
            let account = named
                .and_then(|named| str::from_utf8(named).ok())
                .filter(known);
            account.map_or_else(
                || mismatch("X-GatePay-On-Behalf-Of must name a tenant's sub-account or institution.account_id"),
                |account| Ok(Acting::OnBehalfOf(account)),
            )
        }
        (PartyRef::Operator(_), _) if named.is_some() => {
            mismatch("this call is made for no account: leave X-GatePay-On-Behalf-Of out")
        }
        (PartyRef::Operator(_), AccountHeader::MerchantId) => institution
            .merchant_id
            .as_deref()
            .map(Acting::Merchant)
            .ok_or_else(|| {
                Refusal::OperationNotAllowed(
                    "fee settings need institution.merchant_id in proxy.toml".into(),
                )
            }),
        (PartyRef::Operator(_), AccountHeader::None) => Ok(Acting::Nobody),
    }
}

/// The facts read from a body that may be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct JudgedBody {
    /// The idempotency key in the body.
    pub key: Option<String>,
    /// The amounts in the body, if the journal records them.
    pub amounts: BodyAmounts,
}

/// Checks that the body has one reading, acts for `own` alone and may be accepted by GatePay; returns its facts.
///
/// An operator's body (`own` is `None`) may act for any account.
pub fn body(
    operation: &Operation,
    query: Option<&str>,
    body: &[u8],
    own: Option<CallerIdentity<'_>>,
    rules: &BodyRules,
) -> Result<JudgedBody, Refusal> {
    let reading = BodyReading::read(operation, query, body);
    let callbacks = own.is_none() || rules.callbacks;
    guard(operation, &reading, own, callbacks).map_err(|steering| match steering {
        SteeringAttempt::Account(_) => Refusal::OnBehalfOfMismatch(steering.to_string()),
        SteeringAttempt::Callback => Refusal::OperationNotAllowed(steering.to_string().into()),
        SteeringAttempt::NotOneText { .. }
        | SteeringAttempt::Repeated { .. }
        | SteeringAttempt::NotAscii { .. }
        | SteeringAttempt::TooDeep { .. }
        | SteeringAttempt::ReadDifferently { .. }
        | SteeringAttempt::ParameterNotAscii
        | SteeringAttempt::ParameterName
        | SteeringAttempt::RepeatedParameter
        | SteeringAttempt::Contradicted
        | SteeringAttempt::EncodedName
        | SteeringAttempt::PartName
        | SteeringAttempt::RepeatedPart
        | SteeringAttempt::TooManyParts => Refusal::InvalidBody(steering.to_string()),
    })?;
    let inspected = check::inspect(operation, &reading, rules.strictness)
        .map_err(|fault| Refusal::InvalidBody(fault.to_string()))?;
    let amounts = if rules.amounts && operation.kind != Kind::Read {
        BodyAmounts::read(operation, &reading)
    } else {
        BodyAmounts::default()
    };
    Ok(JudgedBody {
        key: inspected.key,
        amounts,
    })
}

/// Like `body`, for a body of any length: a long body is read on another thread.
pub async fn judge_body(
    offload: &OffloadThreads,
    (catalogue, position): (&Arc<Catalogue>, usize),
    query: Option<&str>,
    sent: &Bytes,
    own: Option<CallerIdentity<'_>>,
    rules: BodyRules,
) -> Result<JudgedBody, Refusal> {
    if sent.len() <= YIELD_AFTER {
        return body(&catalogue.rows()[position], query, sent, own, &rules);
    }
    let (catalogue, sent) = (Arc::clone(catalogue), sent.clone());
    let query = query.map(str::to_owned);
    let own = own.map(|own| (own.account.to_owned(), own.client_id.to_owned()));
    let judged = offload.run(move || {
        let own = own
            .as_ref()
            .map(|(account, client_id)| CallerIdentity { account, client_id });
        body(
            &catalogue.rows()[position],
            query.as_deref(),
            &sent,
            own,
            &rules,
        )
    });
    Box::pin(judged).await
}

/// Like `key`, for a body of any length: a long body is read on another thread.
pub async fn key_of_body(
    offload: &OffloadThreads,
    (catalogue, position): (&Arc<Catalogue>, usize),
    query: Option<&str>,
    sent: &Bytes,
) -> Option<String> {
    if sent.len() <= YIELD_AFTER {
        return key(&catalogue.rows()[position], query, sent);
    }
    let (catalogue, sent) = (Arc::clone(catalogue), sent.clone());
    let query = query.map(str::to_owned);
    let read = offload.run(move || key(&catalogue.rows()[position], query.as_deref(), &sent));
    Box::pin(read).await
}

/// The rules by which bodies are judged, the same for all tenants.
#[derive(Clone, Copy)]
pub struct BodyRules {
    /// How many of GatePay's own checks the proxy applies.
    pub strictness: Strictness,
    /// Whether a body may name a callback address, so that GatePay calls the tenant directly.
    pub callbacks: bool,
    /// Whether amounts are read, which only a journal needs.
    pub amounts: bool,
}

impl BodyRules {
    /// The rules in the process's settings. `amounts` says whether a journal needs the amounts.
    pub fn of(settings: &Settings, amounts: bool) -> Self {
        Self {
            strictness: settings.checks,
            callbacks: settings.fixed_address_callback == FixedAddressCallback::Forward,
            amounts,
        }
    }
}

/// The idempotency key in a body, even if the body has other faults.
pub fn key(operation: &Operation, query: Option<&str>, body: &[u8]) -> Option<String> {
    let reading = BodyReading::read(operation, query, body);
    check::inspect(operation, &reading, Strictness::Off)
        .ok()
        .and_then(|inspected| inspected.key)
}

/// Takes tokens and a seat, then records the stamp: last, so that a refused request does not spend its nonce.
pub fn enter(
    lane: &Arc<TenantLimits>,
    replay: &Replay,
    clock: &Clock,
    kind: Kind,
    print: StampFingerprint,
    now_ms: u64,
) -> Result<Permit, Refusal> {
    let met = |limit, refusal| {
        lane.refused(limit);
        refusal
    };
    // The party may have been suspended while the body was read.
    if lane.is_suspended() {
        return Err(Refusal::TenantSuspended);
    }
    let now = clock.elapsed();
    // Holds the tokens and the grant taken so far: a refusal below drops the permit, which gives them back.
    let mut permit = Permit {
        lane: Arc::clone(lane),
        tokens: None,
        grant: None,
        clock: clock.clone(),
        seated: false,
        spent: false,
        shadow: LimitSet::default(),
    };
    let tokens = lane.take(kind, now, &mut permit.shadow);
    permit.tokens = Some(tokens.map_err(|(limit, mut spent)| {
        // After the wait the caller needs a free token under every limit, not only under the limit met first.
        spent.wait = spent.wait.max(lane.share.wait(kind, now));
        met(limit, Refusal::RateLimited(spent))
    })?);
    let grant = lane.share.take(kind, now).map_err(|denied| {
        let limit = match denied {
            QuotaDenied::Rate(_) => LimitName::Institution,
            QuotaDenied::Places { .. } => LimitName::InstitutionInFlight,
        };
        met(limit, Refusal::InstitutionQuota(denied))
    })?;
    permit.grant = Some(grant);
    permit.seated = lane
        .take_seat(&mut permit.shadow)
        .map_err(|seats| met(LimitName::InFlight, Refusal::TooManyInFlight { seats }))?;
    replay
        .record(print, now_ms)
        .map_err(|unusable| refuse(unusable, now_ms))?;
    if grant.is_beyond_share() {
        permit.shadow.add(LimitName::Institution);
    }
    if grant.is_crowded() {
        permit.shadow.add(LimitName::InstitutionInFlight);
    }
    lane.admitted(grant.is_borrowed(), permit.shadow);
    Ok(permit)
}

/// The refusal for a stamp that cannot be used.
pub fn refuse(unusable: UnusableStamp, now_ms: u64) -> Refusal {
    match unusable {
        UnusableStamp::Seen { admitted_ms } => Refusal::Replayed {
            what: "this timestamp and nonce were",
            admitted_ms_ago: now_ms.saturating_sub(admitted_ms),
        },
        UnusableStamp::NonceSeen { admitted_ms } => Refusal::Replayed {
            what: "this nonce was used with another timestamp, which was",
            admitted_ms_ago: now_ms.saturating_sub(admitted_ms),
        },
        UnusableStamp::Guarded { wait_ms } => Refusal::Starting {
            retry: Duration::from_millis(wait_ms),
        },
        UnusableStamp::Forgotten { horizon_ms } if horizon_ms > now_ms => Refusal::Starting {
            retry: Duration::from_millis(horizon_ms - now_ms + 1),
        },
        UnusableStamp::Forgotten { .. } => Refusal::StaleTimestamp(StaleStamp::Forgotten),
        UnusableStamp::HandedOver => Refusal::Overloaded(
            "this process is ending; send the same bytes again after Retry-After",
        ),
        UnusableStamp::Full => Refusal::Overloaded(
            "the replay memory is full; send the same bytes again after Retry-After",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::breaker::{BreakerEra, PartyBreaker};
    use crate::admission::quota::OwnCallPurpose;
    use crate::generation::institution_quota::InstitutionQuota;
    use crate::metrics::Metrics;
    use gatepay_core::{Catalogue, Stamp};
    use gatepay_tenancy::party::DEFAULT_WINDOW;
    use gatepay_tenancy::settings;
    use gatepay_tenancy::{PartyId, PartyLimits, Rate, ReplayRule};
    use std::num::NonZeroU32;
    use std::pin::pin;
    use std::task::{Context, Waker};

    const NOW: u64 = 1_767_225_600_000;

    /// A quota of 12, and a party with three tokens and two seats, under a clock that stands still.
    struct World {
        clock: Clock,
        quota: InstitutionQuota,
        lane: Arc<TenantLimits>,
        replay: Replay,
    }

    impl World {
        fn new() -> Self {
            let clock = Clock::manual(NOW);
            let metrics = Metrics::new(&Catalogue::standard());
            let number = |number| NonZeroU32::new(number).unwrap();
            let rate = |burst| Rate {
                per_second: NonZeroU32::MIN,
                burst: number(burst),
            };
            let quota = settings::QuotaSettings {
                rate: rate(12),
                in_flight: Some(number(5)),
                ..settings::QuotaSettings::default()
            };
            let meters = metrics.tenants.limits.quota.clone();
            let quota = InstitutionQuota::new(&quota, meters, &clock);
            let limits = PartyLimits {
                all: rate(3),
                in_flight: number(2),
                ..PartyLimits::default()
            };
            Self {
                lane: TenantLimits::new(
                    PartyBreaker::new(PartyId::parse("acme").unwrap(), BreakerEra::default()),
                    &limits,
                    NonZeroU32::MIN,
                    &quota,
                    metrics.tenants.of(None),
                )
                .into(),
                replay: Replay::new(DEFAULT_WINDOW, 100, [7; 16], 0),
                quota,
                clock,
            }
        }

        fn enter(&self, nonce: &str) -> Result<Permit, &'static str> {
            let timestamp = NOW.to_string();
            let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).unwrap();
            let print = self.replay.fingerprint("c", &stamp, ReplayRule::Pair);
            let permit = enter(
                &self.lane,
                &self.replay,
                &self.clock,
                Kind::Read,
                print,
                NOW,
            );
            permit.map_err(|refusal| refusal.slug())
        }

        /// The party's tokens left and seats taken, then the same two figures of the institution.
        fn stands(&self) -> [i64; 4] {
            let (lane, quota) = (self.lane.view(self.clock.elapsed()), self.quota.view());
            let (left, in_flight) = (lane.left.into(), lane.in_flight.into());
            [left, in_flight, quota.left, quota.in_flight.into()]
        }
    }

    #[tokio::test]
    async fn a_long_body_is_read_on_another_thread_and_a_short_one_here() {
        let catalogue = Arc::new(Catalogue::standard());
        let rows = catalogue.rows();
        let position = rows.iter().position(|row| row.name == "query_order");
        let row = (&catalogue, position.unwrap());
        let rules = BodyRules {
            strictness: Strictness::Off,
            callbacks: true,
            amounts: true,
        };
        let own = CallerIdentity {
            account: "1",
            client_id: "c",
        };
        let body = |filler: usize| {
            let filler = "x".repeat(filler);
            Bytes::from(format!(r#"{{"merchantTradeNo":"A-1","goods":"{filler}"}}"#))
        };
        let short = body(YIELD_AFTER - 100);
        let long = body(YIELD_AFTER);
        // With no offload thread, work that needs a thread never ends.
        let none = OffloadThreads::with(0);
        for (body, is_here) in [(&short, true), (&long, false)] {
            let judge = judge_body(&none, row, None, body, Some(own), rules);
            assert_eq!(is_ready_at_once(judge), is_here);
            let key = key_of_body(&none, row, None, body);
            assert_eq!(is_ready_at_once(key), is_here);
        }
        let offload = OffloadThreads::default();
        let judge = |sent| judge_body(&offload, row, None, sent, Some(own), rules);
        let key = |sent| key_of_body(&offload, row, None, sent);
        assert_eq!(judge(&long).await.ok(), judge(&short).await.ok());
        assert_eq!(key(&long).await, key(&short).await);
        let foreign =
            Bytes::from([&long[..long.len() - 1], br#","sub_merchant_id":"2"}"#].concat());
        assert_eq!(
            judge(&foreign).await.unwrap_err().slug(),
            "on_behalf_of_mismatch"
        );
    }

    fn is_ready_at_once(future: impl Future) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut cx).is_ready()
    }

    #[test]
    fn whoever_is_refused_has_taken_nothing() {
        let world = World::new();
        let first = world.enter("1").unwrap();
        assert_eq!(world.stands(), [2, 1, 11, 1]);
        assert_eq!(world.enter("1").err(), Some("replayed"));
        assert_eq!(world.stands(), [2, 1, 11, 1]);
        let second = world.enter("2").unwrap();
        assert_eq!(world.enter("3").err(), Some("too_many_in_flight"));
        assert_eq!(world.stands(), [1, 2, 10, 2]);
        drop((first, second));
        assert_eq!(world.stands(), [3, 0, 12, 0]);
        while world.quota.take_for(OwnCallPurpose::LookUp).is_ok() {}
        assert_eq!(world.enter("3").err(), Some("institution_quota"));
        assert_eq!(world.stands(), [3, 0, 0, 0]);
        assert_eq!(world.replay.entries(), 2, "and no nonce");
    }

    #[test]
    fn what_went_ahead_stays_spent_and_leaves_its_seat() {
        let world = World::new();
        for number in 1..=3 {
            let mut permit = world.enter(&number.to_string()).unwrap();
            permit.spend(true);
            drop(permit);
            assert_eq!(world.stands(), [3 - number, 0, 12 - number, 0]);
        }
        assert_eq!(world.enter("4").err(), Some("rate_limited"));
        assert_eq!(world.stands(), [0, 0, 9, 0]);
    }
}
