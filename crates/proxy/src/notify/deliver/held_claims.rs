//! Held claims: the endpoints that this instance delivers to, and the lines of each with an attempt under way.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use gatepay_store::notifications::delivery::{EndpointBreaker, EndpointClaim, EndpointKey};
use tokio::time::Instant;

use crate::notify::deliver::breaker_rules::{BreakerAllowance, allowance};

/// The most endpoints whose due events are asked for in one call, and the most events: their bodies are in memory together.
const LOOKED_AT_ONCE: usize = 16;
const EVENTS_AT_ONCE: usize = 64;

/// The events that are looked at together after a failed probe, to end those that are too old.
const EXPIRED_AT_ONCE: usize = 16;

/// The claims of this instance, in the order in which they are looked at.
#[derive(Default)]
pub(super) struct HeldClaims(VecDeque<HeldClaim>);

struct HeldClaim {
    claim: EndpointClaim,
    /// When the claim ends, unless it is renewed.
    ends: Instant,
    /// The lines with an attempt that is under way, or is not recorded yet.
    lines: BTreeSet<i64>,
    /// Whether there may be due events that no attempt has been begun for.
    wants_look: bool,
    /// Whether the last look found nothing to be sent.
    is_done: bool,
    /// Whether another instance has taken the claim.
    is_lost: bool,
}

impl HeldClaim {
    fn tenant(&self) -> &str {
        &self.claim.endpoint.tenant.tenant
    }

    /// The number of attempts that may be begun now, if the endpoint takes `at_once`.
    fn room(&self, at_once: usize, now_ms: u64) -> usize {
        let most = match allowance(&self.claim.breaker, now_ms) {
            BreakerAllowance::All => at_once,
            BreakerAllowance::Probe => at_once.min(1),
            BreakerAllowance::Nothing => 0,
        };
        most.saturating_sub(self.lines.len())
    }

    /// Whether events that are too old end without an attempt, since the endpoint has failed a probe after the last pause.
    fn is_expiring(&self, now_ms: u64) -> bool {
        let breaker = &self.claim.breaker;
        let is_paused = allowance(breaker, now_ms) == BreakerAllowance::Nothing;
        is_paused && breaker.failed_probes > 0 && !self.is_lost
    }
}

impl HeldClaims {
    /// The number of claims, of one tenant not more than it may have attempts at the same time.
    pub(super) fn counted(&self, of_tenant: impl Fn(usize) -> usize) -> usize {
        let mut claims: HashMap<&str, usize> = HashMap::new();
        for held in &self.0 {
            *claims.entry(held.tenant()).or_default() += 1;
        }
        claims.into_values().map(|own| own.min(of_tenant(0))).sum()
    }

    /// The number of attempts of each tenant that are under way, or not recorded yet.
    fn under_way(&self) -> HashMap<String, usize> {
        let mut attempts = HashMap::new();
        for held in self.0.iter().filter(|held| !held.lines.is_empty()) {
            *attempts.entry(held.tenant().to_owned()).or_default() += held.lines.len();
        }
        attempts
    }

    /// The number of attempts that may be begun now for a tenant, by its part of what the others leave.
    fn room_of_tenant(&self, tenant: &str, of_tenant: impl Fn(usize) -> usize) -> usize {
        let (mut own, mut others) = (0, 0);
        for held in &self.0 {
            let attempts = if held.tenant() == tenant {
                &mut own
            } else {
                &mut others
            };
            *attempts += held.lines.len();
        }
        of_tenant(others).saturating_sub(own)
    }

    /// The claims that want a look, in the order in which they are served: tenants with few attempts under way first, and
    /// of each tenant one claim after another.
    fn turns(&self) -> Vec<i64> {
        let mut ahead = self.under_way();
        let mut turns = Vec::new();
        for held in self.0.iter().filter(|held| held.wants_look) {
            let ahead = ahead.entry(held.tenant().to_owned()).or_default();
            turns.push((*ahead, held.claim.number));
            *ahead += 1;
        }
        turns.sort_by_key(|(ahead, _)| *ahead);
        turns.into_iter().map(|(_, number)| number).collect()
    }

    /// Adds claims. An endpoint that was lost and is claimed again keeps its lines: their attempts may be under way.
    pub(super) fn add(&mut self, claims: Vec<EndpointClaim>, ends: Instant) {
        for claim in claims {
            let before = self.position(claim.number);
            let before = before.and_then(|position| self.0.remove(position));
            self.0.push_back(HeldClaim {
                claim,
                ends,
                lines: before.map(|held| held.lines).unwrap_or_default(),
                wants_look: true,
                is_done: false,
                is_lost: false,
            });
        }
    }

    /// The claims that end within this time.
    pub(super) fn ending_within(&self, left: Duration) -> Vec<EndpointClaim> {
        let until = Instant::now() + left;
        let ending = self.0.iter();
        let ending = ending.filter(|held| !held.is_lost && held.ends < until);
        ending.map(|held| held.claim.clone()).collect()
    }

    /// Takes note of which claims were renewed until `ends`.
    pub(super) fn renewed(&mut self, claims: &[EndpointClaim], renewed: &[bool], ends: Instant) {
        for (claim, is_renewed) in claims.iter().zip(renewed) {
            match self.get_mut(claim.number) {
                Some(held) if *is_renewed => held.ends = ends,
                Some(held) => held.is_lost = true,
                None => {}
            }
        }
        self.drop_lost();
    }

    /// New events may have arrived for every endpoint.
    pub(super) fn look_at_all(&mut self) {
        for held in &mut self.0 {
            held.wants_look = true;
        }
    }

    pub(super) fn wants_look(&self) -> bool {
        self.0.iter().any(|held| held.wants_look)
    }

    /// The next claims whose due events are asked for, and how many events of each. `at_once` is the number of attempts
    /// that an endpoint takes, `of_tenant` that of a tenant beside a number of attempts of others. A claim that ends within
    /// `margin` waits until it is renewed.
    pub(super) fn next_to_look_at(
        &mut self,
        at_once: impl Fn(&EndpointKey) -> usize,
        of_tenant: impl Fn(usize) -> usize,
        now_ms: u64,
        margin: Duration,
    ) -> Option<(Vec<EndpointClaim>, u32)> {
        let until = Instant::now() + margin;
        let (mut claims, mut most) = (Vec::new(), 0);
        for number in self.turns() {
            let Some(mut held) = self.position(number).and_then(|at| self.0.remove(at)) else {
                break;
            };
            let room = held.room(at_once(&held.claim.endpoint), now_ms);
            let looked_at = if held.is_expiring(now_ms) {
                EXPIRED_AT_ONCE
            } else {
                room
            };
            let wanted = most.max(looked_at + held.lines.len()).min(EVENTS_AT_ONCE);
            if claims.len() == LOOKED_AT_ONCE
                || (claims.len() + 1) * wanted > EVENTS_AT_ONCE.max(wanted)
            {
                self.0.push_front(held);
                break;
            }
            held.wants_look = false;
            held.is_done = looked_at == 0;
            // A tenant with as many attempts as it may have keeps its claims until one of these ends.
            let of_tenant = self.room_of_tenant(held.tenant(), &of_tenant);
            let is_crowded = of_tenant <= held.lines.len();
            if looked_at > 0 && !is_crowded && !held.is_lost && held.ends >= until {
                claims.push(held.claim.clone());
                most = wanted;
            }
            self.0.push_back(held);
        }
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        (!claims.is_empty()).then_some((claims, most))
    }

    /// Takes note that a look found events, or none.
    pub(super) fn looked(&mut self, number: i64, found_any: bool) {
        if let Some(held) = self.get_mut(number) {
            held.is_done = !found_any;
        }
    }

    /// The claim is to be looked at again.
    pub(super) fn look_again(&mut self, number: i64) {
        if let Some(held) = self.get_mut(number) {
            held.wants_look = true;
        }
    }

    /// Takes note that an attempt for this line begins, unless one is under way, or the endpoint or its tenant takes no
    /// more. Returns the turn of the claim.
    pub(super) fn begin(
        &mut self,
        number: i64,
        line: i64,
        (at_once, of_tenant): (usize, impl Fn(usize) -> usize),
        now_ms: u64,
    ) -> Option<i64> {
        let tenant = self.get_mut(number)?.tenant().to_owned();
        if self.room_of_tenant(&tenant, of_tenant) == 0 {
            return None;
        }
        let held = self.get_mut(number)?;
        if held.is_lost || held.room(at_once, now_ms) == 0 {
            return None;
        }
        held.lines.insert(line).then_some(held.claim.turn)
    }

    /// Whether events of an endpoint that are too old end without an attempt, since it has failed a probe after the last pause.
    pub(super) fn is_expiring(&self, number: i64, now_ms: u64) -> bool {
        let mut claims = self.0.iter();
        let held = claims.find(|held| held.claim.number == number);
        held.is_some_and(|held| held.is_expiring(now_ms))
    }

    /// Takes note that the head of this line ends without an attempt, unless one is under way. Returns the turn of the claim.
    pub(super) fn expire(&mut self, number: i64, line: i64) -> Option<i64> {
        let held = self.get_mut(number)?;
        held.lines.insert(line).then_some(held.claim.turn)
    }

    /// Takes note that the attempt for this line is over and recorded. The tenant's other endpoints may have waited for it.
    pub(super) fn ended(&mut self, number: i64, line: i64) {
        let Some(held) = self.get_mut(number) else {
            return;
        };
        held.lines.remove(&line);
        let tenant = held.tenant().to_owned();
        for held in self.0.iter_mut().filter(|held| held.tenant() == tenant) {
            held.wants_look = true;
        }
        self.drop_lost();
    }

    /// Takes note that another instance has the claim of this turn.
    pub(super) fn lost(&mut self, (number, turn): (i64, i64)) {
        if let Some(held) = self.get_mut(number) {
            held.is_lost |= held.claim.turn == turn;
        }
        self.drop_lost();
    }

    pub(super) fn breaker(&mut self, number: i64) -> Option<&mut EndpointBreaker> {
        self.get_mut(number).map(|held| &mut held.claim.breaker)
    }

    /// The claims under which nothing is to be done.
    pub(super) fn idle(&self) -> Vec<EndpointClaim> {
        let is_idle = |held: &&HeldClaim| held.is_done && !held.wants_look && held.lines.is_empty();
        let idle = self.0.iter().filter(is_idle);
        idle.map(|held| held.claim.clone()).collect()
    }

    pub(super) fn all(&self) -> Vec<EndpointClaim> {
        self.0.iter().map(|held| held.claim.clone()).collect()
    }

    pub(super) fn remove(&mut self, claims: &[EndpointClaim]) {
        let is_removed = |number| claims.iter().any(|claim| claim.number == number);
        self.0.retain(|held| !is_removed(held.claim.number));
    }

    fn drop_lost(&mut self) {
        self.0
            .retain(|held| !held.is_lost || !held.lines.is_empty());
    }

    fn position(&self, number: i64) -> Option<usize> {
        self.0.iter().position(|held| held.claim.number == number)
    }

    fn get_mut(&mut self, number: i64) -> Option<&mut HeldClaim> {
        self.0.iter_mut().find(|held| held.claim.number == number)
    }
}
