//! Upkeep of statements: rows to forget, and calls to ask GatePay about, are found without reading what is kept, a limited
//! number of rows each time.

use gatepay_store::engine::Store;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::StoreTerms;
use gatepay_store::statement::usage_flush::{DayBounds, UsageFlush};

use crate::postgres::{self, PgServer};
use crate::support::{connected, introduction, now_ms, settings, until_no_store_is_connected};

const DAY_MS: u64 = 86_400_000;

#[tokio::test]
async fn the_first_flush_of_a_day_reads_no_counts_of_other_days() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let settings = settings(&[server.port]);
    let admin = connected(&server).await;
    // The counts of forty days of 500 tenants, half of them of days that are forgotten.
    let filled = "INSERT INTO gatepay.usage_day
        SELECT current_date - 20 + n, (extract(epoch FROM current_date - 20 + n) * 1000)::bigint,
            (extract(epoch FROM current_date - 19 + n) * 1000)::bigint FROM generate_series(0, 18) AS n;
        INSERT INTO gatepay.usage_count
        SELECT current_date - 40 + n / 500, 'tenant' || n % 500, n % 500, 'create_payout', o, 1
        FROM generate_series(0, 19999) AS n, unnest(ARRAY['ok', 'refused', 'failed', 'lost']) AS o;
        INSERT INTO gatepay.usage_peak
        SELECT current_date - 40 + n / 500, 'tenant' || n % 500, n % 500, 1, 1 FROM generate_series(0, 19999) AS n;
        INSERT INTO gatepay.usage_second
        SELECT 'tenant' || n % 500, n % 500, floor(extract(epoch FROM clock_timestamp())) + 60 + n / 500, 1
        FROM generate_series(0, 19999) AS n;
        ANALYZE";
    admin.batch_execute(filled).await.unwrap();
    let read = "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_user_tables
        WHERE relname IN ('usage_count', 'usage_peak', 'usage_second')";
    let before: i64 = admin.query_one(read, &[]).await.unwrap().get(0);
    let store = PostgresStore::new(&settings, StoreTerms::default()).unwrap();
    store.join(&introduction(1)).await.unwrap();
    let store = Store::Postgres(Box::new(store));
    let begins_ms = now_ms() / DAY_MS * DAY_MS;
    let date: String = admin
        .query_one("SELECT current_date::text", &[])
        .await
        .unwrap()
        .get(0);
    let flush = UsageFlush {
        instance: 1,
        number: 1,
        is_last: false,
        days: vec![DayBounds {
            date,
            begins_ms,
            ends_ms: begins_ms + 2 * DAY_MS,
        }],
        counts: Vec::new(),
        seconds: Vec::new(),
    };
    store.flush_usage(&flush).await.unwrap();
    let count = async |table: &str| -> i64 {
        let query = format!("SELECT count(*) FROM gatepay.{table} WHERE day < current_date - 20");
        admin.query_one(&query, &[]).await.unwrap().get(0)
    };
    drop(store);
    until_no_store_is_connected(&server).await;
    let after: i64 = admin.query_one(read, &[]).await.unwrap().get(0);
    assert!(after - before < 100, "{} rows read", after - before);
    assert_eq!(count("usage_count").await, 40_000);

    let store = PostgresStore::new(&settings, StoreTerms::default()).unwrap();
    let store = Store::Postgres(Box::new(store));
    store.age_usage().await.unwrap();
    assert_eq!(count("usage_count").await, 10_000, "a limited number");
    store.age_usage().await.unwrap();
    assert_eq!(
        (count("usage_count").await, count("usage_peak").await),
        (0, 0)
    );
    let kept: i64 = admin
        .query_one("SELECT count(*) FROM gatepay.usage_count", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(kept, 40_000);
}

#[tokio::test]
async fn the_unknown_calls_of_one_party_are_read_as_far_as_they_are_told() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let settings = settings(&[server.port]);
    let admin = connected(&server).await;
    // Most of one party, half of these to an operation that GatePay is not asked about. No statistics tell so.
    let filled = "INSERT INTO gatepay.usage_call (print, party, account, operation, key, once, parts, at)
        SELECT decode(md5('a' || n), 'hex'), 'acme', '1', o.names[1 + n % 2], n, true, '', n
        FROM generate_series(1, 20000) AS n, (SELECT ARRAY['create_order', 'save_plan'] AS names) AS o;
        INSERT INTO gatepay.usage_call (print, party, account, operation, key, once, parts, at)
        SELECT decode(md5('g' || n), 'hex'), 'globex', '1', 'create_order', n, true, '', n
        FROM generate_series(1, 3) AS n";
    admin.batch_execute(filled).await.unwrap();
    let read = "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
        WHERE relname = 'usage_call'";
    let before: i64 = admin.query_one(read, &[]).await.unwrap().get(0);
    let store = PostgresStore::new(&settings, StoreTerms::default()).unwrap();
    store.join(&introduction(1)).await.unwrap();
    let store = Store::Postgres(Box::new(store));
    let unknown = store.unknown_calls(&["create_order"], 50).await.unwrap();
    let of_globex = unknown.iter().filter(|it| it.party.as_str() == "globex");
    assert_eq!((unknown.len(), of_globex.count()), (50, 3));
    drop(store);
    until_no_store_is_connected(&server).await;
    let after: i64 = admin.query_one(read, &[]).await.unwrap().get(0);
    assert!(after - before < 100, "{} rows read", after - before);
}
