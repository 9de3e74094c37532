//! Verdicts, halts, guards and the ring of one server.

use gatepay_core::Kind;
use gatepay_store::admission::{AdmissionVerdict, HaltScope, LedgerIntent};
use gatepay_store::error::StoreError;
use gatepay_store::instance::{InstanceIntroduction, ResumeResult};
use gatepay_store::postgres::PostgresStore;

use crate::postgres;
use crate::support::{
    TERMS, ask, beat, introduction, now_ms, ready, row, row_at, settings, store, text, verdict,
};

#[tokio::test]
async fn a_stamp_is_admitted_once_on_any_connection() {
    if postgres::is_missing() {
        return;
    }
    let (server, first) = ready().await;
    let second = store(&[server.port]);
    let rows = [row(), row(), row()];
    let reply = ask(&first, &rows).await.unwrap();
    assert_eq!(reply.verdicts, [const { AdmissionVerdict::Admitted }; 3]);
    let admitted_ms = reply.now_ms;
    for store in [&first, &second] {
        let again = ask(store, &rows[1..]).await.unwrap();
        assert_eq!(
            again.verdicts,
            vec![AdmissionVerdict::Replayed { admitted_ms }; 2]
        );
        assert!(!again.new_guard);
    }
}

#[tokio::test]
async fn the_first_life_is_guarded() {
    if postgres::is_missing() {
        return;
    }
    let server = postgres::PgServer::start();
    let store = store(&[server.port]);
    assert!(matches!(
        store.join(&introduction(1)).await,
        Err(StoreError::NotMigrated)
    ));
    store.migrate(None).await.unwrap();
    let early = row();
    let reply = ask(&store, std::slice::from_ref(&early)).await.unwrap();
    assert!(reply.new_guard);
    assert_eq!(reply.guarded_until, reply.now_ms.max(reply.guarded_until));
    assert!(matches!(reply.verdicts[0], AdmissionVerdict::Guarded { wait_ms } if wait_ms >= 400));
    // A second migration lifts nothing.
    store.migrate(None).await.unwrap();
    assert!(matches!(
        verdict(&store, &early).await,
        AdmissionVerdict::Guarded { .. }
    ));
    tokio::time::sleep(std::time::Duration::from_millis(450)).await;
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
    assert!(matches!(
        verdict(&store, &early).await,
        AdmissionVerdict::Guarded { .. }
    ));
}

#[tokio::test]
async fn a_halt_stops_what_it_covers_and_a_recorded_stamp_stays_replayed() {
    if postgres::is_missing() {
        return;
    }
    let (_server, store) = ready().await;
    let before = row();
    assert_eq!(verdict(&store, &before).await, AdmissionVerdict::Admitted);
    let (mut money, read) = (
        row(),
        gatepay_store::admission::AdmissionRow {
            kind: Kind::Read,
            ..row()
        },
    );
    for scope in [
        HaltScope::Money,
        HaltScope::Module("payout".to_owned()),
        HaltScope::Party("acme".to_owned()),
    ] {
        let epoch = store.halt(&scope, "operator").await.unwrap();
        money = row();
        assert_eq!(
            verdict(&store, &money).await,
            AdmissionVerdict::Halted(scope.clone())
        );
        assert!(matches!(
            verdict(&store, &before).await,
            AdmissionVerdict::Replayed { .. }
        ));
        let read = gatepay_store::admission::AdmissionRow {
            kind: Kind::Read,
            ..row()
        };
        assert_eq!(verdict(&store, &read).await, AdmissionVerdict::Admitted);
        store.resume(&scope, epoch).await.unwrap();
    }
    for scope in [HaltScope::All, HaltScope::Suspended("acme".to_owned())] {
        let epoch = store.halt(&scope, "operator").await.unwrap();
        assert_eq!(
            verdict(&store, &read).await,
            AdmissionVerdict::Halted(scope.clone())
        );
        store.resume(&scope, epoch).await.unwrap();
    }
    store
        .halt(&HaltScope::Party("other".to_owned()), "operator")
        .await
        .unwrap();
    let view = store.beat(&beat()).await.unwrap();
    assert_eq!(view.halts.len(), 1);
    assert_eq!(view.instances.len(), 1);
    // The stamp of a halted write is spent, so that no copy is executed after the halt; that of a read is not.
    assert!(matches!(
        verdict(&store, &money).await,
        AdmissionVerdict::Replayed { .. }
    ));
    assert_eq!(verdict(&store, &read).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_stamp_beyond_the_stores_clock_and_one_from_long_ago_are_refused() {
    if postgres::is_missing() {
        return;
    }
    let (_server, store) = ready().await;
    let ahead = verdict(&store, &row_at(now_ms() + 60_000)).await;
    assert!(
        matches!(ahead, AdmissionVerdict::Premature { ahead_ms } if (59_000..60_000).contains(&ahead_ms))
    );
    // Recorded nowhere, and older than the guard.
    assert!(matches!(
        verdict(&store, &row_at(1)).await,
        AdmissionVerdict::Guarded { .. }
    ));
}

#[tokio::test]
async fn a_nonce_is_used_once_with_any_timestamp() {
    if postgres::is_missing() {
        return;
    }
    let (_server, store) = ready().await;
    let with = |nonce: u8| gatepay_store::admission::AdmissionRow {
        nonce: Some([nonce; 16]),
        ..row()
    };
    let [first, second, other] = [with(1), with(1), with(2)];
    let reply = ask(&store, &[first.clone(), other]).await.unwrap();
    assert_eq!(reply.verdicts, [const { AdmissionVerdict::Admitted }; 2]);
    let admitted_ms = reply.now_ms;
    assert_eq!(
        verdict(&store, &second).await,
        AdmissionVerdict::NonceReplayed { admitted_ms }
    );
    assert_eq!(
        verdict(&store, &first).await,
        AdmissionVerdict::Replayed { admitted_ms }
    );
}

#[tokio::test]
async fn a_copy_of_a_halted_write_uses_up_no_nonce() {
    if postgres::is_missing() {
        return;
    }
    let (_server, store) = ready().await;
    let with = |nonce| gatepay_store::admission::AdmissionRow {
        kind: Kind::Money,
        nonce: Some(nonce),
        ..row()
    };
    let [halted, later] = [with([1; 16]), with([1; 16])];
    let epoch = store.halt(&HaltScope::Money, "operator").await.unwrap();
    assert_eq!(
        verdict(&store, &halted).await,
        AdmissionVerdict::Halted(HaltScope::Money)
    );
    store.resume(&HaltScope::Money, epoch).await.unwrap();
    assert!(matches!(
        verdict(&store, &halted).await,
        AdmissionVerdict::Replayed { .. }
    ));
    assert_eq!(verdict(&store, &later).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn the_ledger_remembers_what_was_admitted_and_nothing_else() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    let with = |key: &str| {
        let mut row = row();
        row.intents.push(LedgerIntent {
            key_kind: "merchant_batch_no",
            key: text(key),
            currency: Some(text("USDT")),
        });
        row
    };
    let first = with("a");
    assert_eq!(verdict(&store, &first).await, AdmissionVerdict::Admitted);
    let reply = ask(
        &store,
        &[first, with("b"), row_at(now_ms() + 60_000), with("a")],
    )
    .await
    .unwrap();
    assert!(matches!(
        reply.verdicts[..],
        [
            AdmissionVerdict::Replayed { .. },
            AdmissionVerdict::Admitted,
            AdmissionVerdict::Premature { .. },
            AdmissionVerdict::Admitted
        ]
    ));
    let rows = server.sql("SELECT kind, key, tenant, account, currency, operation, source FROM gatepay.owner ORDER BY key");
    assert_eq!(
        rows,
        "merchant_batch_no|a|acme|100|USDT|create_payout|call\nmerchant_batch_no|b|acme|100|USDT|create_payout|call"
    );
}

#[tokio::test]
async fn a_resume_ends_no_halt_that_was_ordered_once_more() {
    if postgres::is_missing() {
        return;
    }
    let (_server, store) = ready().await;
    let scope = HaltScope::Suspended("acme".to_owned());
    let first = store.halt(&scope, "a").await.unwrap();
    let second = store.halt(&scope, "b").await.unwrap();
    assert_eq!(
        store.resume(&scope, first).await.unwrap(),
        ResumeResult::SuspendedAgain
    );
    let view = store.cluster().await.unwrap();
    assert_eq!((view.halts.len(), view.halts[0].epoch), (1, second));
    for _ in 0..2 {
        let resumed = store.resume(&scope, second).await.unwrap();
        assert!(matches!(resumed, ResumeResult::Resumed { epoch } if epoch > second));
    }
    assert!(store.cluster().await.unwrap().halts.is_empty());
}

#[tokio::test]
async fn the_epoch_of_a_halt_in_a_lost_life_does_not_come_again() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    let scope = HaltScope::Money;
    let lost = store.halt(&scope, "a").await.unwrap();
    server.sql("DELETE FROM gatepay.halt");
    server.sql("UPDATE gatepay.cluster SET halt_epoch = 0");
    assert!(store.halt(&scope, "a").await.unwrap() > lost);
}

#[tokio::test]
async fn an_instance_that_served_without_the_store_sets_a_guard_as_it_joins() {
    if postgres::is_missing() {
        return;
    }
    let (server, first) = ready().await;
    let early = row();
    let second = store(&[server.port]);
    let uncovered = InstanceIntroduction {
        uncovered: true,
        ..introduction(2)
    };
    let joined = second.join(&uncovered).await.unwrap();
    assert!(joined.guarded_until >= joined.now_ms + TERMS.guard_ms());
    assert!(matches!(
        verdict(&first, &early).await,
        AdmissionVerdict::Guarded { .. }
    ));
    // A sign of life sets no other one.
    let view = second.beat(&beat()).await.unwrap();
    assert_eq!(view.guarded_until, joined.guarded_until);
}

#[tokio::test]
async fn a_guard_is_as_long_as_any_instance_needs() {
    if postgres::is_missing() {
        return;
    }
    let (server, short) = ready().await;
    let mut terms = TERMS;
    terms.future_ms = 60_000;
    let long = PostgresStore::new(&settings(&[server.port]), terms).unwrap();
    let joined = long.join(&introduction(2)).await.unwrap();
    assert!(
        joined.guarded_until < joined.now_ms,
        "the first guard is over"
    );
    server.sql("DELETE FROM gatepay.life");
    let ahead = row_at(now_ms() + 50_000);
    assert!(ask(&short, &[row()]).await.unwrap().new_guard);
    assert!(matches!(
        verdict(&long, &ahead).await,
        AdmissionVerdict::Guarded { .. }
    ));
    let guarded_until = short.distrust().await.unwrap();
    assert!(guarded_until >= now_ms() + 55_000, "{guarded_until}");
    // Without instances the operator's own terms count again.
    server.sql("DELETE FROM gatepay.instance");
    short.distrust().await.unwrap();
    assert_eq!(
        server.sql("SELECT guard_ms FROM gatepay.cluster"),
        TERMS.guard_ms().to_string()
    );
}

#[tokio::test]
async fn a_guard_that_is_waited_for_grows_with_an_instance_that_needs_a_longer_one() {
    if postgres::is_missing() {
        return;
    }
    let (server, short) = ready().await;
    let before = short.distrust().await.unwrap();
    let mut terms = TERMS;
    terms.future_ms = 60_000;
    let long = PostgresStore::new(&settings(&[server.port]), terms).unwrap();
    let joined = long.join(&introduction(2)).await.unwrap();
    assert_eq!(
        joined.guarded_until,
        before + terms.guard_ms() - TERMS.guard_ms()
    );
}

#[tokio::test]
async fn a_write_without_a_body_is_refused_while_reads_go_on_without_the_store_and_shortly_after() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    let without = |kind| gatepay_store::admission::AdmissionRow {
        kind,
        has_body: false,
        ..row()
    };
    let mut signs = beat();
    for bodyless in [true, false] {
        signs.bodyless = bodyless;
        store.beat(&signs).await.unwrap();
        let [write, read] = [without(Kind::Write), without(Kind::Read)];
        let reply = ask(&store, &[write, read, row()]).await.unwrap();
        assert!(matches!(
            reply.verdicts[..],
            [
                AdmissionVerdict::Bodyless,
                AdmissionVerdict::Admitted,
                AdmissionVerdict::Admitted
            ]
        ));
    }
    server.sql("UPDATE gatepay.cluster SET bodyless_until = gatepay.now_ms() - 1");
    let write = without(Kind::Write);
    assert_eq!(verdict(&store, &write).await, AdmissionVerdict::Admitted);
    signs.bodyless = true;
    store.beat(&signs).await.unwrap();
    store.leave().await.unwrap();
    let write = without(Kind::Write);
    assert_eq!(verdict(&store, &write).await, AdmissionVerdict::Bodyless);
}
