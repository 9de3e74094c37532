//! Failovers, restarts, restores: an admitted stamp is not admitted again.

use std::time::{Duration, Instant};

use gatepay_store::admission::{AdmissionRow, AdmissionVerdict, MOST_ROWS};
use gatepay_store::error::StoreError;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::{Failover, StoreTerms};

use crate::postgres::{self, PgServer, StandbyMode, until};
use crate::postgres_relay::PgRelay;
use crate::support::{TERMS, ask, beat, introduction, ready, row, settings, store, verdict};

/// Admits batches of new stamps, and returns the rows.
pub(crate) async fn admit_many(store: &PostgresStore, batches: usize) -> Vec<AdmissionRow> {
    let mut admitted = Vec::new();
    for _ in 0..batches {
        let rows: Vec<AdmissionRow> = (0..MOST_ROWS).map(|_| row()).collect();
        let reply = ask(store, &rows).await.unwrap();
        let verdicts = reply.verdicts.iter();
        assert!(
            verdicts.clone().all(|it| *it == AdmissionVerdict::Admitted),
            "{:?}",
            reply.verdicts
        );
        admitted.extend(rows);
    }
    admitted
}

/// Asks for all rows again, and returns how many were admitted a second time.
pub(crate) async fn admitted_twice(store: &PostgresStore, rows: &[AdmissionRow]) -> usize {
    let mut twice = 0;
    for rows in rows.chunks(MOST_ROWS) {
        let reply = ask(store, rows).await.unwrap();
        twice += reply
            .verdicts
            .iter()
            .filter(|it| **it == AdmissionVerdict::Admitted)
            .count();
    }
    twice
}

/// Asks until the store answers.
pub(crate) async fn until_it_answers(store: &PostgresStore) -> bool {
    let began = Instant::now();
    loop {
        match ask(store, &[row()]).await {
            Ok(reply) => return reply.new_guard,
            Err(error) => assert!(began.elapsed() < Duration::from_mins(1), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn guard_ends() {
    tokio::time::sleep(Duration::from_millis(TERMS.guard_ms() + 50)).await;
}

/// Fails over to a standby that lacks the last batches. Returns how many of their stamps were lost, and how many of those
/// were admitted again at once.
pub(crate) async fn asynchronous_failover(failover: Failover, batches: usize) -> (usize, usize) {
    let (mut primary, _) = ready().await;
    let link = PgRelay::start(primary.port);
    let standby = primary.standby_by_way_of(link.port, StandbyMode::Asynchronous);
    let terms = StoreTerms { failover, ..TERMS };
    let store = PostgresStore::new(&settings(&[primary.port, standby.port]), terms).unwrap();
    until_it_answers(&store).await;
    guard_ends().await;
    let kept = admit_many(&store, 2).await;
    let position = primary.sql("SELECT pg_current_wal_lsn()");
    until("the standby has it", || {
        standby.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'")) == "t"
    });
    link.hold(true);
    let lost = admit_many(&store, batches).await;
    primary.kill();
    link.sever();
    standby.promote();
    let new_guard = until_it_answers(&store).await;
    let twice = admitted_twice(&store, &lost).await;
    assert_eq!(admitted_twice(&store, &kept).await, 0);
    if failover == Failover::Guarded {
        assert!(new_guard);
        guard_ends().await;
        assert_eq!(admitted_twice(&store, &lost).await, 0);
        assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
    }
    (lost.len(), twice)
}

#[tokio::test]
async fn stamps_that_an_asynchronous_failover_lost_are_not_admitted_again() {
    if postgres::is_missing() {
        return;
    }
    let (lost, twice) = asynchronous_failover(Failover::Guarded, 4).await;
    assert_eq!((lost, twice), (4 * MOST_ROWS, 0));
    // The operator's promise was wrong: the test can see the purpose of the guard.
    let (lost, twice) = asynchronous_failover(Failover::Lossless, 4).await;
    assert_eq!((lost, twice), (4 * MOST_ROWS, 4 * MOST_ROWS));
}

#[tokio::test]
async fn a_paused_primary_that_goes_on_after_a_failover_admits_nothing() {
    if postgres::is_missing() {
        return;
    }
    let (old, _) = ready().await;
    let new = old.standby(StandbyMode::Synchronous);
    let admitted = admit_many(&store(&[old.port]), 2).await;
    // A short limit, since the old primary does not answer.
    let terms = StoreTerms {
        timeout: Duration::from_secs(1),
        ..TERMS
    };
    let at_old = PostgresStore::new(&settings(&[old.port]), terms).unwrap();
    let at_new = store(&[new.port]);
    until_it_answers(&at_old).await;
    let under_way = row();
    old.pause();
    let asked = ask(&at_old, std::slice::from_ref(&under_way)).await;
    assert!(matches!(asked, Err(StoreError::TimedOut(_))), "{asked:?}");
    new.promote();
    assert!(until_it_answers(&at_new).await);
    old.resume();
    // It answers again, and its commits wait for the standby that has left it.
    for _ in 0..3 {
        let asked = ask(&at_old, &[row()]).await;
        assert!(asked.is_err(), "{asked:?}");
    }
    assert_eq!(admitted_twice(&at_new, &admitted).await, 0);
    guard_ends().await;
    assert_eq!(admitted_twice(&at_new, &admitted).await, 0);
}

#[tokio::test]
async fn a_synchronous_failover_loses_nothing() {
    if postgres::is_missing() {
        return;
    }
    let (mut primary, _) = ready().await;
    let standby = primary.standby(StandbyMode::Synchronous);
    let store = store(&[primary.port, standby.port]);
    let admitted = admit_many(&store, 8).await;
    primary.kill();
    standby.promote();
    // It waits for no standby any more.
    standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    standby.sql("SELECT pg_reload_conf()");
    assert!(until_it_answers(&store).await);
    for rows in admitted.chunks(MOST_ROWS) {
        let reply = ask(&store, rows).await.unwrap();
        let replayed = |it: &AdmissionVerdict| {
            matches!(
                it,
                AdmissionVerdict::Guarded { .. } | AdmissionVerdict::Replayed { .. }
            )
        };
        assert!(reply.verdicts.iter().all(replayed), "{:?}", reply.verdicts);
    }
    guard_ends().await;
    assert_eq!(admitted_twice(&store, &admitted).await, 0);
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_server_killed_and_started_again_needs_no_guard() {
    if postgres::is_missing() {
        return;
    }
    let (mut server, store) = ready().await;
    let admitted = admit_many(&store, 2).await;
    store.beat(&beat()).await.unwrap();
    server.kill();
    let answer = ask(&store, &[row()]).await;
    assert!(
        matches!(
            answer,
            Err(StoreError::Lost(_) | StoreError::Unreachable(_))
        ),
        "{answer:?}"
    );
    server.start_again();
    assert!(!until_it_answers(&store).await);
    assert_eq!(admitted_twice(&store, &admitted).await, 0);
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn an_instance_without_memory_guards_a_start_that_no_other_has_confirmed() {
    if postgres::is_missing() {
        return;
    }
    let (mut server, first) = ready().await;
    first.beat(&beat()).await.unwrap();
    // A start that the first instance knows: the second needs no guard.
    server.stop();
    server.start_again();
    assert!(!until_it_answers(&first).await);
    assert!(!until_it_answers(&store(&[server.port])).await);
    // One that no instance knows.
    server.stop();
    server.start_again();
    assert!(until_it_answers(&store(&[server.port])).await);
}

#[tokio::test]
async fn a_data_directory_put_back_is_recognized() {
    if postgres::is_missing() {
        return;
    }
    for grown in [false, true] {
        let (mut server, store) = ready().await;
        let kept = admit_many(&store, 1).await;
        store.beat(&beat()).await.unwrap();
        server.stop();
        server.save("snapshot");
        server.start_again();
        assert!(!until_it_answers(&store).await);
        let lost = admit_many(&store, 1).await;
        server.kill();
        server.restore("snapshot");
        server.start_again();
        if grown {
            // The log passes the position that was seen: the missing stamp still tells.
            let seen = store.contact().unwrap().position;
            until("the log has grown", || {
                server.sql("SELECT pg_logical_emit_message(true, '', repeat('x', 100000))");
                server.sql(&format!(
                    "SELECT pg_current_wal_flush_lsn() - '0/0' > {seen}"
                )) == "t"
            });
        }
        assert!(until_it_answers(&store).await, "grown: {grown}");
        assert_eq!(admitted_twice(&store, &lost).await, 0);
        guard_ends().await;
        assert_eq!(
            admitted_twice(&store, &lost).await + admitted_twice(&store, &kept).await,
            0
        );
        assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
    }
}

#[tokio::test]
async fn an_idle_instance_does_not_confirm_a_data_directory_put_back() {
    if postgres::is_missing() {
        return;
    }
    let (mut server, idle) = ready().await;
    let busy = store(&[server.port]);
    busy.join(&introduction(2)).await.unwrap();
    server.stop();
    server.save("snapshot");
    server.start_again();
    assert!(!rejoins(&idle, 1).await);
    rejoins(&busy, 2).await;
    let lost = admit_many(&busy, 1).await;
    assert!(!rejoins(&idle, 1).await);
    server.kill();
    server.restore("snapshot");
    server.start_again();
    // The log passes the position that was seen, and the idle instance has no stamp that is missing.
    let seen = idle.contact().unwrap();
    assert_eq!(seen.stamp, None);
    until("the log has grown", || {
        server.sql("SELECT pg_logical_emit_message(true, '', repeat('x', 100000))");
        server.sql(&format!(
            "SELECT pg_current_wal_flush_lsn() - '0/0' > {}",
            seen.position
        )) == "t"
    });
    assert!(rejoins(&idle, 1).await);
    assert_eq!(admitted_twice(&idle, &lost).await, 0);
    guard_ends().await;
    assert_eq!(admitted_twice(&idle, &lost).await, 0);
}

/// Gives a sign of life, once the server has started. Returns whether a guard is in force.
pub(crate) async fn rejoins(store: &PostgresStore, id: i64) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_mins(1) {
        if let Ok(joined) = store.join(&introduction(id)).await {
            return joined.guarded_until > joined.now_ms;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the server does not answer");
}

#[tokio::test]
async fn a_contact_of_an_instance_that_left_misses_nothing() {
    if postgres::is_missing() {
        return;
    }
    let (server, first) = ready().await;
    let folder = tempfile::tempdir().unwrap();
    let contact_file = folder.path().join("contact");
    first.contact().unwrap().write(&contact_file).unwrap();
    first.leave().await.unwrap();
    let mut settings = settings(&[server.port]);
    settings.contact_file = Some(contact_file);
    let next = PostgresStore::new(&settings, TERMS).unwrap();
    next.join(&introduction(2)).await.unwrap();
    assert_eq!(verdict(&next, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_dump_in_a_fresh_server_is_recognized() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    let admitted = admit_many(&store, 1).await;
    let fresh = PgServer::start_with_another_identity();
    server.dump_into(&fresh);
    let restored = PostgresStore::new(&settings(&[fresh.port]), TERMS).unwrap();
    let reply = ask(&restored, &admitted).await.unwrap();
    assert!(reply.new_guard);
    guard_ends().await;
    assert_eq!(admitted_twice(&restored, &admitted).await, 0);
    assert_eq!(verdict(&restored, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_primary_that_became_read_only_is_left_for_the_new_one() {
    if postgres::is_missing() {
        return;
    }
    let (old, _) = ready().await;
    let new = old.standby(StandbyMode::Asynchronous);
    let store = store(&[old.port, new.port]);
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
    store.join(&introduction(2)).await.unwrap();
    new.promote();
    old.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    old.sql("SELECT pg_reload_conf()");
    until("it is read-only", || {
        old.sql("SHOW transaction_read_only") == "on"
    });
    assert!(matches!(
        ask(&store, &[row()]).await,
        Err(StoreError::ReadOnly)
    ));
    assert!(until_it_answers(&store).await);
    guard_ends().await;
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_store_is_distrusted_by_hand() {
    if postgres::is_missing() {
        return;
    }
    let (_server, store) = ready().await;
    let before = row();
    let guarded_until = store.distrust().await.unwrap();
    assert!(matches!(
        verdict(&store, &before).await,
        AdmissionVerdict::Guarded { .. }
    ));
    assert!(guarded_until >= before.stamp_ms + TERMS.guard_ms());
    guard_ends().await;
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
}
