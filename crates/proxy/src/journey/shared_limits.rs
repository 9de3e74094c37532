//! Shared limits: admits a call by limits that instances share in PostgreSQL. Admission by this process's own limits is in
//! `admit`; the order of the limits is the same.

use std::sync::Arc;

use gatepay_admission::limit_name::LimitName;
use gatepay_admission::quota::{QuotaDenied, QuotaGrant};
use gatepay_admission::replay::UnusableStamp;
use gatepay_core::Kind;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};

use crate::callers::body_memory::BodyReservation;
use crate::cluster::Cluster;
use crate::cluster::limits::{LoanRefused, PartyLoans, SeatWanted, SharedLimits, TakenLoans};
use crate::generation::tenant_limits::TenantLimits;
use crate::journey::admit::{
    self, AdmissionGate, Admitted, Applicant, LocallyAdmitted, Permit, StoreNeed,
};
use crate::journey::sign::Composed;
use crate::journey::stamp::{self, ClaimedCall, CoveredStamp};
use crate::journey::store_verdict;
use crate::process::clock::Clock;
use crate::record::RequestRecord;
use crate::refusal::Refusal;

/// Admits a call: by this process's own limits, or by those that instances share, and then by the store's verdict if there
/// is a store.
pub async fn admit(
    composed: Composed<'_>,
    proved: (&ClaimedCall<'_>, &CoveredStamp),
    reserved: BodyReservation,
    gate: &AdmissionGate<'_>,
    record: &mut RequestRecord,
) -> Result<Box<Admitted>, Refusal> {
    let Some(cluster) = gate.cluster else {
        return Ok(admit::admit(composed, proved.1, reserved, gate, record)?.alone());
    };
    // All answers of the store together have `store.timeout_ms`.
    let until = cluster.answers_until();
    let local = match cluster.limits() {
        None => admit::admit(composed, proved.1, reserved, gate, record)?,
        Some(shared) => {
            let lender = (cluster, shared, until);
            let admitting = admit_by_loans(composed, proved.1, reserved, (gate, lender), record);
            Box::pin(admitting).await?
        }
    };
    let confirming = store_verdict::confirm((cluster, until), local, proved, gate, record);
    Box::pin(confirming).await
}

/// Admits a call as far as the limits decide, as [`admit`](admit::admit) does: at once, or after an answer of the store.
async fn admit_by_loans(
    composed: Composed<'_>,
    stamp: &CoveredStamp,
    reserved: BodyReservation,
    (gate, (cluster, shared, until)): (&AdmissionGate<'_>, (&Cluster, &SharedLimits, Instant)),
    record: &mut RequestRecord,
) -> Result<LocallyAdmitted, Refusal> {
    let Applicant {
        limits,
        kind,
        now_ms,
    } = admit::check(&composed, gate)?;
    let Some(loans) = limits.loans() else {
        return Err(Refusal::StoreUnavailable);
    };
    let usable = || {
        let could = gate.replay.could_record(stamp.fingerprint());
        could.map_err(|unusable: UnusableStamp| stamp::refuse(unusable, now_ms))
    };
    let borrower = Borrower {
        limits,
        loans,
        shared,
        clock: gate.clock,
        kind,
    };
    let now = gate.clock.elapsed();
    let taken = if cluster.is_available() && shared.is_lending(now) {
        shared.note_asked(now);
        borrower.take(until).await
    } else {
        Err(NotLent::Away)
    };
    let permit = match taken {
        Ok(permit) => permit,
        Err(NotLent::Refused(refusal)) => return Err(refusal),
        Err(NotLent::Away) => {
            // A copy that this instance knows is told so, whether or not the store is there.
            usable()?;
            let routed = composed.judged().verified().claim().routed();
            let (operation, by_operator) = (routed.operation(), routed.is_by_operator());
            let need = StoreNeed::of(operation, by_operator, composed.has_body());
            let may_go_on = cluster.reads_without_store() && cluster.knows_halts();
            let goes_on = may_go_on && need == StoreNeed::Dispensable;
            if !goes_on {
                cluster.refused("away");
                return Err(Refusal::StoreUnavailable);
            }
            borrower.take_alone()?
        }
    };
    usable()?;
    Ok(admit::assemble(composed, permit, reserved, gate, record))
}

/// A call that asks for its part of the limits.
struct Borrower<'a> {
    limits: &'a Arc<TenantLimits>,
    loans: &'a Arc<PartyLoans>,
    shared: &'a SharedLimits,
    clock: &'a Clock,
    kind: Kind,
}

/// Why a call does not get its part.
enum NotLent {
    /// The store does not answer.
    Away,
    Refused(Refusal),
}

impl Borrower<'_> {
    /// Takes tokens and a seat. A refusal drops the permit, which gives back its tokens and its seat.
    async fn take(&self, until: Instant) -> Result<Permit, NotLent> {
        let mut permit = Permit::begin(self.limits, self.clock);
        let mut taken = TakenLoans::new(self.loans, self.shared.institution());
        let mut wait = AnswerWait {
            shared: self.shared,
            until,
            is_counted: false,
        };
        loop {
            let answer = self.loans.answer();
            let now = self.clock.elapsed();
            let (tokens, shadow) = (&mut taken.tokens, &mut permit.shadow);
            match self.loans.take_tokens(self.kind, tokens, shadow, now) {
                Ok(()) => break,
                Err(LoanRefused::Pending) => wait.until(answer).await?,
                Err(refused) => return Err(self.refuse(refused, LimitName::InFlight)),
            }
        }
        self.shared.meters().takes.inc();
        permit.loans = Some(Box::new(taken));
        self.take_share(&mut permit)?;
        self.take_seats(&mut permit, &mut wait).await?;
        Ok(permit)
    }

    /// Takes a token of the institution's rate.
    fn take_share(&self, permit: &mut Permit) -> Result<(), NotLent> {
        let now = self.clock.elapsed();
        let fraction = self.loans.ask_for_share();
        let weight = f64::from(self.limits.weight().get()) * fraction;
        match self.limits.share.take_part(self.kind, weight, now) {
            Ok(grant) => {
                permit.note_shadows(grant);
                permit.grant = Some(grant);
                Ok(())
            }
            Err(QuotaDenied::Rate(_)) if !self.shared.is_lending(now) => Err(NotLent::Away),
            Err(denied) => {
                if let QuotaDenied::Rate(_) = denied {
                    self.loans.share_refused();
                }
                self.limits.refused(admit::limit_of(denied));
                Err(NotLent::Refused(Refusal::InstitutionQuota(denied)))
            }
        }
    }

    /// Takes a seat of the party, and one of the institution if its calls in flight are limited.
    async fn take_seats(
        &self,
        permit: &mut Permit,
        wait: &mut AnswerWait<'_>,
    ) -> Result<(), NotLent> {
        let is_limited = permit.grant.is_some_and(QuotaGrant::is_seated);
        let has_shadow = self.limits.has_shadow_seats();
        // The seats of this instance alone are as many as all instances have together.
        let seated = self.limits.take_seat(&mut permit.shadow);
        permit.seated = seated.map_err(|all| {
            let full = LoanRefused::Seats { all };
            self.refuse(full, LimitName::InFlight)
        })?;
        let Some(taken) = &mut permit.loans else {
            return Ok(());
        };
        if permit.seated {
            match self.take_seat(self.loans, &mut taken.seat, wait).await {
                Err(LoanRefused::Seats { .. }) if has_shadow => {
                    permit.shadow.add(LimitName::InFlight);
                }
                taken => taken.map_err(|refused| self.refuse(refused, LimitName::InFlight))?,
            }
        }
        let limit = LimitName::InstitutionInFlight;
        if is_limited {
            let (all, seat) = (self.shared.institution(), &mut taken.institution_seat);
            match self.take_seat(all, seat, wait).await {
                Err(LoanRefused::Seats { .. }) if self.shared.has_shadow_places() => {
                    permit.shadow.add(limit);
                }
                taken => taken.map_err(|refused| self.refuse(refused, limit))?,
            }
        }
        Ok(())
    }

    async fn take_seat(
        &self,
        loans: &Arc<PartyLoans>,
        seat: &mut SeatWanted,
        wait: &mut AnswerWait<'_>,
    ) -> Result<(), LoanRefused> {
        loop {
            let answer = loans.answer();
            match loans.take_seat(seat, self.clock.elapsed()) {
                Err(LoanRefused::Pending) => {
                    let answered = wait.until(answer).await;
                    answered.map_err(|_| LoanRefused::Away)?;
                }
                taken => return taken,
            }
        }
    }

    /// Takes of this instance's part of the limits while the store is away: tokens and places.
    fn take_alone(&self) -> Result<Permit, Refusal> {
        let now = self.clock.elapsed();
        self.limits.follow_alone(self.shared.alone_since(now), now);
        let mut permit = Permit::begin(self.limits, self.clock);
        let tokens = self.limits.take(self.kind, now, &mut permit.shadow);
        let tokens = tokens.map_err(|(limit, spent)| {
            self.limits.refused(limit);
            Refusal::RateLimited(spent)
        })?;
        permit.tokens = Some(tokens);
        let seated = self.limits.take_seat_alone(&mut permit.shadow);
        permit.seated = seated.map_err(|seats| {
            self.limits.refused(LimitName::InFlight);
            Refusal::TooManyInFlight { seats }
        })?;
        let mut taken = TakenLoans::new(self.loans, self.shared.institution());
        let place = self.shared.take_place_alone(&mut taken);
        permit.loans = Some(Box::new(taken));
        let places = LimitName::InstitutionInFlight;
        match place {
            Err(_) if self.shared.has_shadow_places() => permit.shadow.add(places),
            Err(all) => {
                self.limits.refused(places);
                return Err(Refusal::InstitutionQuota(QuotaDenied::Places { all }));
            }
            Ok(()) => {}
        }
        // Last, since it is not given back.
        self.shared.take_alone(now).map_err(|spent| {
            self.limits.refused(LimitName::Institution);
            Refusal::InstitutionQuota(QuotaDenied::Rate(spent))
        })?;
        Ok(permit)
    }

    /// The refusal, counted; `seats` names the limit of calls in flight.
    fn refuse(&self, refused: LoanRefused, seats: LimitName) -> NotLent {
        let (limit, refusal) = match refused {
            LoanRefused::Pending | LoanRefused::Away => return NotLent::Away,
            LoanRefused::Seats { .. } if !self.shared.is_lending_seats() => {
                return NotLent::Away;
            }
            LoanRefused::Rate(limit, mut spent) => {
                // After the wait the caller needs a free token under every limit, not only under the limit met first.
                let now = self.clock.elapsed();
                spent.wait = spent.wait.max(self.limits.share.wait(self.kind, now));
                (limit, Refusal::RateLimited(spent))
            }
            LoanRefused::Seats { all } if seats == LimitName::InFlight => {
                (seats, Refusal::TooManyInFlight { seats: all })
            }
            LoanRefused::Seats { all } => {
                let denied = QuotaDenied::Places { all };
                (seats, Refusal::InstitutionQuota(denied))
            }
        };
        self.limits.refused(limit);
        NotLent::Refused(refusal)
    }
}

/// A call's wait for answers of the store about loans.
struct AnswerWait<'a> {
    shared: &'a SharedLimits,
    until: Instant,
    is_counted: bool,
}

impl AnswerWait<'_> {
    async fn until(&mut self, answer: Notified<'_>) -> Result<(), NotLent> {
        if !std::mem::replace(&mut self.is_counted, true) {
            self.shared.meters().waits.inc();
        }
        let answered = timeout_at(self.until, answer).await;
        answered.map_err(|_| NotLent::Away)
    }
}
