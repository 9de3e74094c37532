//! Limits across instances: many instances in simulated time, against the model and the SQL functions at once.

use std::sync::Arc;
use std::time::Duration;

use gatepay_store::error::StoreError;
use gatepay_store::limits::{
    DemandReport, DemandTally, LeaseGrant, LimitQuestions, RateLease, StockEmpty, TenantDemand,
    TokenQuestion, TokenStock, named, water_line,
};
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::{Failover, StoreTerms};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::limit_cluster::{BUCKETS, LimitCluster, LimitEvent, QUOTA, event};
use crate::limit_stores::{LimitStores, limit_server};
use crate::postgres::{self, PgServer};
use crate::support::{TERMS, beat, introduction, ready, runtime, settings};

/// The most calls that any period has beyond its inflow; never more than the burst.
#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds and counts of a test"
)]
fn most_beyond(admitted: &[u64], rate: f64) -> f64 {
    let mut least = f64::INFINITY;
    let mut most = 0.0_f64;
    for (count, ms) in admitted.iter().enumerate() {
        let line = count as f64 - rate * *ms as f64 / 1000.0;
        least = least.min(line);
        most = most.max(line + 1.0 - least);
    }
    most
}

async fn run(stores: LimitStores, events: Vec<LimitEvent>) -> Result<LimitCluster, TestCaseError> {
    let mut cluster = LimitCluster::new(stores, 3);
    // Without this no scenario would lend anything.
    cluster.happen(LimitEvent::Pass(2_100)).await;
    for event in events {
        cluster.happen(event).await;
    }
    for ((tenant, rate, burst), admitted) in BUCKETS.iter().zip(&cluster.admitted) {
        let beyond = most_beyond(admitted, *rate);
        prop_assert!(
            beyond <= burst + 1e-6,
            "{tenant}: {beyond} beyond the inflow"
        );
    }
    let beyond = most_beyond(&cluster.by_quota, QUOTA.0);
    prop_assert!(
        beyond <= QUOTA.1 + 1e-6,
        "quota: {beyond} beyond the inflow"
    );
    prop_assert!(cluster.stores.excess_in_tables().await <= 1e-6);
    prop_assert_eq!(cluster.held_after_a_rest().await, (0.0, 0));
    Ok(cluster)
}

fn scenarios(cases: u32, length: usize, with_sql: bool) {
    let runtime = runtime();
    let server = if with_sql {
        runtime.block_on(limit_server())
    } else {
        None
    };
    if with_sql && server.is_none() {
        return;
    }
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let life = std::cell::Cell::new(1);
    let scenario = prop::collection::vec(event(), 1..length);
    let tried = runner.run(&scenario, |events| {
        life.set(life.get() + 1);
        runtime.block_on(async {
            let stores = LimitStores::new(server.as_ref(), life.get()).await;
            run(stores, events).await.map(|_| ())
        })
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn no_limit_is_exceeded_whatever_happens_to_instances_and_store() {
    scenarios(60, 60, false);
}

/// The instance that stands still uses its last two tokens half a second into the next era, which opens at once after that.
#[tokio::test]
async fn buckets_are_empty_when_an_era_opens() {
    let scenario = [
        LimitEvent::Burst(113),
        LimitEvent::Delay(3, 73),
        LimitEvent::Pass(905),
        LimitEvent::Lose(1, false),
        LimitEvent::Pass(255),
        LimitEvent::Start,
        LimitEvent::Pass(1_417),
        LimitEvent::Freeze(1, 413),
        LimitEvent::Failover,
        LimitEvent::Pass(1_312),
    ];
    let server = limit_server().await;
    let stores = LimitStores::new(server.as_ref(), 1).await;
    let tried = run(stores, scenario.to_vec()).await;
    tried.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_functions_of_the_store_answer_as_the_model_does() {
    scenarios(6, 40, true);
}

#[test]
#[ignore = "takes minutes"]
fn no_limit_is_exceeded_in_many_scenarios() {
    scenarios(5_000, 120, false);
    scenarios(200, 60, true);
}

#[tokio::test]
async fn three_instances_admit_what_one_process_would() {
    let mut cluster = LimitCluster::new(LimitStores::new(None, 1).await, 3);
    cluster.happen(LimitEvent::Pass(12_000)).await;
    // Nothing is lent in the first two seconds; a bucket fills in them.
    for ((tenant, rate, _), admitted) in BUCKETS.iter().zip(&cluster.admitted) {
        let (admitted, due) = (admitted.len(), rate * 10.0);
        eprintln!("{tenant}: {admitted} of {due}");
        assert!(u32::try_from(admitted).is_ok_and(|it| f64::from(it) >= 0.93 * due));
    }
    assert!(cluster.by_quota.len() > 4_900, "{}", cluster.by_quota.len());
}

/// The milliseconds from a failover until seats are lent again.
async fn opens_after(cluster: &mut LimitCluster) -> i64 {
    cluster.happen(LimitEvent::Failover).await;
    for ms in 1..6_000 {
        cluster.happen(LimitEvent::Pass(1)).await;
        if cluster.stores.model.is_open() && cluster.stores.model.now_ms() <= ms {
            return ms;
        }
    }
    panic!("no seats were lent");
}

#[tokio::test]
async fn an_era_opens_as_soon_as_every_instance_has_declared_its_seats() {
    let server = limit_server().await;
    let stores = LimitStores::new(server.as_ref(), 1).await;
    let mut cluster = LimitCluster::new(stores, 3);
    cluster.happen(LimitEvent::Pass(6_000)).await;
    let all_live = opens_after(&mut cluster).await;
    assert!(all_live <= 400, "{all_live}");
    cluster.happen(LimitEvent::Kill(0)).await;
    cluster.happen(LimitEvent::Pass(11_500)).await;
    // Of an instance that did not leave, no clock proves that it ended.
    let long_dead = opens_after(&mut cluster).await;
    assert!(long_dead >= 5_000, "{long_dead}");
    // This one may have gone on when the store failed.
    cluster.happen(LimitEvent::Part(0, 20_000)).await;
    let parted = opens_after(&mut cluster).await;
    assert!(parted >= 5_000, "{parted}");
    // In a guard rows may be lost.
    cluster.happen(LimitEvent::Pass(16_000)).await;
    cluster.stores.life = cluster.stores.wall_ms + 100;
    let guarded = opens_after(&mut cluster).await;
    assert!(guarded >= 5_000, "{guarded}");
}

/// A question of an instance about one bucket.
fn one_token(instance: i64, number: i64, held: u32, (rate, burst): (f64, f64)) -> LimitQuestions {
    LimitQuestions {
        instance,
        number,
        tokens: vec![TokenQuestion {
            tenant: Arc::from("t"),
            limit: "rate",
            rate,
            burst,
            holds: Duration::ZERO,
            want: 1,
            waiting: 1,
            held,
            returned: 0,
        }],
        seats: Vec::new(),
    }
}

fn report(instance: i64, number: i64, tenants: &[(&str, f64, f64)]) -> DemandReport {
    let tenants = tenants.iter().map(|(tenant, weight, asked)| TenantDemand {
        tenant: Arc::from(*tenant),
        weight: *weight,
        asked: *asked,
    });
    DemandReport {
        instance,
        number,
        applied: number - 1,
        era: 0,
        silent: None,
        rate: QUOTA.0,
        burst: QUOTA.1,
        in_force: None,
        holds: Duration::ZERO,
        tenants: tenants.collect(),
    }
}

/// Lets time pass for these instances.
async fn pass(stores: &mut LimitStores, instances: &[i64], number: &mut i64, ms: i64) {
    for _ in 0..ms / 100 {
        stores.wall_ms += 100;
        for instance in instances {
            *number += 1;
            stores
                .exchange(&report(*instance, *number, &[]))
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn the_tokens_of_a_dead_instance_come_back_at_the_rate_after_its_loan() {
    let server = limit_server().await;
    // The second time rows are swept meanwhile, as they are every ten seconds.
    for (life, before, after, most) in [(1, 3_200, 2_100, 1.0), (2, 17_800, 2_300, 3.0)] {
        let mut stores = LimitStores::new(server.as_ref(), life).await;
        let mut number = 0;
        pass(&mut stores, &[1, 2], &mut number, before).await;
        for held in 0..10 {
            number += 1;
            let question = one_token(1, number, held, (10.0, 10.0));
            let answer = stores.take(&question).await.unwrap().tokens[0];
            assert_eq!((answer.kept, answer.lent), (held, 1));
        }
        pass(&mut stores, &[2], &mut number, after).await;
        number += 1;
        let question = one_token(2, number, 0, (10.0, 10.0));
        stores.take(&question).await.unwrap();
        let (tokens, held, _) = stores.model.tokens_of("t", "rate").unwrap();
        assert!(tokens + held <= most + 1e-6, "{tokens} {held}");
        pass(&mut stores, &[2], &mut number, 500).await;
        number += 1;
        let question = one_token(2, number, 0, (10.0, 10.0));
        assert_eq!(stores.take(&question).await.unwrap().tokens[0].lent, 1);
        // A bucket that is full with nothing lent is forgotten, and full when it is asked again.
        stores
            .take(&one_token(2, number + 1, 0, (10.0, 10.0)))
            .await
            .unwrap();
        stores.leave(2).await;
        number += 1;
        pass(&mut stores, &[3], &mut number, 25_000).await;
        assert_eq!(stores.model.tokens_of("t", "rate"), None);
        stores
            .take(&one_token(3, number + 1, 0, (10.0, 10.0)))
            .await
            .unwrap();
        let (tokens, held, _) = stores.model.tokens_of("t", "rate").unwrap();
        assert!((tokens + held - 10.0).abs() < 1e-6, "{tokens} {held}");
    }
}

#[tokio::test]
async fn the_smallest_figures_of_living_instances_are_in_force() {
    let server = limit_server().await;
    let mut stores = LimitStores::new(server.as_ref(), 1).await;
    let mut number = 0;
    pass(&mut stores, &[1, 2], &mut number, 3_000).await;
    stores
        .take(&one_token(1, number + 1, 0, (100.0, 50.0)))
        .await
        .unwrap();
    stores
        .take(&one_token(2, number + 1, 0, (10.0, 20.0)))
        .await
        .unwrap();
    stores
        .take(&one_token(1, number + 2, 0, (100.0, 50.0)))
        .await
        .unwrap();
    assert!(stores.model.tokens_of("t", "rate").unwrap().2 <= 20.0);
    number += 2;
    // The institution's figures too, and a push-back for all.
    let mut small = report(2, number + 1, &[]);
    (small.rate, small.in_force) = (400.0, Some(200.0));
    stores.exchange(&small).await.unwrap();
    let grant = stores
        .exchange(&report(1, number + 1, &[("t", 1.0, 1_000.0)]))
        .await
        .unwrap();
    assert!((grant.whole_rate - 200.0).abs() < 1e-6);
    assert!((grant.whole_burst - 50.0).abs() < 1e-6);
    // Its configuration ends when its instance leaves.
    stores.leave(2).await;
    number += 1;
    pass(&mut stores, &[1], &mut number, 110_000).await;
    let grant = stores.exchange(&report(1, number + 1, &[])).await.unwrap();
    assert!((grant.rate - QUOTA.0).abs() < 1e-6);
}

#[tokio::test]
async fn a_push_back_holds_for_its_time_and_ends_slowly_though_its_instance_and_the_era_end() {
    let server = limit_server().await;
    for (life, leaves, fails) in [
        (1, false, false),
        (2, true, false),
        (3, false, true),
        (4, true, true),
    ] {
        let mut stores = LimitStores::new(server.as_ref(), life).await;
        let mut number = 0;
        pass(&mut stores, &[1, 2], &mut number, 3_000).await;
        let mut lowered = report(2, number + 1, &[]);
        (lowered.in_force, lowered.holds) = (Some(50.0), Duration::from_mins(1));
        stores.exchange(&lowered).await.unwrap();
        let mut lowered = one_token(2, number + 2, 0, (10.0, 10.0));
        lowered.tokens[0].holds = Duration::from_mins(1);
        stores.take(&lowered).await.unwrap();
        number += 2;
        if leaves {
            stores.leave(2).await;
        }
        if fails {
            // Another era, which knows nothing of the one before.
            stores.life += 1;
        }
        // Seconds since then, and the parts of the rates: the tenant's and the institution's grow by a hundredth each second.
        for (pause_ms, rate, burst, whole) in [
            (2_500, 10.0, 10.0, 50.0),
            (27_500, 10.0, 10.0, 50.0),
            (29_900, 10.0, 10.0, 50.0),
            (10_100, 20.0, 20.0, 100.0),
            (40_000, 60.0, 60.0, 300.0),
            (70_000, 100.0, 100.0, 500.0),
        ] {
            pass(&mut stores, &[1], &mut number, pause_ms).await;
            let question = one_token(1, number + 1, 0, (100.0, 100.0));
            stores.take(&question).await.unwrap();
            let grant = stores.exchange(&report(1, number + 2, &[])).await.unwrap();
            number += 2;
            assert!((grant.whole_rate - whole).abs() < 1e-6, "{grant:?}");
            let figures = stores.model.figures_of("t", "rate").unwrap();
            let is_near = |told: f64, known: f64| (told - known).abs() < 1e-6;
            assert!(
                is_near(figures.0, rate) && is_near(figures.1, burst),
                "{figures:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_figures_of_a_living_instance_that_holds_nothing_count_for_thirty_seconds() {
    let server = limit_server().await;
    let mut stores = LimitStores::new(server.as_ref(), 1).await;
    let mut number = 0;
    pass(&mut stores, &[1, 2], &mut number, 3_000).await;
    let mut idle = one_token(2, number + 1, 0, (10.0, 20.0));
    (idle.tokens[0].want, idle.tokens[0].waiting) = (0, 0);
    stores.take(&idle).await.unwrap();
    for (ms, burst) in [(1_000, 20.0), (25_000, 20.0), (6_000, 50.0)] {
        number += 1;
        pass(&mut stores, &[1, 2], &mut number, ms).await;
        number += 1;
        let question = one_token(1, number, 0, (100.0, 50.0));
        stores.take(&question).await.unwrap();
        let (.., in_force) = stores.model.tokens_of("t", "rate").unwrap();
        assert!((in_force - burst).abs() < 1e-6, "{in_force} after {ms}");
    }
}

/// The model sweeps all at once, so this asks the tables alone.
#[tokio::test]
async fn a_sweep_of_many_buckets_takes_several_exchanges_of_which_each_looks_at_five_hundred() {
    let Some(server) = limit_server().await else {
        return;
    };
    let mut stores = LimitStores::new(Some(&server), 1).await;
    let mut number = 0;
    pass(&mut stores, &[1], &mut number, 3_000).await;
    let mut asked = one_token(1, 0, 0, (100.0, 100.0));
    (asked.tokens[0].want, asked.tokens[0].waiting) = (0, 0);
    let question = asked.tokens[0].clone();
    let names = (0..1_200).map(|tenant| Arc::from(format!("t{tenant:04}")));
    asked.tokens = names
        .map(|tenant| TokenQuestion {
            tenant,
            ..question.clone()
        })
        .collect();
    number += 1;
    asked.number = number;
    stores.take(&asked).await.unwrap();
    let mut counts = Vec::new();
    for _ in 0..110 {
        pass(&mut stores, &[1], &mut number, 100).await;
        let left = stores.buckets_in_tables().await.unwrap();
        if counts.last() != Some(&left) {
            counts.push(left);
        }
    }
    assert_eq!(counts, [1_200, 700, 200, 0]);
}

/// Instances with a stock of one tenant each, whose calls to the store take 2 ms, in steps of a millisecond.
struct SmallBurst {
    stores: LimitStores,
    stocks: Vec<TokenStock>,
    /// The open question of each, when it is answered, and the requests that wait for it.
    open: Vec<Option<(u64, TokenQuestion)>>,
    waiting: Vec<u32>,
    figures: (f64, f64),
    number: i64,
    ms: u64,
    asked: u32,
    admitted: u32,
    refused: u32,
}

impl SmallBurst {
    async fn start(instances: usize, figures: (f64, f64)) -> Self {
        let mut stores = LimitStores::new(None, 1).await;
        let mut number = 0;
        let ids: Vec<i64> = (1..).take(instances).collect();
        pass(&mut stores, &ids, &mut number, 5_000).await;
        Self {
            stores,
            stocks: vec![TokenStock::default(); instances],
            open: vec![None; instances],
            waiting: vec![0; instances],
            figures,
            number,
            ms: 0,
            asked: 0,
            admitted: 0,
            refused: 0,
        }
    }

    fn request(&mut self, which: usize) {
        match self.stocks[which].take(Duration::from_millis(self.ms)) {
            Ok(_) => self.admitted += 1,
            Err(StockEmpty::Ask) => self.waiting[which] += 1,
            Err(StockEmpty::Wait(_)) => self.refused += 1,
        }
    }

    async fn millisecond(&mut self) {
        self.ms += 1;
        self.stores.wall_ms += 1;
        let now = Duration::from_millis(self.ms);
        let (rate, burst) = self.figures;
        for which in 0..self.stocks.len() {
            if let Some((ends, _)) = &self.open[which]
                && *ends <= self.ms
            {
                let (_, question) = self.open[which].take().unwrap();
                self.number += 1;
                let asked = LimitQuestions {
                    instance: i64::try_from(which).unwrap() + 1,
                    number: self.number,
                    tokens: vec![question],
                    seats: Vec::new(),
                };
                let answer = self.stores.take(&asked).await.unwrap().tokens[0];
                self.stocks[which].answered(answer, now);
                for _ in 0..std::mem::take(&mut self.waiting[which]) {
                    match self.stocks[which].take_after_answer(now) {
                        Ok(_) => self.admitted += 1,
                        Err(_) => self.refused += 1,
                    }
                }
            }
            let tenant = Arc::from("t");
            if self.open[which].is_none()
                && self.stocks[which].due().is_some_and(|due| due <= now)
                && let Some(question) =
                    self.stocks[which].question(&tenant, "rate", rate, burst, now)
            {
                self.asked += 1;
                self.open[which] = Some((self.ms + 2, question));
            }
        }
    }
}

#[tokio::test]
async fn a_flood_under_a_small_burst_asks_the_store_a_limited_number_of_times_and_gets_its_rate() {
    for (rate, burst) in [(50.0, 1.0), (100.0, 2.0), (200.0, 4.0)] {
        let mut flood = SmallBurst::start(4, (rate, burst)).await;
        for _ in 0..10_000 {
            for which in 0..4 {
                flood.request(which);
            }
            flood.millisecond().await;
        }
        let (asked, admitted) = (
            f64::from(flood.asked) / 10.0,
            f64::from(flood.admitted) / 10.0,
        );
        eprintln!("{rate}/s, burst {burst}: {asked} questions and {admitted} requests a second");
        // A question and a report for each token, and 25 in vain at each instance, with a margin.
        assert!(asked <= 2.0 * rate + 4.0 * 35.0, "{asked}");
        assert!(admitted >= 0.8 * rate, "{admitted} of {rate}");
    }
}

#[tokio::test]
async fn a_caller_within_a_small_burst_waits_for_nothing_but_the_answer() {
    // Of a burst of one, the next token flows in once the last one is reported.
    for (every, rate, burst) in [(27, 50.0, 1.0), (11, 100.0, 2.0), (6, 200.0, 4.0)] {
        let mut caller = SmallBurst::start(4, (rate, burst)).await;
        for round in 0..500_usize {
            caller.request(round % 4);
            for _ in 0..every {
                caller.millisecond().await;
            }
        }
        eprintln!(
            "{rate}/s, burst {burst}: {} refused, {} asked",
            caller.refused, caller.asked
        );
        assert_eq!((caller.admitted, caller.refused), (500, 0));
    }
}

#[tokio::test]
async fn tokens_of_the_last_era_are_void_in_the_next() {
    let mut stores = LimitStores::new(None, 1).await;
    let mut number = 0;
    pass(&mut stores, &[1], &mut number, 3_000).await;
    let mut stock = TokenStock::default();
    let tenant = Arc::from("t");
    let at = Duration::from_millis;
    for _ in 0..10 {
        let _ = stock.take(at(1));
    }
    let mut ask = async |stores: &mut LimitStores, stock: &mut TokenStock, ms: u64| {
        number += 1;
        let question = stock
            .question(&tenant, "rate", 100.0, 100.0, at(ms))
            .unwrap();
        let questions = LimitQuestions {
            instance: 1,
            number,
            tokens: vec![question],
            seats: Vec::new(),
        };
        stock.answered(stores.take(&questions).await.unwrap().tokens[0], at(ms + 1));
    };
    ask(&mut stores, &mut stock, 2).await;
    assert_eq!(stock.left(at(3)), 10);
    stores.life += 1;
    // Given back only after a second; until then reported, after one was spent.
    let _token = stock.take(at(400)).unwrap();
    ask(&mut stores, &mut stock, 401).await;
    assert_eq!(stock.left(at(402)), 0);
}

#[tokio::test]
async fn a_million_refusals_cost_twenty_questions_a_second() {
    let mut stores = LimitStores::new(None, 1).await;
    let mut number = 0;
    pass(&mut stores, &[1, 2, 3, 4], &mut number, 3_000).await;
    let tenant = Arc::from("t");
    for (rate, burst) in [
        (100.0, 100.0),
        (1.0, 60.0),
        (5.0, 3.0),
        (1_000.0, 2_000.0),
        (1_000.0, 100.0),
    ] {
        let mut stock = TokenStock::default();
        let (mut admitted, mut refused, mut questions) = (0_u32, 0_u32, Vec::new());
        // A second passes for the calls that the burst answers; then a million requests in ten seconds.
        for request in 0..1_100_000_u64 {
            let now = Duration::from_micros(10 * request);
            if request % 100 == 0 {
                stores.wall_ms += 1;
            }
            if request % 20_000 == 0 {
                number += 1;
                stores.exchange(&report(1, number, &[])).await.unwrap();
            }
            let taken = stock.take(now);
            admitted += u32::from(taken.is_ok());
            refused += u32::from(taken.is_err());
            let due = stock.due().is_some_and(|due| due <= now);
            if let Some(question) = due
                .then(|| stock.question(&tenant, "rate", rate, burst, now))
                .flatten()
            {
                number += 1;
                let asked = LimitQuestions {
                    instance: 1,
                    number,
                    tokens: vec![question],
                    seats: Vec::new(),
                };
                stock.answered(stores.take(&asked).await.unwrap().tokens[0], now);
                if taken.is_err() && stock.take_after_answer(now).is_ok() {
                    (admitted, refused) = (admitted + 1, refused - 1);
                }
                questions.push(now);
            }
        }
        let steady = questions
            .iter()
            .filter(|it| **it >= Duration::from_secs(1))
            .count();
        eprintln!(
            "{rate}/s, burst {burst}: {admitted} admitted, {refused} refused, {steady} questions in 10 s"
        );
        assert!(refused > 1_000_000 || rate > 99.0);
        assert!(steady <= 200, "{steady}");
        assert!(f64::from(admitted) >= 0.9 * rate * 11.0, "{admitted}");
        stores.life += 1;
        pass(&mut stores, &[1, 2, 3, 4], &mut number, 3_000).await;
    }
}

/// A tenant, its weight, and the requests per second that it asks for.
type SteadyDemand = (&'static str, f64, f64);

/// An instance that reports the same demand each time.
struct SteadyInstance {
    id: i64,
    lease: RateLease,
    next: u64,
    demand: Vec<SteadyDemand>,
}

/// Runs exchanges with a jitter, and returns the least part of its right that any tenant had at any time from 0.4 s after
/// a change on. Each phase is the demand at each instance, for two seconds.
async fn least_share(stores: &mut LimitStores, phases: &[&[&[SteadyDemand]]]) -> f64 {
    let mut number = 0;
    let ids = 1..=i64::try_from(phases[0].len()).unwrap();
    let started = ids.clone().collect::<Vec<_>>();
    pass(stores, &started, &mut number, 2_500).await;
    let steady = ids.map(|id| SteadyInstance {
        id,
        lease: RateLease::default(),
        next: 0,
        demand: Vec::new(),
    });
    let mut instances: Vec<SteadyInstance> = steady.collect();
    let mut least = f64::INFINITY;
    let mut ms = 0_u64;
    for phase in phases {
        let began = ms;
        for (instance, demand) in instances.iter_mut().zip(*phase) {
            let new = demand
                .iter()
                .any(|it| instance.demand.iter().all(|known| known.0 != it.0));
            instance.demand = demand.to_vec();
            if new {
                instance.next = instance.next.min(ms + 50);
            }
        }
        while ms < began + 2_000 {
            ms += 1;
            stores.wall_ms += 1;
            let now = Duration::from_millis(ms);
            for instance in &mut instances {
                if ms >= instance.next {
                    number += 1;
                    instance.lease.ask(now);
                    let asked =
                        instance
                            .lease
                            .report(report(instance.id, number, &instance.demand));
                    let grant = stores.exchange(&asked).await.unwrap();
                    instance.lease.answered(grant, now);
                    let jitter = u64::try_from(number * 7 % 11).unwrap();
                    let due = u64::try_from(instance.lease.due().as_millis()).unwrap();
                    instance.next = due - jitter;
                }
            }
            if ms >= began + 400 {
                least = least.min(share_now(&instances, now));
            }
        }
    }
    least
}

/// The least part of its right that an instance has, of its tenants' shares by weighted max-min.
fn share_now(instances: &[SteadyInstance], now: Duration) -> f64 {
    let mut totals = std::collections::BTreeMap::new();
    for (tenant, weight, asked) in instances.iter().flat_map(|it| &it.demand) {
        totals.entry(*tenant).or_insert((0.0, *weight)).0 += asked;
    }
    let demands: Vec<(f64, f64)> = totals.values().copied().collect();
    let line = water_line(QUOTA.0, &demands);
    let parts = instances.iter().filter_map(|it| {
        let right = it.demand.iter().map(|(tenant, weight, asked)| {
            let total = totals[tenant].0;
            line.part(total, *weight) * asked / total
        });
        let right: f64 = right.sum();
        (right > 0.0).then(|| it.lease.rate(now) / right)
    });
    parts.fold(f64::INFINITY, f64::min)
}

#[tokio::test]
async fn tenants_have_their_shares_wherever_they_are() {
    let server = limit_server().await;
    let flood = 10_000.0;
    let all = |name| [(name, 1.0, flood)];
    let mut stores = LimitStores::new(server.as_ref(), 1).await;
    let three: &[_] = &[("a", 1.0, flood), ("b", 1.0, flood), ("c", 1.0, flood)];
    let heavy: &[_] = &[("d", 3.0, flood)];
    let small: &[_] = &[("b", 1.0, 60.0), ("c", 1.0, 60.0), ("a", 1.0, flood)];
    let phases: [&[&[_]]; 6] = [
        &[three, &all("d"), &[], &[]],
        &[three, heavy, &[], &[]],
        &[&all("a"), &all("a"), &all("a"), small],
        // New at an instance of its own while another floods all others.
        &[&all("a"), &all("a"), &all("a"), &all("d")],
        &[&[], &[], &[], &all("a")],
        &[&all("a"), &[], &[("b", 5.0, flood), ("e", 1.0, 3.0)], &[]],
    ];
    let least = least_share(&mut stores, &phases).await;
    eprintln!("least share {least:.3}");
    assert!(least >= 0.95, "{least}");
}

/// Each small tenant asks once in ten seconds, so that most of them are reported together under one name.
#[tokio::test]
async fn a_thousand_small_tenants_and_a_flooder_have_their_shares_beside_a_flooder_elsewhere() {
    let mut stores = LimitStores::new(None, 1).await;
    let mut number = 0;
    pass(&mut stores, &[1, 2], &mut number, 2_500).await;
    let names: Vec<Arc<str>> = (0..1_000).map(|it| Arc::from(format!("t{it}"))).collect();
    let floods: [Arc<str>; 2] = ["a", "b"].map(Arc::from);
    let others = ["others/1", "others/2"].map(Arc::from);
    let mut tallies = [DemandTally::default(), DemandTally::default()];
    let mut leases = [RateLease::default(), RateLease::default()];
    let mut next = [0, 100];
    let (mut least, mut used) = ([f64::INFINITY; 2], 0.0_f64);
    for ms in 0..30_000_usize {
        let now = Duration::from_millis(ms as u64);
        stores.wall_ms += 1;
        if ms % 10 == 0 {
            tallies[0].count(&names[ms / 10 % 1_000], 1.0, 1, now);
        }
        for n in 0..2 {
            tallies[n].count(&floods[n], 1.0, 10, now);
            if ms < next[n] {
                continue;
            }
            tallies[n].refused(&floods[n]);
            number += 1;
            leases[n].ask(now);
            let mut asked = report(i64::try_from(n).unwrap() + 1, number, &[]);
            asked.tenants = named(tallies[n].report(now), &others[n]);
            assert!(asked.tenants.len() <= 257);
            let grant = stores.exchange(&leases[n].report(asked)).await.unwrap();
            leases[n].answered(grant, now);
            next[n] = usize::try_from(leases[n].due().as_millis()).unwrap();
        }
        if ms >= 12_000 {
            // A hundred requests a second of the small ones, and half of the rest for each flooder.
            for (n, right) in [300.0, 200.0].into_iter().enumerate() {
                least[n] = least[n].min(leases[n].rate(now) / right);
            }
            used = used.max(leases[0].rate(now) + leases[1].rate(now));
        }
    }
    eprintln!("least shares {least:.3?}, at most {used:.1} lent");
    assert!(least.iter().all(|it| *it >= 0.95), "{least:?}");
    assert!(used <= QUOTA.0 + 1e-6);
}

/// Exchanges until the instance has a lease, five times a second. Returns the last grant.
async fn until_leased(store: &PostgresStore, number: &mut i64) -> LeaseGrant {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_mins(1) {
        *number += 1;
        let grant = store
            .exchange(&report(1, *number, &[("acme", 1.0, 10.0)]))
            .await
            .unwrap();
        if grant.rate > 0.0 {
            return grant;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("nothing was lent within a minute");
}

/// Starts the server again. Limits are refused until a sign of life has confirmed the start; returns the first lease after
/// that.
async fn after_a_start(
    server: &mut PgServer,
    store: &PostgresStore,
    number: &mut i64,
) -> LeaseGrant {
    server.start_again();
    let unconfirmed = until_up(store, number).await;
    assert!(
        matches!(unconfirmed, Err(StoreError::Unconfirmed)),
        "{unconfirmed:?}"
    );
    // The connection of signs of life has not noticed yet.
    let _lost = store.beat(&beat()).await;
    store.beat(&beat()).await.unwrap();
    *number += 1;
    store.exchange(&report(1, *number, &[])).await.unwrap()
}

/// Waits until the server answers, confirmed or not.
async fn until_up(store: &PostgresStore, number: &mut i64) -> Result<LeaseGrant, StoreError> {
    loop {
        *number += 1;
        match store.exchange(&report(1, *number, &[])).await {
            Err(StoreError::Lost(_) | StoreError::Unreachable(_)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answered => return answered,
        }
    }
}

#[tokio::test]
async fn a_crash_of_the_server_begins_an_era_and_an_orderly_restart_does_not() {
    if postgres::is_missing() {
        return;
    }
    let (mut server, store) = ready().await;
    let mut number = 0;
    let before = until_leased(&store, &mut number).await;
    assert!((before.rate - QUOTA.0).abs() < 1e-6 && (before.burst - QUOTA.1).abs() < 1e-6);
    number += 1;
    let answers = store
        .take(&one_token(1, number, 0, (100.0, 100.0)))
        .await
        .unwrap();
    assert_eq!((answers.era, answers.tokens[0].lent), (before.era, 1));
    // An old call that comes late changes nothing.
    let late = store
        .take(&one_token(1, number - 1, 0, (100.0, 100.0)))
        .await;
    assert!(matches!(late, Err(StoreError::Refused { .. })), "{late:?}");

    server.stop();
    let same = after_a_start(&mut server, &store, &mut number).await;
    assert_eq!((same.era, same.rate > 0.0), (before.era, true));

    server.kill();
    let next = after_a_start(&mut server, &store, &mut number).await;
    assert!(next.era != before.era && next.rate < 1e-6, "{next:?}");
    until_leased(&store, &mut number).await;
}

#[tokio::test]
async fn instances_with_different_failover_settings_share_one_era() {
    if postgres::is_missing() {
        return;
    }
    let (server, guarded) = ready().await;
    let terms = StoreTerms {
        failover: Failover::Lossless,
        ..TERMS
    };
    let lossless = PostgresStore::new(&settings(&[server.port]), terms).unwrap();
    lossless.join(&introduction(2)).await.unwrap();
    let mut eras = Vec::new();
    for number in 1..4 {
        let exchanged = guarded.exchange(&report(1, number, &[])).await;
        eras.push(exchanged.unwrap().era);
        let exchanged = lossless.exchange(&report(2, number, &[])).await;
        eras.push(exchanged.unwrap().era);
    }
    eras.dedup();
    assert_eq!(eras.len(), 1, "{eras:?}");
}

#[tokio::test]
async fn only_the_very_first_use_of_a_store_waits_for_no_loan() {
    if postgres::is_missing() {
        return;
    }
    let (mut server, store) = ready().await;
    let mut number = 1;
    let first = store.exchange(&report(1, number, &[])).await.unwrap();
    assert!((first.rate - QUOTA.0).abs() < 1e-6, "{first:?}");
    assert!(first.is_open, "{first:?}");
    server.kill();
    let next = after_a_start(&mut server, &store, &mut number).await;
    assert!(next.rate < 1e-6 && !next.is_open, "{next:?}");
}

#[tokio::test]
async fn what_an_instance_held_is_free_once_it_left() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    let mut number = 0;
    until_leased(&store, &mut number).await;
    let second = crate::support::store(&[server.port]);
    let grant = second
        .exchange(&report(2, 1, &[("acme", 1.0, 1_000.0)]))
        .await
        .unwrap();
    assert!(grant.rate < 1e-6 && grant.target > 200.0, "{grant:?}");
    store.leave_limits(1).await.unwrap();
    let grant = second
        .exchange(&report(2, 2, &[("acme", 1.0, 1_000.0)]))
        .await
        .unwrap();
    assert!((grant.rate - QUOTA.0).abs() < 1e-6, "{grant:?}");
}

#[tokio::test]
async fn the_role_that_serves_calls_limits_and_cannot_change_them_otherwise() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    server.sql("CREATE ROLE serve");
    store.migrate(Some("serve")).await.unwrap();
    let call =
        |function: &str| server.try_sql(&format!("SET ROLE serve; SELECT gatepay.{function}"));
    call("leave_limits_v1(false, 1)").unwrap();
    assert!(
        call("leave_limits_at(1, 1, 1)")
            .unwrap_err()
            .contains("permission denied")
    );
    let update = server.try_sql("SET ROLE serve; UPDATE gatepay.bucket SET tokens = 1");
    assert!(update.unwrap_err().contains("permission denied"));
}

/// The server's cost of calls: eight instances with a thousand active tenants.
#[tokio::test]
#[ignore = "a measurement"]
async fn what_an_exchange_costs() {
    let (_server, store) = ready().await;
    for tenants in [10, 100, 1_000] {
        let names: Vec<String> = (0..tenants).map(|it| format!("tenant-{it}")).collect();
        let demands: Vec<(&str, f64, f64)> =
            names.iter().map(|it| (it.as_str(), 1.0, 5.0)).collect();
        let mut times = Vec::new();
        for round in 1..=50 {
            for instance in 1..=8 {
                let asked = report(instance, tenants * 1_000 + round, &demands);
                let began = std::time::Instant::now();
                store.exchange(&asked).await.unwrap();
                times.push(began.elapsed());
            }
        }
        times.sort();
        eprintln!(
            "{tenants} tenants: p50 {:?}, p99 {:?}",
            times[200], times[396]
        );
        let mut times = Vec::new();
        for round in 1..=200 {
            let mut asked = one_token(1, tenants * 1_000 + 100 + round, 0, (100.0, 100.0));
            asked.tokens = names[..10]
                .iter()
                .map(|it| TokenQuestion {
                    tenant: Arc::from(it.as_str()),
                    ..asked.tokens[0].clone()
                })
                .collect();
            let began = std::time::Instant::now();
            store.take(&asked).await.unwrap();
            times.push(began.elapsed());
        }
        times.sort();
        eprintln!("10 buckets: p50 {:?}, p99 {:?}", times[100], times[198]);
    }
}
