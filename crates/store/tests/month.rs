//! A month by the store's clock: the slots of stamps turn, nonces leave, and no table grows.

use gatepay_store::admission::{AdmissionRow, AdmissionVerdict};
use gatepay_store::limits::{DemandReport, TenantDemand};
use gatepay_store::postgres::PostgresStore;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

use crate::postgres::{self, PgServer};
use crate::support::{ask, beat, connected, introduction, row_at, store, timed, verdict};

const MINUTE: u64 = 60_000;
/// When the month begins, in milliseconds since 1970.
const BEGIN: u64 = 1_767_225_600_000;
/// Stamps in an hour.
const STAMPS: i64 = 4 * 60;
/// Nonces in an hour. Those that have left are dead rows until the next vacuum, an hour later at most. The server's count
/// of dead rows runs some seconds late, so that it may show the hour before once more.
const NONCES: i64 = 60;

/// Dead rows of the tables of limits: each of the three that an exchange writes is rewritten above 5,000, and the server counts
/// some seconds later.
const MOST_DEAD_LIMITS: i64 = 45_000;

/// A server with a clock that the test sets, and an instance.
struct Month {
    server: PgServer,
    store: PostgresStore,
    client: Client,
    now_ms: u64,
    /// Rows of the last minutes, the newest last.
    recent: Vec<AdmissionRow>,
    asked: i64,
}

impl Month {
    async fn begin() -> Self {
        let server = PgServer::migrated().await;
        server.sql(&timed(&format!(
            "CREATE SEQUENCE public.clock;
            SELECT setval('public.clock', {BEGIN});
            CREATE OR REPLACE FUNCTION gatepay.wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
                $$ SELECT last_value FROM public.clock $$"
        )));
        let store = store(&[server.port]);
        store.join(&introduction(1)).await.unwrap();
        let client = connected(&server).await;
        Self {
            server,
            store,
            client,
            now_ms: BEGIN,
            recent: Vec::new(),
            asked: 0,
        }
    }

    /// Moves the clock by a minute. An instance does in it what it does in a minute: it admits, refuses copies, and looks
    /// after the slots.
    async fn minute(&mut self) {
        self.now_ms += MINUTE;
        self.set_clock().await;
        self.store.beat(&beat()).await.unwrap();
        // Another reader of the partition, such as a dump, is no fault.
        let kept = self.store.upkeep().await;
        assert!(kept.is_ok() || self.is_dumping().await, "{kept:?}");
        let mut rows: Vec<_> = [0, 1, 70_000, 299_000]
            .map(|age| row_at(self.now_ms - age))
            .into();
        rows[0].nonce = Some(rows[0].stamp.map(|byte| !byte));
        let reply = ask(&self.store, &rows).await.unwrap();
        for (row, verdict) in rows.iter().zip(&reply.verdicts) {
            let is_old =
                *verdict == AdmissionVerdict::Forgotten || self.now_ms < BEGIN + 6 * MINUTE;
            assert!(
                *verdict == AdmissionVerdict::Admitted || is_old,
                "{row:?}: {verdict:?}"
            );
        }
        self.recent.extend(rows);
        // All but the oldest are within the window, whatever slots have turned since.
        self.recent
            .retain(|row| row.stamp_ms + 300_000 > self.now_ms);
        let again =
            &self.recent[usize::try_from(self.now_ms / MINUTE).unwrap() % self.recent.len()];
        let verdict = verdict(&self.store, again).await;
        assert_ne!(verdict, AdmissionVerdict::Admitted, "{again:?}");
    }

    async fn set_clock(&self) {
        let set = format!("SELECT setval('public.clock', {})", self.now_ms);
        self.client.batch_execute(&set).await.unwrap();
    }

    async fn is_dumping(&self) -> bool {
        let locks = "SELECT FROM pg_locks WHERE mode = 'AccessShareLock' AND relation = 'gatepay.stamp_0'::regclass";
        !self.client.query(locks, &[]).await.unwrap().is_empty()
    }

    /// An exchange about one tenant's demand, and how long it takes.
    async fn exchange(&mut self) -> Duration {
        self.asked += 1;
        let tenant = TenantDemand {
            tenant: Arc::from("acme"),
            weight: 1.0,
            asked: 10.0,
        };
        let report = DemandReport {
            instance: 1,
            number: self.asked,
            applied: self.asked - 1,
            rate: 100.0,
            burst: 100.0,
            tenants: vec![tenant],
            ..DemandReport::default()
        };
        let began = Instant::now();
        self.store.exchange(&report).await.unwrap();
        began.elapsed()
    }

    /// Dead rows of the tables of limits.
    async fn dead_limits(&self) -> i64 {
        let dead = "SELECT sum(s.n_dead_tup)::bigint FROM pg_stat_user_tables AS s
            WHERE s.relname ~ '^(limit_|lease|bucket|stock|seat)'";
        self.client.query_one(dead, &[]).await.unwrap().get(0)
    }

    /// What autovacuum does each minute, of which a month has 43,200.
    async fn vacuum(&self) {
        self.client.batch_execute("VACUUM").await.unwrap();
    }

    /// The bytes of all tables and indices.
    async fn bytes(&self) -> i64 {
        let sum = "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c
            WHERE c.relnamespace = 'gatepay'::regnamespace AND c.relkind = 'r'";
        self.client.query_one(sum, &[]).await.unwrap().get(0)
    }

    /// The stamps and nonces that are kept, the dead rows of the slots, and those of the nonces.
    async fn rows(&self) -> [i64; 3] {
        let rows =
            "SELECT (SELECT count(*) FROM gatepay.stamp) + (SELECT count(*) FROM gatepay.nonce),
            sum(s.n_dead_tup) FILTER (WHERE s.relname LIKE 'stamp%')::bigint,
            sum(s.n_dead_tup) FILTER (WHERE s.relname = 'nonce')::bigint
            FROM pg_stat_user_tables AS s WHERE s.schemaname = 'gatepay'";
        let row = self.client.query_one(rows, &[]).await.unwrap();
        [row.get(0), row.get(1), row.get(2)]
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Lets so many hours pass. In the third a transaction stays open that sees the tables as they were, and in the fifth one
/// that holds the lock of a dump.
async fn pass(hours: u64, exchanges_a_minute: u32) {
    let mut month = Month::begin().await;
    let reader = connected(&month.server).await;
    let (mut bytes, mut most) = (Vec::new(), [0, 0]);
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for hour in 0..hours {
        match hour {
            2 => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM gatepay.life";
                reader.batch_execute(begin).await.unwrap();
            }
            4 => {
                let begin = "BEGIN; LOCK TABLE gatepay.stamp IN ACCESS SHARE MODE";
                reader.batch_execute(begin).await.unwrap();
            }
            _ => {}
        }
        for _ in 0..60 {
            month.minute().await;
            if hour < 3 {
                for number in 0..exchanges_a_minute {
                    let took = month.exchange().await;
                    times[usize::from(hour == 2)].push(took);
                    // As in a second of four instances.
                    if number % 20 == 0 {
                        month.store.upkeep().await.unwrap();
                    }
                }
            }
            assert!(month.dead_limits().await < MOST_DEAD_LIMITS);
        }
        let [rows, dead, nonces] = month.rows().await;
        // While a dump is read no slot is emptied.
        assert!(rows <= STAMPS + 2 * NONCES, "hour {hour}: {rows} rows");
        most = [most[0].max(dead), most[1].max(nonces)];
        if matches!(hour, 2 | 4) {
            reader.batch_execute("COMMIT").await.unwrap();
        }
        month.vacuum().await;
        bytes.push(month.bytes().await);
    }
    let [before, mut held] = times;
    let held = held.split_off(held.len() * 9 / 10);
    let last = bytes.len() - 1;
    eprintln!(
        "{hours} hours: {} KiB after the first, {} KiB at the end, {} KiB at most; dead rows at most: {} of stamps, {} of nonces; \
         an exchange {:?}, at the end of an hour with an open transaction {:?}",
        bytes[0] / 1024,
        bytes[last] / 1024,
        bytes.iter().max().unwrap() / 1024,
        most[0],
        most[1],
        median(before),
        median(held),
    );
    assert!(most[0] <= STAMPS / 20 && most[1] <= 4 * NONCES, "{most:?}");
    assert!(bytes[last] <= bytes[0] * 3 / 2, "{bytes:?}");
}

#[tokio::test]
async fn in_some_hours_of_the_stores_clock_no_table_grows() {
    if !postgres::is_missing() {
        pass(8, 1).await;
    }
}

#[tokio::test]
#[ignore = "takes minutes: a month, with an hour of four instances' exchanges beside an open transaction"]
async fn in_a_month_of_the_stores_clock_no_table_grows() {
    if !postgres::is_missing() {
        pass(30 * 24, 1_200).await;
    }
}
