//! Locks are taken in one order: where two functions lock the same, one waits for the other, and neither for a deadlock to be
//! found, which takes a second in which all others wait too.
//!
//! A session holds what a function locks first, another function runs into it, and then the session goes on as its function
//! does. The order of all is in `docs/explanation/internals-state.md`.

use tokio_postgres::Client;

use crate::postgres::{self, PgServer};
use crate::support::connected;

/// What the first session does, what then runs into it, and how the first session goes on.
struct Crossing<'a> {
    setup: &'a str,
    first: &'a str,
    other: &'a str,
    then: &'a str,
}

const TABLES: &str = "TRUNCATE owner, hint, event, approval, approval_signature, approver_rule, life, instance, store_clock,
    isolation, open_call";
const EVENT: &str = "'00000000-0000-7000-8000-000000000001'";
/// A key that an event in quarantine waits for: an answer with it changes the event.
const WAITED_FOR: &str =
    "INSERT INTO hint VALUES ('prepayId', 'h', '00000000-0000-7000-8000-000000000001')";
const LIFE: &str = "INSERT INTO life VALUES (0, 0, 0, 0, 0)";
const ISOLATION: &str =
    "SELECT note_isolation_v1('u', 'c', '{create_order}', '{shared}', '{1}', 0)";
const LOCK_FIRST_APPROVAL: &str = r"SELECT FROM approval WHERE id = '\x01' FOR UPDATE";
const LOCK_SECOND_APPROVAL: &str = r"SELECT FROM approval WHERE id = '\x02' FOR UPDATE";

fn note(key: &str, source: &str) -> String {
    format!(
        "SELECT note_owners_v1('{{prepayId}}', '{{{key}}}', '{{acme}}', '{{1}}', ARRAY[NULL]::bigint[], '{{create_order}}',
            ARRAY[NULL], '{source}')"
    )
}

/// Approvals that are open, in this order in the table.
fn approvals(ids: [u8; 2]) -> String {
    let [first, second] = ids;
    format!(
        r"INSERT INTO approval SELECT n, 'acme', '1', 'create_payout', n::text, n, '', '', 1, 0, 9e15
        FROM unnest(ARRAY['\x0{first}', '\x0{second}']::bytea[]) AS n"
    )
}

fn use_approval(id: u8) -> String {
    format!(
        r"SELECT use_approval(1, '\x09', 'acme', '1', 'create_payout', '\x0{id}', '\x0{id}', '', '')"
    )
}

fn join(uncovered: bool) -> String {
    format!(
        "SELECT * FROM join_v1(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, true, 1, 'h', '1', 'c', NULL, 0, 0, {uncovered},
            false, NULL, NULL, NULL)"
    )
}

async fn session(server: &PgServer) -> Client {
    let client = connected(server).await;
    let searched = "SET search_path = gatepay";
    client.batch_execute(searched).await.unwrap();
    client
}

/// Fails if the two end in a deadlock.
async fn cross(server: &PgServer, crossing: Crossing<'_>) {
    let Crossing {
        setup,
        first,
        other,
        then,
    } = crossing;
    let (admin, holding, running) = (
        session(server).await,
        session(server).await,
        session(server).await,
    );
    admin.batch_execute(TABLES).await.unwrap();
    admin.batch_execute(setup).await.unwrap();
    let pid: i32 = running
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let begun = format!("BEGIN; {first}");
    holding.batch_execute(&begun).await.unwrap();
    let script = other.to_owned();
    let ran = tokio::spawn(async move { running.batch_execute(&script).await });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1";
    while !ran.is_finished()
        && admin
            .query_one(waits, &[&pid])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
    {
        tokio::task::yield_now().await;
    }
    let went_on = holding.batch_execute(then).await;
    assert!(went_on.is_ok(), "{first}; {then}: {went_on:?}");
    holding.batch_execute("COMMIT").await.unwrap();
    let ran = ran.await.unwrap();
    assert!(ran.is_ok(), "{other}: {ran:?}");
}

#[tokio::test]
async fn what_is_proved_and_what_answers_teach_lock_the_ledger_before_all_events() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let answers = ["a", "b", "h"].map(|key| note(key, "answer"));
    let asked = ["a", "b"].map(|key| note(key, "asked"));
    let [a, b, waited_for] = answers.each_ref().map(String::as_str);
    let [a_asked, b_asked] = asked.each_ref().map(String::as_str);
    let proved = |keys: &str, function: &str| {
        format!(
            "{function}('{{prepayId, prepayId}}', '{keys}', '{{acme, acme}}', '{{1, 1}}', '{{2, 2}}', '{{s, s}}',
                ARRAY[{EVENT}, {EVENT}])"
        )
    };
    let alone = format!("SELECT * FROM {}", proved("{b, a}", "settle_objects_v1"));
    let with_event = format!(
        "SELECT p.o_state, s.* FROM settle_v1({EVENT}, '{{quarantined}}', NULL, NULL, NULL, NULL, 'ambiguous', 1, false,
            '{{prepayId, prepayId}}', '{{b, a}}', '{{acme, acme}}', '{{1, 1}}') AS p
        LEFT JOIN LATERAL {} AS s ON true",
        proved("{b, a}", "take_outcomes_v1")
    );
    let (alone, with_event) = (alone.as_str(), with_event.as_str());
    for (setup, first, other, then) in [
        // The row, then all events; and rows in the order of their keys.
        ([a, WAITED_FOR], a, alone, waited_for),
        ([a, b], a, alone, b),
        ([a, WAITED_FOR], a, with_event, waited_for),
        ([a, b], a, with_event, b),
        ([a, WAITED_FOR], a, a_asked, waited_for),
        ([a_asked, WAITED_FOR], a, ISOLATION, waited_for),
        ([b_asked, a_asked], a, ISOLATION, b),
    ] {
        let crossing = Crossing {
            setup: &setup.join("; "),
            first,
            other,
            then,
        };
        cross(&server, crossing).await;
    }
}

#[tokio::test]
async fn whoever_ends_approvals_does_so_in_their_order_and_admissions_wait_for_none() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let guarded = "UPDATE life SET guarded_until = 1";
    let in_order = format!("{LIFE}; {}", approvals([1, 2]));
    let against = format!("{LIFE}; {}", approvals([2, 1]));
    let (first, second) = (use_approval(1), use_approval(2));
    let clock = format!("{against}; INSERT INTO store_clock VALUES (true, 1, 1)");
    for (setup, first, other, then) in [
        (&in_order, second.as_str(), guarded, first.as_str()),
        (&against, LOCK_FIRST_APPROVAL, guarded, LOCK_SECOND_APPROVAL),
        (
            &against,
            LOCK_FIRST_APPROVAL,
            "SELECT take_time_back(5)",
            LOCK_SECOND_APPROVAL,
        ),
        (
            &against,
            LOCK_FIRST_APPROVAL,
            "SELECT take_approvers(5, 2, 0)",
            LOCK_SECOND_APPROVAL,
        ),
        // A sign of life that takes the store's time back has its clock first.
        (
            &clock,
            "SELECT FROM store_clock FOR UPDATE",
            "SELECT distrust_v1(1, true)",
            "SELECT take_time_back(0)",
        ),
    ] {
        let crossing = Crossing {
            setup,
            first,
            other,
            then,
        };
        cross(&server, crossing).await;
    }
}

#[tokio::test]
async fn signs_of_life_lock_in_the_order_of_all_others() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let event = |number: u8| {
        format!(
            r"INSERT INTO event (id, received, kind, object, status, news, body_print, state, is_changed, next_at, body)
            VALUES ('00000000-0000-7000-8000-00000000000{number}', 0, 'k', 'o', 's', '\x0{number}', '', 'waiting', false, 9e15, '')"
        )
    };
    let change = |number: u8| {
        format!(
            "UPDATE event SET attempts = 1 WHERE id = '00000000-0000-7000-8000-00000000000{number}'"
        )
    };
    let instance = |id: u8, bodyless: bool| {
        format!("INSERT INTO instance VALUES ({id}, 0, 0, 'h', '1', 'c', NULL, 0, {bodyless}, 0)")
    };
    // The store's time goes back while attempts are recorded.
    let crossing = Crossing {
        setup: &format!("{}; {}", event(2), event(1)),
        first: &format!("SELECT notifying(); {}", change(1)),
        other: "SELECT take_time_back(5)",
        then: &change(2),
    };
    cross(&server, crossing).await;
    // An instance that served reads without the store, beside one that needs a longer ring.
    let crossing = Crossing {
        setup: &format!("{LIFE}; {}", instance(1, true)),
        first: "UPDATE cluster SET slice_ms = slice_ms",
        other: &join(true),
        then: "UPDATE life SET guarded_until = guarded_until",
    };
    cross(&server, crossing).await;
    // Two that find the same instances gone.
    let crossing = Crossing {
        setup: &format!("{LIFE}; {}; {}", instance(7, false), instance(8, false)),
        first: "SELECT FROM instance WHERE id = 8 FOR UPDATE",
        other: &join(false),
        then: "SELECT FROM instance WHERE id = 7 FOR UPDATE",
    };
    cross(&server, crossing).await;
}
