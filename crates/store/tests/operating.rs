//! Roles, TLS, migrations, the ring of partitions, and the findings of `store check`.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_store::admission::{AdmissionVerdict, HaltScope};
use gatepay_store::check::FindingSeverity;
use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use gatepay_store::limits::{DemandReport, TenantDemand};
use gatepay_store::notifications::delivery::EndpointOffReason;
use gatepay_store::notifications::event::{EventState, QuarantineQueue, ReceiveResult};
use gatepay_store::notifications::isolation::IsolationSubject;
use gatepay_store::notifications::ledger::{CallbackUrl, LastCredential, LedgerSource};
use gatepay_store::notifications::listing::{ReplayFilter, RetentionTerms};
use gatepay_store::postgres::{NEWEST_SCHEMA, PostgresStore};
use gatepay_store::settings::PostgresSettings;
use zeroize::Zeroizing;

use crate::postgres::{self, PgServer, StandbyMode, until};
use crate::support::{
    TERMS, ask, beat, connected, introduction, now_ms, ready, row, row_at, runtime, settings,
    store, verdict,
};

/// Keeps the store's tables as an instance does, once a second, until it is done: an upkeep that meets a lock leaves its work
/// to the next.
async fn kept_until(store: &PostgresStore, done: impl Fn() -> bool) {
    for _ in 0..20 {
        store.upkeep().await.unwrap();
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("twenty upkeeps have not done it");
}

/// Settings of another role, which needs its password.
fn role(server: &PgServer, name: &str) -> PostgresSettings {
    let mut settings = settings(&[server.port]);
    settings.conninfo = settings
        .conninfo
        .replace("user=postgres", &format!("user={name}"));
    settings.password = Some(Zeroizing::new(format!("password of {name}")));
    settings
}

#[tokio::test]
async fn the_role_that_serves_executes_the_functions_and_changes_no_table() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::start();
    server.sql(
        "CREATE ROLE gatepay_owner LOGIN PASSWORD 'password of gatepay_owner';
        CREATE ROLE gatepay_serve LOGIN PASSWORD 'password of gatepay_serve';
        GRANT CREATE ON DATABASE postgres TO gatepay_owner",
    );
    server.require_passwords();
    let owner = PostgresStore::new(&role(&server, "gatepay_owner"), TERMS).unwrap();
    let report = owner.migrate(Some("gatepay_serve")).await.unwrap();
    assert_eq!((report.before, report.now), (0, NEWEST_SCHEMA));
    let again = owner.migrate(Some("gatepay_serve")).await.unwrap();
    assert!(again.to_string().contains("nothing to do"));

    let serve = PostgresStore::new(&role(&server, "gatepay_serve"), TERMS).unwrap();
    serve.join(&introduction(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(450)).await;
    let admitted = row();
    assert_eq!(verdict(&serve, &admitted).await, AdmissionVerdict::Admitted);
    serve.beat(&beat()).await.unwrap();
    serve.halt(&HaltScope::Money, "operator").await.unwrap();
    serve.distrust().await.unwrap();
    serve.leave().await.unwrap();
    let serve = Store::Postgres(Box::new(serve));
    exercise_notifications(&serve).await;
    for statement in [
        "UPDATE gatepay.event SET state = 'delivered'",
        "DELETE FROM gatepay.incarnation",
        "INSERT INTO gatepay.url_token VALUES ('t', 'acme', 1, 'https://a.example', 'x', 0)",
        "SELECT gatepay.progress_object('acme', 1, '', 'PAY', '1', 'PAY_SUCCESS', 1, 0)",
        "SELECT nextval('gatepay.event_place_number')",
        "DELETE FROM gatepay.stamp",
        "INSERT INTO gatepay.halt VALUES ('all', 0, 'x')",
        "TRUNCATE gatepay.stamp_0",
        "SELECT gatepay.recognize(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, true)",
        "CREATE TABLE gatepay.mine (x integer)",
    ] {
        let as_serve = format!("SET ROLE gatepay_serve; {statement}");
        let refused = server.try_sql(&as_serve).unwrap_err();
        assert!(
            refused.contains("permission denied"),
            "{statement}: {refused}"
        );
    }
    let mut wrong = role(&server, "gatepay_serve");
    wrong.password = Some(Zeroizing::new("another".to_owned()));
    let refused = PostgresStore::new(&wrong, TERMS).unwrap();
    let error = ask(&refused, &[row()]).await.unwrap_err().to_string();
    assert!(
        error.contains("password authentication failed") && !error.contains("another"),
        "{error}"
    );
}

/// Every call about notifications.
async fn exercise_notifications(store: &Store) {
    let tenant = crate::notified::acme(store, "100").await;
    let event = crate::notified::event(&tenant, "1");
    let received = store.receive(&[event]).await.unwrap();
    let ReceiveResult::New(arrival) = &received[0] else {
        panic!("{received:?}");
    };
    let id = arrival.id;
    let prepay = LedgerKey::new(LedgerKeyKind::PrepayId, "1").unwrap();
    let last = LastCredential {
        party: "acme".to_owned(),
        used: Some("client-acme".to_owned()),
    };
    let known = store.last_credentials(&[last]).await.unwrap();
    assert_eq!(known, [Some("client-acme".to_owned())]);
    store.note_owners(&[], LedgerSource::Answer).await.unwrap();
    store.owners(&[prepay]).await.unwrap();
    let url = CallbackUrl {
        tenant: tenant.clone(),
        url: "https://a.example".to_owned(),
        made_for: "x".to_owned(),
    };
    store.callback_token(&url, "token").await.unwrap();
    assert_eq!(store.callback_urls(&["token"]).await.unwrap(), [Some(url)]);
    store
        .take_quarantined(QuarantineQueue::Known, 1)
        .await
        .unwrap();
    let subject = IsolationSubject {
        upstream: "gatepay.example".to_owned(),
        client_id: "institution".to_owned(),
    };
    store.note_isolation(&subject, &[], 0).await.unwrap();
    let accounts = ["100".to_owned()];
    assert_eq!(store.account_incarnations(&accounts).await.unwrap(), [1]);
    assert_eq!(store.hand_over_news(&tenant, 1).await.unwrap(), 0);
    let record = store.isolation(&subject).await.unwrap();
    assert!(record.findings.is_empty() && record.now_ms > 0);
    assert_eq!(
        store
            .assign(id, (&tenant, None), "olga", None)
            .await
            .unwrap(),
        None
    );
    let claims = store.claim_endpoints(1, 1).await.unwrap();
    assert_eq!(store.renew_claims(&claims).await.unwrap(), [true]);
    let due = store.due_events(&claims, 1).await.unwrap();
    assert_eq!(due[0][0].id, id);
    store.record_attempts(&[]).await.unwrap();
    store.release_endpoints(&claims).await.unwrap();
    let endpoint = claims[0].endpoint.clone();
    store
        .turn_endpoint_off(&endpoint, EndpointOffReason::Operator)
        .await
        .unwrap();
    store.turn_endpoint_on(&endpoint).await.unwrap();
    store.tenant_events(&tenant, None, 0, 1).await.unwrap();
    store
        .list_events(Some(EventState::Waiting), None, 1)
        .await
        .unwrap();
    assert!(store.event(id).await.unwrap().is_some());
    store.replay(&ReplayFilter::Event(id)).await.unwrap();
    store.retain(&RetentionTerms::default()).await.unwrap();
    assert_eq!(
        store.notification_counts().await.unwrap().endpoints.len(),
        1
    );
}

#[tokio::test]
async fn the_servers_certificate_is_verified() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    let name = vec!["127.0.0.1".to_owned()];
    let right = rcgen::generate_simple_self_signed(name.clone()).unwrap();
    let other = rcgen::generate_simple_self_signed(name).unwrap();
    server.encrypt(&right.cert.pem(), &right.signing_key.serialize_pem());
    let mut settings = settings(&[server.port]);
    settings.trusted = vec![other.cert.der().clone()];
    let error = ask(&PostgresStore::new(&settings, TERMS).unwrap(), &[row()])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
    settings.trusted = vec![right.cert.der().clone()];
    let store = PostgresStore::new(&settings, TERMS).unwrap();
    assert_eq!(verdict(&store, &row()).await, AdmissionVerdict::Admitted);
    let check = Store::Postgres(Box::new(store)).check(&TERMS, now_ms).await;
    assert!(
        check
            .to_string()
            .contains("fine: the connection is encrypted"),
        "{check}"
    );
}

#[tokio::test]
async fn a_schema_that_is_one_newer_is_used_and_a_much_newer_one_is_refused() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    for (newer, works) in [(1, true), (2, false)] {
        server.sql(&format!(
            "INSERT INTO gatepay.schema_version VALUES ({})",
            NEWEST_SCHEMA + newer
        ));
        let joined = store.join(&introduction(1)).await;
        match joined {
            Ok(joined) => assert!(works && joined.schema == NEWEST_SCHEMA + newer),
            Err(error) => assert!(
                !works && matches!(error, StoreError::Schema { .. }),
                "{error}"
            ),
        }
    }
    assert!(store.migrate(None).await.is_ok(), "nothing is left to do");
}

#[tokio::test]
async fn slots_are_emptied_ahead_of_time_unless_somebody_reads_them() {
    if postgres::is_missing() {
        return;
    }
    let (server, _) = ready().await;
    // Stamps of eight slices ago, in the slot that is needed next, and is for the next seconds.
    let ahead = || now_ms() + TERMS.future_ms + 30_000;
    while ahead() % 60_000 > 55_000 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let slice = ahead() / 60_000;
    let slot = slice % 8;
    let held = |slot: u64| server.sql(&format!("SELECT count(*) FROM gatepay.stamp_{slot}"));
    server.sql(&format!(
        "UPDATE gatepay.slot SET slice = {old}, filling = true WHERE slot = {slot};
        INSERT INTO gatepay.stamp SELECT {slot}, uuid_send(gen_random_uuid()), 0 FROM generate_series(1, 1000)",
        old = slice - 8
    ));
    // A dump reads the partition: the turn goes on without it, and does not wait.
    let dump = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            server.try_sql(&format!(
                "BEGIN; SELECT count(*) FROM gatepay.stamp_{slot}; SELECT pg_sleep(600); COMMIT"
            ))
        });
        until("it reads", || server.sql(dump) == "1");
        let kept = scope.spawn(|| {
            let runtime = runtime();
            let store = store(&[server.port]);
            runtime.block_on(async {
                store.join(&introduction(3)).await.unwrap();
                store.upkeep().await
            })
        });
        let kept = kept.join().unwrap();
        let is_reading = server.sql(dump) == "1";
        end_sleeper(&server);
        assert!(reading.join().unwrap().is_err(), "it was ended");
        kept.unwrap();
        assert!(is_reading, "the upkeep ended before the dump");
    });
    assert_eq!(held(slot), "1000");
    let after = store(&[server.port]);
    after.join(&introduction(4)).await.unwrap();
    kept_until(&after, || held(slot) == "0").await;
    // The slot's stamps are refused from then on.
    let old = row_at((slice - 8) * 60_000 + 1);
    assert_eq!(verdict(&after, &old).await, AdmissionVerdict::Forgotten);
}

/// Ends the transaction that sleeps.
fn end_sleeper(server: &PgServer) {
    server
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
}

#[tokio::test]
async fn check_says_what_an_operator_must_know() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::start();
    let checked = Store::Postgres(Box::new(store(&[server.port])));
    let check = checked.check(&TERMS, now_ms).await;
    assert_eq!(check.severity(), FindingSeverity::Problem);
    assert!(
        check
            .to_string()
            .contains("problem: there are no tables yet"),
        "{check}"
    );

    let (server, instance) = ready().await;
    let checked = Store::Postgres(Box::new(store(&[server.port])));
    let check = checked.check(&TERMS, now_ms).await.to_string();
    for line in [
        "fine: PostgreSQL ",
        "fine: schema 1",
        "fine: no standby is attached",
        "fine: instances: 1",
        "fine: notifications: 0 waiting, 0 dead, 0 in quarantine",
        "warning: the role is a superuser",
    ] {
        assert!(check.contains(line), "{line}: {check}");
    }
    let ahead = || now_ms() + 5_000;
    let check = checked.check(&TERMS, ahead).await.to_string();
    assert!(check.contains("problem: clocks differ by"), "{check}");
    // A slow answer is no difference of clocks, and no proof that there is none.
    let reading = Cell::new(now_ms() - 5_000);
    let slow = || reading.replace(reading.get() + 10_000);
    let check = checked.check(&TERMS, slow).await.to_string();
    assert!(check.contains("warning: clocks differ by"), "{check}");
    assert!(check.contains("give or take 5000 ms"), "{check}");
    instance.halt(&HaltScope::Money, "operator").await.unwrap();
    let standby = server.standby(StandbyMode::Asynchronous);
    let check = checked.check(&TERMS, now_ms).await.to_string();
    assert!(
        check.contains("warning: halted: money (by operator)"),
        "{check}"
    );
    assert!(
        check.contains("warning: 1 standbys are asynchronous"),
        "{check}"
    );
    drop(standby);
}

#[tokio::test]
async fn an_instance_whose_contact_file_cannot_be_written_sees_new_halts() {
    if postgres::is_missing() {
        return;
    }
    let (server, first) = ready().await;
    let folder = tempfile::tempdir().unwrap();
    let mut lasting = settings(&[server.port]);
    lasting.contact_file = Some(folder.path().join("store.contact"));
    let second = PostgresStore::new(&lasting, TERMS).unwrap();
    second.join(&introduction(2)).await.unwrap();
    drop(folder);
    let epoch = first.halt(&HaltScope::All, "a").await.unwrap();
    let view = second.beat(&beat()).await.unwrap();
    assert_eq!(view.halt_epoch, epoch);
    assert!(matches!(
        second.upkeep().await,
        Err(StoreError::File { .. })
    ));
}

#[tokio::test]
async fn the_ring_is_not_turned_while_its_length_changes() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            server
                .try_sql("BEGIN; SELECT gatepay.admitting_nothing(); SELECT pg_sleep(600); COMMIT")
        });
        until("the lock is held", || {
            server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
        });
        let turning = scope.spawn(|| server.sql("SELECT gatepay.turn_ring_v1(300)"));
        until("the turn waits for the lock", || {
            server.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1"
        });
        assert!(!turning.is_finished());
        end_sleeper(&server);
        assert!(changing.join().unwrap().is_err(), "it was ended");
        turning.join().unwrap();
    });
    store.upkeep().await.unwrap();
}

/// A report of one tenant's demand, for the exchange with this number.
fn demand(number: i64) -> DemandReport {
    let tenant = TenantDemand {
        tenant: Arc::from("acme"),
        weight: 1.0,
        asked: 10.0,
    };
    DemandReport {
        instance: 1,
        number,
        rate: 100.0,
        burst: 100.0,
        tenants: vec![tenant],
        ..DemandReport::default()
    }
}

#[tokio::test]
async fn tables_of_limits_stay_small_beside_a_transaction_that_stays_open() {
    if postgres::is_missing() {
        return;
    }
    let (server, store) = ready().await;
    let before = store.exchange(&demand(1)).await.unwrap();
    let reader = connected(&server).await;
    let open = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM gatepay.life";
    reader.batch_execute(open).await.unwrap();
    let pile_up = "DO $$ BEGIN FOR n IN 1..6000 LOOP
        UPDATE gatepay.limit_clock SET swept = swept; UPDATE gatepay.lease SET serial = serial;
        END LOOP; END $$";
    server.sql(pile_up);
    let rows = || {
        server.sql("SELECT c::text FROM gatepay.limit_clock AS c")
            + &server.sql("SELECT l::text FROM gatepay.lease AS l")
    };
    let bytes = || {
        let sum =
            "SELECT pg_relation_size('gatepay.limit_clock') + pg_relation_size('gatepay.lease')";
        server.sql(sum).parse::<u64>().unwrap()
    };
    let (kept, grown) = (rows(), bytes());
    assert!(grown > 500_000, "{grown}");

    // A dump holds this lock for as long as it takes.
    reader
        .batch_execute("LOCK TABLE gatepay.bucket IN ACCESS SHARE MODE")
        .await
        .unwrap();
    store.upkeep().await.unwrap();
    assert_eq!(bytes(), grown);
    reader
        .batch_execute("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM gatepay.life")
        .await
        .unwrap();
    kept_until(&store, || bytes() < 50_000).await;
    assert_eq!(rows(), kept);
    let after = store.exchange(&demand(2)).await.unwrap();
    assert_eq!(after.era, before.era);
}
