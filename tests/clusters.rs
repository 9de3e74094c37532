//! Instances of the program before one real PostgreSQL server.

use std::time::Duration;

use bytes::Bytes;
use gatepay_proxy::process::clock::Clock;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::{PostgresSettings, StoreTerms};
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::support::postgres::{self, PgServer};
use crate::support::program::{Folder, Program};
use crate::support::*;

/// The time limit of a call to the store in these tests.
const LIMIT: Duration = Duration::from_millis(500);

fn conninfo(server: &PgServer) -> String {
    format!(
        "host=127.0.0.1 port={} dbname=postgres user=postgres",
        server.port
    )
}

/// A migrated server.
async fn store() -> PgServer {
    let server = PgServer::start();
    let settings = PostgresSettings {
        conninfo: conninfo(&server),
        password: None,
        trusted: Vec::new(),
        client: None,
        plaintext: false,
        contact_file: None,
    };
    let store = PostgresStore::new(&settings, StoreTerms::default()).unwrap();
    store.migrate(None).await.unwrap();
    server
}

/// The folder of an instance with this store, and more lines for the table `[store]`.
fn folder(gatepay: &GatePay, server: &PgServer, more: &str) -> Folder {
    let folder = Folder::before(&gatepay.url());
    let (conninfo, limit) = (conninfo(server), LIMIT.as_millis());
    folder.proxy(&format!(
        "timestamp = {{ future_ms = 300 }}\n\
         store = {{ postgres = '{conninfo}', timeout_ms = {limit}{more} }}"
    ));
    folder
}

async fn send(program: &Program, request: &Request<Full<Bytes>>) -> Answer {
    let mut caller = Connection::open(program.address).await;
    caller.send(request.clone()).await
}

fn signed(call: &Call) -> Request<Full<Bytes>> {
    call.request(&Clock::system())
}

/// Waits until the instance answers requests.
async fn ready(program: &Program) {
    is(program, 200).await;
}

async fn is(program: &Program, status: u16) {
    for _ in 0..200 {
        if program.admin("GET", "/ready").await.status == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("/ready is not {status}: {}", program.stderr());
}

fn slug(answer: &Answer) -> Option<&str> {
    answer.header("x-gatepay-proxy-refusal")
}

fn outcome(answer: &Answer) -> Option<&str> {
    answer.header("x-gatepay-proxy-outcome")
}

/// A refund that the emulator answers with a failure of its own: what counts is that it arrives once.
fn refund() -> Request<Full<Bytes>> {
    signed(&acme().post(REFUND, A_REFUND))
}

#[tokio::test]
async fn a_request_that_reaches_two_instances_is_forwarded_once() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), store().await);
    let folders = [0, 1].map(|_| folder(&gatepay, &server, ""));
    let one = Program::serve(&folders[0]).await;
    let other = Program::serve(&folders[1]).await;
    ready(&one).await;
    ready(&other).await;
    // One after the other, either way round.
    for (first, second) in [(&one, &other), (&other, &one)] {
        let request = refund();
        let before = gatepay.count();
        let answer = send(first, &request).await;
        assert_eq!(slug(&answer), None, "{}", answer.text());
        let copy = send(second, &request).await;
        assert_eq!(slug(&copy), Some("replayed"), "{}", copy.text());
        assert_eq!(outcome(&copy), Some("unknown"));
        assert!(copy.message().contains("ask GET"), "{}", copy.message());
        assert_eq!(gatepay.count(), before + 1);
    }
    // At once.
    for _ in 0..20 {
        let request = signed(&acme().post(QUERY, BY_NUMBER));
        let before = gatepay.count();
        let answers = tokio::join!(send(&one, &request), send(&other, &request));
        let refused = [slug(&answers.0), slug(&answers.1)];
        let admitted = refused.iter().filter(|slug| slug.is_none()).count();
        assert_eq!(admitted, 1, "{refused:?}");
        assert!(refused.contains(&Some("replayed")), "{refused:?}");
        assert_eq!(gatepay.count(), before + 1);
    }
    let view = one.admin("GET", "/cluster").await.json();
    assert_eq!(
        view["instances"].as_array().map(Vec::len),
        Some(2),
        "{view}"
    );
    assert!(one.metric("store_available").await.ends_with('1'));
}

#[tokio::test]
async fn without_its_store_an_instance_refuses_at_once_and_serves_again_when_the_store_is_back() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, mut server) = (GatePay::now(), store().await);
    let folder = folder(&gatepay, &server, "");
    let program = Program::serve(&folder).await;
    ready(&program).await;
    let executed = refund();
    assert_eq!(slug(&send(&program, &executed).await), None);
    server.kill();
    let before = gatepay.count();
    let first = send(&program, &refund()).await;
    assert_eq!(
        (first.status, slug(&first)),
        (503, Some("store_unavailable"))
    );
    assert_eq!(
        outcome(&first),
        Some("unknown"),
        "another instance may have it"
    );
    assert!(first.message().contains("ask GET"), "{}", first.message());
    let read = send(&program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
    assert_eq!(slug(&read), Some("store_unavailable"));
    assert_eq!(outcome(&read), Some("not-executed"));
    let began = std::time::Instant::now();
    for _ in 0..20 {
        let later = send(&program, &refund()).await;
        assert_eq!(slug(&later), Some("store_unavailable"));
    }
    assert!(began.elapsed() < LIMIT * 2, "{:?}", began.elapsed());
    assert_eq!(gatepay.count(), before, "nothing was sent");
    is(&program, 503).await;
    assert_eq!(program.admin("GET", "/live").await.status, 200);

    server.start_again();
    ready(&program).await;
    assert_eq!(slug(&send(&program, &refund()).await), None);
    let copy = send(&program, &executed).await;
    assert_eq!(slug(&copy), Some("replayed"));
}

#[tokio::test]
async fn a_party_that_is_suspended_on_one_instance_is_refused_on_all() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), store().await);
    let folders = [0, 1].map(|_| folder(&gatepay, &server, ""));
    let one = Program::serve(&folders[0]).await;
    let other = Program::serve(&folders[1]).await;
    ready(&one).await;
    ready(&other).await;
    let executed = refund();
    assert_eq!(slug(&send(&one, &executed).await), None);
    let said = one.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let before = gatepay.count();
    let refused = send(&other, &signed(&acme().post(QUERY, BY_NUMBER))).await;
    assert_eq!(
        (refused.status, slug(&refused)),
        (403, Some("tenant_suspended"))
    );
    assert_eq!(gatepay.count(), before);
    // Whoever asks again for what was executed is not told that it was not.
    for program in [&one, &other] {
        let copy = send(program, &executed).await;
        assert_eq!(outcome(&copy), Some("unknown"), "{}", copy.text());
    }
    let globex = send(&other, &signed(&globex().post(QUERY, BY_NUMBER))).await;
    assert_eq!(slug(&globex), None);
    let said = one.admin("POST", "/-/resume?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    for program in [&one, &other] {
        assert_eq!(slug(&send(program, &refund()).await), None);
    }
}

#[tokio::test]
async fn a_halt_of_money_refuses_money_everywhere_and_leaves_its_stamp_unspent() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), store().await);
    let folder = folder(&gatepay, &server, "");
    let program = Program::serve(&folder).await;
    ready(&program).await;
    server.sql("SELECT gatepay.halt_v1('money', 'alice')");
    let (before, request) = (gatepay.count(), refund());
    let refused = send(&program, &request).await;
    assert_eq!((refused.status, slug(&refused)), (503, Some("halted")));
    assert_eq!(
        outcome(&refused),
        Some("not-executed"),
        "the stamp was looked up"
    );
    assert_eq!(gatepay.count(), before);
    let read = send(&program, &signed(&acme().post(QUERY, BY_NUMBER))).await;
    assert_eq!(slug(&read), None, "reads go on");
    server.sql("SELECT gatepay.resume_v1('money')");
    let admitted = send(&program, &request).await;
    assert_eq!(slug(&admitted), None, "{}", admitted.text());
}

#[tokio::test]
async fn a_copy_of_an_executed_call_is_never_reported_as_not_executed_by_another_instance() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, mut server) = (GatePay::now(), store().await);
    let folders = [0, 1].map(|_| folder(&gatepay, &server, ""));
    let one = Program::serve(&folders[0]).await;
    folders[1].tenant(&acme(), "limits = { requests_per_second = 1, burst = 1 }");
    let other = Program::serve(&folders[1]).await;
    ready(&one).await;
    ready(&other).await;
    let executed = refund();
    assert_eq!(slug(&send(&one, &executed).await), None);
    let before = gatepay.count();
    let is_unknown = |wanted: &str, copy: &Answer| {
        assert_eq!(slug(copy), Some(wanted), "{}", copy.text());
        assert_eq!(outcome(copy), Some("unknown"), "{}", copy.text());
    };
    // 429: the other instance has spent its only token.
    let spends = signed(&acme().post(QUERY, BY_NUMBER));
    assert_eq!(slug(&send(&other, &spends).await), None);
    let copy = send(&other, &executed).await;
    is_unknown("rate_limited", &copy);
    assert!(
        copy.message().contains("send the same bytes again"),
        "{}",
        copy.message()
    );
    // Halt: the stamp is looked up first.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.sql("SELECT gatepay.halt_v1('all', 'alice')");
    is_unknown("replayed", &send(&other, &executed).await);
    // Guard by hand.
    server.sql("SELECT gatepay.resume_v1('all')");
    // The store is away.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.kill();
    is_unknown("store_unavailable", &send(&other, &executed).await);
    assert_eq!(gatepay.count(), before + 1, "the query alone");
    let _: Value = other.admin("GET", "/cluster").await.json();
}

#[tokio::test]
async fn an_instance_that_crashed_starts_again_without_a_wait_because_the_store_has_its_stamps() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), store().await);
    let folder = folder(&gatepay, &server, "");
    // So long that the test would fail if the start waited for it.
    folder.edit("proxy.toml", "future_ms = 300", "future_ms = 3_000");
    let program = Program::serve(&folder).await;
    ready(&program).await;
    let executed = refund();
    assert_eq!(slug(&send(&program, &executed).await), None);
    program.signal("-KILL");
    let _ended = program.end().await;
    let program = Program::serve(&folder).await;
    assert_eq!(program.admin("GET", "/ready").await.status, 200);
    assert_eq!(slug(&send(&program, &refund()).await), None);
    let copy = send(&program, &executed).await;
    assert_eq!(slug(&copy), Some("replayed"), "{}", copy.text());
}

#[tokio::test]
async fn while_the_store_is_away_only_reads_without_a_body_may_go_on() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, mut server) = (GatePay::now(), store().await);
    let folder = folder(&gatepay, &server, ", reads_without_store = true");
    let program = Program::serve(&folder).await;
    ready(&program).await;
    server.kill();
    let details = format!("{DETAILS}?refundRequestId=R-0001");
    let bare = signed(&acme().get(&details));
    let with_body = signed(&acme().post(QUERY, BY_NUMBER));
    let refused = send(&program, &with_body).await;
    assert_eq!(slug(&refused), Some("store_unavailable"));
    let refused = send(&program, &refund()).await;
    assert_eq!(slug(&refused), Some("store_unavailable"));
    let before = gatepay.count();
    let read = send(&program, &bare).await;
    assert_eq!(slug(&read), None, "{}", read.text());
    assert_eq!(gatepay.count(), before + 1);
    let copy = send(&program, &bare).await;
    assert_eq!(slug(&copy), Some("replayed"), "this instance knows it");
}
