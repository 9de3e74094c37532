//! The long forms: many failovers under load, a million raced copies, throughput and latency.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepay_store::admission::{AdmissionRow, AdmissionVerdict};
use gatepay_store::engine::Store;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::queue::AdmissionQueue;
use gatepay_store::settings::{Failover, StoreTerms};
use tokio::time::{MissedTickBehavior, interval};

use crate::failover::{admitted_twice, asynchronous_failover, guard_ends, until_it_answers};
use crate::postgres::{self, StandbyMode};
use crate::support::{TERMS, ask, connected, ready, row, settings, store, verdict};

/// A queue before a store of its own, as each instance has one.
fn instance(port: u16) -> AdmissionQueue {
    let terms = StoreTerms {
        timeout: Duration::from_secs(30),
        ..TERMS
    };
    let store = PostgresStore::new(&settings(&[port]), terms).unwrap();
    let (queue, runner) = AdmissionQueue::new(100_000, 7);
    tokio::spawn(runner.run(Arc::new(Store::Postgres(Box::new(store)))));
    queue
}

/// Admits about 2,000 stamps a second until the store fails, and returns the acknowledged ones.
async fn admit_until_it_fails(store: Arc<PostgresStore>) -> Vec<AdmissionRow> {
    let mut admitted = Vec::new();
    let mut turn = interval(Duration::from_millis(5));
    turn.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        turn.tick().await;
        let rows: Vec<AdmissionRow> = (0..10).map(|_| row()).collect();
        let Ok(reply) = ask(&store, &rows).await else {
            return admitted;
        };
        assert!(
            reply
                .verdicts
                .iter()
                .all(|it| *it == AdmissionVerdict::Admitted)
        );
        admitted.extend(rows);
    }
}

#[tokio::test]
#[ignore = "six minutes: the long form of a_synchronous_failover_loses_nothing"]
async fn fifty_primaries_with_a_synchronous_standby_are_killed_under_load() {
    if postgres::is_missing() {
        return;
    }
    let (mut primary, first) = ready().await;
    drop(first);
    let (mut total, mut longest) = (0, Duration::ZERO);
    for round in 0..50_u64 {
        let standby = primary.standby(StandbyMode::Synchronous);
        let shared = Arc::new(store(&[primary.port, standby.port]));
        until_it_answers(&shared).await;
        guard_ends().await;
        let writer = tokio::spawn(admit_until_it_fails(Arc::clone(&shared)));
        tokio::time::sleep(Duration::from_millis(300 + round * 37 % 400)).await;
        primary.kill();
        let killed = Instant::now();
        let admitted = writer.await.unwrap();
        standby.promote();
        assert!(until_it_answers(&shared).await);
        assert_eq!(admitted_twice(&shared, &admitted).await, 0, "round {round}");
        guard_ends().await;
        longest = longest.max(killed.elapsed());
        assert_eq!(verdict(&shared, &row()).await, AdmissionVerdict::Admitted);
        assert_eq!(admitted_twice(&shared, &admitted).await, 0, "round {round}");
        total += admitted.len();
        primary = standby;
    }
    println!(
        "50 primaries killed: {total} stamps acknowledged, 0 admitted twice; at most {longest:?} from kill to admission"
    );
}

#[tokio::test]
#[ignore = "minutes: the long form of stamps_that_an_asynchronous_failover_lost_are_not_admitted_again"]
async fn ten_asynchronous_failovers_lose_a_hundred_thousand_stamps_each() {
    if postgres::is_missing() {
        return;
    }
    for _ in 0..10 {
        let (lost, twice) = asynchronous_failover(Failover::Guarded, 400).await;
        assert!(lost >= 100_000);
        assert_eq!(twice, 0);
    }
    let (lost, twice) = asynchronous_failover(Failover::Lossless, 400).await;
    println!(
        "10 asynchronous failovers: {lost} stamps lost in each, 0 admitted twice; without the guard {twice}"
    );
    assert_eq!(lost, twice);
}

#[tokio::test]
#[ignore = "minutes: a million stamps, each at four instances"]
async fn of_a_million_stamps_at_four_instances_each_is_admitted_once() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    let instances = [(); 4].map(|()| instance(server.port));
    let began = Instant::now();
    let (mut admitted, stamps) = (0, 1_000_000);
    for _ in 0..stamps / 2_000 {
        let rows: Vec<AdmissionRow> = (0..2_000).map(|_| row()).collect();
        let mut copies = Vec::new();
        for (number, queue) in instances.iter().enumerate() {
            for offset in 0..rows.len() {
                // Each instance begins elsewhere.
                let row = rows[(offset + number * 509) % rows.len()].clone();
                let queue = queue.clone();
                copies.push(tokio::spawn(async move { queue.admit(row).await }));
            }
        }
        let mut of_these = 0;
        for copy in copies {
            of_these += usize::from(copy.await.unwrap().unwrap() == AdmissionVerdict::Admitted);
        }
        assert_eq!(of_these, rows.len());
        admitted += of_these;
    }
    let attempts = stamps * 4;
    println!(
        "{attempts} attempts, {admitted} admitted of {stamps} stamps, in {:?}",
        began.elapsed()
    );
}

#[tokio::test]
#[ignore = "a measurement: run it with --profile counted, alone"]
async fn throughput_and_latency_beside_a_bare_commit() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    let admin = connected(&server).await;
    let table = "CREATE TABLE public.bare (n bigserial PRIMARY KEY)";
    admin.batch_execute(table).await.unwrap();
    let bare = admin
        .prepare("INSERT INTO public.bare DEFAULT VALUES")
        .await
        .unwrap();
    let mut commits = Vec::new();
    let queue = instance(server.port);
    let mut waits = Vec::new();
    let mut turn = interval(Duration::from_millis(1));
    for _ in 0..4_000 {
        turn.tick().await;
        for _ in 0..2 {
            let queue = queue.clone();
            waits.push(tokio::spawn(async move {
                let asked = Instant::now();
                assert_eq!(
                    queue.admit(row()).await.unwrap(),
                    AdmissionVerdict::Admitted
                );
                asked.elapsed()
            }));
        }
        if waits.len() % 20 == 0 {
            let asked = Instant::now();
            admin.execute(&bare, &[]).await.unwrap();
            commits.push(asked.elapsed());
        }
    }
    let mut times = Vec::new();
    for wait in waits {
        times.push(wait.await.unwrap());
    }
    println!(
        "2,000/s: admit {}, bare commit beside it {}",
        percentiles(times),
        percentiles(commits)
    );

    let began = Instant::now();
    let workers = (0..512).map(|_| {
        let queue = queue.clone();
        tokio::spawn(async move {
            let mut count = 0;
            while began.elapsed() < Duration::from_secs(5) {
                assert_eq!(
                    queue.admit(row()).await.unwrap(),
                    AdmissionVerdict::Admitted
                );
                count += 1;
            }
            count
        })
    });
    let mut count = 0;
    for worker in workers.collect::<Vec<_>>() {
        count += worker.await.unwrap();
    }
    println!("512 waiting: {} admissions a second", count / 5);
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100];
    format!(
        "p10 {:?}, p50 {:?}, p90 {:?}, p99 {:?}",
        at(10),
        at(50),
        at(90),
        at(99)
    )
}
