use crate::support::*;
use gatepay_core::envelope::{self, AnswerVerdict};
use gatepay_core::operation::{Method, Operation, OperationScope};
use gatepay_core::{Catalogue, header};
use gatepay_sandbox::{AnswerForms, examples};
use gatepay_tenancy::settings::FixedAddressCallback;
use std::collections::BTreeSet;

/// The number of GatePay's documented operations for tenants, and the operation without a route.
const OPEN_TO_TENANTS: usize = 71;
const LEADS_NOWHERE: &str = "mcp_call";

#[tokio::test]
async fn every_operation_arrives_where_the_documentation_says() {
    let standard = Catalogue::standard();
    for forms in [AnswerForms::Clients, AnswerForms::Documentation] {
        let mut called = BTreeSet::new();
        let gatepay = GatePay::with(|config| config.answer_forms = forms);
        let proxy = before(&gatepay, everything_on());
        for row in tenants_rows(&standard) {
            let path = row.institution_path.as_deref().unwrap();
            arrives(&gatepay, &proxy, row, row.institution_method, path).await;
            called.insert(&row.name);
        }
        assert_eq!(called.len(), OPEN_TO_TENANTS - 1, "all but {LEADS_NOWHERE}");
    }
}

#[tokio::test]
async fn every_operation_with_another_published_path_can_be_led_there() {
    let standard = Catalogue::standard();
    let mut called = 0;
    for row in tenants_rows(&standard) {
        for (method, path) in row.alternatives {
            let name = &row.name;
            let table = format!("[[operation]]\nname = '{name}'\ninstitution_path = '{path}'\n");
            let gatepay = GatePay::start();
            let proxy = before(&gatepay, changed(&table));
            arrives(&gatepay, &proxy, row, *method, path).await;
            called += 1;
        }
    }
    assert_eq!(
        called, 6,
        "static address, balance, two of convert, two of payouts"
    );
}

/// The tenant's call reaches GatePay in the institution's name and form; GatePay's answer reaches the tenant.
async fn arrives(gatepay: &GatePay, proxy: &Proxy, row: &Operation, method: Method, path: &str) {
    let what = format!("{} at {path}", row.name);
    let own = acme().sub_account;
    let sent = examples::prepare_for(&gatepay.sandbox, own, &row.name, row.method).unwrap();
    let before = gatepay.count();
    let answer = proxy
        .send(acme().calls(row.merchant_path.as_deref().unwrap(), &sent))
        .await;
    assert_eq!(answer.refusal(), None, "{what}: {}", answer.text());
    assert_eq!(gatepay.count(), before + 1, "{what}");
    let received = gatepay.last();
    assert_eq!(received.operation.as_deref(), Some(&*row.name), "{what}");
    assert_eq!(received.method, method.as_str(), "{what}");
    assert!(
        received.verified && received.executed,
        "{what}: {received:?}"
    );
    assert_eq!(received.header(header::ON_BEHALF_OF), Some(own), "{what}");
    assert_eq!(
        received.header(header::CLIENT_ID),
        Some(INSTITUTION_ID),
        "{what}"
    );
    assert_eq!(answer.status, received.answer_status.unwrap(), "{what}");
    let verdict = envelope::judge(row.kind, answer.status, &answer.body).verdict;
    assert_eq!(verdict, AnswerVerdict::Success, "{what}: {}", answer.text());
    if method == row.method {
        assert_eq!(
            received.target,
            target(path, sent.query.as_deref()),
            "{what}"
        );
        assert_eq!(received.body, sent.body, "{what}");
        assert_eq!(received.header("content-type"), sent.content_type, "{what}");
        assert_eq!(answer.body, received.answer_body, "{what}");
    } else {
        // The only row with different protocols on its two sides.
        assert_eq!(row.name, "query_balance");
        assert_eq!(received.target, path);
        assert_eq!(received.body, r#"["USDT","USDC","BTC","ETH","GT"]"#);
        let theirs = str::from_utf8(&received.answer_body).unwrap();
        assert_eq!(
            answer.body,
            theirs.replacen("balanceList", "balance_list", 1)
        );
        assert_ne!(answer.body, theirs);
    }
}

#[tokio::test]
async fn an_operation_that_is_off_is_refused_and_the_log_has_the_key_that_turns_it_on() {
    let standard = Catalogue::standard();
    let gatepay = GatePay::start();
    let proxy = before(&gatepay, Catalogue::standard());
    let own = acme().sub_account;
    let mut refused = Vec::new();
    for row in standard.rows().iter().filter(|row| row.off().is_some()) {
        let path = row.merchant_path.as_deref().unwrap();
        let call = examples::prepare(&gatepay.sandbox, own, &row.name)
            .map_or_else(|| acme().post(path, "{}"), |sent| acme().calls(path, &sent));
        let answer = proxy.send(call).await;
        assert_eq!(
            answer.refused(),
            (403, "operation_not_allowed"),
            "{}",
            row.name
        );
        refused.push((&*row.name, answer.message()));
    }
    assert_eq!(gatepay.count(), 0);
    let names: Vec<&str> = refused.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "refund_checkout_order",
            "refund_order_v3",
            "refund_address_order",
            LEADS_NOWHERE,
        ]
    );
    let lines = proxy.stop().await;
    for (name, message) in refused {
        let line = lines.iter().find(|line| line["operation"] == name).unwrap();
        let key = match name {
            LEADS_NOWHERE => "institution_path",
            _ => "enabled = true",
        };
        // The setting that enables the operation is the institution's to know: the log names it.
        assert!(message.contains(name), "{name}: {message}");
        let detail = line["detail"].as_str().unwrap();
        for word in ["[[operation]]", key] {
            assert!(!message.contains(word), "{name}, {word}: {message}");
            assert!(detail.contains(word), "{name}, {word}: {detail}");
        }
    }
}

#[tokio::test]
async fn the_files_turn_operations_off_and_on_and_add_others() {
    let gatepay = GatePay::start();
    let catalogue = changed(
        "
[[operation]]
name = 'query_order'
enabled = false
[[operation]]
name = 'refund_checkout_order'
enabled = true
[[operation]]
name = 'mcp_call'
enabled = true
institution_path = '/payment/open/institution/api/mcp'
[[operation]]
name = 'new_read'
module = 'payment'
kind = 'read'
method = 'GET'
merchant_path = '/v9/new'
institution_path = '/payment/open/institution/v9/new'
",
    );
    let proxy = before(&gatepay, catalogue);
    let off = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    assert_eq!(off.refused(), (403, "operation_not_allowed"));
    let message = off.message();
    assert!(
        message.contains("query_order is off; ask your institution"),
        "{message}"
    );
    assert_eq!(gatepay.count(), 0);
    for (call, method, there) in [
        (
            acme().post("/v1/pay/checkout/refund", A_REFUND),
            "POST",
            "/payment/open/institution/v1/pay/checkout/refund",
        ),
        (
            acme().post("/payment/open/api/mcp", "{}"),
            "POST",
            "/payment/open/institution/api/mcp",
        ),
        (
            acme().get("/v9/new?a=1"),
            "GET",
            "/payment/open/institution/v9/new?a=1",
        ),
    ] {
        let answer = proxy.send(call).await;
        // The sandbox lacks this path, and answers without a body.
        let lost = Some("outcome_unknown").filter(|_| there.ends_with("/api/mcp"));
        assert_eq!(answer.refusal(), lost, "{there}: {}", answer.text());
        let received = gatepay.last();
        assert_eq!((&*received.method, &*received.target), (method, there));
        assert_eq!(
            received.header(header::ON_BEHALF_OF),
            Some(acme().sub_account)
        );
    }
    assert_eq!(gatepay.count(), 3);
}

#[tokio::test]
async fn a_tenant_names_the_currencies_of_its_balance_or_gets_the_configured_ones() {
    let gatepay = GatePay::start();
    let currencies = || vec!["USDT".to_owned(), "GT".to_owned()];
    let proxy = Proxy::before(&gatepay)
        .with(move |settings| settings.balance_currencies = currencies())
        .start();
    for (query, asked) in [
        ("", r#"["USDT","GT"]"#),
        ("?currency=BTC", r#"["BTC"]"#),
        ("?currency=BTC,USDT", r#"["BTC","USDT"]"#),
    ] {
        let path = format!("/v1/pay/balance/query{query}");
        let answer = proxy.send(acme().get(&path)).await;
        assert_eq!(gatepay.last().body, asked, "{query}");
        assert!(
            answer.json()["data"]["balance_list"].is_array(),
            "{}",
            answer.text()
        );
    }
}

/// A proxy before this GatePay, with these operations, and with callbacks passed on.
fn before(gatepay: &GatePay, catalogue: Catalogue) -> Proxy {
    Proxy::before(gatepay)
        .catalogue(catalogue)
        .with(|settings| settings.fixed_address_callback = FixedAddressCallback::Forward)
        .start()
}

/// The tenants' rows with a route.
fn tenants_rows(catalogue: &Catalogue) -> impl Iterator<Item = &Operation> {
    let rows = catalogue.rows().iter();
    rows.filter(|row| row.scope == OperationScope::Tenant && row.name != LEADS_NOWHERE)
}
