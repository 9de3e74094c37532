//! The store's side of limits, as `sql/0001_limits.sql` has it: the same rules in Rust, for tests of either.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::max_min::water_line;
use super::messages::{
    DemandReport, LeaseGrant, LimitAnswers, LimitQuestions, SeatAnswer, SeatQuestion, TokenAnswer,
    TokenQuestion,
};

/// The limits of all instances, in memory.
///
/// Its calls take the end of the store's newest guard, another one after a failover that may have lost something, and the
/// store's clock.
#[derive(Debug, Clone, Default)]
pub struct LimitModel {
    life: i64,
    era: i64,
    wall_ms: i64,
    now: i64,
    is_open: bool,
    /// When the era was opened before its time.
    opened_at: Option<i64>,
    is_guarded: bool,
    heard: Option<i64>,
    swept: i64,
    /// The instances that the store knows, and their last sign of life. A failover does not lose them.
    signs: BTreeMap<i64, i64>,
    members: BTreeMap<i64, LimitMember>,
    buckets: BTreeMap<BucketKey, LimitBucket>,
    seats: BTreeMap<Arc<str>, BTreeMap<i64, SeatLoan>>,
    leases: BTreeMap<i64, LeaseLoan>,
    /// The push-backs by instance. They are of no era.
    push_backs: BTreeMap<(i64, BucketKey), PushBack>,
}

/// A rate to which GatePay has pushed an instance back, of a tenant's limit or of the institution.
#[derive(Debug, Clone, Copy, PartialEq)]
struct PushBack {
    rate: f64,
    burst: f64,
    /// The institution's rate without it.
    whole_rate: f64,
    /// By the store's clock.
    until_ms: i64,
}

/// The clock of the limits, and when the era lends tokens and leases. Buckets fill from then on, since tokens of the last
/// era may have been used until then.
#[derive(Debug, Clone, Copy)]
struct Lending {
    now: i64,
    from: i64,
}

impl Lending {
    fn is_lending(self) -> bool {
        self.now >= self.from
    }

    /// The milliseconds since then in which buckets filled.
    fn since(self, at: i64) -> f64 {
        real((self.now - at.max(self.from)).max(0))
    }
}

/// A call that was overtaken by a later one of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OvertakenCall;

type BucketKey = (Arc<str>, &'static str);

#[derive(Debug, Clone, Copy)]
struct LimitMember {
    number: i64,
    seen: i64,
    has_declared: bool,
}

#[derive(Debug, Clone)]
struct LimitBucket {
    tokens: f64,
    at: i64,
    rate: f64,
    burst: f64,
    stocks: BTreeMap<i64, StockLoan>,
}

#[derive(Debug, Clone, Copy)]
struct StockLoan {
    held: f64,
    rate: f64,
    burst: f64,
    at: i64,
    /// Until when the figures bind even if the instance ends.
    stays_until: i64,
}

impl StockLoan {
    /// Whether its figures are those of its instance still: an instance that holds no token may have got others since.
    fn has_figures(&self, now: i64) -> bool {
        self.held > 0.0 || self.at > now - FIGURES_MS
    }

    /// The part of the full figures by which these have grown since the end of GatePay's push-back; from 1 on they bind nothing.
    fn growth(&self, is_living: bool, now: i64) -> f64 {
        if is_living && self.has_figures(now) {
            0.0
        } else {
            grown(self.stays_until, now)
        }
    }
}

/// A hundredth for each second since the end of a push-back.
fn grown(until: i64, now: i64) -> f64 {
    real((now - until).max(0)) / real(GROWN_MS)
}

#[derive(Debug, Clone, Copy)]
struct SeatLoan {
    held: u32,
    seats: u32,
}

#[derive(Debug, Clone)]
struct LeaseLoan {
    /// Until when the rate after a push-back binds even if the instance ends.
    in_force_until: i64,
    number: i64,
    rate: f64,
    burst: f64,
    until: i64,
    old_rate: f64,
    old_burst: f64,
    old_until: i64,
    report: DemandReport,
}

const LOAN_MS: i64 = 2_000;
const SEAT_MS: i64 = 5_000;
const GRACE_MS: i64 = 1_000;
const FORGET_MS: i64 = 10_000;
const FIGURES_MS: i64 = 30_000;
/// The time in which figures grow to the full ones after a push-back.
const GROWN_MS: i64 = 100_000;
/// A longer step of the clock does not count as time.
const STEP_MS: i64 = 500;

impl LimitModel {
    /// Answers questions about tokens and seats.
    pub fn take(
        &mut self,
        life: i64,
        wall_ms: i64,
        questions: &LimitQuestions,
    ) -> Result<LimitAnswers, OvertakenCall> {
        let before = self.clone();
        self.tick(life, wall_ms);
        let Some(last_seen) = self.note_member(questions.instance, questions.number) else {
            *self = before;
            return Err(OvertakenCall);
        };
        let members = self.members.values();
        let living = members.filter(|it| it.seen > self.now - LOAN_MS).count();
        self.forget_push_backs();
        let instances = u32::try_from(living).unwrap_or(u32::MAX);
        let tokens = questions.tokens.iter();
        let seats = questions.seats.iter();
        Ok(LimitAnswers {
            era: self.era,
            instances,
            tokens: tokens
                .map(|it| self.take_tokens(questions.instance, last_seen, instances, it))
                .collect(),
            seats: seats
                .map(|it| self.take_seats(questions.instance, last_seen, instances, it))
                .collect(),
        })
    }

    fn take_tokens(
        &mut self,
        instance: i64,
        last_seen: i64,
        instances: u32,
        question: &TokenQuestion,
    ) -> TokenAnswer {
        let now = self.now;
        let key = (Arc::clone(&question.tenant), question.limit);
        let known = self.buckets.remove(&key);
        let is_living = living(&self.members, now - LOAN_MS);
        let mut bucket = LimitBucket::agreed(known, question, instance, self.lending(), is_living);
        let mine = bucket.stocks.remove(&instance).map_or(0.0, |it| it.held);
        let mine = if last_seen > now - LOAN_MS { mine } else { 0.0 };
        let kept = f64::from(question.held).min(mine);
        let returned = f64::from(question.returned).min(mine - kept);
        let room = bucket.burst - bucket.held() - kept;
        bucket.tokens = (bucket.tokens + returned).min(room).max(0.0);

        let small = bucket.burst < 4.0 * f64::from(instances);
        let wanted = bucket.wanted(question, small);
        let is_lent = self.lending().is_lending();
        let lent = if is_lent {
            wanted.min((bucket.tokens + 1e-9).floor())
        } else {
            0.0
        };
        bucket.tokens -= lent;
        let stock = StockLoan {
            held: kept + lent,
            rate: question.rate,
            burst: question.burst,
            at: now,
            stays_until: until(question.holds, now),
        };
        bucket.stocks.insert(instance, stock);
        let wait = if lent >= wanted && bucket.tokens >= 1.0 {
            0.0
        } else {
            bucket
                .wait_ms(instances)
                .max(if is_lent { 0.0 } else { 50.0 })
        };
        self.buckets.insert(key.clone(), bucket);
        let holds = (!question.holds.is_zero()).then_some(question.holds);
        let figures = (question.rate, question.burst, 0.0);
        self.note_push_back((instance, key), figures, holds);
        TokenAnswer {
            kept: whole(kept),
            lent: whole(lent),
            wait_ms: u64::from(whole(wait.ceil())),
            small,
        }
    }

    fn take_seats(
        &mut self,
        instance: i64,
        last_seen: i64,
        instances: u32,
        question: &SeatQuestion,
    ) -> SeatAnswer {
        let now = self.now;
        let living = living(&self.members, now - SEAT_MS);
        let loans = self.seats.entry(Arc::clone(&question.tenant)).or_default();
        let mine = loans.get(&instance).map_or(0, |it| it.held);
        loans.retain(|id, _| *id != instance && living(*id));
        let others: u32 = loans.values().map(|it| it.held).sum();
        let seats = loans.values().map(|it| it.seats);
        let seats = seats.fold(question.seats, u32::min);
        let kept = if now < SEAT_MS {
            question.held
        } else if last_seen > now - SEAT_MS {
            question.held.min(mine)
        } else {
            0
        };
        let free = seats.saturating_sub(others).saturating_sub(kept);
        let lent = if self.is_open {
            question.want.min(free)
        } else {
            0
        };
        loans.insert(
            instance,
            SeatLoan {
                held: kept + lent,
                seats: question.seats,
            },
        );
        SeatAnswer {
            kept,
            lent,
            small: seats < 4 * instances,
        }
    }

    /// Lends a part of the institution's rate.
    pub fn exchange(
        &mut self,
        life: i64,
        wall_ms: i64,
        report: &DemandReport,
    ) -> Result<LeaseGrant, OvertakenCall> {
        let before = self.clone();
        self.tick(life, wall_ms);
        if self.note_member(report.instance, report.number).is_none() {
            *self = before;
            return Err(OvertakenCall);
        }
        self.open(report);
        self.sweep();
        let now = self.now;
        self.renew(report);
        self.note_push_back_of_institution(report);
        let living: Vec<&LeaseLoan> = self.leases.values().filter(|it| it.until > now).collect();
        let smallest = |figure: fn(&DemandReport) -> f64| {
            let figures = living.iter().map(|it| figure(&it.report));
            figures.fold(f64::INFINITY, f64::min)
        };
        let (configured, burst) = (smallest(|it| it.rate), smallest(|it| it.burst));
        let pushed_back = self.leases.values().filter_map(|it| it.pushed_back_to(now));
        let whole_rate = pushed_back.fold(configured, f64::min);
        let each = f64::from(u32::try_from(living.len()).unwrap_or(u32::MAX));
        // After a push-back still a token for each instance, if the configured burst has as many.
        let whole_burst = (burst * whole_rate / configured).max(burst.min(each + 1.0));

        let (target, weight, fractions) = target(report, &living, whole_rate);
        let others = living
            .iter()
            .filter(|it| it.report.instance != report.instance);
        let (others_rate, others_burst) = together(others.copied(), now);
        let instances = living.len();
        let (mut rate, mut burst) = (0.0, 0.0);
        if self.lending().is_lending() {
            rate = target.min(whole_rate - others_rate).max(0.0);
            let share = share_of_burst(whole_burst, each, (rate, whole_rate));
            burst = share.min(whole_burst - others_burst).max(0.0);
        }
        let loan = self
            .leases
            .get_mut(&report.instance)
            .expect("renewed above");
        (loan.rate, loan.burst) = (rate, burst);
        Ok(LeaseGrant {
            number: report.number,
            era: self.era,
            is_open: self.is_open,
            instances: u32::try_from(instances).unwrap_or(u32::MAX),
            rate,
            burst,
            target,
            whole_rate,
            whole_burst,
            weight,
            seats_elsewhere: self.seats_elsewhere(report.instance),
            fractions,
        })
    }

    fn note_push_back_of_institution(&mut self, report: &DemandReport) {
        let figures = (report.in_force.unwrap_or(0.0), 0.0, report.rate);
        let holds = report.in_force.map(|_| report.holds);
        self.forget_push_backs();
        self.note_push_back((report.instance, institution()), figures, holds);
    }

    /// The institution's seats that other living instances hold.
    fn seats_elsewhere(&self, instance: i64) -> u32 {
        let living = living(&self.members, self.now - SEAT_MS);
        let loans = self.seats.get("").into_iter().flatten();
        let others = loans.filter(|(id, _)| **id != instance && living(**id));
        others.map(|(_, it)| it.held).sum()
    }

    /// Notes a report. Its instance may use its last lease for a moment.
    fn renew(&mut self, report: &DemandReport) {
        let now = self.now;
        let known = self.leases.get(&report.instance);
        let old = known.map_or((0.0, 0.0, 0), |it| {
            if it.until > now && it.number == report.applied {
                (it.rate, it.burst, it.until.min(now + GRACE_MS))
            } else {
                (it.old_rate, it.old_burst, it.old_until)
            }
        });
        let hold_ms = i64::try_from(report.holds.as_millis()).unwrap_or(i64::MAX);
        self.leases.insert(
            report.instance,
            LeaseLoan {
                in_force_until: report.in_force.map_or(-GROWN_MS, |_| now + hold_ms),
                number: report.number,
                rate: 0.0,
                burst: 0.0,
                until: now + LOAN_MS,
                old_rate: old.0,
                old_burst: old.1,
                old_until: old.2,
                report: report.clone(),
            },
        );
    }

    /// Frees all that an instance holds.
    pub fn leave(&mut self, life: i64, wall_ms: i64, instance: i64) {
        self.tick(life, wall_ms);
        for loans in self.seats.values_mut() {
            loans.remove(&instance);
        }
        if let Some(lease) = self.leases.get_mut(&instance) {
            (lease.rate, lease.burst, lease.until) = (0.0, 0.0, self.now);
            (lease.old_rate, lease.old_burst) = (0.0, 0.0);
            lease.report.tenants.clear();
        }
        if let Some(member) = self.members.get_mut(&instance) {
            member.seen = self.now - FORGET_MS;
        }
    }

    /// Advances the clock of the limits.
    fn tick(&mut self, life: i64, wall_ms: i64) {
        let step = wall_ms - self.wall_ms;
        if self.life != life {
            *self = Self {
                life,
                era: self.era + 1,
                is_guarded: life > wall_ms,
                signs: std::mem::take(&mut self.signs),
                push_backs: std::mem::take(&mut self.push_backs),
                ..Self::default()
            };
            self.bring_back(wall_ms);
        } else if (0..=STEP_MS).contains(&step) {
            self.now += step;
        }
        self.wall_ms = wall_ms;
        self.is_open |= self.now >= SEAT_MS;
    }

    /// Notes the push-back of an instance, and how long it holds, or that it has none.
    fn note_push_back(
        &mut self,
        key: (i64, BucketKey),
        (rate, burst, whole_rate): (f64, f64, f64),
        holds: Option<std::time::Duration>,
    ) {
        let Some(holds) = holds else {
            self.push_backs.remove(&key);
            return;
        };
        let until_ms = self.wall_ms + i64::try_from(holds.as_millis()).unwrap_or(i64::MAX);
        let noted = PushBack {
            rate,
            burst,
            whole_rate,
            until_ms,
        };
        let known = self.push_backs.entry(key).or_insert(noted);
        let is_same = PushBack { until_ms, ..*known } == noted;
        if !is_same || known.until_ms.abs_diff(until_ms) > 1_000 {
            *known = noted;
        }
    }

    /// Forgets push-backs of which nothing is left.
    fn forget_push_backs(&mut self) {
        let wall_ms = self.wall_ms;
        self.push_backs
            .retain(|_, it| it.until_ms > wall_ms - GROWN_MS);
    }

    /// Brings the push-backs of the era before into another one, at a time of the store's clock. Their instances may be gone.
    fn bring_back(&mut self, wall_ms: i64) {
        for ((instance, key), it) in &self.push_backs {
            let until = it.until_ms - wall_ms;
            if until <= -GROWN_MS {
                continue;
            }
            if *key == institution() {
                let report = DemandReport {
                    instance: *instance,
                    rate: it.whole_rate,
                    in_force: Some(it.rate),
                    ..DemandReport::default()
                };
                self.leases.insert(
                    *instance,
                    LeaseLoan {
                        in_force_until: until,
                        number: 0,
                        rate: 0.0,
                        burst: 0.0,
                        until: 0,
                        old_rate: 0.0,
                        old_burst: 0.0,
                        old_until: 0,
                        report,
                    },
                );
                continue;
            }
            let bucket = self.buckets.entry(key.clone()).or_insert(LimitBucket {
                tokens: 0.0,
                at: 0,
                rate: it.rate,
                burst: it.burst,
                stocks: BTreeMap::new(),
            });
            bucket.rate = bucket.rate.min(it.rate);
            bucket.burst = bucket.burst.min(it.burst);
            let stock = StockLoan {
                held: 0.0,
                rate: it.rate,
                burst: it.burst,
                at: 0,
                stays_until: until,
            };
            bucket.stocks.insert(*instance, stock);
        }
    }

    /// Opens the era before its time, if no instance uses a loan of an earlier one.
    fn open(&mut self, report: &DemandReport) {
        if self.is_open {
            return;
        }
        if report.era == self.era {
            let member = self.members.get_mut(&report.instance);
            member.expect("noted before").has_declared = true;
        } else if let Some(silent) = report.silent {
            let silent = i64::try_from(silent.as_millis()).unwrap_or(i64::MAX);
            self.heard = self.heard.max(Some(self.wall_ms - silent));
        }
        if self.is_guarded || self.heard.is_none() {
            return;
        }
        let since = self.now - SEAT_MS;
        let mut members = self.members.values().filter(|it| it.seen > since);
        // Of any age: the server's clock may have been set, so that an age proves nothing.
        let mut signs = self.signs.keys();
        let has_declared = |id: &i64| self.members.get(id).is_some_and(|it| it.has_declared);
        self.is_open = members.all(|it| it.has_declared) && signs.all(has_declared);
        self.opened_at = self.is_open.then_some(self.now);
    }

    fn lending(&self) -> Lending {
        Lending {
            now: self.now,
            from: self.opened_at.map_or(LOAN_MS, |at| at.min(LOAN_MS)),
        }
    }

    /// Notes a sign of life of an instance.
    pub fn sign_of_life(&mut self, wall_ms: i64, instance: i64) {
        self.signs.insert(instance, wall_ms);
    }

    /// Removes an instance that leaves the store.
    pub fn forget(&mut self, instance: i64) {
        self.signs.remove(&instance);
    }

    /// Moves the times of signs of life, as a step of the clock does for tests.
    pub fn step_signs(&mut self, ms: i64) {
        self.signs.values_mut().for_each(|at| *at += ms);
    }

    /// Notes a call, and returns when the last one came; `None` if it was overtaken.
    fn note_member(&mut self, instance: i64, number: i64) -> Option<i64> {
        let known = self.members.get(&instance).copied();
        if known.is_some_and(|it| it.number >= number) {
            return None;
        }
        let seen = self.now;
        let member = LimitMember {
            number,
            seen,
            has_declared: known.is_some_and(|it| it.has_declared),
        };
        self.members.insert(instance, member);
        Some(known.map_or(-FORGET_MS, |it| it.seen))
    }

    /// Deletes entries without effect.
    fn sweep(&mut self) {
        let now = self.now;
        if self.swept > now - FORGET_MS {
            return;
        }
        self.swept = now;
        self.members.retain(|_, it| it.seen > now - FORGET_MS);
        self.leases
            .retain(|_, it| it.until > now - FORGET_MS || it.in_force_until > now - GROWN_MS);
        let known = living(&self.members, i64::MIN);
        for loans in self.seats.values_mut() {
            loans.retain(|id, it| it.held > 0 && known(*id));
        }
        let lending = self.lending();
        let living = living(&self.members, now - LOAN_MS);
        for bucket in self.buckets.values_mut() {
            let mut stocks = bucket.stocks.iter();
            if stocks.any(|(id, it)| !living(*id) && it.held > 0.0) {
                bucket.tokens = bucket.filled(lending);
                bucket.at = now;
            }
            for (id, stock) in &mut bucket.stocks {
                if !living(*id) {
                    stock.held = 0.0;
                }
            }
            bucket.stocks.retain(|id, it| {
                it.stays_until > now - GROWN_MS || living(*id) && it.has_figures(now)
            });
        }
        self.buckets.retain(|_, it| {
            let mut stocks = it.stocks.values();
            real(now - it.at) <= it.burst * 1000.0 / it.rate
                || stocks.any(|it| it.held > 0.0 || it.stays_until > now - GROWN_MS)
        });
    }

    /// The tokens and seats that an instance holds, over all tenants.
    pub fn held_by(&self, instance: i64) -> (f64, u32) {
        let stocks = self
            .buckets
            .values()
            .filter_map(|it| it.stocks.get(&instance));
        let seats = self.seats.values().filter_map(|it| it.get(&instance));
        (
            stocks.map(|it| it.held).sum(),
            seats.map(|it| it.held).sum(),
        )
    }

    /// Whether seats are lent.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The clock of the limits, in milliseconds since the era began.
    pub fn now_ms(&self) -> i64 {
        self.now
    }

    /// The tokens of a bucket, and those that are lent, with the largest burst that they may have together.
    pub fn tokens_of(&self, tenant: &str, limit: &'static str) -> Option<(f64, f64, f64)> {
        let bucket = self.buckets.get(&(Arc::from(tenant), limit))?;
        Some((bucket.tokens, bucket.held(), bucket.burst))
    }

    /// The rate and the burst of a bucket that are in force.
    pub fn figures_of(&self, tenant: &str, limit: &'static str) -> Option<(f64, f64)> {
        let bucket = self.buckets.get(&(Arc::from(tenant), limit))?;
        Some((bucket.rate, bucket.burst))
    }

    /// The rate and the burst that all instances together may use now.
    pub fn lent(&self) -> (f64, f64) {
        let living = self.leases.values().filter(|it| it.until > self.now);
        together(living, self.now)
    }
}

impl LeaseLoan {
    /// The institution's rate after a push-back that its instance reported.
    fn pushed_back_to(&self, now: i64) -> Option<f64> {
        let growth = if self.until > now {
            0.0
        } else {
            grown(self.in_force_until, now)
        };
        let in_force = self.report.in_force.filter(|_| growth < 1.0)?;
        Some(in_force + self.report.rate * growth)
    }
}

/// The rate that leases may use together: each its new part or its old one, the larger of both.
fn together<'a>(leases: impl Iterator<Item = &'a LeaseLoan>, now: i64) -> (f64, f64) {
    leases.fold((0.0, 0.0), |(rate, burst), it| {
        let old = if it.old_until > now {
            (it.old_rate, it.old_burst)
        } else {
            (0.0, 0.0)
        };
        (rate + it.rate.max(old.0), burst + it.burst.max(old.1))
    })
}

impl LimitBucket {
    /// The bucket with the inflow until now and without void loans, at the smallest figures that are reported.
    fn agreed(
        known: Option<Self>,
        question: &TokenQuestion,
        instance: i64,
        lending: Lending,
        is_living: impl Fn(i64) -> bool,
    ) -> Self {
        let now = lending.now;
        let mut stocks = known
            .as_ref()
            .map_or_else(BTreeMap::new, |it| it.stocks.clone());
        stocks
            .retain(|id, it| *id == instance || is_living(*id) || it.stays_until > now - GROWN_MS);
        for (id, stock) in &mut stocks {
            if *id != instance && !is_living(*id) {
                stock.held = 0.0;
            }
        }
        let others = || {
            let others = stocks.iter().filter(|it| *it.0 != instance);
            let others = others.map(|(id, it)| (it, it.growth(is_living(*id), now)));
            others.filter(|(_, growth)| *growth < 1.0)
        };
        let rates = others().map(|(it, growth)| it.rate + question.rate * growth);
        let rate = rates.fold(question.rate, f64::min);
        let bursts = others().map(|(it, growth)| it.burst + question.burst * growth);
        let burst = bursts.fold(question.burst, f64::min);
        Self {
            // Filled by the figures that were in force meanwhile, up to the burst less the tokens that were lent.
            tokens: known.map_or_else(
                || burst.min(rate * lending.since(0) / 1000.0),
                |it| it.filled(lending),
            ),
            at: now,
            rate,
            burst,
            stocks,
        }
    }

    /// The most that a question gets.
    fn wanted(&self, question: &TokenQuestion, small: bool) -> f64 {
        if small {
            return f64::from(question.waiting);
        }
        let most = (self.burst / 10.0).floor().max((self.rate / 20.0).floor());
        f64::from(question.want.max(question.waiting)).min(most.max(1.0))
    }

    /// The milliseconds until there is a token and the bucket is half full. For the second it is 25 ms an instance at most, and
    /// 50 ms with one instance, so that all instances together ask some 40 times a second.
    fn wait_ms(&self, instances: u32) -> f64 {
        let one = (1.0 - self.tokens) * 1000.0 / self.rate;
        let half = (self.burst / 2.0 - self.tokens) * 1000.0 / self.rate;
        one.max(half.min(f64::from(instances * 25).max(50.0)))
    }

    fn held(&self) -> f64 {
        self.stocks.values().map(|it| it.held).sum()
    }

    /// The tokens after the time since the last call.
    fn filled(&self, lending: Lending) -> f64 {
        let flowed = self.rate * lending.since(self.at) / 1000.0;
        let room = self.burst - self.held();
        (self.tokens + flowed).min(room).max(self.tokens)
    }
}

/// The rate that an instance should have, the weight of all tenants, and the fractions of the instance's.
fn target(report: &DemandReport, living: &[&LeaseLoan], whole_rate: f64) -> (f64, f64, Vec<f64>) {
    let mut totals: BTreeMap<&str, (f64, f64, f64)> = BTreeMap::new();
    for demand in living.iter().flat_map(|it| &it.report.tenants) {
        let total = totals
            .entry(&demand.tenant)
            .or_insert((0.0, demand.weight, 0.0));
        total.0 += demand.asked;
        total.1 = total.1.min(demand.weight);
        total.2 += 1.0;
    }
    let demands: Vec<(f64, f64)> = totals.values().map(|it| (it.0, it.1)).collect();
    let line = water_line(whole_rate, &demands);
    let mut target = 0.0;
    let mut fractions = Vec::new();
    for own in &report.tenants {
        let (asked, weight, reports) = totals[&*own.tenant];
        let fraction = if asked > 0.0 {
            own.asked / asked
        } else {
            1.0 / reports
        };
        target += fraction * line.part(asked, weight);
        fractions.push(fraction);
    }
    let instances = f64::from(u32::try_from(living.len()).unwrap_or(u32::MAX));
    target += (whole_rate - line.allotted).max(0.0) / instances;
    (target, line.weight, fractions)
}

/// The burst of an instance that has a rate out of the whole one: a token for each instance, if there are as many, and its part
/// of the rest.
fn share_of_burst(whole: f64, instances: f64, (rate, whole_rate): (f64, f64)) -> f64 {
    if whole > instances {
        1.0 + (whole - instances) * rate / whole_rate
    } else {
        whole * rate / whole_rate
    }
}

/// The name of the institution's rate among the push-backs.
fn institution() -> BucketKey {
    (Arc::from(""), "")
}

/// The end of a hold of this length; without a hold, a time so long ago that the figures have grown to the full ones.
fn until(holds: std::time::Duration, now: i64) -> i64 {
    let ms = i64::try_from(holds.as_millis()).unwrap_or(i64::MAX);
    if ms > 0 { now + ms } else { -GROWN_MS }
}

fn living(members: &BTreeMap<i64, LimitMember>, since: i64) -> impl Fn(i64) -> bool + '_ {
    move |id| members.get(&id).is_some_and(|it| it.seen > since)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of an era")]
fn real(ms: i64) -> f64 {
    ms as f64
}

/// A figure that is a whole number already, and not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates"
)]
fn whole(figure: f64) -> u32 {
    figure as u32
}
