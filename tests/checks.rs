use crate::support::*;
use gatepay_core::check::Strictness;

fn proxy(gatepay: &GatePay, strictness: Strictness) -> Proxy {
    Proxy::before(gatepay)
        .with(move |settings| settings.checks = strictness)
        .start()
}

/// A create whose order number is shorter than some pages allow.
fn short() -> Call {
    acme().post(CREATE, order("A-1"))
}

#[tokio::test]
async fn a_body_that_gatepay_is_certain_to_refuse_is_refused_by_field() {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay, Strictness::Certain);
    for (call, says) in [
        (
            acme().post(QUERY, "{}"),
            "prepayId or merchantTradeNo: one of the two is required",
        ),
        (
            acme().post(CREATE, order("")),
            "merchantTradeNo: required field is missing",
        ),
        (
            acme().post(CREATE, order("A").replace("currency", "x")),
            "currency: required field is missing",
        ),
        (
            acme().post(REFUND, r#"{"refundRequestId":"1"}"#),
            "prepayId: required field is missing",
        ),
        (
            acme().post(QUERY, "{1234"),
            "body is not JSON (line 1, column 2)",
        ),
        (
            acme().post(QUERY, b"{\"\xff\"}".as_slice()),
            "body is not JSON",
        ),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refused(), (400, "invalid_body"), "{says}");
        assert_eq!(
            (answer.code(), answer.outcome()),
            ("400001".to_owned(), Some("not-executed"))
        );
        assert!(answer.message().contains(says), "{}", answer.message());
    }
    assert_eq!(gatepay.count(), 0);
    assert_eq!(
        proxy.send(short()).await.refusal(),
        None,
        "pages contradict each other"
    );
}

#[tokio::test]
async fn strict_holds_to_what_the_pages_state() {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay, Strictness::Strict);
    let answer = proxy.send(short()).await;
    assert_eq!(answer.refused(), (400, "invalid_body"));
    assert!(
        answer
            .message()
            .contains("merchantTradeNo: must be text of 5 to 32 characters")
    );
    let two_terminals = order("A-0001").replace("APP", "FRIDGE");
    let answer = proxy.send(acme().post(CREATE, two_terminals)).await;
    assert!(answer.message().contains("env"), "{}", answer.message());
    assert!(
        !answer.message().contains("FRIDGE"),
        "what was sent is not repeated"
    );
    assert_eq!(gatepay.count(), 0);
    assert_eq!(
        proxy
            .send(acme().post(CREATE, order("A-0001")))
            .await
            .code(),
        "000000"
    );
}

#[tokio::test]
async fn off_leaves_it_to_gatepay() {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay, Strictness::Off);
    for body in ["{}", "{1234", "not JSON", "[]"] {
        let answer = proxy.send(acme().post(QUERY, body)).await;
        assert_eq!((answer.status, answer.refusal()), (200, None), "{body}");
        assert_eq!(gatepay.last().body, body);
    }
    // A lenient parser may find an account there; no setting admits that.
    let other = proxy
        .send(acme().post(QUERY, r#"{"merchantId":"9"} x"#))
        .await;
    assert_eq!(other.refused(), (400, "invalid_body"));
}

#[tokio::test]
async fn an_id_in_the_query_counts_as_sent() {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay, Strictness::Certain);
    for (query, body) in [
        ("merchantTradeNo=A-0001", "{}"),
        ("x=1&prepayId=5", "{\"y\":2}"),
    ] {
        let call = acme().post(&format!("{QUERY}?{query}"), body);
        assert_eq!(proxy.send(call).await.refusal(), None, "{query}");
        assert_eq!(gatepay.last().target, format!("{PREFIX}{QUERY}?{query}"));
    }
    let empty = acme().post(&format!("{QUERY}?merchantTradeNo="), "{}");
    assert_eq!(proxy.send(empty).await.refusal(), Some("invalid_body"));
}

#[tokio::test]
async fn another_case_of_a_required_field_is_not_certain_to_be_refused() {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay, Strictness::Certain);
    for call in [
        acme().post(
            CREATE,
            order("A-0001").replace("merchantTradeNo", "MerchantTradeNo"),
        ),
        acme().post(REFUND, A_REFUND.replace("prepayId", "PREPAYID")),
        acme().post(QUERY, r#"{"MerchantTradeNo":"A-0001"}"#),
        acme().post(&format!("{QUERY}?prepayid=5"), "{}"),
        acme().post(&format!("{QUERY}?x=1;prepayId=5"), "{}"),
    ] {
        assert_eq!(proxy.send(call).await.refusal(), None);
    }
    assert_eq!(gatepay.count(), 5);
}

#[tokio::test]
async fn a_body_that_names_another_account_is_refused_however_lenient_the_checks() {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay, Strictness::Off);
    let theirs = globex().sub_account;
    let named = format!(r#"{{"merchantTradeNo":"A-0001","merchant_id":"{theirs}"}}"#);
    let own = named.replace(theirs, acme().sub_account);
    let twice = A_REFUND.replace("\"1\"}", "\"1\",\"refundAmount\":\"9\"}");
    let mismatch = (403, "on_behalf_of_mismatch");
    for (call, refused) in [
        (acme().post(CREATE, named.clone()), mismatch),
        (acme().post(QUERY, named), mismatch),
        (
            acme().get(&format!("{DETAILS}?account_id={theirs}")),
            mismatch,
        ),
        (acme().post(REFUND, twice), (400, "invalid_body")),
        (
            acme().post(REFUND, format!("{A_REFUND} x")),
            (400, "invalid_body"),
        ),
        (acme().post(CREATE, "{1234"), (400, "invalid_body")),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refused(), refused);
        assert_eq!(answer.outcome(), Some("not-executed"));
        assert!(
            !answer.text().contains(theirs),
            "what was sent is not repeated"
        );
    }
    assert_eq!(gatepay.count(), 0);
    assert_eq!(proxy.send(acme().post(QUERY, own)).await.refusal(), None);
}
