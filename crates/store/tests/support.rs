//! A small language for tests of the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gatepay_store::admission::{AdmissionBatch, AdmissionReply, AdmissionRow, AdmissionVerdict};
use gatepay_store::error::StoreError;
use gatepay_store::instance::{InstanceBeat, InstanceIntroduction};
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::StoreTerms;
use tokio_postgres::{Client, NoTls};

pub(crate) use crate::cap_steps::text;
use crate::postgres::PgServer;
pub(crate) use crate::postgres::settings;
use crate::rows::money_row;

/// Short guards, so that tests can wait for their end.
pub(crate) const TERMS: StoreTerms = StoreTerms {
    future_ms: 300,
    max_skew_ms: 100,
    timeout: Duration::from_secs(5),
    failover: gatepay_store::settings::Failover::Guarded,
};

/// A runtime on this thread, for a property test, whose cases are synchronous.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A connection of the database's owner, for what a test does beside the store.
pub(crate) async fn connected(server: &PgServer) -> Client {
    let conninfo = settings(&[server.port]).conninfo;
    let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Waits until no store is connected. A connection reports its calls in parts while it lives, and the rest of them before it
/// leaves the list of connections.
pub(crate) async fn until_no_store_is_connected(server: &PgServer) {
    let connections =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gatepay-proxy'";
    let began = Instant::now();
    while server.sql(connections).trim() != "0" {
        assert!(began.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn store(ports: &[u16]) -> PostgresStore {
    PostgresStore::new(&settings(ports), TERMS).unwrap()
}

/// A migrated server, and a store that has joined, after its first guard.
pub(crate) async fn ready() -> (PgServer, PostgresStore) {
    let server = PgServer::migrated().await;
    let store = store(&[server.port]);
    let joined = store.join(&introduction(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(
        joined.guarded_until - joined.now_ms + 1,
    ))
    .await;
    (server, store)
}

pub(crate) fn introduction(id: i64) -> InstanceIntroduction {
    InstanceIntroduction {
        host: "machine".to_owned(),
        id,
        version: "1".to_owned(),
        config_hash: "c".to_owned(),
        past_ms: 300_000,
        uncovered: false,
    }
}

pub(crate) fn beat() -> InstanceBeat {
    InstanceBeat {
        config_hash: "c".to_owned(),
        journal_head: None,
        halt_epoch: 0,
        bodyless: false,
        known_halts: Vec::new(),
    }
}

/// A script that sets the server's clock, with the store's time the same, however the clock is set. Nothing else measures the
/// time that a test's clock tells.
pub(crate) fn timed(script: &str) -> String {
    format!(
        "{script};
        CREATE OR REPLACE FUNCTION gatepay.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT gatepay.wall_ms()';
        CREATE OR REPLACE FUNCTION gatepay.deleting_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT gatepay.wall_ms()';
        CREATE OR REPLACE FUNCTION gatepay.tick_clock(n_wall bigint, n_steady bigint, n_silent bigint)
            RETURNS boolean LANGUAGE sql VOLATILE AS
            'INSERT INTO gatepay.store_clock (wall, steady) VALUES (0, 0) ON CONFLICT DO NOTHING; SELECT true'"
    )
}

pub(crate) fn now_ms() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// A row with a stamp that no other row has, made at this time.
pub(crate) fn row_at(stamp_ms: u64) -> AdmissionRow {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut stamp = [0; 16];
    stamp[..8].copy_from_slice(&number.to_be_bytes());
    stamp[8..].copy_from_slice(&stamp_ms.to_be_bytes());
    money_row(stamp, stamp_ms)
}

pub(crate) fn row() -> AdmissionRow {
    row_at(now_ms())
}

pub(crate) fn batch(rows: &[AdmissionRow]) -> AdmissionBatch {
    let mut batch = AdmissionBatch::default();
    for row in rows {
        batch.push(row.clone()).unwrap();
    }
    batch
}

pub(crate) async fn ask(
    store: &PostgresStore,
    rows: &[AdmissionRow],
) -> Result<AdmissionReply, StoreError> {
    store.admit(&batch(rows)).await
}

pub(crate) async fn verdict(store: &PostgresStore, row: &AdmissionRow) -> AdmissionVerdict {
    let reply = ask(store, std::slice::from_ref(row)).await.unwrap();
    reply.verdicts.into_iter().next().unwrap()
}
