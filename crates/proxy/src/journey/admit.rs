//! Admit: may this judged request go ahead now? A refused request gives back the tokens and seats that it took.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_admission::limit_name::{LimitName, LimitSet};
use gatepay_admission::quota::{QuotaDenied, QuotaGrant};
use gatepay_admission::replay::{Replay, StampFingerprint, UnusableStamp};
use gatepay_core::money::MoneyDemand;
use gatepay_core::operation::{ApiModule, Method};
use gatepay_core::{Kind, Operation};
use gatepay_store::admission::LedgerIntent;
use gatepay_tenancy::settings::Institution;

use crate::callers::body_memory::BodyReservation;
use crate::caps::Caps;
use crate::caps::destinations::StatedTargets;
use crate::caps::spend_reports::SpendReport;
use crate::cluster::Cluster;
use crate::cluster::limits::TakenLoans;
use crate::generation::Generation;
use crate::generation::tenant_limits::{TakenTokens, TenantLimits};
use crate::journal::Journal;
use crate::journal::entry::CallIntent;
use crate::journey::judge::{JudgedParts, OwnCallback};
use crate::journey::sign::{Composed, Outbound};
use crate::journey::stamp::{self, CoveredStamp};
use crate::journey::{intent, judge};
use crate::process::clock::Clock;
use crate::record::RequestRecord;
use crate::refusal::Refusal;

/// A call that may be sent to GatePay. [`admit`] alone makes one.
pub struct Admitted {
    generation: Arc<Generation>,
    position: usize,
    outbound: Outbound,
    /// Whether the caller is an operator: operators use the institution's form and are told institution paths.
    by_operator: bool,
    /// Whether GatePay's answer has to be translated back into the merchant form.
    translated: bool,
    permit: Permit,
    /// The journal entry that is written before the call is sent.
    intent: Option<Box<CallIntent>>,
    /// The call's entry in the ledger, if GatePay notifies about the object that the call makes.
    ledger: Option<Box<LedgerEntry>>,
    /// The report to the store about what the call spends, if it has reserved that.
    spend: Option<Box<SpendReport>>,
    /// The tenant's URL that is still to be exchanged for one of the proxy's.
    callback: Option<Box<OwnCallback>>,
    /// Whether halts count the call as a payout, though its operation is none.
    is_disguised_payout: bool,
    /// When the store was asked for its verdict, in the clock's elapsed time; `None` without its verdict.
    asked_store: Option<Duration>,
    /// The memory reserved for the body.
    _reserved: BodyReservation,
}

impl Admitted {
    /// The generation by which the call was judged.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// The operation's position in the catalogue.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The operation.
    pub fn operation(&self) -> &Operation {
        &self.generation.catalogue.rows()[self.position]
    }

    /// Whether the operation reads, writes or moves money.
    pub fn kind(&self) -> Kind {
        self.operation().kind
    }

    /// The module by which halts cover the call: a refund that may pay out to a target of its own is a payout.
    pub fn halted_module(&self) -> ApiModule {
        if self.is_disguised_payout {
            ApiModule::Payout
        } else {
            self.operation().module
        }
    }

    /// The institution that signs the call.
    pub fn institution(&self) -> &Arc<Institution> {
        &self.generation.institution
    }

    /// The request to GatePay.
    pub fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// Whether an operator makes the call.
    pub fn is_by_operator(&self) -> bool {
        self.by_operator
    }

    /// Whether GatePay's answer has to be translated back into the merchant form.
    pub fn is_translated(&self) -> bool {
        self.translated
    }

    /// The limits of the party that makes the call.
    pub fn tenant_limits(&self) -> &TenantLimits {
        self.permit.tenant_limits()
    }

    /// The call's entry in the ledger.
    pub fn ledger(&self) -> Option<&LedgerEntry> {
        self.ledger.as_deref()
    }

    /// Spends the tokens and the grant of the call, as [`Permit::commit`].
    pub fn commit(&mut self) {
        self.permit.commit();
        if let Some(spend) = &mut self.spend {
            spend.may_be_sent();
        }
    }

    /// The call has no answer that is relayed.
    pub fn is_refused(&mut self, refusal: &Refusal) {
        if let Some(spend) = &mut self.spend {
            spend.refused(refusal);
        }
    }

    /// Takes [`commit`](Self::commit) back, for a call of which no attempt was sent.
    pub fn roll_back(&mut self) {
        self.permit.roll_back();
    }

    /// When the store was asked for its verdict, in the clock's elapsed time.
    pub(super) fn asked_store(&self) -> Option<Duration> {
        self.asked_store
    }

    /// The report to the store about what the call spends.
    pub(super) fn spend_report(&mut self) -> Option<&mut SpendReport> {
        self.spend.as_deref_mut()
    }

    /// The journal entry that is still to be written.
    pub(super) fn take_intent(&mut self) -> Option<Box<CallIntent>> {
        self.intent.take()
    }

    /// The tenant's URL that is still to be exchanged.
    pub(super) fn take_callback(&mut self) -> Option<Box<OwnCallback>> {
        self.callback.take()
    }

    /// Sends this body in place of the caller's. The journal gets the body that is sent.
    pub(super) fn replace_body(&mut self, body: Bytes) {
        if let Some(intent) = &mut self.intent {
            intent.body = body.clone();
        }
        self.outbound.replace_body(body);
    }

    /// The permit, which lasts until the answer's end.
    pub fn into_permit(self: Box<Self>) -> Permit {
        self.permit
    }
}

/// A call's entry in the ledger: recorded before the call is sent, and completed by the ids in GatePay's answer.
pub struct LedgerEntry {
    /// The sub-account that the call is made for; empty if it names none.
    pub account: String,
    /// The numbers that the caller chose.
    pub intents: Vec<LedgerIntent>,
}

/// A call that has its tokens and its seat. [`admit`] alone makes one. It is [`Admitted`] once its stamp is recorded: here,
/// or by the store that instances share.
pub struct LocallyAdmitted {
    admitted: Box<Admitted>,
    /// The question to the store, if there is one. The stamp is not recorded yet.
    pub(super) question: Option<StoreQuestion>,
}

/// The facts about a call that the question to the store needs.
pub(super) struct StoreQuestion {
    /// The sub-account that the call is made for; empty if it names none.
    pub(super) account: String,
    /// Whether the call needs the store while reads go on without it.
    pub(super) need: StoreNeed,
    /// What the call asks for, if it moves money and that can be read exactly.
    pub(super) demand: Option<Box<MoneyDemand>>,
    /// The key under which GatePay documents that the call's repetition is one transaction.
    pub(super) money_key: Option<Box<str>>,
    /// Where the money goes, if the sub-account's money may not go anywhere.
    pub(super) targets: Option<Box<StatedTargets>>,
}

/// Whether a call needs the store if `store.reads_without_store` is set.
///
/// A read that went on without the store left its stamp unspent at the other instances. The signature covers the body and
/// not the path, so that stamp can only be used again without a body: for such a read, or for such a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreNeed {
    /// A `GET` without a body that only reads: goes on while the store is away.
    Dispensable,
    /// Waits for the store, and is refused while the store is away.
    Needed,
    /// A call without a body that changes something: is always refused, since its stamp may have been a read's.
    Forbidden,
}

impl StoreNeed {
    pub(super) fn of(operation: &Operation, by_operator: bool, has_body: bool) -> Self {
        let method = if by_operator {
            operation.institution_method
        } else {
            operation.method
        };
        match (has_body, operation.kind) {
            (false, Kind::Write | Kind::Money) => Self::Forbidden,
            (false, Kind::Read) if method == Method::Get => Self::Dispensable,
            (true, _) | (false, Kind::Read) => Self::Needed,
        }
    }
}

impl LocallyAdmitted {
    /// The call, without a store.
    pub fn alone(self) -> Box<Admitted> {
        debug_assert!(self.question.is_none(), "the stamp is recorded");
        self.admitted
    }

    /// The call, after the caller of this function has recorded its stamp.
    pub(super) fn confirmed(
        mut self,
        asked_store: Option<Duration>,
        spend: Option<Box<SpendReport>>,
    ) -> Box<Admitted> {
        self.admitted.asked_store = asked_store;
        self.admitted.spend = spend;
        self.admitted.permit.count();
        self.admitted
    }

    /// The call, for the question about it.
    pub(super) fn call(&self) -> &Admitted {
        &self.admitted
    }
}

/// A request's permit to be in flight, until dropped.
pub struct Permit {
    pub(super) limits: Arc<TenantLimits>,
    pub(super) tokens: Option<TakenTokens>,
    pub(super) grant: Option<QuotaGrant>,
    /// The call's part of the limits that instances share.
    pub(super) loans: Option<Box<TakenLoans>>,
    clock: Clock,
    pub(super) seated: bool,
    committed: bool,
    /// Limits that would have refused the call, had they been enforced.
    pub shadow: LimitSet,
}

impl Permit {
    /// A permit without tokens and without a seat. A refusal drops it, which gives back its tokens and its seat.
    pub(super) fn begin(limits: &Arc<TenantLimits>, clock: &Clock) -> Self {
        Self {
            limits: Arc::clone(limits),
            tokens: None,
            grant: None,
            loans: None,
            clock: clock.clone(),
            seated: false,
            committed: false,
            shadow: LimitSet::default(),
        }
    }

    /// The limits of the party that makes the call.
    pub fn tenant_limits(&self) -> &TenantLimits {
        &self.limits
    }

    /// Notes the limits in shadow mode that would have denied the grant.
    pub(super) fn note_shadows(&mut self, grant: QuotaGrant) {
        if grant.is_beyond_share() {
            self.shadow.add(LimitName::Institution);
        }
        if grant.is_crowded() {
            self.shadow.add(LimitName::InstitutionInFlight);
        }
    }

    /// Counts the admission.
    fn count(&self) {
        let is_borrowed = self.grant.is_some_and(QuotaGrant::is_borrowed);
        self.limits.admitted(is_borrowed, self.shadow);
    }

    /// Spends the tokens and the grant, since the call goes ahead. A permit that is dropped uncommitted gives them back.
    pub fn commit(&mut self) {
        self.committed = true;
    }

    /// Takes [`commit`](Self::commit) back, for a call of which no attempt was sent.
    pub fn roll_back(&mut self) {
        self.committed = false;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let limits = &self.limits;
        if self.seated {
            limits.leave_seat();
        }
        if let Some(loans) = &mut self.loans {
            loans.spend(self.committed);
        }
        if self.committed {
            if let Some(grant) = self.grant {
                limits.share.vacate(grant);
            }
            return;
        }
        let now = self.clock.elapsed();
        if let Some(grant) = self.grant {
            limits.share.give_back(grant, now);
        }
        if let Some(tokens) = self.tokens {
            limits.give_back(tokens, now);
        }
    }
}

/// The inputs of admission, in the order of their checks: journal, configuration in force, limits and replay memory.
pub struct AdmissionGate<'a> {
    /// The generation in force now. The call was judged by the one of its arrival.
    pub in_force: &'a Generation,
    /// The audit journal, if configured.
    pub journal: Option<&'a Journal>,
    /// The replay memory.
    pub replay: &'a Replay,
    /// The store that instances share, if there is one. It records the stamp then.
    pub cluster: Option<&'a Cluster>,
    /// What money calls may spend, if there is a store.
    pub caps: Option<&'a Caps>,
    /// The process's clock.
    pub clock: &'a Clock,
    /// The caller's address, for the journal.
    pub address: IpAddr,
}

/// Admits a call as far as this process decides, or refuses it for now. Without a store the call has spent its stamp. It
/// keeps the memory reserved for its body.
pub fn admit(
    composed: Composed<'_>,
    stamp: &CoveredStamp,
    reserved: BodyReservation,
    gate: &AdmissionGate<'_>,
    record: &mut RequestRecord,
) -> Result<LocallyAdmitted, Refusal> {
    let Applicant {
        limits,
        kind,
        now_ms,
    } = check(&composed, gate)?;
    let fingerprint = stamp.fingerprint();
    let permit = if gate.cluster.is_some() {
        let usable = || gate.replay.could_record(fingerprint);
        take(limits, gate.clock, kind, now_ms, usable)?
    } else {
        let permit = enter(limits, gate.replay, gate.clock, kind, fingerprint, now_ms)?;
        record.admitted();
        permit
    };
    Ok(assemble(composed, permit, reserved, gate, record))
}

/// A call that asks for admission.
pub(super) struct Applicant<'a> {
    pub(super) limits: &'a Arc<TenantLimits>,
    pub(super) kind: Kind,
    /// The time of its admission, in milliseconds since 1970.
    pub(super) now_ms: u64,
}

/// Whether the configuration in force and the journal let a call ask for its tokens.
pub(super) fn check<'a>(
    composed: &'a Composed<'_>,
    gate: &AdmissionGate<'_>,
) -> Result<Applicant<'a>, Refusal> {
    let claim = composed.judged().verified().claim();
    let (routed, caller) = (claim.routed(), claim.caller());
    let kind = routed.operation().kind;
    let journal = gate.journal.filter(|_| kind != Kind::Read);
    if journal.is_some_and(|journal| !journal.is_available()) {
        return Err(Refusal::JournalUnavailable);
    }
    // Reading the body takes time: the stamp is checked again, under the lock of the replay memory.
    let now_ms = gate.clock.unix_ms();
    if !std::ptr::eq(gate.in_force, Arc::as_ptr(routed.generation())) {
        let registry = &gate.in_force.registry;
        judge::still_allowed(caller, registry, kind, now_ms)?;
    }
    let limits = routed.generation().tenant_limits(caller.position);
    // The party may have been suspended while the body was read.
    if limits.is_suspended() {
        return Err(Refusal::TenantSuspended);
    }
    Ok(Applicant {
        limits,
        kind,
        now_ms,
    })
}

/// The call with its permit.
pub(super) fn assemble(
    composed: Composed<'_>,
    permit: Permit,
    reserved: BodyReservation,
    gate: &AdmissionGate<'_>,
    record: &mut RequestRecord,
) -> LocallyAdmitted {
    let claim = composed.judged().verified().claim();
    let (routed, caller) = (claim.routed(), claim.caller());
    let operation = routed.operation();
    let journal = gate.journal.filter(|_| operation.kind != Kind::Read);
    let acting = composed.judged().acting();
    let has_body = composed.has_body();
    let (judged, outbound, translated) = composed.into_parts();
    let JudgedParts {
        amounts,
        intents,
        demand,
        money_key,
        targets,
        is_disguised_payout,
        callback,
    } = judged.into_parts();
    let intent = journal.map(|_| {
        let call = (operation, &acting, amounts);
        Box::new(intent::of(record, caller, gate.address, call, &outbound))
    });
    record.shadow(permit.shadow);
    let account = || acting.account().unwrap_or_default().to_owned();
    let question = gate.cluster.map(|_| StoreQuestion {
        account: account(),
        need: StoreNeed::of(operation, routed.is_by_operator(), has_body),
        demand,
        money_key,
        targets,
    });
    let ledger = intents.map(|intents| {
        let account = account();
        Box::new(LedgerEntry { account, intents })
    });
    let admitted = Box::new(Admitted {
        generation: Arc::clone(routed.generation()),
        position: routed.position(),
        outbound,
        by_operator: routed.is_by_operator(),
        translated,
        permit,
        intent,
        ledger,
        spend: None,
        callback,
        is_disguised_payout,
        asked_store: None,
        _reserved: reserved,
    });
    LocallyAdmitted { admitted, question }
}

/// Takes tokens and a seat, then records the stamp: last, so that a refused request does not spend its nonce.
pub fn enter(
    limits: &Arc<TenantLimits>,
    replay: &Replay,
    clock: &Clock,
    kind: Kind,
    print: StampFingerprint,
    now_ms: u64,
) -> Result<Permit, Refusal> {
    let record = || replay.record(print, now_ms);
    let permit = take(limits, clock, kind, now_ms, record)?;
    permit.count();
    Ok(permit)
}

/// Takes tokens and a seat, then asks whether the stamp is unused.
fn take(
    limits: &Arc<TenantLimits>,
    clock: &Clock,
    kind: Kind,
    now_ms: u64,
    use_stamp: impl FnOnce() -> Result<(), UnusableStamp>,
) -> Result<Permit, Refusal> {
    let met = |limit, refusal| {
        limits.refused(limit);
        refusal
    };
    let now = clock.elapsed();
    // Holds the tokens and the grant taken so far: a refusal below drops the permit, which gives them back.
    let mut permit = Permit::begin(limits, clock);
    let tokens = limits.take(kind, now, &mut permit.shadow);
    permit.tokens = Some(tokens.map_err(|(limit, mut spent)| {
        // After the wait the caller needs a free token under every limit, not only under the limit met first.
        spent.wait = spent.wait.max(limits.share.wait(kind, now));
        met(limit, Refusal::RateLimited(spent))
    })?);
    let grant = limits.share.take(kind, now);
    let grant = grant.map_err(|denied| met(limit_of(denied), Refusal::InstitutionQuota(denied)))?;
    permit.grant = Some(grant);
    permit.seated = limits
        .take_seat(&mut permit.shadow)
        .map_err(|seats| met(LimitName::InFlight, Refusal::TooManyInFlight { seats }))?;
    use_stamp().map_err(|unusable| stamp::refuse(unusable, now_ms))?;
    permit.note_shadows(grant);
    Ok(permit)
}

/// The name of the limit that denied a grant.
pub(super) fn limit_of(denied: QuotaDenied) -> LimitName {
    match denied {
        QuotaDenied::Rate(_) => LimitName::Institution,
        QuotaDenied::Places { .. } => LimitName::InstitutionInFlight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::institution_quota::InstitutionQuota;
    use crate::metrics::Metrics;
    use gatepay_admission::breaker::{BreakerEra, PartyBreaker};
    use gatepay_admission::quota::OwnCallPurpose;
    use gatepay_core::{Catalogue, Stamp};
    use gatepay_tenancy::party::DEFAULT_WINDOW;
    use gatepay_tenancy::settings;
    use gatepay_tenancy::{PartyId, PartyLimits, Rate, ReplayRule};
    use std::num::NonZeroU32;

    const NOW: u64 = 1_767_225_600_000;

    #[test]
    fn a_stamp_that_a_read_left_unspent_changes_nothing_at_another_instance() {
        let mut dispensable = 0;
        for row in Catalogue::standard().rows() {
            for by_operator in [false, true] {
                let with_a_body = StoreNeed::of(row, by_operator, true);
                assert_eq!(with_a_body, StoreNeed::Needed, "{}", row.name);
                let bare = StoreNeed::of(row, by_operator, false);
                let changes = row.kind != Kind::Read;
                assert_eq!(bare == StoreNeed::Forbidden, changes, "{}", row.name);
                dispensable += u32::from(bare == StoreNeed::Dispensable);
            }
        }
        assert!(dispensable > 10);
    }

    /// A quota of 12, and a party with three tokens and two seats, under a clock that stands still.
    struct World {
        clock: Clock,
        quota: InstitutionQuota,
        limits: Arc<TenantLimits>,
        replay: Replay,
    }

    impl World {
        fn new() -> Self {
            let clock = Clock::manual(NOW);
            let metrics = Metrics::new(
                &Catalogue::standard(),
                &settings::MetricsSettings::default(),
            );
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
                limits: TenantLimits::new(
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
                &self.limits,
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
            let (limits, quota) = (self.limits.view(self.clock.elapsed()), self.quota.view());
            let (left, in_flight) = (limits.left.into(), limits.in_flight.into());
            [left, in_flight, quota.left, quota.in_flight.into()]
        }
    }

    #[test]
    fn a_refused_request_has_taken_no_token_and_no_seat() {
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
    fn a_sent_request_keeps_its_tokens_spent_and_leaves_its_seat() {
        let world = World::new();
        for number in 1..=3 {
            let mut permit = world.enter(&number.to_string()).unwrap();
            permit.commit();
            drop(permit);
            assert_eq!(world.stands(), [3 - number, 0, 12 - number, 0]);
        }
        assert_eq!(world.enter("4").err(), Some("rate_limited"));
        assert_eq!(world.stands(), [0, 0, 9, 0]);
    }
}
