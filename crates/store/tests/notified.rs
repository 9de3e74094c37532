//! Notifications in PostgreSQL: the functions answer as the model does, nothing acknowledged is lost, and due work is
//! found without a scan.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepay_core::ledger_key::{HintStrength, LedgerKey, LedgerKeyKind};
use gatepay_core::notification::{DuplicateKey, NotificationKind};
use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};
use gatepay_store::admission::{AdmissionRow, AdmissionVerdict, LedgerIntent};
use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use gatepay_store::notifications::delivery::{EndpointKey, EndpointOffReason};
use gatepay_store::notifications::event::{
    EventId, EventPlacement, EventState, NewEvent, PlacementBasis, QuarantineDecision,
    QuarantineQueue, ReceiveResult,
};
use gatepay_store::notifications::ledger::{
    CallbackToken, CallbackUrl, LastCredential, LedgerNote, LedgerSource, TenantAccount,
};
use gatepay_store::notifications::listing::RetentionTerms;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::StoreTerms;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::sync::Notify;

use crate::clocked::Clocked;
use crate::notification_steps::{NewsEngine, NewsStep, an_account_that_returns, news_step, run};
use crate::postgres::{self, PgServer, StandbyMode, until};
use crate::support::{TERMS, now_ms, runtime, settings};

pub(crate) fn opened(server: &PgServer) -> Store {
    let terms = StoreTerms {
        timeout: Duration::from_secs(30),
        ..TERMS
    };
    Store::Postgres(Box::new(
        PostgresStore::new(&settings(&[server.port]), terms).unwrap(),
    ))
}

pub(crate) async fn acme(store: &Store, account: &str) -> TenantIncarnation {
    let tenant = TenantAccount {
        tenant: "acme".to_owned(),
        account: account.to_owned(),
    };
    store.register_tenants(&[tenant]).await.unwrap().remove(0)
}

/// A notification about an object of its own.
pub(crate) fn event(tenant: &TenantIncarnation, object: &str) -> NewEvent {
    let kind = NotificationKind::Pay;
    let status = kind.statuses()[0].0;
    NewEvent {
        key: DuplicateKey {
            kind,
            object: object.to_owned(),
            status: status.to_owned(),
            body_sha256: [7; 32],
        },
        rank: kind.rank(status),
        body: object.as_bytes().to_vec(),
        token: None,
        hints: Vec::new(),
        placement: EventPlacement::Tenant {
            tenant: tenant.clone(),
            url: None,
            by: PlacementBasis::Hints(HintStrength::Certain),
        },
    }
}

fn agree(cases: u32, steps: usize) {
    if postgres::is_missing() {
        return;
    }
    let runtime = runtime();
    let clocked = runtime.block_on(Clocked::start());
    let store = opened(&clocked.server);
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let sequences = prop::collection::vec(news_step(), 1..steps);
    let trial = |steps: &[NewsStep]| {
        let empty = "TRUNCATE gatepay.incarnation, gatepay.endpoint, gatepay.object, gatepay.line, gatepay.event, gatepay.hint,
                gatepay.attempt, gatepay.url_token, gatepay.owner, gatepay.open_call,
                gatepay.isolation, gatepay.last_credential RESTART IDENTITY;
            ALTER SEQUENCE gatepay.event_place_number RESTART";
        runtime
            .block_on(clocked.admin.batch_execute(empty))
            .unwrap();
        let set_clock = |now_ms: u64| runtime.block_on(clocked.set(now_ms));
        let engine = NewsEngine {
            runtime: &runtime,
            store: &store,
            set_clock: &set_clock,
        };
        run(engine, steps);
    };
    let result = runner.run(&sequences, |steps| {
        trial(&steps);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    trial(&an_account_that_returns());
}

#[test]
fn the_functions_about_notifications_and_the_model_agree() {
    agree(30, 60);
}

#[test]
#[ignore = "minutes: the long form of the_functions_about_notifications_and_the_model_agree"]
fn the_functions_about_notifications_and_the_model_agree_in_many_long_sequences() {
    agree(2_000, 200);
}

/// Receives batches until the store fails. Returns the acknowledged objects.
async fn receive_until_it_fails(
    store: &Store,
    tenant: &TenantIncarnation,
    round: u32,
    begun: &Notify,
) -> Vec<(String, EventId)> {
    let mut acknowledged = Vec::new();
    for batch in 0_u32.. {
        let objects = (0..5).map(|number| format!("{round}.{batch}.{number}"));
        let events: Vec<NewEvent> = objects.map(|object| event(tenant, &object)).collect();
        let Ok(results) = store.receive(&events).await else {
            break;
        };
        begun.notify_one();
        for (event, result) in events.iter().zip(results) {
            let ReceiveResult::New(arrival) = result else {
                panic!("{result:?}");
            };
            acknowledged.push((event.key.object.clone(), arrival.id));
        }
    }
    acknowledged
}

async fn kill_while_events_arrive(rounds: u32) {
    if postgres::is_missing() {
        return;
    }
    let mut server = PgServer::migrated().await;
    let tenant = acme(&opened(&server), "100").await;
    let mut total = 0;
    for round in 0..rounds {
        let store = Arc::new(opened(&server));
        let begun = Arc::new(Notify::new());
        let writer = {
            let (store, tenant, begun) = (Arc::clone(&store), tenant.clone(), Arc::clone(&begun));
            tokio::spawn(
                async move { receive_until_it_fails(&store, &tenant, round, &begun).await },
            )
        };
        begun.notified().await;
        tokio::time::sleep(Duration::from_millis(u64::from(round * 37 % 90))).await;
        server.kill();
        let acknowledged = writer.await.unwrap();
        server.start_again();
        let store = opened(&server);
        for (object, id) in &acknowledged {
            let stored = store.event(*id).await.unwrap();
            let stored = stored.unwrap_or_else(|| panic!("{object} is lost in round {round}"));
            assert_eq!(stored.summary.object, *object);
            assert_eq!(stored.body, object.as_bytes());
        }
        total += acknowledged.len();
        if round % 100 == 99 {
            eprintln!(
                "{} kills, {total} acknowledged events, none lost",
                round + 1
            );
        }
    }
    assert!(total >= rounds as usize, "{total} events were acknowledged");
}

#[tokio::test]
async fn every_acknowledged_event_is_there_after_the_server_was_killed() {
    kill_while_events_arrive(3).await;
}

#[tokio::test]
#[ignore = "an hour: the long form of every_acknowledged_event_is_there_after_the_server_was_killed"]
async fn every_acknowledged_event_is_there_after_a_thousand_kills() {
    kill_while_events_arrive(1_000).await;
}

#[tokio::test]
async fn two_claims_never_hold_one_endpoint() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    let names = (0..40).map(|number| TenantAccount {
        tenant: format!("t{number}"),
        account: "1".to_owned(),
    });
    let tenants = store
        .register_tenants(&names.collect::<Vec<_>>())
        .await
        .unwrap();
    let events: Vec<NewEvent> = tenants.iter().map(|it| event(it, &it.tenant)).collect();
    store.receive(&events).await.unwrap();
    let claiming = (1..=4).map(|instance| {
        let store = opened(&server);
        tokio::spawn(async move {
            let mut held = Vec::new();
            for _ in 0..10 {
                held.extend(store.claim_endpoints(instance, 3).await.unwrap());
            }
            held
        })
    });
    let mut seen = BTreeSet::new();
    for claiming in claiming.collect::<Vec<_>>() {
        for claim in claiming.await.unwrap() {
            assert!(seen.insert(claim.number), "{claim:?} is held twice");
        }
    }
    assert_eq!(seen.len(), tenants.len());
}

#[tokio::test]
async fn a_key_that_is_learned_while_an_event_is_decided_wakes_it_again() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    let tenant = acme(&store, "1").await;
    let key = LedgerKey::new(LedgerKeyKind::PrepayId, "77").unwrap();
    let reason = QuarantineReason::NoHolder;
    let held = NewEvent {
        hints: vec![key.clone()],
        placement: EventPlacement::Quarantine(reason),
        ..event(&tenant, "77")
    };
    store.receive(&[held]).await.unwrap();
    for decision in [
        QuarantineDecision::Again(reason, Duration::from_hours(1)),
        QuarantineDecision::Placed(EventPlacement::Quarantine(reason)),
    ] {
        server.sql("UPDATE gatepay.event SET decide_at = 0");
        let id = store
            .take_quarantined(QuarantineQueue::Known, 1)
            .await
            .unwrap()[0]
            .id;
        let note = LedgerNote {
            key: key.clone(),
            holder: TenantAccount {
                tenant: "acme".to_owned(),
                account: "1".to_owned(),
            },
            at_ms: None,
            operation: "create_order".to_owned(),
            currency: None,
        };
        let notes = [note];
        let woken = store.note_owners(&notes, LedgerSource::Answer).await;
        assert_eq!(woken.unwrap(), [id]);
        store.settle_quarantine(id, &decision, None).await.unwrap();
        let again = store
            .take_quarantined(QuarantineQueue::Known, 1)
            .await
            .unwrap();
        assert_eq!(again.len(), 1, "{decision:?}");
        // Without news of the ledger the decision holds.
        store.settle_quarantine(id, &decision, None).await.unwrap();
        assert!(
            store
                .take_quarantined(QuarantineQueue::Known, 1)
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test]
async fn what_waits_for_an_endpoint_that_is_turned_on_waits_from_then_on() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    let tenant = acme(&store, "1").await;
    store.receive(&[event(&tenant, "77")]).await.unwrap();
    server.sql("UPDATE gatepay.event SET waits_since = 1");
    let endpoint = EndpointKey { tenant, url: None };
    let off = store.turn_endpoint_off(&endpoint, EndpointOffReason::Suspended);
    off.await.unwrap();
    let before = now_ms();
    store.turn_endpoint_on(&endpoint).await.unwrap();
    let claims = store.claim_endpoints(1, 1).await.unwrap();
    let due = store.due_events(&claims, 1).await.unwrap();
    assert!(due[0][0].waits_since_ms >= before, "{due:?}");
}

#[tokio::test]
async fn a_cursor_misses_no_event_that_arrives_meanwhile() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    let tenant = acme(&store, "100").await;
    let arriving = (0..3).map(|writer| {
        let (store, tenant) = (opened(&server), tenant.clone());
        tokio::spawn(async move {
            for batch in 0..15 {
                let objects = (0..3).map(|number| format!("{writer}.{batch}.{number}"));
                let events: Vec<NewEvent> = objects.map(|it| event(&tenant, &it)).collect();
                store.receive(&events).await.unwrap();
            }
        })
    });
    let arriving: Vec<_> = arriving.collect();
    let (mut after, mut seen) = (0, BTreeSet::new());
    loop {
        let is_over = arriving.iter().all(tokio::task::JoinHandle::is_finished);
        let page = store.tenant_events(&tenant, None, after, 7).await.unwrap();
        after = page.next;
        seen.extend(page.events.iter().map(|(event, _)| event.object.clone()));
        if is_over && !page.has_more {
            break;
        }
    }
    assert_eq!(seen.len(), 3 * 15 * 3);
}

#[tokio::test]
async fn a_tenant_id_with_another_account_sees_nothing_older() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    let first = acme(&store, "100").await;
    store.receive(&[event(&first, "1")]).await.unwrap();
    let prepay = LedgerKey::new(LedgerKeyKind::PrepayId, "1").unwrap();
    let note = |account: &str| LedgerNote {
        key: prepay.clone(),
        holder: TenantAccount {
            tenant: "acme".to_owned(),
            account: account.to_owned(),
        },
        at_ms: None,
        operation: "create_order".to_owned(),
        currency: None,
    };
    store
        .note_owners(&[note("100")], LedgerSource::Answer)
        .await
        .unwrap();
    let second = acme(&store, "200").await;
    assert_eq!((first.incarnation, second.incarnation), (1, 2));
    assert_eq!(acme(&store, "200").await, second);
    let third = acme(&store, "100").await;
    assert_eq!(third.incarnation, 3);
    let owner = async || {
        let mut holders = store.owners(std::slice::from_ref(&prepay)).await.unwrap();
        holders.remove(0).remove(0).tenant
    };
    assert_eq!(owner().await, first);
    // GatePay gives the id to the third too, such as the same address for the same channel.
    store
        .note_owners(&[note("100")], LedgerSource::Answer)
        .await
        .unwrap();
    assert_eq!(owner().await, third);
    for newer in [&second, &third] {
        let page = store.tenant_events(newer, None, 0, 100).await.unwrap();
        assert!(page.events.is_empty(), "{page:?}");
    }
    assert!(store.claim_endpoints(1, 10).await.unwrap().is_empty());
    let late = store.receive(&[event(&first, "2")]).await.unwrap();
    let ReceiveResult::New(arrival) = &late[0] else {
        panic!("{late:?}");
    };
    assert_eq!(arrival.state, EventState::Quarantined);
    assert_eq!(arrival.quarantine.unwrap().as_str(), "removed");
    let assigned = store
        .assign(arrival.id, (&third, None), "olga", None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(assigned.arrival.state, EventState::Waiting);
}

/// Ends the wait of the next commit for the standby, as an administrator may.
pub(crate) async fn cancel_the_wait(server: PgServer) -> PgServer {
    let canceled = tokio::task::spawn_blocking(move || {
        until("the wait for the standby is canceled", || {
            let cancel =
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            server.sql(cancel) == "t"
        });
        server
    });
    canceled.await.unwrap()
}

/// A call whose commit is canceled in its wait for the standby is not answered.
async fn is_only_local<T: Debug>(
    call: impl Future<Output = Result<T, StoreError>>,
    server: PgServer,
) -> PgServer {
    let (answer, server) = tokio::join!(call, cancel_the_wait(server));
    assert!(matches!(answer, Err(StoreError::Noticed(_))), "{answer:?}");
    server
}

#[tokio::test]
async fn what_is_only_local_is_acknowledged_by_no_repetition_before_the_standby_has_it() {
    if postgres::is_missing() {
        return;
    }
    let mut server = PgServer::migrated().await;
    let store = opened(&server);
    let tenant = acme(&store, "100").await;
    let standby = server.standby(StandbyMode::Synchronous);
    let events = [event(&tenant, "1")];
    let notes = [LedgerNote {
        key: LedgerKey::new(LedgerKeyKind::PrepayId, "1").unwrap(),
        holder: TenantAccount {
            tenant: "acme".to_owned(),
            account: "100".to_owned(),
        },
        at_ms: Some(1),
        operation: "create_order".to_owned(),
        currency: None,
    }];
    let url = CallbackUrl {
        tenant: tenant.clone(),
        url: "https://b.example/".to_owned(),
        made_for: "save_fixed_address".to_owned(),
    };
    standby.pause();
    // The first time the rows are written; after that they are there, and no answer rests on them either.
    for token in ["t1", "t2"] {
        let received = store.receive(&events);
        server = is_only_local(received, server).await;
        let noted = store.note_owners(&notes, LedgerSource::Answer);
        server = is_only_local(noted, server).await;
        let token = store.callback_token(&url, token);
        server = is_only_local(token, server).await;
    }
    standby.resume();
    let received = store.receive(&events).await.unwrap();
    assert!(
        matches!(received[0], ReceiveResult::Duplicate(_)),
        "{received:?}"
    );
    let token = store.callback_token(&url, "t3").await.unwrap();
    assert_eq!(token, CallbackToken::Token("t1".to_owned()));
}

#[tokio::test]
async fn a_number_that_is_used_again_is_as_young_as_its_last_use() {
    let (server, store) = if postgres::is_missing() {
        return;
    } else {
        crate::support::ready().await
    };
    let intent = LedgerIntent {
        key_kind: "merchantTradeNo",
        key: crate::support::text("1"),
        currency: None,
    };
    let row = || AdmissionRow {
        intents: vec![intent.clone()],
        ..crate::support::row()
    };
    let ledger = opened(&server);
    let key = LedgerKey::new(LedgerKeyKind::TradeNumber, "1").unwrap();
    let at = async || {
        let holders = ledger.owners(std::slice::from_ref(&key)).await.unwrap();
        assert_eq!(holders[0].len(), 1);
        holders[0][0].at_ms
    };
    // Two calls of one batch may have one number.
    let both = crate::support::ask(&store, &[row(), row()]).await.unwrap();
    assert!(
        both.verdicts
            .iter()
            .all(|it| *it == AdmissionVerdict::Admitted)
    );
    server.sql("UPDATE gatepay.owner SET at = 1");
    assert_eq!(at().await, 1);
    let again = crate::support::verdict(&store, &row()).await;
    assert_eq!(again, AdmissionVerdict::Admitted);
    assert!(at().await > 1);
}

#[tokio::test]
async fn old_rows_go_in_steps_and_events_in_quarantine_stay() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    let tenant = acme(&store, "100").await;
    let mut unowned = event(&tenant, "unowned");
    unowned.placement = EventPlacement::Quarantine(QuarantineReason::NoHolder);
    store
        .receive(&[event(&tenant, "owned"), unowned])
        .await
        .unwrap();
    server.sql(
        "INSERT INTO gatepay.owner SELECT 'prepayId', n::text, 'acme', '100', CASE WHEN n % 2 = 0 THEN 0 ELSE 9e15 END, NULL, 'x',
            'call' FROM generate_series(1, 20000) AS n",
    );
    let terms = RetentionTerms {
        events: Duration::ZERO,
        ..RetentionTerms::default()
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut removed = HashMap::new();
    for _ in 0..40 {
        let report = store.retain(&terms).await.unwrap();
        assert!(report.owners < 3_000, "{report:?}");
        *removed.entry("events").or_insert(0) += report.events;
        *removed.entry("owners").or_insert(0) += report.owners;
        *removed.entry("objects").or_insert(0) += report.objects;
    }
    assert_eq!(
        removed,
        HashMap::from([("events", 1), ("owners", 10_000), ("objects", 1)])
    );
    let counts = store.notification_counts().await.unwrap();
    assert_eq!((counts.quarantined, counts.endpoints[0].waiting), (1, 0));
    assert_eq!(counts.endpoints[0].next_ms, None);
}

#[tokio::test]
async fn a_row_of_the_ledger_from_before_its_tenants_first_incarnation_is_the_tenants() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    server.sql(
        "INSERT INTO gatepay.owner (kind, key, tenant, account, at, currency, operation, source)
            VALUES ('prepayId', '1', 'acme', '100', 1, NULL, 'create_order', 'call')",
    );
    let tenant = acme(&store, "100").await;
    let prepay = LedgerKey::new(LedgerKeyKind::PrepayId, "1").unwrap();
    let holders = store.owners(&[prepay]).await.unwrap();
    assert_eq!(holders[0][0].tenant, tenant);
}

#[tokio::test]
async fn no_plan_is_compiled_however_much_the_server_thinks_that_it_costs() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    server.sql("ALTER SYSTEM SET jit = on");
    server.sql("SELECT pg_reload_conf()");
    if server.sql("SELECT pg_jit_available()") != "t" {
        eprintln!("skipped: this PostgreSQL is installed without its compiler");
        return;
    }
    server.sql("ALTER SYSTEM SET jit_above_cost = 0");
    server.sql("SELECT pg_reload_conf()");
    until("a session compiles", || {
        server.sql(
            "SELECT count(*) FROM pg_proc;
            SELECT count(*) FROM pg_read_file('/proc/' || pg_backend_pid() || '/maps') AS m WHERE m LIKE '%llvmjit%'",
        )
        .trim()
        .ends_with('1')
    });
    let store = opened(&server);
    let tenant = acme(&store, "100").await;
    store.receive(&[event(&tenant, "1")]).await.unwrap();
    let claims = store.claim_endpoints(1, 10).await.unwrap();
    assert_eq!(claims.len(), 1);
    store.due_events(&claims, 10).await.unwrap();
    for queue in [QuarantineQueue::Known, QuarantineQueue::Asked] {
        store.take_quarantined(queue, 10).await.unwrap();
    }
    // The compiler is loaded into a process when it is needed first.
    let compiling = server.sql(
        "SELECT count(*) FILTER (WHERE m LIKE '%llvmjit%') || ' of ' || count(*)
        FROM pg_stat_activity AS a, pg_read_file('/proc/' || a.pid || '/maps') AS m
        WHERE a.application_name = 'gatepay-proxy'",
    );
    assert!(
        compiling.starts_with("0 of ") && compiling != "0 of 0",
        "{compiling}"
    );
}

/// The nodes of a plan, without figures.
fn plan(server: &PgServer, statement: &str) -> String {
    server.sql(&format!(
        "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {statement}"
    ))
}

#[tokio::test]
#[ignore = "a minute: a dead tenant's million waiting events"]
async fn a_dead_tenants_million_events_are_not_looked_at() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    let dead = acme(&store, "100").await;
    let other = TenantAccount {
        tenant: "other".to_owned(),
        account: "1".to_owned(),
    };
    let other = store.register_tenants(&[other]).await.unwrap().remove(0);
    store
        .receive(&[event(&dead, "first of the dead"), event(&other, "0")])
        .await
        .unwrap();
    server.sql(
        "INSERT INTO gatepay.object (tenant, incarnation, kind, object, at)
            SELECT 'acme', 1, 'PAY', 'bulk ' || n, 1 FROM generate_series(1, 1000000) AS n;
        INSERT INTO gatepay.event (id, received, kind, object, status, rank, news, body_print, tenant, incarnation, object_id,
                endpoint, place, state, is_changed, waits_since, next_at, body)
            SELECT gatepay.event_id(o.id), 1, o.kind, o.object, 'PAY_SUCCESS', 1, int8send(o.id), int8send(o.id), 'acme', 1,
                o.id, 1, nextval('gatepay.event_place_number'), 'waiting', false, 1, 1, 'x'
            FROM gatepay.object AS o WHERE o.object LIKE 'bulk %';
        INSERT INTO gatepay.line SELECT e.object_id, 1, e.id, e.next_at FROM gatepay.event AS e WHERE e.object LIKE 'bulk %';
        UPDATE gatepay.endpoint SET waiting = 1000001, open_until = 9e15, next_at = 9e15 WHERE id = 1;
        INSERT INTO gatepay.endpoint (tenant, incarnation, url) SELECT 't' || n, 1, '' FROM generate_series(1, 3000) AS n;
        ANALYZE gatepay.event, gatepay.line, gatepay.endpoint, gatepay.object",
    );
    // The two queries of `claim_endpoints_v1` and `due_events_v1`, at the end of the schedule.
    let late = "9000000000000000";
    let due = plan(
        &server,
        &format!(
            "SELECT p.id FROM gatepay.endpoint AS p WHERE p.next_at IS NOT NULL AND p.next_at <= {late}
            AND p.claimed_until <= {late} ORDER BY p.next_at, p.id LIMIT 10 FOR UPDATE SKIP LOCKED"
        ),
    );
    let heads = plan(
        &server,
        &format!(
            "SELECT e.* FROM unnest(ARRAY[1::bigint, 2], ARRAY[0::bigint, 0]) AS c(id, turn)
            JOIN gatepay.endpoint AS p ON p.id = c.id AND p.turn = c.turn
            CROSS JOIN LATERAL (SELECT l.object, l.head, l.next_at FROM gatepay.line AS l WHERE l.endpoint = p.id
                AND l.next_at <= {late} ORDER BY l.next_at, l.object LIMIT 4) AS d
            JOIN gatepay.event AS e ON e.id = d.head"
        ),
    );
    eprintln!("{due}\n\n{heads}");
    assert!(due.contains("endpoint_due"), "{due}");
    for plan in [&due, &heads] {
        assert!(!plan.contains("Seq Scan"), "{plan}");
    }
    assert!(
        heads.contains("line_due") && heads.contains("event_pkey"),
        "{heads}"
    );
    // The other tenant's calls, beside the million.
    let calls = async || {
        let mut took = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            let claims = store.claim_endpoints(1, 10).await.unwrap();
            assert_eq!(claims.len(), 1);
            let heads = store.due_events(&claims, 4).await.unwrap();
            assert_eq!(heads[0].len(), 1);
            store.release_endpoints(&claims).await.unwrap();
            took.push(began.elapsed());
        }
        took.sort_unstable();
        took[50]
    };
    eprintln!("claim, heads and release: {:?}", calls().await);
    let began = Instant::now();
    let counts = store.notification_counts().await.unwrap();
    assert_eq!(counts.endpoints[0].waiting, 1_000_001);
    eprintln!("counts of 3,002 endpoints: {:?}", began.elapsed());
    server.sql("TRUNCATE gatepay.event, gatepay.line, gatepay.object");
    let again = event(&other, "1");
    store.receive(&[again]).await.unwrap();
    eprintln!(
        "claim, heads and release without the million: {:?}",
        calls().await
    );
}

#[tokio::test]
async fn events_of_an_endpoint_that_is_off_end_with_their_retention() {
    for (store, _server, _folder) in crate::asked::stores().await {
        let tenant = acme(&store, "1").await;
        store.receive(&[event(&tenant, "77")]).await.unwrap();
        let endpoint = EndpointKey { tenant, url: None };
        let off = store.turn_endpoint_off(&endpoint, EndpointOffReason::Operator);
        off.await.unwrap();
        let waiting = async || {
            let counts = store.notification_counts().await.unwrap();
            counts.endpoints[0].waiting
        };
        store.retain(&RetentionTerms::default()).await.unwrap();
        assert_eq!(waiting().await, 1, "90 days have not passed");
        let began = Instant::now();
        let now = RetentionTerms {
            events: Duration::ZERO,
            ..RetentionTerms::default()
        };
        while waiting().await > 0 {
            assert!(began.elapsed() < Duration::from_mins(1));
            store.retain(&now).await.unwrap();
        }
        let owner = &endpoint.tenant;
        let left = store.tenant_events(owner, None, 0, 8).await.unwrap();
        assert!(left.events.is_empty());
    }
}

#[tokio::test]
async fn the_last_credential_of_a_party_is_known_to_all_and_written_only_when_it_changes() {
    for (store, server, _folder) in crate::asked::stores().await {
        let last = async |acme: Option<&str>, globex: Option<&str>| {
            let parties =
                [("acme", acme), ("globex", globex)].map(|(party, used)| LastCredential {
                    party: party.to_owned(),
                    used: used.map(str::to_owned),
                });
            let known = store.last_credentials(&parties).await.unwrap();
            known
                .iter()
                .map(|it| it.clone().unwrap_or_default())
                .collect::<Vec<_>>()
        };
        assert_eq!(last(None, None).await, ["", ""]);
        assert_eq!(last(Some("old"), None).await, ["old", ""]);
        assert_eq!(last(None, Some("g")).await, ["old", "g"]);
        assert_eq!(last(Some("new"), Some("g")).await, ["new", "g"]);
        let rows = || {
            let rows = "SELECT string_agg(ctid::text || xmin || xmax, ' ' ORDER BY party) FROM gatepay.last_credential";
            server.as_ref().map(|server| server.sql(rows))
        };
        let before = rows();
        assert_eq!(last(Some("new"), Some("g")).await, ["new", "g"]);
        assert_eq!(rows(), before, "neither changed nor locked");
    }
}
