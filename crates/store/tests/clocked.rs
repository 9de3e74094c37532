//! A server with a clock that the test sets.

use std::time::Duration;

use gatepay_store::engine::Store;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::{Failover, StoreTerms};
use tokio_postgres::Client;

use crate::cap_steps::START_MS;
use crate::postgres::PgServer;
use crate::support::{connected, introduction, settings, timed};

/// Calls wait for a slow machine.
pub(crate) const TERMS: StoreTerms = StoreTerms {
    future_ms: 300,
    max_skew_ms: 100,
    timeout: Duration::from_mins(1),
    failover: Failover::Lossless,
};

const EMPTY: &str =
    "TRUNCATE gatepay.life, gatepay.instance, gatepay.stamp, gatepay.spend, gatepay.spend_attempt,
        gatepay.spend_failure, gatepay.meter, gatepay.cap_rule, gatepay.cap_claim,
        gatepay.cap_raise_signature, gatepay.cap_midnight, gatepay.cap_delay,
        gatepay.approval, gatepay.approval_signature, gatepay.approver_rule, gatepay.owner;
    UPDATE gatepay.slot SET slice = 0, filling = true";

/// A server with a clock that the test sets.
pub(crate) struct Clocked {
    pub(crate) server: PgServer,
    pub(crate) admin: Client,
}

impl Clocked {
    pub(crate) async fn start() -> Self {
        let server = PgServer::migrated().await;
        let admin = connected(&server).await;
        let faked = "CREATE TABLE gatepay.clock (now bigint); INSERT INTO gatepay.clock VALUES (0);
            CREATE OR REPLACE FUNCTION gatepay.wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
                'SELECT now FROM gatepay.clock'";
        admin.batch_execute(&timed(faked)).await.unwrap();
        Self { server, admin }
    }

    pub(crate) async fn set(&self, now_ms: u64) {
        let set = format!("UPDATE gatepay.clock SET now = {now_ms}");
        self.admin.batch_execute(&set).await.unwrap();
    }

    /// Instances that joined an empty store at [`START_MS`]; their ids count from 1.
    pub(crate) async fn instances(&self, number: i64) -> Vec<Store> {
        self.admin.batch_execute(EMPTY).await.unwrap();
        self.set(START_MS).await;
        let mut stores = Vec::new();
        for id in 1..=number {
            let store = PostgresStore::new(&settings(&[self.server.port]), TERMS).unwrap();
            store.join(&introduction(id)).await.unwrap();
            stores.push(Store::Postgres(Box::new(store)));
        }
        stores
    }
}
