//! Requests that are asked for one by one go to the store in batches, and are refused at once while it is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepay_store::admission::AdmissionVerdict;
use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::queue::{AdmissionQueue, AdmissionRunner, BatchFacts};
use gatepay_store::settings::StoreTerms;
use parking_lot::Mutex;

use crate::postgres;
use crate::postgres_relay::PgRelay;
use crate::support::{TERMS, ready, row, settings};

/// A queue, and its batches so far.
fn queue(port: u16, timeout: Duration) -> (AdmissionQueue, Arc<Mutex<Vec<BatchFacts>>>) {
    let terms = StoreTerms { timeout, ..TERMS };
    let (queue, runner) = AdmissionQueue::new(10_000, 7);
    (queue, run(runner, port, terms))
}

fn run(runner: AdmissionRunner, port: u16, terms: StoreTerms) -> Arc<Mutex<Vec<BatchFacts>>> {
    let store = PostgresStore::new(&settings(&[port]), terms).unwrap();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let observed = Arc::clone(&batches);
    let runner = runner.observed_by(Box::new(move |batch| observed.lock().push(batch)));
    tokio::spawn(runner.run(Arc::new(Store::Postgres(Box::new(store)))));
    batches
}

fn rows(batches: &Mutex<Vec<BatchFacts>>) -> u32 {
    batches.lock().iter().map(|batch| batch.rows).sum()
}

#[tokio::test]
async fn of_raced_copies_at_two_instances_one_is_admitted_and_batches_are_large() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    let queues = [(); 2].map(|()| queue(server.port, Duration::from_secs(20)));
    let mut asked = Vec::new();
    for _ in 0..2_000 {
        let row = row();
        // Two copies at each instance.
        for (queue, _) in queues.iter().chain(&queues) {
            let (queue, row) = (queue.clone(), row.clone());
            asked.push((
                row.stamp,
                tokio::spawn(async move { queue.admit(row).await }),
            ));
        }
    }
    let mut admitted = std::collections::HashMap::new();
    for (stamp, answer) in asked {
        let count: &mut u32 = admitted.entry(stamp).or_default();
        match answer.await.unwrap().unwrap() {
            AdmissionVerdict::Admitted => *count += 1,
            AdmissionVerdict::Replayed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(admitted.len(), 2_000);
    assert!(admitted.values().all(|count| *count == 1));
    for (_, batches) in queues {
        assert_eq!(rows(&batches), 4_000);
        let count = batches.lock().len();
        assert!(count < 400, "{count}");
    }
}

#[tokio::test]
async fn while_the_store_is_silent_requests_are_refused_at_once_and_a_probe_finds_it_again() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    let relay = PgRelay::start(server.port);
    let limit = Duration::from_secs(1);
    let (queue, _) = queue(relay.port, limit);
    admits(&queue).await;
    relay.hold(true);
    let first = queue.admit(row()).await.unwrap_err();
    assert!(matches!(*first, StoreError::TimedOut(1_000)), "{first}");
    let mut took = Vec::new();
    for _ in 0..50 {
        let asked = Instant::now();
        let later = queue.admit(row()).await.unwrap_err();
        assert!(matches!(*later, StoreError::BreakerOpen(_)), "{later}");
        took.push(asked.elapsed());
    }
    // Most of them: the machine may stall.
    took.sort_unstable();
    assert!(took[25] < limit / 4, "{took:?}");
    assert!(queue.health().borrow().away_since.is_some());
    relay.hold(false);
    let mut health = queue.health();
    let found = health.wait_for(|health| health.away_since.is_none());
    tokio::time::timeout(Duration::from_mins(1), found)
        .await
        .unwrap()
        .unwrap();
    admits(&queue).await;
}

/// Asks until a request is admitted: a call takes longer than the limit while the machine stalls.
async fn admits(queue: &AdmissionQueue) {
    let began = Instant::now();
    while queue.admit(row()).await.ok() != Some(AdmissionVerdict::Admitted) {
        assert!(began.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_dropped_queue_ends_its_runner() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    let store = PostgresStore::new(&settings(&[server.port]), TERMS).unwrap();
    let (queue, runner) = AdmissionQueue::new(1, 7);
    let (first, second) = (queue.clone(), queue.clone());
    let waiting = tokio::spawn(async move { first.admit(row()).await });
    tokio::task::yield_now().await;
    let refused = second.admit(row()).await.unwrap_err();
    assert!(matches!(*refused, StoreError::QueueFull), "{refused}");
    drop((queue, second));
    runner.run(Arc::new(Store::Postgres(Box::new(store)))).await;
    assert_eq!(waiting.await.unwrap().unwrap(), AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_request_that_is_given_up_before_its_batch_leaves_its_stamp_unspent() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    let (queue, runner) = AdmissionQueue::new(10, 7);
    let (gone, stays) = (row(), row());
    let given_up = tokio::time::timeout(Duration::from_millis(1), queue.admit(gone.clone()));
    assert!(given_up.await.is_err());
    let batches = run(runner, server.port, TERMS);
    assert_eq!(
        queue.admit(stays).await.unwrap(),
        AdmissionVerdict::Admitted
    );
    assert_eq!(rows(&batches), 1);
    let copy = crate::support::verdict(&store, &gone).await;
    assert_eq!(copy, AdmissionVerdict::Admitted);
}
