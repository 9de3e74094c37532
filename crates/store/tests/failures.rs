//! Connections that break at every message, commits that fail or are local only, servers that stop answering.

use std::time::Duration;

use gatepay_store::admission::{AdmissionRow, AdmissionVerdict, LedgerIntent};
use gatepay_store::error::StoreError;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::StoreTerms;

use crate::failover::until_it_answers;
use crate::notified::cancel_the_wait;
use crate::postgres::{self, StandbyMode, until};
use crate::postgres_relay::{CutPoint, PgRelay};
use crate::support::{TERMS, ask, beat, ready, row, settings, store, text, verdict};

#[tokio::test]
async fn an_answer_that_is_cut_before_its_end_admits_nothing() {
    if postgres::is_missing() {
        return;
    }
    let (server, other) = ready().await;
    let relay = PgRelay::start(server.port);
    let store = store(&[relay.port]);
    for point in [
        CutPoint::AfterDataRow,
        CutPoint::AfterCommandComplete,
        CutPoint::BeforeReadyForQuery,
    ] {
        // The statement is prepared, so that the next answer is the verdict's.
        assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
        relay.cut(point);
        let lost = row();
        let answer = ask(&store, std::slice::from_ref(&lost)).await;
        assert!(relay.has_cut());
        assert!(
            matches!(answer, Err(StoreError::Lost(_))),
            "{point:?}: {answer:?}"
        );
        // The commit was made or not; a second copy is not admitted beside it.
        let again = verdict(&other, &lost).await;
        assert!(
            matches!(again, AdmissionVerdict::Replayed { .. }),
            "{point:?}: {again:?}"
        );
    }
}

#[tokio::test]
async fn a_commit_that_fails_after_the_rows_were_sent_admits_nothing() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    server.sql(
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'at commit' USING ERRCODE = 'GP001'; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON gatepay.owner
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fail()",
    );
    let intent = LedgerIntent {
        key_kind: "merchantTradeNo",
        key: text("1"),
        currency: None,
    };
    let row = AdmissionRow {
        intents: vec![intent],
        ..row()
    };
    let answer = ask(&store, std::slice::from_ref(&row)).await;
    assert!(
        matches!(answer, Err(StoreError::Refused { ref code, .. }) if code == "GP001"),
        "{answer:?}"
    );
    server.sql("DROP TRIGGER late ON gatepay.owner");
    assert_eq!(verdict(&store, &row).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_commit_that_is_only_local_admits_nothing() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    // As if the user's session hid the warning that tells.
    server.sql("ALTER USER postgres SET client_min_messages = 'error'");
    let store = store(&[server.port]);
    let standby = server.standby(StandbyMode::Synchronous);
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
    standby.pause();
    let local = row();
    let asked = ask(&store, std::slice::from_ref(&local));
    let (answer, _server) = tokio::join!(asked, cancel_the_wait(server));
    assert!(matches!(answer, Err(StoreError::Noticed(_))), "{answer:?}");
    standby.resume();
}

#[tokio::test]
async fn a_warning_at_the_login_does_not_make_the_store_unusable() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    // As after an upgrade of the C library.
    server.sql("UPDATE pg_database SET datcollversion = '1.0' WHERE datname = 'postgres'");
    let store = store(&[server.port]);
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_server_that_stands_still_is_given_up_in_time_and_the_next_call_connects_anew() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    let relay = PgRelay::start(server.port);
    let terms = StoreTerms {
        timeout: Duration::from_millis(500),
        ..TERMS
    };
    let store = PostgresStore::new(&settings(&[relay.port]), terms).unwrap();
    until_it_answers(&store).await;
    relay.hold(true);
    for _ in 0..2 {
        // The relay holds the answer for ever.
        let answer = tokio::time::timeout(Duration::from_mins(1), ask(&store, &[row()])).await;
        assert!(
            matches!(answer, Ok(Err(StoreError::TimedOut(500)))),
            "{answer:?}"
        );
    }
    relay.hold(false);
    until_it_answers(&store).await;
}

#[tokio::test]
async fn a_setting_that_is_changed_while_an_instance_serves_fails_its_signs_of_life_until_it_is_undone()
 {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    store.beat(&beat()).await.unwrap();
    for (setting, value) in [
        ("synchronous_commit", "local"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
    ] {
        server.sql(&format!("ALTER SYSTEM SET {setting} = {value}"));
        server.sql("SELECT pg_reload_conf()");
        until("the setting is in force", || {
            server.sql(&format!("SHOW {setting}")) == value
        });
        let answer = store.beat(&beat()).await;
        assert!(
            matches!(answer, Err(StoreError::Unsafe(ref text)) if text.starts_with(setting)),
            "{answer:?}"
        );
        server.sql(&format!("ALTER SYSTEM RESET {setting}"));
        server.sql("SELECT pg_reload_conf()");
        until("the setting is undone", || {
            server.sql(&format!("SHOW {setting}")) == "on"
        });
        store.beat(&beat()).await.unwrap();
    }
}

#[tokio::test]
async fn admission_lines_that_broke_while_they_were_idle_are_replaced_before_the_next_batch() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
    server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gatepay-proxy'",
    );
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    // Its own line broke as well.
    let _broken = store.upkeep().await;
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_server_that_may_lose_commits_by_its_settings_is_refused() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    for (setting, value) in [
        ("synchronous_commit", "off"),
        ("synchronous_commit", "local"),
        ("fsync", "off"),
    ] {
        server.sql(&format!("ALTER SYSTEM SET {setting} = {value}"));
        server.sql("SELECT pg_reload_conf()");
        until("the setting is in force", || {
            server.sql(&format!("SHOW {setting}")) == value
        });
        let answer = ask(&store(&[server.port]), &[row()]).await;
        assert!(
            matches!(answer, Err(StoreError::Unsafe(ref text)) if text.starts_with(setting)),
            "{answer:?}"
        );
        server.sql(&format!("ALTER SYSTEM RESET {setting}"));
        server.sql("SELECT pg_reload_conf()");
        until("the setting is undone", || {
            server.sql(&format!("SHOW {setting}")) == "on"
        });
    }
    assert_eq!(
        verdict(&store(&[server.port]), &row()).await,
        AdmissionVerdict::Admitted
    );
}
