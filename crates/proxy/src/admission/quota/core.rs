//! The institution's quota as arithmetic: no clock, no lock, time is an argument.
//!
//! Tokens flow in at the institution's rate, and never are there more than the burst; every call takes one. What flows
//! in flows, on paper, to those who were active in the last ten seconds, by weight. What somebody's share let flow in
//! and it did not take is its *credit*. Whoever has credit is below its share. Credit is counted in *spread*: what one
//! unit of weight has been given since the beginning, one number for all. A member is a mark on that line: how far it
//! has taken. So nothing has to be done for anybody who does not ask.
//!
//! Each member has two such marks. `saved` lets it catch up on ten seconds: it is how shares are fair on average,
//! whatever the arrivals look like. `smooth` lets it take only what flows in now, and its part of a band of the burst
//! that nobody else may touch: who keeps within half of that is never refused because of others, whatever they do, as
//! long as the same are active. Many who come new at one moment can take each other's first tokens for a moment.

use std::num::NonZeroU32;
use std::time::Duration;

use gatepay_tenancy::{Rate, settings};

use super::activity::{ACTIVE, LastSeen, MemberActivity};
use super::aimd::{AimdRate, RateRange};
use super::bands::{TokenBands, WHOLE};
use super::pushes::RecentPushbacks;
use super::view::{QuotaView, ShareView};

/// A token in units: tokens per second are then units per nanosecond.
pub(super) const TOKEN: i64 = 1_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// Everything the quota remembers.
#[derive(Clone)]
pub(super) struct FairShare {
    terms: QuotaTerms,
    /// The rate in force, in tokens per second: that of the terms, or less since GatePay pushed back.
    per_second: u32,
    burst: u32,
    bands: TokenBands,
    now: u64,
    /// Tokens left, in units. Below zero only since there are fewer in all.
    left: i64,
    /// How much of that write and money calls may take beyond shares, in units.
    reserve: i64,
    /// What one unit of weight has been given since the beginning, in units.
    spread: u128,
    /// What was too little to be spread.
    rest: u128,
    activity: MemberActivity,
    members: Vec<QuotaMember>,
    vacant: Vec<u32>,
    /// Members' calls that are in flight.
    seated: u32,
    aimd: AimdRate,
    pushes: RecentPushbacks,
    /// How often terms or the rate in force changed: what was taken before is not given back.
    epoch: u64,
}

/// What a member's call is judged by, in spread: worked out once, for the divisions are what a call costs most.
#[derive(Clone, Copy)]
struct MemberAllowance {
    /// What a token costs it.
    cost: u128,
    /// How far its mark may run ahead of the spread: ten seconds' worth.
    deep: u128,
    /// The same for what it takes as it flows in: its part of the band that is kept for this.
    shallow: u128,
}

/// What is configured.
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

/// One cache line: each is a cold one to whoever asks, and so are its neighbors, whose turn it is not.
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

/// What was admitted in this ten seconds and the ten before.
#[derive(Default, Clone, Copy)]
struct RecentUse {
    /// Counted in tens of seconds, from when time began: a century has some 300 million.
    period: u32,
    now: u32,
    before: u32,
}

/// On what grounds a token is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entitlement {
    /// Its share, of now or of the last ten seconds.
    Saved,
    /// Its share of what flows in now.
    Smooth,
    /// What others left.
    Borrowed,
    /// The reserve.
    Reserve,
    /// None: it should have been refused, but that is not enforced.
    Shadow,
    /// None, and there was no token either.
    Beyond,
}

/// A token that was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenTaken {
    pub(super) ground: Entitlement,
    pub(super) seated: bool,
    /// A place that should have been refused, but that is not enforced.
    pub(super) crowded: bool,
    at: u64,
    epoch: u64,
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenShortage {
    /// The rate: in so many nanoseconds there will be one, if nobody else takes it.
    Rate(u64),
    /// The places in flight.
    Places,
}

/// What the proxy calls GatePay for besides its callers' requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnCallPurpose {
    /// To learn what became of a write or money call whose outcome is unknown. Nothing ranks higher.
    LookUp,
    /// To repeat a read that got no answer.
    Repeat,
    /// To learn whether an earlier delivery is behind an answer that says no. Ranks as low as a repeat, since a tenant
    /// can cause as many of them as it makes calls.
    Settle,
    /// To see whether GatePay is there.
    Probe,
}

impl OwnCallPurpose {
    /// Every purpose, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::LookUp, Self::Repeat, Self::Settle, Self::Probe];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LookUp => "look_up",
            Self::Repeat => "repeat",
            Self::Settle => "settle",
            Self::Probe => "probe",
        }
    }
}

impl FairShare {
    /// Full.
    pub(super) fn new(terms: QuotaTerms, now: u64) -> Self {
        let bands = TokenBands::of(terms.burst, terms.reserve);
        Self {
            terms,
            per_second: terms.per_second,
            burst: terms.burst,
            bands,
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

    /// Somebody more who may ask.
    pub(super) fn join(&mut self, weight: u32) -> u32 {
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

    /// It asks no more.
    pub(super) fn leave(&mut self, member: u32) {
        let it = &self.members[member as usize];
        self.activity.forget(it.seen, it.weight.into());
        self.pushes.forget(member);
        self.vacant.push(member);
    }

    /// It weighs something else from now on.
    pub(super) fn reweigh(&mut self, member: u32, weight: u32) {
        let it = &mut self.members[member as usize];
        self.activity.forget(it.seen, it.weight.into());
        it.weight = weight;
        self.activity.remember(it.seen, it.weight.into());
    }

    /// Takes a token and a place for a member's call, or neither. `acts` says that it is a write or money call.
    pub(super) fn take(
        &mut self,
        member: u32,
        acts: bool,
        now: u64,
    ) -> Result<TokenTaken, TokenShortage> {
        let reach = self.arrive(member, now);
        // Whoever read the clock later may have been here first.
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

    /// How long until a member could take a token, if nobody else did; nothing if it could now.
    pub(super) fn wait(&mut self, member: u32, acts: bool, now: u64) -> u64 {
        let reach = self.arrive(member, now);
        match self.judge(member, reach, acts) {
            Err(wait) if self.shadow().is_none() => self.in_truth(wait),
            _ => 0,
        }
    }

    /// Undoes [`take`](Self::take), as if it had never been: see [`Limiter::give_back`](crate::admission::limiter::Limiter::give_back).
    pub(super) fn give_back(&mut self, member: u32, taken: TokenTaken, now: u64) {
        self.vacate(member, taken.seated);
        self.advance(now);
        if taken.epoch != self.epoch {
            return;
        }
        let flowed = i128::from(self.per_second) * i128::from(self.now.saturating_sub(taken.at));
        let rest = i128::from(TOKEN).saturating_sub(flowed).max(0);
        let rest = i64::try_from(rest).expect("at most a token");
        let cost = self.members[member as usize].cost(rest);
        self.charge(member, taken.ground, rest, cost, true);
    }

    /// A call is over.
    pub(super) fn vacate(&mut self, member: u32, seated: bool) {
        if seated {
            self.members[member as usize].seated -= 1;
            self.seated -= 1;
        }
    }

    /// Takes a token for a call of the proxy's own, or says in how many nanoseconds there will be one.
    pub(super) fn take_for(&mut self, purpose: OwnCallPurpose, now: u64) -> Result<(), u64> {
        self.advance(now);
        let kept = match purpose {
            OwnCallPurpose::LookUp => 0,
            OwnCallPurpose::Repeat | OwnCallPurpose::Settle => self.bands.saved,
            OwnCallPurpose::Probe => self.bands.read,
        };
        match self.wait_for(kept) {
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

    /// GatePay said to a member, or to a call of the proxy's own, that it is too much. What only one member was told
    /// lately concerns no other.
    pub(super) fn hear(&mut self, member: Option<u32>, retry_after: Option<u64>, now: u64) {
        if member.is_none_or(|member| self.pushes.note(member, now)) {
            self.pushed_back(retry_after, now);
        }
    }

    /// GatePay said that it is too much. Shrinks at once, by three tenths, or to the floor for as long as GatePay asks.
    pub(super) fn pushed_back(&mut self, retry_after: Option<u64>, now: u64) {
        self.advance(now);
        let retry_after = retry_after.map(Duration::from_nanos);
        let now = Duration::from_nanos(now);
        let (rate, range) = (self.per_second, self.range());
        let shrunk = self.aimd.shrink(rate, range, retry_after, now);
        if shrunk != rate {
            self.force(shrunk);
        }
    }

    /// Other terms from now on. What was spent stays spent, token for token.
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

    /// The rate in force.
    pub(super) fn rate(&self) -> Rate {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Rate {
            per_second: at_least_one(self.per_second),
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

    /// How many calls there may be in flight.
    pub(super) fn places(&self) -> u32 {
        self.terms.in_flight.unwrap_or(u32::MAX)
    }

    /// What is seen of the whole.
    pub(super) fn view(&mut self, now: u64) -> QuotaView {
        self.advance(now);
        QuotaView {
            configured: self.terms.per_second,
            in_force: self.per_second,
            left: self.left.max(0) / TOKEN,
            active: self.activity.members(),
            weight: self.activity.weight(),
            in_flight: self.seated,
        }
    }

    /// What is seen of a member.
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
        let common = f64::from(WHOLE - self.terms.reserve) / f64::from(WHOLE);
        ShareView {
            share: f64::from(self.per_second) * common * part,
            used: it.used.per_second(now),
            borrowed: it.borrowed,
            weight: it.weight,
        }
    }

    /// Time goes on, and a member asks: from now on it is active. A mark that fell behind has lost what it did not take;
    /// one that is too far ahead owes nothing, since it is the depth that became less, not the member greedy.
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

    /// Lets flow in what flowed since.
    fn advance(&mut self, now: u64) {
        let Some(time) = now.checked_sub(self.now).filter(|time| *time > 0) else {
            return;
        };
        self.now = now;
        let flow = u128::from(self.per_second) * u128::from(time);
        let most = tokens(self.burst);
        self.left = add(self.left, flow, most);
        // The reserve fills first; what it cannot hold is shared like the rest.
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
        self.activity.advance(now / SECOND);
        if self.per_second < self.terms.per_second {
            let (rate, range) = (self.per_second, self.range());
            let grown = self.aimd.grow(rate, range, Duration::from_nanos(now));
            if grown != rate {
                self.force(grown);
            }
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
        let per_second = per_second.clamp(self.terms.floor.min(full), full);
        let burst = u64::from(self.terms.burst) * u64::from(per_second) / u64::from(full);
        let burst = u32::try_from(burst)
            .expect("no more than the full one")
            .max(1);
        self.left += tokens(burst) - tokens(self.burst);
        self.per_second = per_second;
        self.burst = burst;
        self.bands = TokenBands::of(burst, self.terms.reserve);
        self.reserve = self.reserve.min(tokens(self.bands.reserve()));
        self.epoch += 1;
    }

    /// On what grounds a member may take a token now, or else how long until there are any.
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
            let flow = u64::from(self.per_second) * u64::from(self.terms.reserve);
            let lacks = u128::try_from(TOKEN - self.reserve).unwrap_or(0) * u128::from(WHOLE);
            let reserve = nanos(lacks.div_ceil(flow.into()));
            let wait_reserve = reserve.max(self.wait_for(bands.act));
            if wait_reserve == 0 {
                return Ok(Entitlement::Reserve);
            }
            wait = wait.min(wait_reserve);
        }
        Err(wait)
    }

    /// On what grounds a call goes ahead that has none, because that is not enforced.
    fn shadow(&self) -> Option<Entitlement> {
        let shadow = self.terms.shadow;
        if self.left < TOKEN {
            shadow.rate.then_some(Entitlement::Beyond)
        } else {
            (shadow.shares || shadow.rate).then_some(Entitlement::Shadow)
        }
    }

    /// How long the wait is, where only the rate is enforced and not the shares.
    fn in_truth(&self, wait: u64) -> u64 {
        if self.terms.shadow.shares {
            wait.min(self.wait_for(0))
        } else {
            wait
        }
    }

    /// Takes units on some ground, or puts them back; in spread they cost the member so much.
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
        self.left = (self.left - sign * units).min(tokens(self.burst));
        self.reserve = self.reserve.min(tokens(self.bands.reserve()));
    }

    /// Nanoseconds until there is a token more than so many.
    fn wait_for(&self, kept: u32) -> u64 {
        match tokens(kept) + TOKEN - self.left {
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
            Some(lacking @ 1..) => {
                let flow = u128::from(self.per_second) * u128::from(WHOLE - self.terms.reserve);
                nanos((lacking * weight * u128::from(WHOLE)).div_ceil(flow))
            }
            _ => 0,
        }
    }

    fn reach(&self, member: u32) -> MemberAllowance {
        let weight = self.activity.weight().max(1);
        let flow = u128::from(self.per_second) * u128::from(ACTIVE * SECOND);
        let band = u64::from(self.bands.smooth()) * TOKEN.unsigned_abs();
        MemberAllowance {
            cost: self.members[member as usize].cost(TOKEN),
            deep: flow / u128::from(weight),
            shallow: (band / weight).into(),
        }
    }

    /// Whether a call finds no place. The last places are kept: some for write and money calls, some from those who
    /// have their share of them already.
    fn is_crowded(&self, member: u32, acts: bool) -> bool {
        let Some(all) = self.terms.in_flight else {
            return false;
        };
        let it = &self.members[member as usize];
        let share = u64::from(all) * u64::from(it.weight) / self.activity.weight().max(1);
        let below = u64::from(it.seated) < share.max(1);
        let reserve = u64::from(all) * u64::from(self.terms.reserve) / u64::from(WHOLE);
        let reserve = u32::try_from(reserve).expect("a part").min(all - 1);
        let kept = match (below, acts) {
            (true, true) => 0,
            (true, false) | (false, true) => reserve,
            (false, false) => reserve + (all - reserve) / 4,
        };
        self.seated + kept.min(all - 1) >= all
    }
}

impl QuotaMember {
    /// What so many units cost it in spread.
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
