use crate::support::scripted::{Scripted, Then, answer};
use crate::support::tls::{Files, Pair};
use crate::support::*;
use gatepay_core::Catalogue;
use gatepay_core::operation::AnswerForm;
use gatepay_proxy::headers;
use gatepay_tenancy::Standing;
use gatepay_tenancy::settings::RefusalStatus;
use http::Method;
use std::process::Command;
use tokio::task::spawn_blocking;

/// The part of a refusal that official clients read: the body alone.
fn facts(answer: &Answer) -> String {
    let (outcome, id) = (answer.outcome().unwrap(), answer.request_id());
    let wait = answer
        .header("retry-after")
        .map_or_else(String::new, |seconds| format!("Retry-After: {seconds} s; "));
    format!("({wait}outcome: {outcome}; request id: {id})")
}

fn in_gatepay_mode(gatepay: &GatePay) -> Plan {
    Proxy::before(gatepay).with(|settings| settings.refusal_status = RefusalStatus::Gatepay)
}

#[tokio::test]
async fn operations_that_answer_without_an_envelope_keep_http_statuses_in_gatepay_mode() {
    let gatepay = GatePay::start();
    let proxy = in_gatepay_mode(&gatepay).start();
    let catalogue = Catalogue::standard();
    let mut bare = Vec::new();
    for row in catalogue.rows() {
        let Some(path) = row.merchant_path.as_deref() else {
            continue;
        };
        let method = Method::from_bytes(row.method.as_str().as_bytes()).unwrap();
        let call = acme().get(path).method(method).secret("fake-other");
        let answer = proxy.send(call).await;
        let status = match row.answer {
            AnswerForm::Bare => 401,
            AnswerForm::Envelope => 200,
        };
        assert_eq!(
            answer.refused(),
            (status, "signature_mismatch"),
            "{}",
            row.name
        );
        assert_eq!(answer.json()["status"], "FAIL");
        if row.answer == AnswerForm::Bare {
            bare.push(&*row.name);
        }
    }
    assert_eq!(
        bare,
        [
            "refund_address_order",
            "wallet_chains",
            "wallet_withdraw_status",
            "wallet_withdrawals",
            "wallet_total_balance",
        ]
    );
}

#[tokio::test]
async fn a_balance_that_cannot_be_had_is_no_answer_with_status_200() {
    const BALANCE: &str = "/v1/pay/wallet/total_balance?currency=USDT";
    let upstream = Scripted::always(Then::AnswerAndClose(Vec::new()));
    let proxy = Proxy::before_scripted(&upstream)
        .tenant(acme().rate(1, 1))
        .tenant(globex().with(|party| party.standing = Standing::Suspended))
        .with(|settings| settings.refusal_status = RefusalStatus::Gatepay)
        .start();
    for (call, refused) in [
        (acme().get(BALANCE), (504, "outcome_unknown")),
        (acme().get(BALANCE), (429, "rate_limited")),
        (globex().get(BALANCE), (403, "tenant_suspended")),
        (
            acme().get(BALANCE).timestamp(&(T0 / 1000)),
            (401, "stale_timestamp"),
        ),
        // The answer of an unknown operation has no known form.
        (
            acme().get("/v1/pay/wallet/total_balances"),
            (404, "unknown_operation"),
        ),
        (
            acme().post("/v1/pay/wallet/total_balance", "{}"),
            (404, "unknown_operation"),
        ),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refused(), refused);
    }
}

#[tokio::test]
async fn every_401_names_a_scheme_over_either_version_of_http() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let once = acme()
        .post(CREATE, order("A-0001"))
        .nonce("1")
        .timestamp(&T0);
    assert_eq!(proxy.send(once.clone()).await.status, 200);
    let query = || acme().post(QUERY, BY_NUMBER);
    let mut second = Http2::open(proxy.address()).await;
    for (call, slug) in [
        (query().secret("fake-other"), "signature_mismatch"),
        (query().timestamp(&1), "stale_timestamp"),
        (
            query().without(headers::CLIENT_ID.as_str()),
            "unknown_client",
        ),
        (query().nonce(""), "malformed_nonce"),
        (once, "replayed"),
    ] {
        for answer in [
            proxy.send(call.clone()).await,
            second.send(call.request(&proxy.clock)).await,
        ] {
            assert_eq!(answer.refused(), (401, slug));
            let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
            assert_eq!(challenges, ["GatePay"], "{slug}");
        }
    }
    let answer = proxy.send(acme().get("/v9/nothing")).await;
    assert_eq!(answer.header("www-authenticate"), None);
}

#[tokio::test]
async fn a_challenge_to_the_institution_does_not_reach_a_tenant() {
    for challenge in ["", "WWW-Authenticate: Basic realm=\"gate\"\r\n"] {
        let body = br#"{"status":"FAIL","code":"400001"}"#;
        let upstream = Scripted::always(Then::Answer(answer("401 Unauthorized", challenge, body)));
        let proxy = Proxy::before_scripted(&upstream).start();
        let answer = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
        assert_eq!(answer.refused(), (401, "not refused"));
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, ["GatePay"], "{challenge}");
    }
}

#[tokio::test]
async fn the_jdks_client_returns_a_401_instead_of_throwing() {
    if Command::new("java").arg("-version").output().is_err() {
        println!("skipped: java is not here");
        return;
    }
    let gatepay = GatePay::start();
    let pair = Pair::new();
    let files = Files::of(&pair);
    let named = files.named();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.tls = Some(named))
        .start();
    let url = format!("https://{}{DETAILS}", proxy.address());
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/support/Challenged.java"
    );
    for version in ["HTTP_1_1", "HTTP_2"] {
        let mut java = Command::new("java");
        java.args([source, version, &url]);
        let output = spawn_blocking(move || java.output());
        let output = output.await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.trim(), format!("401 {version} GatePay"), "{error}");
    }
}

#[tokio::test]
async fn a_refusal_says_in_its_message_what_its_headers_say() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).tenant(acme().rate(1, 1)).start();
    let once = acme()
        .post(CREATE, order("A-0001"))
        .nonce("1")
        .timestamp(&T0);
    assert_eq!(proxy.send(once.clone()).await.status, 200);
    for (call, slug, outcome, waits) in [
        (
            acme().post(QUERY, BY_NUMBER),
            "rate_limited",
            "not-executed",
            true,
        ),
        (once, "replayed", "unknown", false),
        (
            acme().get("/v9/nothing"),
            "unknown_operation",
            "not-executed",
            false,
        ),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(
            (answer.refusal(), answer.outcome()),
            (Some(slug), Some(outcome))
        );
        assert_eq!(answer.header("retry-after").is_some(), waits, "{slug}");
        let message = answer.message();
        assert!(message.ends_with(&facts(&answer)), "{message}");
    }
    let answer = {
        let mut raw = proxy.raw().await;
        raw.write("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
            .await;
        raw.answer().await
    };
    assert_eq!(answer.refused(), (400, "malformed_request"));
    assert!(answer.message().ends_with(&facts(&answer)));
}

#[tokio::test]
async fn a_timestamp_in_another_unit_is_called_by_its_name() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let seconds = T0 / 1000;
    for (timestamp, slug, says) in [
        (
            seconds.to_string(),
            "stale_timestamp",
            Some("this looks like seconds"),
        ),
        (
            format!("{seconds}.25"),
            "malformed_request",
            Some("this looks like seconds"),
        ),
        (
            format!("{T0}000"),
            "stale_timestamp",
            Some("this looks like microseconds"),
        ),
        (
            format!("{T0}000000"),
            "stale_timestamp",
            Some("this looks like nanoseconds"),
        ),
        ((T0 - 301_000).to_string(), "stale_timestamp", None),
        ("2026-01-01".to_owned(), "malformed_request", None),
    ] {
        let call = acme().post(QUERY, BY_NUMBER).timestamp(&timestamp);
        let answer = proxy.send(call).await;
        let message = answer.message();
        assert_eq!(answer.refusal(), Some(slug), "{message}");
        match says {
            Some(says) => assert!(message.contains(says), "{message}"),
            None => assert!(!message.contains("looks like"), "{message}"),
        }
    }
}

#[tokio::test]
async fn a_wrong_signature_asks_what_became_of_the_body() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for (call, question) in [
        (
            acme().post(QUERY, BY_NUMBER).signing("{ }"),
            "was the body serialized again after signing?",
        ),
        (
            acme().get(DETAILS).signing("{ }"),
            "was a body signed that was not sent?",
        ),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refused(), (401, "signature_mismatch"));
        let message = answer.message();
        assert!(message.contains(question), "{message}");
    }
}

#[tokio::test]
async fn a_404_names_method_and_path_and_nothing_of_the_query() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let long = format!("/{}", "x".repeat(4000));
    for (method, target, says) in [
        ("GET", "/v9/nothing?secret=1", "GET /v9/nothing ("),
        ("PATCH", QUERY, "PATCH /v1/pay/order/query ("),
        ("GET", "/it's", r"GET /it\'s ("),
        ("PROPFIND-AND-SOMETHING", "/", "PROPFIND-AND-SOM... / ("),
        ("GET", &*long, "xxx... ("),
    ] {
        let mut raw = proxy.raw().await;
        raw.write(format!("{method} {target} HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        let answer = raw.answer().await;
        assert_eq!(answer.refused(), (404, "unknown_operation"), "{target:.40}");
        let message = answer.message();
        assert!(message.contains(says), "{message}");
        assert!(message.len() < 400, "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

#[tokio::test]
async fn a_tenants_refusal_advises_nothing_that_only_the_institution_can_do() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let call = acme().post("/v1/pay/checkout/refund", A_REFUND);
    let answer = proxy.send(call).await;
    assert_eq!(answer.refused(), (403, "operation_not_allowed"));
    let message = answer.message();
    assert!(message.contains("refund_checkout_order is off; ask your institution"));
    for word in ["[[operation]]", "enabled", "proxy.toml", "institution_path"] {
        assert!(!message.contains(word), "{message}");
    }
    let lines = proxy.stop().await;
    let detail = lines[0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("`enabled = true` in its [[operation]]"),
        "{detail}"
    );
}
