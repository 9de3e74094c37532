//! Another database in the place of the one that was joined, an old one that was put back, and a clock that steps.

use gatepay_store::admission::{AdmissionVerdict, HaltScope};
use gatepay_store::error::StoreError;

use crate::failover::guard_ends;
use crate::postgres;
use crate::support::{TERMS, ask, beat, introduction, ready, row, settings, store, verdict};

#[tokio::test]
async fn an_instance_that_joined_a_database_uses_no_other_in_its_place() {
    if postgres::is_missing() {
        return;
    }
    let (server, first) = ready().await;
    first.beat(&beat()).await.unwrap();
    // Made anew: it has no rows, and its fingerprints another key.
    server.sql("DROP SCHEMA gatepay CASCADE");
    assert!(first.beat(&beat()).await.is_err());
    store(&[server.port]).migrate(None).await.unwrap();
    let replaced = first.beat(&beat()).await;
    assert!(
        matches!(replaced, Err(StoreError::Replaced)),
        "{replaced:?}"
    );
    // It gives no sign of life, so that no halt waits for it.
    assert_eq!(server.sql("SELECT count(*) FROM gatepay.instance"), "0");
    // What it asks meanwhile is guarded, longer than until its next sign of life.
    let asked = ask(&first, &[row()]).await.unwrap();
    assert!(matches!(
        asked.verdicts[0],
        AdmissionVerdict::Guarded { .. }
    ));
    // A restart joins the new one.
    let again = store(&[server.port]);
    again.join(&introduction(2)).await.unwrap();
    again.beat(&beat()).await.unwrap();
}

#[tokio::test]
async fn a_start_long_after_the_last_sign_of_life_is_guarded_whoever_is_there_first() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    store.beat(&beat()).await.unwrap();
    // As a copy that was put back has it, with an instance whose last contact is in the copy.
    let identity = server.sql("SELECT pg_get_functiondef('gatepay.identity'::regproc)");
    for (after_s, guards) in [(5, false), (15, true)] {
        let later = format!("* 1000000 + {after_s}000000)");
        server.sql(&identity.replace("* 1000000)", &later));
        let reply = ask(&store, &[row()]).await.unwrap();
        assert_eq!(reply.new_guard, guards, "{after_s} s");
    }
    guard_ends().await;
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn after_a_step_of_the_servers_clock_the_other_instances_are_still_listed() {
    if postgres::is_missing() {
        return;
    }
    let (server, first) = ready().await;
    let other = store(&[server.port]);
    other.join(&introduction(2)).await.unwrap();
    first.beat(&beat()).await.unwrap();
    server.sql(
        "CREATE OR REPLACE FUNCTION gatepay.wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
            SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + 3600000 $$",
    );
    let view = first.beat(&beat()).await.unwrap();
    let listed = view.instances.iter().chain(&view.gone).map(|it| it.id);
    assert_eq!(listed.collect::<Vec<_>>(), [1, 2]);
    // So a halt waits for it.
    first.halt(&HaltScope::All, "alice").await.unwrap();
    let view = first.cluster().await.unwrap();
    let mut listed = view.instances.iter().chain(&view.gone);
    assert!(listed.any(|it| it.id == 2), "{view:?}");
}

#[tokio::test]
async fn slots_of_a_time_that_never_came_are_used_again_after_a_distrust() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    server.sql("UPDATE gatepay.slot SET slice = slice + 100000000");
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Forgotten);
    store.distrust().await.unwrap();
    guard_ends().await;
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_database_in_an_encoding_that_cannot_write_every_text_is_refused() {
    if postgres::is_missing() {
        return;
    }
    let (server, _store) = ready().await;
    server.sql(
        "CREATE DATABASE narrow ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    let mut narrow = settings(&[server.port]);
    narrow.conninfo = narrow.conninfo.replace("dbname=postgres", "dbname=narrow");
    let narrow = gatepay_store::postgres::PostgresStore::new(&narrow, TERMS).unwrap();
    let refused = narrow.migrate(None).await.unwrap_err().to_string();
    assert!(refused.contains("LATIN1"), "{refused}");
}
