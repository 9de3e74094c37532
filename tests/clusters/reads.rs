//! `reads_without_store`: reads without a body go on while the store is away, and nothing else comes of their stamps.

use gatepay_core::Kind;
use gatepay_core::operation::Method;

use super::*;
use crate::support::postgres_relay::PgRelay;

#[tokio::test]
async fn while_the_store_is_away_only_reads_without_a_body_may_go_on() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, mut server) = (GatePay::now(), PgServer::migrated().await);
    let [program] = instances([folder(&gatepay, &server, ", reads_without_store = true")]).await;
    server.kill();
    let details = format!("{DETAILS}?refundRequestId=R-0001");
    let with_body = signed(&acme().post(QUERY, BY_NUMBER));
    let refused = send_once(&program, &with_body).await;
    assert_eq!(refused.refusal(), Some("store_unavailable"));
    let refused = send_once(&program, &refund()).await;
    assert_eq!(refused.refusal(), Some("store_unavailable"));
    let before = gatepay.count();
    let (bare, read) = read_alone(&program, &details).await;
    assert_eq!(read.refusal(), None, "{}", read.text());
    assert_eq!(gatepay.count(), before + 1);
    let copy = send_once(&program, &bare).await;
    assert_eq!(copy.refusal(), Some("replayed"), "this instance knows it");
}

/// Sends a read without a body, signed anew each time, until this instance's part of the limits has a token for it.
async fn read_alone(program: &Program, path: &str) -> (Request<Full<Bytes>>, Answer) {
    let began = Instant::now();
    loop {
        let read = signed(&acme().get(path));
        let answer = send_once(program, &read).await;
        if !matches!(answer.refusal(), Some("rate_limited" | "institution_quota")) {
            return (read, answer);
        }
        assert!(began.elapsed() < PATIENCE, "no token: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A request with the stamp and the signature of another one, by another method and path.
fn by_another_path(read: &Request<Full<Bytes>>, method: &str, path: &str) -> Request<Full<Bytes>> {
    let mut request = read.clone();
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = path.parse().unwrap();
    request
}

/// The stamp of a read without a body, used at another instance by the path of every operation.
#[tokio::test]
async fn the_stamp_of_a_read_that_went_on_without_the_store_changes_nothing_at_another_instance() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let relay = PgRelay::start(server.port);
    let catalogue = everything_on();
    let rows: Vec<_> = catalogue.rows().iter().collect();
    let folders = [relay.port, server.port].map(|port| {
        let limit = if port == relay.port { LIMIT } else { AMPLE };
        let more = ", reads_without_store = true";
        let folder = folder_within(limit, &gatepay.url(), &[port], more);
        let text = std::fs::read_to_string(folder.path("proxy.toml")).unwrap();
        folder.file("proxy.toml", &(text + &tables_of_everything()));
        folder
    });
    let [isolated, other] = instances(folders).await;
    relay.hold(true);
    let mut writes = 0;
    for row in rows.iter().filter(|row| row.off().is_none()) {
        let Some(path) = row.merchant_path.as_deref() else {
            continue;
        };
        let details = format!("{DETAILS}?refundRequestId=R-0001");
        let (read, went_on) = read_alone(&isolated, &details).await;
        assert_eq!(went_on.refusal(), None, "{}", went_on.text());
        let method = row.method.as_str();
        let before = gatepay.executed();
        let again = send(&other, &by_another_path(&read, method, path)).await;
        if row.kind == Kind::Read {
            continue;
        }
        writes += 1;
        assert!(again.refusal().is_some(), "{}: {}", row.name, again.text());
        assert_eq!(gatepay.executed(), before, "{}", row.name);
        // At the isolated instance too.
        let again = send_once(&isolated, &by_another_path(&read, method, path)).await;
        assert!(again.refusal().is_some(), "{}: {}", row.name, again.text());
    }
    assert!(writes > 20, "{writes}");
    // A write without a body by its own stamp, with the store at hand.
    let bare = rows
        .iter()
        .find(|row| row.method == Method::Delete && row.off().is_none())
        .and_then(|row| row.merchant_path.as_deref());
    let delete = acme().get(bare.unwrap()).method(http::Method::DELETE);
    let refused = send(&other, &signed(&delete)).await;
    assert_eq!(refused.refused(), (403, "operation_not_allowed"));
    assert_eq!(refused.outcome(), Some("unknown"));
    // Every other read without a body goes on too.
    for row in rows.iter().filter(|row| row.off().is_none()) {
        let is_bare = row.kind == Kind::Read && row.method == Method::Get;
        let (true, Some(path)) = (is_bare, row.merchant_path.as_deref()) else {
            continue;
        };
        let (_, answer) = read_alone(&isolated, path).await;
        let away = Some("store_unavailable");
        assert_ne!(answer.refusal(), away, "{}", row.name);
    }
}

#[tokio::test]
async fn an_instance_that_has_not_seen_the_halts_yet_sends_no_read_without_the_store() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let folder = suspended_before_the_store_went(&gatepay).await;
    std::fs::remove_file(folder.path("state/store-halts")).unwrap();
    let program = Program::serve(&folder).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = gatepay.count();
    let details = format!("{DETAILS}?refundRequestId=R-0001");
    let read = first_word(&program, || signed(&acme().get(&details))).await;
    assert_eq!(read.refusal(), Some("store_unavailable"), "{}", read.text());
    assert_eq!(gatepay.count(), before);
}

#[tokio::test]
async fn an_instance_that_starts_without_the_store_knows_the_halts_that_its_last_run_saw() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let folder = suspended_before_the_store_went(&gatepay).await;
    let program = Program::serve(&folder).await;
    let details = format!("{DETAILS}?refundRequestId=R-0001");
    let before = gatepay.count();
    let of_acme = first_word(&program, || signed(&acme().get(&details))).await;
    assert_eq!(of_acme.refusal(), Some("tenant_suspended"));
    assert_eq!(gatepay.count(), before);
    // The reads of others go on.
    let other = first_word(&program, || signed(&globex().get(&details))).await;
    assert_eq!(other.refusal(), None, "{}", other.text());
}

/// The folder of an instance that suspended acme and ended, before its store did.
async fn suspended_before_the_store_went(gatepay: &GatePay) -> Folder {
    let mut server = PgServer::migrated().await;
    let folder = folder(gatepay, &server, ", reads_without_store = true");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let said = program.admin("POST", "/-/suspend?tenant=acme").await;
    assert_eq!(said.status, 200, "{}", said.text());
    program.stop().await;
    server.kill();
    folder
}

/// The first answer after the start's guard and with a token.
async fn first_word(program: &Program, read: impl Fn() -> Request<Full<Bytes>>) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = send_once(program, &read()).await;
        match answer.refusal() {
            Some("starting" | "rate_limited" | "institution_quota") => {}
            _ => return answer,
        }
        assert!(begun.elapsed() < PATIENCE, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
