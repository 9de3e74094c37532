//! Many instances with their limits, in simulated time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gatepay_store::limits::{
    DemandReport, DemandTally, LeaseGrant, LimitAnswers, LimitQuestions, RateLease, SeatStock,
    SeatsTaken, StockEmpty, StoreHeard, TokenQuestion, TokenStock,
};
use proptest::prelude::*;

use crate::limit_stores::LimitStores;

/// The limits of the simulated tenants: a wide one, a narrow one, one with a burst of 50 ms, and one that lends in
/// advance to two instances only.
pub(crate) const BUCKETS: [(&str, f64, f64); 4] = [
    ("wide", 200.0, 100.0),
    ("narrow", 5.0, 3.0),
    ("flat", 1_000.0, 50.0),
    ("middle", 20.0, 10.0),
];
/// The seats of two tenants, and the institution's.
pub(crate) const SEATS: [(&str, u32); 3] = [("many", 40), ("few", 2), ("", 60)];
pub(crate) const QUOTA: (f64, f64) = (500.0, 100.0);

/// An event of a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LimitEvent {
    Pass(u64),
    Kill(usize),
    Leave(usize),
    Start,
    /// The process stands still for a time.
    Freeze(usize, u64),
    /// No call of the instance gets to the store for a time.
    Part(usize, u64),
    /// So many requests for each limit, at every instance at once.
    Burst(u32),
    /// Requests at one instance that no limit but the institution's hears of, and that take no token of it.
    Demand(usize, u32),
    /// The next call fails, after it was executed or before.
    Lose(usize, bool),
    /// Calls take this long to the store, and as long back.
    Delay(usize, u64),
    /// The store fails over, or loses its unlogged tables.
    Failover,
    /// The store's clock steps.
    Step(i64),
    /// Requests per millisecond for each limit of an instance.
    Load(usize, u32),
    /// GatePay pushes an instance back to half of each rate, for a time.
    Lower(usize, u64),
}

pub(crate) fn event() -> impl Strategy<Value = LimitEvent> {
    let which = 0..4_usize;
    prop_oneof![
        10 => (1..1_500_u64).prop_map(LimitEvent::Pass),
        2 => which.clone().prop_map(LimitEvent::Kill),
        1 => which.clone().prop_map(LimitEvent::Leave),
        2 => Just(LimitEvent::Start),
        2 => (which.clone(), 1..8_000_u64).prop_map(|(which, ms)| LimitEvent::Freeze(which, ms)),
        2 => (which.clone(), 1..8_000_u64).prop_map(|(which, ms)| LimitEvent::Part(which, ms)),
        4 => (1..200_u32).prop_map(LimitEvent::Burst),
        3 => (which.clone(), 1..2_000_u32).prop_map(|(which, count)| LimitEvent::Demand(which, count)),
        3 => (which.clone(), any::<bool>()).prop_map(|(which, done)| LimitEvent::Lose(which, done)),
        3 => (which.clone(), 0..120_u64).prop_map(|(which, ms)| LimitEvent::Delay(which, ms)),
        1 => (which.clone(), 120..900_u64).prop_map(|(which, ms)| LimitEvent::Delay(which, ms)),
        1 => Just(LimitEvent::Failover),
        1 => prop_oneof![-4_000_000..0_i64, 800..4_000_000_i64].prop_map(LimitEvent::Step),
        2 => (which.clone(), 1..9_000_u64).prop_map(|(which, ms)| LimitEvent::Lower(which, ms)),
        4 => (which, prop_oneof![Just(0), 0..3_u32])
            .prop_map(|(which, load)| LimitEvent::Load(which, load)),
    ]
}

/// A call on its way.
struct CallUnderWay {
    asked_at: Duration,
    executes_at: u64,
    ends_at: u64,
    lost: Option<bool>,
    call: LimitCall,
}

enum LimitCall {
    Take(LimitQuestions, Option<LimitAnswers>),
    Exchange(DemandReport, Option<LeaseGrant>),
}

struct LimitInstance {
    id: i64,
    /// Where its monotonic clock began.
    offset: Duration,
    number: i64,
    frozen_until: u64,
    parted_until: u64,
    delay: u64,
    lose: Option<bool>,
    load: u32,
    lowered_until: u64,
    stocks: Vec<(Arc<str>, TokenStock)>,
    waiters: Vec<u32>,
    seats: Vec<(Arc<str>, SeatStock)>,
    seat_waiters: Vec<u32>,
    leaving: VecDeque<(u64, usize)>,
    heard: StoreHeard,
    /// The era in which all seats are declared and no older loan is in use.
    declared: i64,
    lease: RateLease,
    tally: DemandTally,
    /// Whether the store knows of a demand here.
    is_known: bool,
    hurry: bool,
    under_way: Option<CallUnderWay>,
}

impl LimitInstance {
    fn new(id: i64) -> Self {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|it| Arc::from(*it))
                .collect::<Vec<Arc<str>>>()
        };
        let stocks = names(&BUCKETS.map(|it| it.0));
        let seats = names(&SEATS.map(|it| it.0));
        Self {
            id,
            offset: Duration::from_secs(u64::try_from(id).unwrap() * 1_000),
            number: 0,
            frozen_until: 0,
            parted_until: 0,
            delay: 0,
            lose: None,
            load: 1,
            lowered_until: 0,
            waiters: vec![0; stocks.len()],
            stocks: stocks
                .into_iter()
                .map(|it| (it, TokenStock::default()))
                .collect(),
            seat_waiters: vec![0; seats.len()],
            seats: seats
                .into_iter()
                .map(|it| (it, SeatStock::default()))
                .collect(),
            leaving: VecDeque::new(),
            heard: StoreHeard::default(),
            declared: 0,
            lease: RateLease::default(),
            tally: DemandTally::default(),
            is_known: false,
            hurry: false,
            under_way: None,
        }
    }

    fn clock(&self, ms: u64) -> Duration {
        self.offset + Duration::from_millis(ms)
    }

    /// The question that is due now: an exchange at its time, else tokens and seats.
    fn next_call(&mut self, now: Duration) -> Option<LimitCall> {
        let holds = self.clock(self.lowered_until).saturating_sub(now);
        let part = if holds > Duration::ZERO { 0.5 } else { 1.0 };
        let is_declared = self
            .lease
            .grant()
            .is_some_and(|it| it.era == self.heard.era())
            && !self.seats.iter().any(|it| it.1.is_undeclared(&self.heard));
        let silent = self.heard.silent(self.declared, now);
        if is_declared {
            self.declared = self.heard.era();
        }
        let due = self.lease.due();
        if now >= due || self.hurry && now + Duration::from_millis(150) >= due {
            self.hurry = false;
            self.lease.ask(now);
            self.number += 1;
            return Some(LimitCall::Exchange(
                self.lease.report(DemandReport {
                    instance: self.id,
                    number: self.number,
                    era: self.declared,
                    silent,
                    rate: QUOTA.0,
                    burst: QUOTA.1,
                    in_force: (part < 1.0).then_some(QUOTA.0 * part),
                    holds,
                    tenants: self.tally.report(now),
                    ..DemandReport::default()
                }),
                None,
            ));
        }
        let mut questions = LimitQuestions {
            instance: self.id,
            number: self.number + 1,
            ..LimitQuestions::default()
        };
        for ((tenant, stock), (_, rate, burst)) in self.stocks.iter_mut().zip(BUCKETS) {
            if stock.due().is_some_and(|due| due <= now) {
                let burst = (burst * part).floor().max(1.0);
                let question = stock.question(tenant, "rate", rate * part, burst, now);
                questions
                    .tokens
                    .extend(question.map(|asked| TokenQuestion { holds, ..asked }));
            }
        }
        for ((tenant, stock), (_, seats)) in self.seats.iter_mut().zip(SEATS) {
            if stock.due(&self.heard).is_some_and(|due| due <= now) {
                questions
                    .seats
                    .extend(stock.question(tenant, seats, &self.heard, now));
            }
        }
        (!questions.is_empty()).then(|| {
            self.number += 1;
            LimitCall::Take(questions, None)
        })
    }

    /// Ends a call; returns how many waiting requests were admitted, by bucket.
    fn end_call(&mut self, call: CallUnderWay, ms: u64) -> Vec<u32> {
        let now = self.clock(ms);
        match call.call {
            LimitCall::Exchange(report, Some(grant)) => {
                self.is_known = !report.tenants.is_empty();
                self.hear(grant.era, call.asked_at, now);
                self.lease.answered(grant, now);
                vec![0; self.stocks.len()]
            }
            LimitCall::Exchange(_, None) => vec![0; self.stocks.len()],
            LimitCall::Take(questions, answers) => {
                if let Some(answers) = &answers {
                    self.hear(answers.era, call.asked_at, now);
                }
                self.end_seats(&questions, answers.as_ref(), ms);
                self.end_tokens(&questions, answers.as_ref(), now)
            }
        }
    }

    fn hear(&mut self, era: i64, asked_at: Duration, now: Duration) {
        if era != self.heard.era() {
            for (_, stock) in &mut self.stocks {
                stock.era_ended();
            }
        }
        self.heard.note(era, asked_at, now);
    }

    fn end_tokens(
        &mut self,
        questions: &LimitQuestions,
        answers: Option<&LimitAnswers>,
        now: Duration,
    ) -> Vec<u32> {
        let mut admitted = vec![0; self.stocks.len()];
        for (n, question) in questions.tokens.iter().enumerate() {
            let is_asked = |it: &(Arc<str>, TokenStock)| it.0 == question.tenant;
            let which = self.stocks.iter().position(is_asked).unwrap();
            let stock = &mut self.stocks[which].1;
            match answers {
                Some(answers) => stock.answered(answers.tokens[n], now),
                None => stock.failed(now),
            }
            for _ in 0..std::mem::take(&mut self.waiters[which]) {
                admitted[which] += u32::from(stock.take_after_answer(now).is_ok());
            }
        }
        admitted
    }

    fn end_seats(&mut self, questions: &LimitQuestions, answers: Option<&LimitAnswers>, ms: u64) {
        let now = self.clock(ms);
        for (n, question) in questions.seats.iter().enumerate() {
            let is_asked = |it: &(Arc<str>, SeatStock)| it.0 == question.tenant;
            let which = self.seats.iter().position(is_asked).unwrap();
            let stock = &mut self.seats[which].1;
            match answers {
                Some(it) => stock.answered(it.seats[n], &self.heard, now),
                None => stock.failed(now),
            }
            for _ in 0..std::mem::take(&mut self.seat_waiters[which]) {
                if stock.take_after_answer(&self.heard, now).is_ok() {
                    self.leaving.push_back((ms + 30, which));
                }
            }
        }
    }
}

/// Many instances and their store, a millisecond at a time.
pub(crate) struct LimitCluster {
    pub(crate) stores: LimitStores,
    instances: Vec<LimitInstance>,
    started: i64,
    ms: u64,
    /// When calls were admitted, in milliseconds: by bucket, and by the institution's rate.
    pub(crate) admitted: Vec<Vec<u64>>,
    pub(crate) by_quota: Vec<u64>,
    refused: u64,
}

impl LimitCluster {
    pub(crate) fn new(stores: LimitStores, instances: i64) -> Self {
        Self {
            stores,
            instances: (1..=instances).map(LimitInstance::new).collect(),
            started: instances,
            ms: 0,
            admitted: vec![Vec::new(); BUCKETS.len()],
            by_quota: Vec::new(),
            refused: 0,
        }
    }

    pub(crate) async fn happen(&mut self, event: LimitEvent) {
        let count = self.instances.len();
        let which = |which: usize| (count > 0).then(|| which % count);
        match event {
            LimitEvent::Pass(ms) => {
                for _ in 0..ms {
                    self.millisecond().await;
                }
            }
            LimitEvent::Start if count < 4 => {
                self.started += 1;
                self.instances.push(LimitInstance::new(self.started));
                self.stores.sign_of_life(self.started).await;
            }
            LimitEvent::Start => {}
            LimitEvent::Failover => self.stores.life += 1,
            LimitEvent::Step(ms) => self.stores.step(ms).await,
            LimitEvent::Kill(it) => {
                if let Some(it) = which(it) {
                    self.instances.remove(it);
                }
            }
            LimitEvent::Leave(it) => {
                if let Some(it) = which(it) {
                    let instance = self.instances.remove(it);
                    self.stores.leave(instance.id).await;
                    self.stores.forget(instance.id).await;
                }
            }
            LimitEvent::Freeze(it, ms) => {
                if let Some(it) = which(it) {
                    self.instances[it].frozen_until = self.ms + ms;
                }
            }
            LimitEvent::Part(it, ms) => {
                if let Some(it) = which(it) {
                    self.instances[it].parted_until = self.ms + ms;
                }
            }
            LimitEvent::Burst(requests) => {
                for it in 0..count {
                    if self.instances[it].frozen_until <= self.ms {
                        self.ask_for_tokens(it, requests);
                        self.ask_for_seats(it, requests);
                    }
                }
            }
            LimitEvent::Demand(it, requests) => {
                if let Some(it) = which(it) {
                    let now = self.instances[it].clock(self.ms);
                    let tally = &mut self.instances[it].tally;
                    tally.count(&Arc::from("tenant"), 1.0, requests, now);
                }
            }
            LimitEvent::Lose(it, done) => {
                if let Some(it) = which(it) {
                    self.instances[it].lose = Some(done);
                }
            }
            LimitEvent::Delay(it, ms) => {
                if let Some(it) = which(it) {
                    self.instances[it].delay = ms;
                }
            }
            LimitEvent::Load(it, load) => {
                if let Some(it) = which(it) {
                    self.instances[it].load = load;
                }
            }
            LimitEvent::Lower(it, ms) => {
                if let Some(it) = which(it) {
                    self.instances[it].lowered_until = self.ms + ms;
                }
            }
        }
    }

    async fn millisecond(&mut self) {
        self.ms += 1;
        self.stores.wall_ms += 1;
        for which in 0..self.instances.len() {
            self.execute(which).await;
            if self.instances[which].frozen_until > self.ms {
                continue;
            }
            self.end(which);
            let instance = &self.instances[which];
            if self.ms % 1_000 == 1 && instance.parted_until <= self.ms {
                self.stores.sign_of_life(instance.id).await;
            }
            let load = self.instances[which].load;
            self.ask_for_tokens(which, load);
            self.ask_for_seats(which, load);
            self.begin(which);
        }
        self.hold();
    }

    /// Calls get to the store also if their instance stands still.
    async fn execute(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        let due = |it: &&mut CallUnderWay| it.executes_at == self.ms && it.lost != Some(false);
        match instance
            .under_way
            .as_mut()
            .filter(due)
            .map(|it| &mut it.call)
        {
            Some(LimitCall::Take(questions, answers)) => {
                *answers = self.stores.take(questions).await.ok();
            }
            Some(LimitCall::Exchange(report, grant)) => {
                *grant = self.stores.exchange(report).await.ok();
            }
            None => {}
        }
    }

    fn end(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        if let Some(mut call) = instance.under_way.take_if(|it| it.ends_at <= self.ms) {
            if call.lost.is_some() {
                match &mut call.call {
                    LimitCall::Take(_, answers) => *answers = None,
                    LimitCall::Exchange(_, grant) => *grant = None,
                }
            }
            let admitted = instance.end_call(call, self.ms);
            for (list, count) in self.admitted.iter_mut().zip(admitted) {
                list.extend(std::iter::repeat_n(self.ms, count as usize));
            }
        }
    }

    fn ask_for_tokens(&mut self, which: usize, requests: u32) {
        let instance = &mut self.instances[which];
        let now = instance.clock(self.ms);
        for _ in 0..requests {
            for (n, (_, stock)) in instance.stocks.iter_mut().enumerate() {
                match stock.take(now) {
                    Ok(_) => self.admitted[n].push(self.ms),
                    Err(StockEmpty::Ask) => instance.waiters[n] += 1,
                    Err(StockEmpty::Wait(_)) => self.refused += 1,
                }
            }
            let tenant = Arc::from("tenant");
            instance.tally.count(&tenant, 1.0, 1, now);
            if instance.lease.take(now).is_ok() {
                self.by_quota.push(self.ms);
            } else {
                instance.tally.refused(&tenant);
                instance.hurry |= !instance.is_known;
            }
        }
    }

    fn ask_for_seats(&mut self, which: usize, requests: u32) {
        let instance = &mut self.instances[which];
        let now = instance.clock(self.ms);
        while let Some((_, seat)) = instance.leaving.pop_front_if(|it| it.0 <= self.ms) {
            instance.seats[seat].1.leave();
        }
        for _ in 0..requests {
            for (n, (_, stock)) in instance.seats.iter_mut().enumerate() {
                match stock.take(&instance.heard, now) {
                    Ok(()) => instance.leaving.push_back((self.ms + 30, n)),
                    Err(SeatsTaken::Ask) => instance.seat_waiters[n] += 1,
                    Err(SeatsTaken::Full) => self.refused += 1,
                }
            }
        }
    }

    fn begin(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        let now = instance.clock(self.ms);
        if instance.under_way.is_some() {
            return;
        }
        let Some(call) = instance.next_call(now) else {
            return;
        };
        let parted = instance.parted_until > self.ms;
        let delay = if parted { 500 } else { instance.delay };
        instance.under_way = Some(CallUnderWay {
            asked_at: now,
            executes_at: self.ms + 1 + delay,
            ends_at: self.ms + 2 + 2 * delay,
            lost: instance.lose.take().or(parted.then_some(false)),
            call,
        });
    }

    /// The tokens and seats that living instances still hold after a time without load and without trouble.
    pub(crate) async fn held_after_a_rest(&mut self) -> (f64, u32) {
        for instance in &mut self.instances {
            (instance.load, instance.delay, instance.lose) = (0, 0, None);
            (instance.frozen_until, instance.parted_until) = (0, 0);
        }
        self.happen(LimitEvent::Pass(4_000)).await;
        let held = self
            .instances
            .iter()
            .map(|it| self.stores.model.held_by(it.id));
        held.fold((0.0, 0), |sum, held| (sum.0 + held.0, sum.1 + held.1))
    }

    /// The laws that hold at every moment.
    fn hold(&self) {
        for (tenant, _, full) in BUCKETS {
            if let Some((tokens, held, burst)) = self.stores.model.tokens_of(tenant, "rate") {
                // What was lent before a push-back may be more than the burst after it; then there is no token besides.
                assert!(
                    tokens.min(tokens + held - burst) <= 1e-6 && tokens + held <= full + 1e-6,
                    "{tenant}: {tokens} {held} {burst}"
                );
            }
        }
        for (n, (tenant, seats)) in SEATS.iter().enumerate() {
            // A process that stands still cannot note that its calls have ended.
            let running = self
                .instances
                .iter()
                .filter(|it| it.frozen_until <= self.ms);
            let taken = running.map(|it| it.seats[n].1.held_and_taken().1);
            assert!(taken.sum::<u32>() <= *seats, "{tenant}");
        }
        let (rate, burst) = self.stores.model.lent();
        assert!(
            rate <= QUOTA.0 + 1e-6 && burst <= QUOTA.1 + 1e-6,
            "{rate} {burst}"
        );
        let used = self
            .instances
            .iter()
            .map(|it| it.lease.rate(it.clock(self.ms)));
        let used: f64 = used.sum();
        assert!(used <= QUOTA.0 + 1e-6, "{used} in use");
    }
}
