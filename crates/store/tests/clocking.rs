//! A clock of the server that steps: the store's time goes on without the step. Nothing is deleted for an age that it has
//! not reached, no window, lease or delay ends early, and nothing waits for a time that does not come.

use std::time::Duration;

use gatepay_store::admission::{AdmissionRow, AdmissionVerdict};
use gatepay_store::caps::rule::{CapDeclaration, CapMeasure, CapRule};
use gatepay_store::engine::Store;
use gatepay_store::notifications::listing::RetentionTerms;
use gatepay_store::settings::{Failover, StoreTerms};
use gatepay_store::store_clock::{ClockWitness, StoreClock};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cap_steps::{beside, rule};
use crate::postgres::{self, PgServer};
use crate::rows::{payout, units_of};
use crate::support::{batch, beat, connected, introduction, now_ms, row, runtime, settings};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Steps forward, each of which comes back.
const STEPS: [i64; 3] = [25 * HOUR_MS, 365 * DAY_MS, 800 * DAY_MS];

/// Instances 1 and 2 of a server whose clock the test steps.
struct Stepped {
    server: PgServer,
    stores: Vec<Store>,
}

impl Stepped {
    async fn start() -> Self {
        let server = PgServer::migrated().await;
        server.sql(
            "CREATE TABLE public.step (ms bigint); INSERT INTO public.step VALUES (0);
            CREATE OR REPLACE FUNCTION gatepay.wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
                SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + s.ms FROM public.step AS s $$",
        );
        let terms = StoreTerms {
            future_ms: 300,
            max_skew_ms: 100,
            timeout: Duration::from_mins(1),
            failover: Failover::Lossless,
        };
        let mut stores = Vec::new();
        for id in [1, 2] {
            let store =
                gatepay_store::postgres::PostgresStore::new(&settings(&[server.port]), terms);
            let store = Store::Postgres(Box::new(store.unwrap()));
            store.join(&introduction(id)).await.unwrap();
            stores.push(store);
        }
        // The first guard is over.
        server.sql("UPDATE gatepay.life SET guarded_until = 0");
        Self { server, stores }
    }

    /// Sets the server's clock so far ahead of the right one. Signs of life are more than half a second apart.
    fn set(&self, ms: i64) {
        self.server.sql(&format!(
            "UPDATE public.step SET ms = {ms}; UPDATE gatepay.store_clock SET wall = wall - 1000"
        ));
    }

    async fn beat(&self) {
        self.stores[0].beat(&beat()).await.unwrap();
    }

    fn number(&self, query: &str) -> i64 {
        self.server.sql(query).trim().parse().unwrap()
    }

    async fn pay(&self, units: &str) -> AdmissionVerdict {
        let paid = AdmissionRow {
            spend: Some(Box::new(payout(units_of(units, &["USDT"])))),
            ..row()
        };
        self.verdict(&paid).await
    }

    async fn verdict(&self, row: &AdmissionRow) -> AdmissionVerdict {
        let asked = batch(std::slice::from_ref(row));
        let reply = self.stores[0].admit(&asked).await.unwrap();
        reply.verdicts.into_iter().next().unwrap()
    }

    async fn declare(&self, place: usize, rules: Vec<CapRule>, number: i64) {
        let declaration = CapDeclaration {
            rules: CapRule::of_file(rules),
            midnights: vec![now_ms() / 86_400_000 * 86_400_000],
            raise_after_ms: 86_400_000,
            approvers: 1,
        };
        let store = &self.stores[place];
        store.declare_caps(&declaration, number).await.unwrap();
    }

    /// All that deletes rows for their age.
    async fn keep_house(&self) {
        let terms = RetentionTerms {
            events: Duration::from_hours(90 * 24),
            attempts: Duration::from_hours(30 * 24),
            owners: Duration::from_hours(400 * 24),
        };
        self.beat().await;
        let store = &self.stores[0];
        store.age_spends().await.unwrap();
        store.age_usage().await.unwrap();
        store.retain(&terms).await.unwrap();
    }
}

/// A new row in each table whose rows are deleted for their age.
const AGING: &str = "WITH t AS (SELECT gatepay.now_ms() AS now)
    INSERT INTO gatepay.instance SELECT 77, now, now, 'h', '1', 'c', NULL, 0, false, now FROM t;
    INSERT INTO gatepay.departure SELECT 78, gatepay.now_ms();
    INSERT INTO gatepay.nonce SELECT '\\x01', gatepay.now_ms(), gatepay.now_ms() + 480000;
    INSERT INTO gatepay.meter SELECT 's', 'n', 'C', 0, gatepay.now_ms() / 37500, 1, 1;
    INSERT INTO gatepay.meter SELECT 's', 'n', 'C', 1, gatepay.now_ms() / 900000, 1, 1;
    INSERT INTO gatepay.spend SELECT 'p', 'a', 'n', 'k', 'C', 1, gatepay.now_ms();
    INSERT INTO gatepay.spend_attempt SELECT '\\x01', 'p', 'a', 'n', 'k', gatepay.now_ms(), 1;
    INSERT INTO gatepay.spend_failure SELECT 'p', 'a', 'n', 'k', gatepay.now_ms();
    INSERT INTO gatepay.approval SELECT '\\x01', 'p', 'a', 'n', 'k', '\\x01', '1', '2', 0, gatepay.now_ms(), gatepay.now_ms() + 86400000;
    INSERT INTO gatepay.usage_call (print, party, account, operation, key, once, parts, at)
        SELECT '\\x01', 'p', 'a', 'o', 'k', true, '', gatepay.now_ms();
    INSERT INTO gatepay.usage_day SELECT current_date, gatepay.now_ms(), gatepay.now_ms() + 86400000;
    INSERT INTO gatepay.usage_writer SELECT 77, 1, gatepay.now_ms(), true;
    INSERT INTO gatepay.object (tenant, incarnation, kind, object, at) SELECT 't', 1, 'k', 'o', gatepay.now_ms();
    INSERT INTO gatepay.attempt SELECT gatepay.event_id(gatepay.now_ms()), 1, gatepay.now_ms(), 1, 1, 200, 'o', '';
    INSERT INTO gatepay.event (id, received, kind, object, status, news, body_print, state, is_changed, body)
        SELECT gatepay.event_id(gatepay.now_ms()), gatepay.now_ms(), 'k', 'o', 's', '\\x01', '\\x01', 'operator', false, '';
    INSERT INTO gatepay.owner (kind, key, tenant, account, at, operation, source)
        SELECT 'k', 'k', 't', 'a', gatepay.now_ms(), 'o', 'call';
    INSERT INTO gatepay.open_call SELECT 'k', 'k', 't', 'a', 'c', 'o', false, gatepay.now_ms()";

const AGED: &str = "SELECT (SELECT count(*) FROM gatepay.instance WHERE id = 77) + (SELECT count(*) FROM gatepay.departure)
    + (SELECT count(*) FROM gatepay.nonce) + (SELECT count(*) FROM gatepay.meter) + (SELECT count(*) FROM gatepay.spend)
    + (SELECT count(*) FROM gatepay.spend_attempt) + (SELECT count(*) FROM gatepay.spend_failure)
    + (SELECT count(*) FROM gatepay.approval) + (SELECT count(*) FROM gatepay.usage_call)
    + (SELECT count(*) FROM gatepay.usage_day) + (SELECT count(*) FROM gatepay.usage_writer WHERE instance = 77)
    + (SELECT count(*) FROM gatepay.object) + (SELECT count(*) FROM gatepay.attempt) + (SELECT count(*) FROM gatepay.event)
    + (SELECT count(*) FROM gatepay.owner) + (SELECT count(*) FROM gatepay.open_call)";

#[tokio::test]
async fn a_step_of_the_clock_and_back_deletes_no_row_for_its_age() {
    if postgres::is_missing() {
        return;
    }
    let stepped = Stepped::start().await;
    stepped.server.sql(AGING);
    let rows = stepped.number(AGED);
    assert_eq!(rows, 17);
    for step in STEPS.into_iter().flat_map(|step| [step, 0, -step, 0]) {
        stepped.set(step);
        for _ in 0..2 {
            stepped.keep_house().await;
        }
        assert_eq!(stepped.number(AGED), rows, "after a step to {step} ms");
    }
    let view = stepped.stores[0].beat(&beat()).await.unwrap();
    assert_eq!((view.time.apart_ms, view.time.keeps), (0, false));
}

#[tokio::test]
async fn a_step_of_the_clock_makes_no_room_under_a_cap() {
    if postgres::is_missing() {
        return;
    }
    let stepped = Stepped::start().await;
    let hour = rule(beside("acme"), CapMeasure::PerHour, Some("USDT"), "100");
    let day = rule(beside("acme"), CapMeasure::Per24Hours, Some("USDT"), "100");
    stepped.declare(0, vec![hour, day], 1).await;
    assert_eq!(stepped.pay("99").await, AdmissionVerdict::Admitted);
    for step in STEPS {
        for ahead in [step, 0] {
            stepped.set(ahead);
            stepped.keep_house().await;
            let second = stepped.pay("2").await;
            let is_refused = matches!(second, AdmissionVerdict::CapExceeded(_));
            assert!(is_refused, "{ahead} ms ahead: {second:?}");
        }
    }
    // What is spent while the clock is ahead counts when it is right again.
    stepped.set(25 * HOUR_MS);
    stepped.beat().await;
    assert_eq!(stepped.pay("1").await, AdmissionVerdict::Admitted);
    stepped.set(0);
    stepped.beat().await;
    assert!(matches!(
        stepped.pay("1").await,
        AdmissionVerdict::CapExceeded(_)
    ));
}

#[tokio::test]
async fn a_step_of_the_clock_raises_no_cap_early_and_drops_no_other_instances_rules() {
    if postgres::is_missing() {
        return;
    }
    let stepped = Stepped::start().await;
    let limit = |limit| {
        vec![rule(
            beside("acme"),
            CapMeasure::PerCall,
            Some("USDT"),
            limit,
        )]
    };
    stepped.declare(0, limit("10"), 1).await;
    stepped.declare(1, limit("10"), 1).await;
    stepped.declare(0, limit("1000"), 2).await;
    stepped.declare(1, limit("1000"), 2).await;
    stepped.set(25 * HOUR_MS);
    stepped.beat().await;
    // By the clock the raise is a day old.
    stepped.declare(0, limit("2000"), 3).await;
    assert_eq!(stepped.number("SELECT count(*) FROM gatepay.cap_claim"), 2);
    let paid = stepped.pay("500").await;
    assert!(matches!(paid, AdmissionVerdict::CapExceeded(_)), "{paid:?}");
}

#[tokio::test]
async fn a_nonce_is_not_used_again_after_the_clock_has_stepped() {
    if postgres::is_missing() {
        return;
    }
    let stepped = Stepped::start().await;
    let with_nonce = || AdmissionRow {
        nonce: Some([7; 16]),
        ..row()
    };
    assert_eq!(
        stepped.verdict(&with_nonce()).await,
        AdmissionVerdict::Admitted
    );
    for ahead in [25 * HOUR_MS, 0] {
        stepped.set(ahead);
        for _ in 0..2 {
            stepped.beat().await;
        }
        let again = stepped.verdict(&with_nonce()).await;
        let is_known = matches!(again, AdmissionVerdict::NonceReplayed { .. });
        assert!(is_known, "{ahead} ms ahead: {again:?}");
    }
}

#[tokio::test]
async fn a_lease_of_an_endpoint_neither_ends_with_a_step_of_the_clock_nor_outlasts_it() {
    if postgres::is_missing() {
        return;
    }
    let stepped = Stepped::start().await;
    stepped.server.sql(
        "INSERT INTO gatepay.incarnation VALUES ('acme', 1, '100', 0);
        INSERT INTO gatepay.endpoint (tenant, incarnation, url, next_at) VALUES ('acme', 1, '', 0)",
    );
    let claims = async |instance: i64| {
        let store = &stepped.stores[0];
        store.claim_endpoints(instance, 9).await.unwrap().len()
    };
    assert_eq!(claims(1).await, 1);
    stepped.set(365 * DAY_MS);
    stepped.beat().await;
    assert_eq!(claims(2).await, 0, "the lease is still the first one's");
    stepped
        .server
        .sql("UPDATE gatepay.endpoint SET claimed_until = 0");
    assert_eq!(claims(2).await, 1);
    stepped.set(0);
    stepped.beat().await;
    let ends = "SELECT claimed_until - gatepay.wall_ms() FROM gatepay.endpoint";
    assert!(stepped.number(ends) <= 30_000);
}

#[tokio::test]
async fn an_operator_accepts_a_clock_that_has_stepped() {
    if postgres::is_missing() {
        return;
    }
    let stepped = Stepped::start().await;
    stepped.server.sql(
        "INSERT INTO gatepay.incarnation VALUES ('acme', 1, '100', 0);
        INSERT INTO gatepay.endpoint (tenant, incarnation, url, next_at, claimed_until)
            SELECT 'acme', 1, '', n, n FROM (SELECT gatepay.now_ms() + 60000 AS n) AS t;
        INSERT INTO gatepay.line SELECT 1, 1, gatepay.event_id(0), gatepay.now_ms() + 60000",
    );
    for (ahead, apart) in [(30, 30), (-40, -70)].map(|(a, b)| (a * DAY_MS, b * DAY_MS)) {
        stepped.set(ahead);
        stepped.beat().await;
        let view = stepped.stores[0].beat(&beat()).await.unwrap();
        assert!(view.time.keeps);
        assert!((view.time.apart_ms - apart).abs() < 5_000);
        let Store::Postgres(store) = &stepped.stores[1] else {
            panic!("a server");
        };
        store.distrust().await.unwrap();
        let view = stepped.stores[0].beat(&beat()).await.unwrap();
        assert_eq!((view.time.apart_ms, view.time.keeps), (0, false));
        assert!(view.time.now_ms.abs_diff(view.now_ms) < 5_000);
    }
    // The time went back: what was due by the old one is due.
    let late = "SELECT count(*) FROM gatepay.endpoint AS p, gatepay.line AS l
        WHERE p.next_at > gatepay.now_ms() OR p.claimed_until > gatepay.now_ms() OR l.next_at > gatepay.now_ms()";
    assert_eq!(stepped.number(late), 0);
}

#[tokio::test]
async fn the_documented_way_out_ends_a_guard_from_a_clock_that_was_ahead_and_admits_nothing_twice()
{
    if postgres::is_missing() {
        return;
    }
    let page = include_str!("../../../docs/how-to/emergency.md");
    let (_, statement) = page.split_once("```sql").unwrap();
    let (statement, _) = statement.split_once("```").unwrap();
    let stepped = Stepped::start().await;
    let Store::Postgres(store) = &stepped.stores[1] else {
        panic!("a server");
    };
    let admitted = row();
    assert_eq!(stepped.verdict(&admitted).await, AdmissionVerdict::Admitted);
    stepped.set(365 * DAY_MS);
    stepped.beat().await;
    store.distrust().await.unwrap();
    stepped.set(0);
    stepped.beat().await;
    // Distrust alone leaves a guard that lasts for a year.
    store.distrust().await.unwrap();
    let AdmissionVerdict::Guarded { wait_ms } = stepped.verdict(&row()).await else {
        panic!("it is guarded");
    };
    assert!(wait_ms > 364 * DAY_MS.unsigned_abs());
    stepped.server.sql(statement);
    store.distrust().await.unwrap();
    let began = std::time::Instant::now();
    loop {
        let copy = stepped.verdict(&admitted).await;
        assert_ne!(copy, AdmissionVerdict::Admitted);
        match stepped.verdict(&row()).await {
            AdmissionVerdict::Admitted => break,
            AdmissionVerdict::Guarded { wait_ms } => assert!(wait_ms <= 400, "{wait_ms}"),
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_ne!(stepped.verdict(&admitted).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_step_is_seen_by_an_instance_that_was_there_though_a_new_one_comes_first() {
    if postgres::is_missing() {
        return;
    }
    let stepped = Stepped::start().await;
    let witnessed = || stepped.number("SELECT is_witnessed::integer FROM gatepay.store_clock");
    let admin = connected(&stepped.server).await;
    stepped.beat().await;
    stepped.set(25 * HOUR_MS);
    // The clock stands, so that all signs are of one moment.
    let moment = stepped.number("SELECT gatepay.wall_ms()");
    let stands = format!(
        "CREATE OR REPLACE FUNCTION gatepay.wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT {moment}::bigint'"
    );
    admin.batch_execute(&stands).await.unwrap();
    // A sign that is passed over while another one commits.
    admin
        .batch_execute("BEGIN; SELECT FROM gatepay.store_clock FOR UPDATE")
        .await
        .unwrap();
    stepped.beat().await;
    admin.batch_execute("COMMIT").await.unwrap();
    let terms = StoreTerms {
        failover: Failover::Lossless,
        ..StoreTerms::default()
    };
    let port = stepped.server.port;
    let new = gatepay_store::postgres::PostgresStore::new(&settings(&[port]), terms).unwrap();
    new.join(&introduction(3)).await.unwrap();
    assert_eq!(witnessed(), 0, "a new instance has seen no step");
    stepped.beat().await;
    assert_eq!(witnessed(), 1);
}

/// The clock at the next tick: by how much it moves, the instance that ticks, how long it was silent by its own clock, and
/// how far the store's time has come since.
type DrawnTick = (i64, u8, i64, i64);

fn drawn_tick() -> impl Strategy<Value = DrawnTick> {
    let small = -2_000_i64..15_000;
    let large = prop_oneof![
        Just(25 * HOUR_MS),
        Just(-25 * HOUR_MS),
        Just(400 * DAY_MS),
        Just(-400 * DAY_MS)
    ];
    let moved = prop_oneof![8 => small, 1 => -DAY_MS..DAY_MS, 1 => large];
    let silent = prop_oneof![4 => 0_i64..12_000, 1 => 0..2 * DAY_MS];
    (moved, 0_u8..6, silent, 0_i64..3_000)
}

#[test]
fn the_functions_and_the_rules_in_rust_agree_about_the_stores_time() {
    if postgres::is_missing() {
        return;
    }
    let runtime = runtime();
    let server = runtime.block_on(PgServer::migrated());
    let admin = runtime.block_on(connected(&server));
    let execute = |script: &str| runtime.block_on(admin.batch_execute(script)).unwrap();
    execute(
        "SET search_path = gatepay; CREATE TABLE public.step (ms bigint); INSERT INTO public.step VALUES (0);
        CREATE OR REPLACE FUNCTION gatepay.wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT s.ms FROM public.step AS s'",
    );
    let state = "SELECT c.wall, c.steady, c.apart_since, c.is_witnessed, c.keeps_until, now_ms(), deleting_ms() FROM store_clock AS c";
    let tick = "SELECT tick_clock($1, $2, $3)";
    let mut runner = TestRunner::new(Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&prop::collection::vec(drawn_tick(), 1..40), |ticks| {
        let mut wall = 1_767_225_600_000_i64;
        execute(&format!(
            "TRUNCATE store_clock, instance; UPDATE public.step SET ms = {wall}; SELECT tick_clock(NULL, NULL, NULL)"
        ));
        let mut clock = StoreClock::first(wall);
        // The last sign of an instance that was there. New ones give theirs in between.
        let (mut then, mut then_steady) = (wall, wall);
        for (moved, who, silent_ms, came_ms) in ticks {
            wall += moved;
            execute(&format!("UPDATE public.step SET ms = {wall}"));
            let witness = match who {
                0 => ClockWitness::Alone,
                1 => ClockWitness::Newcomer,
                _ => ClockWitness::Present {
                    wall_ms: then,
                    steady_ms: then_steady - came_ms,
                    silent_ms,
                },
            };
            execute(match witness {
                ClockWitness::Newcomer => {
                    "INSERT INTO instance VALUES (1, 0, 0, 'h', '1', 'c') ON CONFLICT DO NOTHING"
                }
                _ => "TRUNCATE instance",
            });
            let known = match witness {
                ClockWitness::Present {
                    wall_ms,
                    steady_ms,
                    silent_ms,
                } => (Some(wall_ms), Some(steady_ms), Some(silent_ms)),
                _ => (None, None, None),
            };
            let ticked: bool = runtime
                .block_on(admin.query_one(tick, &[&known.0, &known.1, &known.2]))
                .unwrap()
                .get(0);
            let next = clock.tick(wall, witness);
            prop_assert_eq!(ticked, next.is_some());
            clock = next.unwrap_or(clock);
            if ticked && known.0.is_some() {
                (then, then_steady) = (wall, clock.now(wall));
            }
            let row = runtime.block_on(admin.query_one(state, &[])).unwrap();
            let told = StoreClock {
                wall_ms: row.get(0),
                steady_ms: row.get(1),
                apart_since: row.get(2),
                is_witnessed: row.get(3),
                keeps_until: row.get(4),
            };
            prop_assert_eq!(told, clock);
            let times: (i64, i64) = (row.get(5), row.get(6));
            prop_assert_eq!(times, (clock.now(wall), clock.deleting(wall)));
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
