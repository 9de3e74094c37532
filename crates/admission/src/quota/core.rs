//! The institution's quota as arithmetic: no clock and no lock; time is an argument.
//!
//! Tokens flow in at the institution's rate, up to the burst; every call takes one token. On paper, the inflow is
//! divided among the members active in the last ten seconds, by weight. The inflow that a member was given and did not
//! take is its *credit*. A member with credit is below its share. Credit is counted in *spread*: the amount that one
//! unit of weight has been given since the beginning, one number for all members. A member's mark is the point on that
//! line up to which the member has taken. So an idle member needs no upkeep.
//!
//! Each member has two such marks. `saved` lets a member catch up on ten seconds: this makes shares fair on average
//! under any pattern of arrivals. `smooth` lets a member take only the present inflow, and its own part of a band of
//! the burst that is closed to other members. A member that keeps within half of that part is never refused because of
//! the load of others, as long as the set of active members stays the same. Many members that arrive new at one moment
//! can take each other's first tokens for a moment.

use std::num::NonZeroU32;
use std::time::Duration;

use gatepay_tenancy::{Rate, settings};

use super::activity::{ACTIVE, LastSeen, MemberActivity};
use super::aimd::{AimdRate, RateRange};
use super::bands::{TokenBands, WHOLE};
use super::lease::{LeasedInflow, RatePart, TOKEN, WEIGHT_UNIT};
use super::pushes::RecentPushbacks;
use super::view::{QuotaView, ShareView};

const SECOND: u64 = 1_000_000_000;

/// The complete state of the quota.
#[derive(Clone)]
pub(super) struct FairShare {
    terms: QuotaTerms,
    /// The rate in force, in tokens per second: the configured rate, or less after a push-back of GatePay.
    per_second: u32,
    burst: u32,
    bands: TokenBands,
    /// The part of the rate that flows in here, where instances share it.
    lease: Option<Box<LeasedInflow>>,
    now: u64,
    /// Tokens left, in units. Below zero only after the burst has become smaller.
    left: i64,
    /// How much of `left` write and money calls may take beyond shares, in units.
    reserve: i64,
    /// The inflow that one unit of weight has been given since the beginning, in units.
    spread: u128,
    /// The remainder that was too small to be spread, in units.
    rest: u128,
    activity: MemberActivity,
    members: Vec<QuotaMember>,
    vacant: Vec<u32>,
    /// Members' calls that are in flight.
    seated: u32,
    aimd: AimdRate,
    pushes: RecentPushbacks,
    /// How often terms or the rate in force changed: a token taken in an earlier epoch is not given back.
    epoch: u64,
}

/// The measures by which a member's call is judged, in spread. They are worked out once, since the divisions dominate
/// the cost of a call.
#[derive(Clone, Copy)]
struct MemberAllowance {
    /// The cost of one token for this member.
    cost: u128,
    /// How far the `saved` mark may run ahead of the spread: ten seconds' worth.
    deep: u128,
    /// The same for the `smooth` mark: the member's part of the band that is kept for the present inflow.
    shallow: u128,
}

/// The configured terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QuotaTerms {
    pub(super) per_second: u32,
    pub(super) burst: u32,
    /// In millionths.
    pub(super) reserve: u32,
    pub(super) floor: u32,
    pub(super) in_flight: Option<u32>,
    pub(super) shadow: settings::QuotaShadow,
}

/// One cache line: the member that asks is cold in the cache, and so are its neighbors in the list, which do not ask.
#[derive(Default, Clone)]
#[repr(align(64))]
struct QuotaMember {
    weight: u32,
    /// Marks on `spread`.
    smooth: u128,
    saved: u128,
    seen: LastSeen,
    seated: u32,
    used: RecentUse,
    borrowed: u64,
}

const _: () = assert!(size_of::<QuotaMember>() == 64);

/// The calls admitted in this period of ten seconds and in the period before.
#[derive(Default, Clone, Copy)]
struct RecentUse {
    /// Counted in periods of ten seconds from the zero of `now`: a century has some 300 million.
    period: u32,
    now: u32,
    before: u32,
}

/// The entitlement under which a token is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entitlement {
    /// The member's share, present or in the last ten seconds.
    Saved,
    /// The member's share of the present inflow.
    Smooth,
    /// Tokens that other members left.
    Borrowed,
    /// The reserve.
    Reserve,
    /// None: the call should have been refused, but the limit is in shadow mode.
    Shadow,
    /// None, and no token was left either.
    Beyond,
}

/// A token that was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenTaken {
    pub(super) ground: Entitlement,
    pub(super) seated: bool,
    /// The call should have been refused for lack of a slot in flight, but the limit is in shadow mode.
    pub(super) crowded: bool,
    at: u64,
    epoch: u64,
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenShortage {
    /// The rate: the nanoseconds until there is a token, if no other call takes it.
    Rate(u64),
    /// The limit of calls in flight.
    Places,
}

/// The purposes for which the proxy calls GatePay beside its callers' requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnCallPurpose {
    /// To learn the outcome of a write or money call whose outcome is unknown. This is the highest rank.
    LookUp,
    /// To repeat a read that got no answer.
    Repeat,
    /// To learn whether an earlier delivery is behind an answer that says no. Ranks as low as a repeat, since a tenant
    /// can cause as many of these as it makes calls.
    Settle,
    /// To see whether GatePay is reachable.
    Probe,
    /// To learn which tenant a notification belongs to. Ranks as low as a probe: the notification is stored and can wait.
    Owner,
}

impl OwnCallPurpose {
    /// Every purpose, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::LookUp,
        Self::Repeat,
        Self::Settle,
        Self::Probe,
        Self::Owner,
    ];

    /// The value of the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LookUp => "look_up",
            Self::Repeat => "repeat",
            Self::Settle => "settle",
            Self::Probe => "probe",
            Self::Owner => "owner",
        }
    }
}

impl FairShare {
    /// A quota with a full burst.
    pub(super) fn new(terms: QuotaTerms, now: u64) -> Self {
        let bands = TokenBands::of(terms.burst, terms.reserve);
        Self {
            terms,
            per_second: terms.per_second,
            burst: terms.burst,
            bands,
            lease: None,
            now,
            left: tokens(terms.burst),
            reserve: tokens(bands.reserve()),
            spread: 0,
            rest: 0,
            activity: MemberActivity::default(),
            members: Vec::new(),
            vacant: Vec::new(),
            seated: 0,
            aimd: AimdRate::default(),
            pushes: RecentPushbacks::default(),
            epoch: 0,
        }
    }

    /// A quota of which nothing flows in before it is [lent](Self::lend).
    pub(super) fn leased(terms: QuotaTerms, now: u64) -> Self {
        Self {
            lease: Some(Box::default()),
            left: 0,
            reserve: 0,
            ..Self::new(terms, now)
        }
    }

    /// Adds a member and returns its number.
    pub(super) fn join(&mut self, weight: u32) -> u32 {
        let weight = self.scaled(weight);
        let member = QuotaMember {
            weight,
            ..QuotaMember::default()
        };
        if let Some(place) = self.vacant.pop() {
            self.members[place as usize] = member;
            return place;
        }
        self.members.push(member);
        u32::try_from(self.members.len() - 1).expect("there are fewer than four billion")
    }

    /// Removes a member; its number is free for the next one.
    pub(super) fn leave(&mut self, member: u32) {
        let it = &self.members[member as usize];
        self.activity.forget(it.seen, it.weight.into());
        self.pushes.forget(member);
        self.vacant.push(member);
    }

    /// Changes a member's weight from now on.
    pub(super) fn reweigh(&mut self, member: u32, weight: u32) {
        let weight = self.scaled(weight);
        self.put_weight(member, weight);
    }

    /// Changes a member's weight, from now on, to the part that counts here: its calls at this instance, of all its calls.
    pub(super) fn weigh_part(&mut self, member: u32, weight: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a weight is positive, and the largest one is as good"
        )]
        let weight = ((weight * f64::from(WEIGHT_UNIT)) as u32).max(1);
        if self.members[member as usize].weight != weight {
            self.put_weight(member, weight);
        }
    }

    fn put_weight(&mut self, member: u32, weight: u32) {
        let it = &mut self.members[member as usize];
        self.activity.forget(it.seen, it.weight.into());
        it.weight = weight;
        self.activity.remember(it.seen, it.weight.into());
    }

    /// Takes a token and a slot in flight for a member's call, or neither. `acts` says that it is a write or money
    /// call.
    pub(super) fn take(
        &mut self,
        member: u32,
        acts: bool,
        now: u64,
    ) -> Result<TokenTaken, TokenShortage> {
        let reach = self.arrive(member, now);
        let now = self.now;
        let crowded = self.is_crowded(member, acts);
        if crowded && !self.terms.shadow.in_flight {
            return Err(TokenShortage::Places);
        }
        let ground = match self.judge(member, reach, acts) {
            Ok(ground) => ground,
            Err(wait) => self
                .shadow()
                .ok_or(TokenShortage::Rate(self.in_truth(wait)))?,
        };
        self.charge(member, ground, TOKEN, reach.cost, false);
        let it = &mut self.members[member as usize];
        it.used.add(now);
        it.borrowed += u64::from(ground == Entitlement::Borrowed);
        let seated = self.terms.in_flight.is_some();
        if seated {
            self.members[member as usize].seated += 1;
            self.seated += 1;
        }
        Ok(TokenTaken {
            ground,
            seated,
            crowded,
            at: now,
            epoch: self.epoch,
        })
    }

    /// How long until a member could take a token, if no other call did; zero if it could now.
    pub(super) fn wait(&mut self, member: u32, acts: bool, now: u64) -> u64 {
        let reach = self.arrive(member, now);
        match self.judge(member, reach, acts) {
            Err(wait) if self.shadow().is_none() => self.in_truth(wait),
            _ => 0,
        }
    }

    /// Undoes [`take`](Self::take), as if it had never been: see [`Limiter::give_back`](crate::limiter::Limiter::give_back).
    pub(super) fn give_back(&mut self, member: u32, taken: TokenTaken, now: u64) {
        self.vacate(member, taken.seated);
        self.advance(now);
        if taken.epoch != self.epoch {
            return;
        }
        let flowed = self.flow(taken.at, self.now);
        let flowed = i128::try_from(flowed).unwrap_or(i128::MAX);
        let rest = i128::from(TOKEN).saturating_sub(flowed).max(0);
        let rest = i64::try_from(rest).expect("at most a token");
        let cost = self.members[member as usize].cost(rest);
        self.charge(member, taken.ground, rest, cost, true);
    }

    /// Frees the slot in flight of a call that is over.
    pub(super) fn vacate(&mut self, member: u32, seated: bool) {
        if seated {
            self.members[member as usize].seated -= 1;
            self.seated -= 1;
        }
    }

    /// Takes a token for a call of the proxy's own, or returns the nanoseconds until there is one.
    pub(super) fn take_for(&mut self, purpose: OwnCallPurpose, now: u64) -> Result<(), u64> {
        self.advance(now);
        let kept = match purpose {
            OwnCallPurpose::LookUp => 0,
            OwnCallPurpose::Repeat | OwnCallPurpose::Settle => self.bands.saved,
            OwnCallPurpose::Probe | OwnCallPurpose::Owner => self.bands.read,
        };
        let wait = match purpose {
            OwnCallPurpose::LookUp if self.has_saved_token() => 0,
            _ => self.wait_for(kept),
        };
        match wait {
            0 => self.left -= TOKEN,
            wait => match self.shadow() {
                None => return Err(wait),
                Some(Entitlement::Beyond) => {}
                Some(_) => self.left -= TOKEN,
            },
        }
        if purpose == OwnCallPurpose::LookUp {
            self.reserve = (self.reserve - TOKEN).max(0);
        }
        Ok(())
    }

    /// Whether tokens are left that the store lent. After an exchange without an answer no call takes them, since another
    /// instance may have them, except for look-ups: they are few, and money hangs on their answers.
    fn has_saved_token(&self) -> bool {
        let lease = self.lease.as_ref();
        self.left >= TOKEN && lease.is_none_or(|lease| self.now < lease.ends())
    }

    /// Notes a push-back of GatePay against a member, or against a call of the proxy's own. While only one member was
    /// pushed back lately, the push-back concerns no other.
    pub(super) fn hear(&mut self, member: Option<u32>, retry_after: Option<u64>, now: u64) {
        self.advance(now);
        let now = self.now;
        if member.is_none_or(|member| self.pushes.note(member, now)) {
            self.pushed_back(retry_after, now);
        }
    }

    /// Notes a push-back against the institution. The rate shrinks at once, by three tenths, or to the floor for as
    /// long as GatePay asks.
    pub(super) fn pushed_back(&mut self, retry_after: Option<u64>, now: u64) {
        self.advance(now);
        let retry_after = retry_after.map(Duration::from_nanos);
        let now = Duration::from_nanos(self.now);
        let (rate, range) = (self.in_force(), self.range());
        let shrunk = self.aimd.shrink(rate, range, retry_after, now);
        if shrunk != rate {
            self.force(shrunk);
        }
    }

    /// Puts a part of the rate in force, from now on. It brings no tokens, and takes those beyond its burst.
    pub(super) fn lend(&mut self, part: RatePart, now: u64) {
        self.advance(now);
        if let Some(lease) = &mut self.lease {
            lease.part = part;
            self.follow_lease();
        }
    }

    /// Whether half of the burst is there, or more.
    pub(super) fn is_half_full(&mut self, now: u64) -> bool {
        self.advance(now);
        self.left > 0 && self.left >= self.most() / 2
    }

    /// The rate to which GatePay pushed this instance back, in tokens per second, if it did.
    pub(super) fn pushed_back_to(&mut self, now: u64) -> Option<u32> {
        self.advance(now);
        (self.per_second < self.terms.per_second).then_some(self.per_second)
    }

    /// How long that rate stays as it is.
    pub(super) fn holds(&mut self, now: u64) -> Duration {
        self.advance(now);
        self.aimd.holds(Duration::from_nanos(now))
    }

    /// Puts other terms in force. Spent tokens stay spent, token for token.
    pub(super) fn adjust(&mut self, terms: QuotaTerms, now: u64) {
        self.advance(now);
        if terms == self.terms {
            return;
        }
        // A rate that GatePay pushed down is not pushed up by a reload.
        let full = self.per_second == self.terms.per_second;
        self.terms = terms;
        self.force(if full { u32::MAX } else { self.per_second });
    }

    /// The rate in force, over all instances that share it.
    pub(super) fn rate(&self) -> Rate {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Rate {
            per_second: at_least_one(self.in_force()),
            burst: at_least_one(self.burst),
        }
    }

    /// The configured rate.
    pub(super) fn full(&self) -> Rate {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Rate {
            per_second: at_least_one(self.terms.per_second),
            burst: at_least_one(self.terms.burst),
        }
    }

    /// The limit of calls in flight, if there is one.
    pub(super) fn places(&self) -> Option<u32> {
        self.terms.in_flight
    }

    /// Whether the limit of calls in flight is in shadow mode.
    pub(super) fn has_shadow_places(&self) -> bool {
        self.terms.shadow.in_flight
    }

    /// The view of the whole quota for operators.
    pub(super) fn view(&mut self, now: u64) -> QuotaView {
        self.advance(now);
        QuotaView {
            configured: self.terms.per_second,
            in_force: self.in_force(),
            left: self.left.max(0) / TOKEN,
            active: self.activity.members(),
            weight: self.unscaled(self.activity.weight()),
            in_flight: self.seated,
        }
    }

    /// The view of one member for operators.
    pub(super) fn view_of(&mut self, member: u32, now: u64) -> ShareView {
        self.advance(now);
        let it = &self.members[member as usize];
        let weight = u64::from(it.weight);
        let counted = self.activity.counts(it.seen);
        let others = self.activity.weight() - if counted { weight } else { 0 };
        #[expect(
            clippy::cast_precision_loss,
            reason = "it is looked at, not counted with"
        )]
        let part = weight as f64 / (others + weight) as f64;
        let inflow = match &self.lease {
            None => f64::from(self.per_second),
            Some(lease) => lease.per_second(),
        };
        let common = f64::from(WHOLE - self.terms.reserve) / f64::from(WHOLE);
        ShareView {
            share: inflow * common * part,
            used: it.used.per_second(self.now),
            borrowed: it.borrowed,
            weight: u32::try_from(self.unscaled(it.weight.into())).unwrap_or(u32::MAX),
        }
    }

    /// Advances the time and marks a member as active. A mark that fell behind the spread has lost the inflow that it
    /// did not take. A mark that is too far ahead is pulled back without debt, since the depth became less: the member
    /// did not overdraw.
    fn arrive(&mut self, member: u32, now: u64) -> MemberAllowance {
        self.advance(now);
        let it = &mut self.members[member as usize];
        self.activity.saw(&mut it.seen, it.weight.into());
        let reach = self.reach(member);
        let it = &mut self.members[member as usize];
        let most = |depth: u128| self.spread + depth.max(2 * reach.cost);
        it.saved = it.saved.clamp(self.spread, most(reach.deep));
        it.smooth = it.smooth.clamp(self.spread, most(reach.shallow));
        reach
    }

    /// Adds the inflow since the last call. Callers read the clock before they take the lock, so `now` may lie before
    /// the time of the last call; then that time counts.
    fn advance(&mut self, now: u64) {
        let Some(time) = now.checked_sub(self.now).filter(|time| *time > 0) else {
            return;
        };
        let flow = self.flow(now - time, now);
        self.now = now;
        self.left = add(self.left, flow, self.most());
        // The reserve fills first; its overflow is shared like the rest.
        let part = flow * u128::from(self.terms.reserve) / u128::from(WHOLE);
        let before = self.reserve;
        self.reserve = add(self.reserve, part, tokens(self.bands.reserve()));
        let kept = u128::try_from(self.reserve - before).unwrap_or(0);
        let shared = flow - kept + self.rest;
        let weight = u128::from(self.activity.weight());
        if let Some(each) = shared.checked_div(weight) {
            self.spread += each;
            self.rest = shared - each * weight;
        }
        if let Some(lease) = &mut self.lease {
            if lease.widen(flow) {
                self.bands = TokenBands::of(lease.span_tokens(), self.terms.reserve);
            }
            if now >= lease.ends() {
                // The store lends this part to others from now on.
                (self.left, self.reserve, lease.span) = (self.left.min(0), 0, 0);
            }
        }
        self.activity.advance(now / SECOND);
        if self.per_second < self.terms.per_second {
            let (rate, range) = (self.per_second, self.range());
            let grown = self.aimd.grow(rate, range, Duration::from_nanos(now));
            if grown != rate {
                self.force(grown);
            }
        }
    }

    /// The units that flow in from one time to another.
    fn flow(&self, from: u64, to: u64) -> u128 {
        match &self.lease {
            None => u128::from(self.per_second) * u128::from(to.saturating_sub(from)),
            Some(lease) => lease.flow(from, to),
        }
    }

    /// The most units that can be saved up.
    fn most(&self) -> i64 {
        match &self.lease {
            None => tokens(self.burst),
            Some(lease) => lease.burst,
        }
    }

    fn range(&self) -> RateRange {
        RateRange {
            full: self.terms.per_second,
            floor: self.terms.floor,
        }
    }

    /// Puts a rate in force, and a burst in proportion.
    fn force(&mut self, per_second: u32) {
        let full = self.terms.per_second;
        self.per_second = per_second.clamp(self.terms.floor.min(full), full);
        if self.lease.is_some() {
            self.follow_lease();
            return;
        }
        let burst = self.burst_at(self.per_second);
        self.left += tokens(burst) - tokens(self.burst);
        self.burst = burst;
        self.bands = TokenBands::of(burst, self.terms.reserve);
        self.reserve = self.reserve.min(tokens(self.bands.reserve()));
        self.epoch += 1;
    }

    /// Applies the lease, and the rate after push-backs at this instance, to the state that depends on them.
    fn follow_lease(&mut self) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        if lease.slow_down(self.per_second) {
            self.epoch += 1;
        }
        self.left = self.left.min(lease.burst);
        self.bands = TokenBands::of(lease.span_tokens(), self.terms.reserve);
        self.reserve = self.reserve.min(tokens(self.bands.reserve()));
        self.burst = self.burst_at(self.in_force());
    }

    /// The burst in proportion to a rate up to the full one.
    fn burst_at(&self, per_second: u32) -> u32 {
        let full = u64::from(self.terms.per_second);
        let burst = u64::from(self.terms.burst) * u64::from(per_second) / full;
        u32::try_from(burst)
            .expect("no more than the full one")
            .max(1)
    }

    /// The rate in force over all instances, in tokens per second.
    fn in_force(&self) -> u32 {
        let whole = self.lease.as_ref().and_then(|lease| lease.whole());
        whole.map_or(self.per_second, |whole| whole.min(self.per_second))
    }

    /// A weight as members count it.
    fn scaled(&self, weight: u32) -> u32 {
        match self.lease {
            None => weight,
            Some(_) => weight.saturating_mul(WEIGHT_UNIT),
        }
    }

    /// A weight, or a sum of weights, as operators know it.
    fn unscaled(&self, weight: u64) -> u64 {
        match self.lease {
            None => weight,
            Some(_) => weight.div_ceil(WEIGHT_UNIT.into()),
        }
    }

    /// The entitlement under which a member may take a token now, or else the nanoseconds until it has one.
    fn judge(&self, member: u32, reach: MemberAllowance, acts: bool) -> Result<Entitlement, u64> {
        let it = &self.members[member as usize];
        let bands = &self.bands;
        let MemberAllowance {
            cost,
            deep,
            shallow,
        } = reach;
        let wait_saved = self.wait_for_credit(it.saved, cost, deep, acts);
        let wait_saved = wait_saved.max(self.wait_for(bands.saved));
        if wait_saved == 0 {
            return Ok(Entitlement::Saved);
        }
        let wait_borrow = self.wait_for(bands.lend);
        if wait_borrow == 0 {
            return Ok(Entitlement::Borrowed);
        }
        let wait_smooth = self.wait_for_credit(it.smooth, cost, shallow, acts);
        let wait_fresh = self.wait_for_credit(it.smooth, cost, shallow / 2, acts);
        let wait_smooth = wait_smooth.max(self.wait_for(bands.fresh));
        let wait_smooth = wait_smooth.min(wait_fresh.max(self.wait_for(bands.read)));
        if wait_smooth == 0 {
            return Ok(Entitlement::Smooth);
        }
        let mut wait = wait_saved.min(wait_borrow).min(wait_smooth);
        if acts && bands.reserve() > 0 {
            let lacks = u128::try_from(TOKEN - self.reserve).unwrap_or(0);
            let reserve = self.time_of_part(lacks, self.terms.reserve);
            let wait_reserve = reserve.max(self.wait_for(bands.act));
            if wait_reserve == 0 {
                return Ok(Entitlement::Reserve);
            }
            wait = wait.min(wait_reserve);
        }
        Err(wait)
    }

    /// The entitlement of a call that has none, where the limit is in shadow mode.
    fn shadow(&self) -> Option<Entitlement> {
        let shadow = self.terms.shadow;
        if self.left < TOKEN {
            shadow.rate.then_some(Entitlement::Beyond)
        } else {
            (shadow.shares || shadow.rate).then_some(Entitlement::Shadow)
        }
    }

    /// How long the wait is, where the rate is enforced and the shares are in shadow mode.
    fn in_truth(&self, wait: u64) -> u64 {
        if self.terms.shadow.shares {
            wait.min(self.wait_for(0))
        } else {
            wait
        }
    }

    /// Takes units under an entitlement, or puts them back; `cost` is their cost for the member, in spread.
    fn charge(&mut self, member: u32, ground: Entitlement, units: i64, cost: u128, back: bool) {
        let it = &mut self.members[member as usize];
        let mark = |mark: u128| {
            if back {
                mark.saturating_sub(cost)
            } else {
                mark + cost
            }
        };
        let sign = if back { -1 } else { 1 };
        match ground {
            Entitlement::Saved => it.saved = mark(it.saved),
            Entitlement::Smooth => {
                it.smooth = mark(it.smooth);
                it.saved = mark(it.saved);
            }
            Entitlement::Reserve => self.reserve -= sign * units,
            Entitlement::Borrowed | Entitlement::Shadow => {}
            Entitlement::Beyond => return,
        }
        self.left = (self.left - sign * units).min(self.most());
        self.reserve = self.reserve.min(tokens(self.bands.reserve()));
    }

    /// Nanoseconds until there is a token beyond the `kept` ones.
    fn wait_for(&self, kept: u32) -> u64 {
        let lacking = tokens(kept) + TOKEN - self.left;
        if let Some(lease) = &self.lease {
            return lease.wait_for(lacking, self.now);
        }
        match lacking {
            lacking @ 1.. => lacking.unsigned_abs().div_ceil(self.per_second.into()),
            _ => 0,
        }
    }

    /// Nanoseconds until a member has credit for a token.
    fn wait_for_credit(&self, mark: u128, cost: u128, depth: u128, acts: bool) -> u64 {
        let weight = u128::from(self.activity.weight());
        let ahead = mark.saturating_sub(self.spread);
        // A member's own reads leave room for its write and money calls.
        let depth = if acts {
            depth.max(2 * cost)
        } else {
            (depth - depth / 8).max(cost)
        };
        match (ahead + cost).checked_sub(depth) {
            Some(lacking @ 1..) => self.time_of_part(lacking * weight, WHOLE - self.terms.reserve),
            _ => 0,
        }
    }

    /// The time, in nanoseconds, in which a part of the inflow, in millionths, brings a number of units.
    fn time_of_part(&self, units: u128, part: u32) -> u64 {
        if let Some(lease) = &self.lease {
            return lease.time_of_part(units, part);
        }
        let flow = u128::from(self.per_second) * u128::from(part);
        nanos((units * u128::from(WHOLE)).div_ceil(flow))
    }

    fn reach(&self, member: u32) -> MemberAllowance {
        let weight = self.activity.weight().max(1);
        let flow = match &self.lease {
            None => u128::from(self.per_second) * u128::from(ACTIVE * SECOND),
            Some(lease) => lease.flow_over(ACTIVE * SECOND),
        };
        let band = u64::from(self.bands.smooth()) * TOKEN.unsigned_abs();
        MemberAllowance {
            cost: self.members[member as usize].cost(TOKEN),
            deep: flow / u128::from(weight),
            shallow: (band / weight).into(),
        }
    }

    /// Whether a call finds no slot in flight. The last slots are kept: some for write and money calls, some for
    /// members that do not have their share of slots yet. Slots and weights count over all instances, as of the last
    /// exchange with the store.
    fn is_crowded(&self, member: u32, acts: bool) -> bool {
        let Some(all) = self.terms.in_flight else {
            return false;
        };
        let it = &self.members[member as usize];
        let (weight_elsewhere, elsewhere) = self.lease.as_ref().map_or((0, 0), |lease| {
            (lease.weight(), lease.part.seated_elsewhere)
        });
        let weight = self.activity.weight().max(weight_elsewhere).max(1);
        let seated = self.seated.saturating_add(elsewhere);
        let share = u64::from(all) * u64::from(it.weight) / weight;
        let below = u64::from(it.seated) < share.max(1);
        let reserve = u64::from(all) * u64::from(self.terms.reserve) / u64::from(WHOLE);
        let reserve = u32::try_from(reserve).expect("a part").min(all - 1);
        let kept = match (below, acts) {
            (true, true) => 0,
            (true, false) | (false, true) => reserve,
            (false, false) => reserve + (all - reserve) / 4,
        };
        seated.saturating_add(kept.min(all - 1)) >= all
    }
}

impl QuotaMember {
    /// The cost of `units` for this member, in spread.
    fn cost(&self, units: i64) -> u128 {
        units.unsigned_abs().div_ceil(self.weight.into()).into()
    }
}

impl RecentUse {
    fn add(&mut self, now: u64) {
        self.turn(now);
        self.now = self.now.saturating_add(1);
    }

    fn turn(&mut self, now: u64) {
        let period = u32::try_from(now / (ACTIVE * SECOND)).unwrap_or(u32::MAX);
        if period != self.period {
            self.before = if Some(period) == self.period.checked_add(1) {
                self.now
            } else {
                0
            };
            self.now = 0;
            self.period = period;
        }
    }

    fn per_second(mut self, now: u64) -> f64 {
        self.turn(now);
        let into = now % (ACTIVE * SECOND);
        #[expect(
            clippy::cast_precision_loss,
            reason = "it is looked at, not counted with"
        )]
        let (into, all) = (into as f64, (ACTIVE * SECOND) as f64);
        (f64::from(self.now) + f64::from(self.before) * (1.0 - into / all)) / 10.0
    }
}

fn tokens(count: u32) -> i64 {
    i64::from(count) * TOKEN
}

fn add(level: i64, flow: u128, most: i64) -> i64 {
    i64::try_from(flow).map_or(most, |flow| level.saturating_add(flow).min(most))
}

fn nanos(time: u128) -> u64 {
    u64::try_from(time).unwrap_or(u64::MAX)
}
