use crate::support::*;
use gatepay_core::check::Strictness;
use gatepay_core::header;
use gatepay_sandbox::examples;
use gatepay_tenancy::settings::FixedAddressCallback;
use serde_json::{Value, json};

/// The fields that name an account in GatePay's calls.
const FIELDS: [&str; 5] = [
    "merchant_id",
    "client_id",
    "accountId",
    "account_id",
    "sub_merchant_id",
];
const BATCH: &str = "/v1/pay/batch/transfer";
const BANK: &str = "/withdraw/open/otc/api/bank/create";
const FIXED: &str = "/v1/pay/fixedaddress/save";

#[tokio::test]
async fn a_body_that_names_another_tenants_account_is_refused() {
    let gatepay = GatePay::start();
    for checks in [Strictness::Off, Strictness::Certain, Strictness::Strict] {
        let proxy = Proxy::before(&gatepay)
            .with(move |settings| settings.checks = checks)
            .start();
        for field in FIELDS {
            for operation in ["create_order", "query_order", "create_batch_transfer"] {
                for (value, passes) in [
                    (json!(acme().sub_account), true),
                    (json!(2_124_538_349_u64), true),
                    (Value::Null, true),
                    (json!(""), true),
                    (json!(0), true),
                    (json!("0"), true),
                    (json!(globex().sub_account), false),
                    (json!(2_124_538_350_u64), false),
                    (json!([acme().sub_account]), false),
                    (json!({"x": acme().sub_account}), false),
                    (json!("anybody"), false),
                ] {
                    let before = gatepay.count();
                    let answer = proxy.send(with(&gatepay, operation, field, &value)).await;
                    let what = format!("{operation} {field} {value}: {}", answer.text());
                    if passes {
                        assert_eq!(answer.refusal(), None, "{what}");
                        let account = gatepay
                            .last()
                            .header(header::ON_BEHALF_OF)
                            .map(str::to_owned);
                        assert_eq!(account.as_deref(), Some(acme().sub_account), "{what}");
                    } else {
                        assert_eq!(answer.refused(), (403, "on_behalf_of_mismatch"), "{what}");
                        assert!(answer.message().contains(field), "{what}");
                        assert!(!answer.text().contains(globex().sub_account), "{what}");
                    }
                    assert_eq!(gatepay.count() - before, usize::from(passes), "{what}");
                }
            }
        }
    }
}

/// A good call of acme's, with one more member in its body.
fn with(gatepay: &GatePay, operation: &str, field: &str, value: &Value) -> Call {
    let example = examples::prepare(&gatepay.sandbox, acme().sub_account, operation).unwrap();
    let mut body: Value = serde_json::from_slice(&example.body).unwrap();
    body[field] = value.clone();
    let path = match operation {
        "create_order" => CREATE,
        "query_order" => QUERY,
        _ => BATCH,
    };
    acme().post(path, body.to_string())
}

#[tokio::test]
async fn a_query_that_names_another_tenants_account_is_refused() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for field in FIELDS {
        for (value, passes) in [
            (acme().sub_account, true),
            ("", true),
            ("0", true),
            (globex().sub_account, false),
            ("2124538349&a=1&%FIELD%=2124538350", false),
            // The same account in another spelling.
            ("%32124538350", false),
        ] {
            let before = gatepay.count();
            let value = value.replace("%FIELD%", field);
            for call in [
                acme().get(&format!("{DETAILS}?refundRequestId=1&{field}={value}")),
                acme().post(&format!("{QUERY}?{field}={value}"), BY_NUMBER),
            ] {
                let answer = proxy.send(call).await;
                let expected = if passes {
                    "not refused"
                } else {
                    "on_behalf_of_mismatch"
                };
                assert_eq!(answer.refused().1, expected, "{field}={value}");
            }
            assert_eq!(
                gatepay.count() - before,
                2 * usize::from(passes),
                "{field}={value}"
            );
        }
    }
}

#[tokio::test]
async fn the_client_id_a_tenant_signs_with_is_its_own_name_too() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for (client_id, refused) in [
        (acme().client_id, "not refused"),
        (globex().client_id, "on_behalf_of_mismatch"),
        (INSTITUTION_ID, "on_behalf_of_mismatch"),
    ] {
        let answer = proxy
            .send(with(
                &gatepay,
                "create_batch_transfer",
                "client_id",
                &json!(client_id),
            ))
            .await;
        assert_eq!(answer.refused().1, refused, "{client_id}");
    }
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn a_money_call_has_one_reading_however_lenient_the_checks() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.checks = Strictness::Off)
        .start();
    for body in [
        r#"{"refundRequestId":"R-0001","refundAmount":"1","refundAmount":"2"}"#,
        r#"{"refundRequestId":"R-0001","refundAmount":"1","refund\u0041mount":"2"}"#,
        r#"{"refundRequestId":"R-0001","refundAmount":"1","RefundAmount":"2"}"#,
        r#"{"refundRequestId":"R-0001","REFUND\u0041MOUNT":"1","refundAmount":"2"}"#,
        r#"{"refundRequestId":"R-0001","more":[{"a":1,"a":2}]}"#,
        r#"{"refundRequestId":"R-0001","more":[{"a":1,"b":{"a":3},"A":2}]}"#,
        r#"{"refundRequestId":"R-0001","refundAmount":1e999}"#,
        r#"{"refundRequestId":"R-0001","refundReason":"\ud83d"}"#,
        r#"{"refundRequestId":"R-0001"} {"refundRequestId":"R-0002"}"#,
        r#"{"refundRequestId":"R-0001"}]"#,
        r#"{"refundRequestId":"R-0001",}"#,
        r#"{"refundRequestId":"R-0001"}//"#,
        "refundRequestId=R-0001",
        "{\"refundRequestId\":\"R-0001\"}\0",
        "\u{feff}{\"refundRequestId\":\"R-0001\"}",
        "{\"refundRequestId\":\"R-0001\"",
    ] {
        let answer = proxy.send(acme().post(REFUND, body)).await;
        assert_eq!(answer.refused(), (400, "invalid_body"), "{body}");
    }
    assert_eq!(gatepay.count(), 0);
    let one = " {\"refundRequestId\":\"R-0001\"}\r\n";
    assert_eq!(proxy.send(acme().post(REFUND, one)).await.refusal(), None);
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn the_top_of_a_write_names_no_member_twice_in_any_case() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.checks = Strictness::Off)
        .start();
    let many: Vec<_> = (0..100).map(|at| format!(r#""m{at}":{at},"#)).collect();
    let many = many.concat();
    for body in [
        r#"{"prepayId":"1","prepayId":"2"}"#.to_owned(),
        r#"{"prepayId":"1","PrepayId":"1"}"#.to_owned(),
        r#"{"prepayId":"1","prepay\u0049D":"2"}"#.to_owned(),
        format!(r#"{{"prepayId":"1",{many}"PREPAYID":"2"}}"#),
    ] {
        let answer = proxy.send(acme().post(CLOSE, body.clone())).await;
        assert_eq!(answer.refused(), (400, "invalid_body"), "{body}");
        assert!(answer.message().contains("twice"), "{}", answer.message());
    }
    assert_eq!(gatepay.count(), 0);
    for (path, body) in [
        (CLOSE, r#"{"prepayId":"1","labels":{"a":1,"A":2,"a":3}}"#),
        (QUERY, r#"{"prepayId":"1","PrepayId":"1","prepayId":"2"}"#),
    ] {
        assert_eq!(
            proxy.send(acme().post(path, body)).await.refusal(),
            None,
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_body_nests_as_deep_as_parsers_agree_to_read() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.checks = Strictness::Off)
        .start();
    let deep = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"prepayId":"1","x":{open}{close}}}"#)
    };
    for path in [CLOSE, REFUND] {
        let answer = proxy.send(acme().post(path, deep(128))).await;
        assert_eq!(answer.refusal(), None, "{path}");
        for levels in [129, 400_000] {
            let answer = proxy.send(acme().post(path, deep(levels))).await;
            assert_eq!(answer.refused(), (400, "invalid_body"), "{path} {levels}");
        }
    }
    assert_eq!(
        proxy
            .send(acme().post(QUERY, deep(400_000)))
            .await
            .refusal(),
        None
    );
}

#[tokio::test]
async fn names_of_calls_that_change_something_are_ascii_at_every_depth() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.checks = Strictness::Off;
            settings.fixed_address_callback = FixedAddressCallback::Forward;
        })
        .start();
    for name in [
        r"callbac\u212aUrl",
        "callbac\u{212a}Url",
        "\u{17f}ub_merchant_id",
        "merchant_\u{131}d",
        r"account\u0130d",
        "\u{ff41}ccountId",
        "caf\u{e9}",
    ] {
        for path in [FIXED, CREATE, CLOSE, REFUND, BATCH] {
            for body in [
                format!(r#"{{"{name}":""}}"#),
                format!(r#"{{"a":[{{"b":{{"{name}":1}}}}]}}"#),
            ] {
                let answer = proxy.send(acme().post(path, body.clone())).await;
                assert_eq!(answer.refused(), (400, "invalid_body"), "{path} {body}");
                assert_eq!(answer.outcome(), Some("not-executed"));
                assert!(
                    answer.message().contains("not ASCII"),
                    "{}",
                    answer.message()
                );
            }
        }
    }
    for name in ["account%C4%B0d", "callbac%e2%84%aaUrl", "%ff"] {
        let answer = proxy
            .send(acme().post(&format!("{CLOSE}?a=1;{name}=9"), BY_NUMBER))
            .await;
        assert_eq!(answer.refused(), (400, "invalid_body"), "{name}");
    }
    assert_eq!(gatepay.count(), 0);
    let text = r#"{"merchantTradeNo":"A-0001","note":"caf\u00e9 \u212a","x":["\u0131"]}"#;
    assert_eq!(proxy.send(acme().post(CLOSE, text)).await.refusal(), None);
}

#[tokio::test]
async fn a_read_that_names_another_account_in_letters_that_fold_to_ascii_is_refused() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for name in [
        "merchant_\u{131}d",
        r"account\u0130d",
        "\u{17f}ub_merchant_id",
    ] {
        let theirs = format!(r#"{{"merchantTradeNo":"A-0001","{name}":"9"}}"#);
        let answer = proxy.send(acme().post(QUERY, theirs.clone())).await;
        assert_eq!(answer.refused(), (403, "on_behalf_of_mismatch"), "{name}");
        let broken = acme().post(QUERY, theirs + " x");
        let answer = proxy.send(broken).await;
        assert_eq!(answer.refused(), (400, "invalid_body"), "{name}");
    }
    assert_eq!(gatepay.count(), 0);
    let harmless = acme().post(QUERY, "{\"merchantTradeNo\":\"A-0001\",\"caf\u{e9}\":1}");
    assert_eq!(proxy.send(harmless).await.refusal(), None);
}

#[tokio::test]
async fn the_parts_of_a_form_have_names_that_no_reader_changes() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let form = |disposition: &str| {
        let form =
            format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n9\r\n--b--\r\n");
        let media = "multipart/form-data; boundary=b";
        acme().post(BANK, form).instead("content-type", media)
    };
    let mismatch = (403, "on_behalf_of_mismatch");
    for (disposition, refused) in [
        ("name*=utf-8''acc%6funtId", (400, "invalid_body")),
        ("NAME * =utf-8''bankName", (400, "invalid_body")),
        ("name*0=\"account\"; name*1=\"Id\"", (400, "invalid_body")),
        ("name=\"=?utf-8?Q?acc=6funtId?=\"", (400, "invalid_body")),
        ("name=\"account\u{130}\"", (400, "invalid_body")),
        ("name=\"acc%6funtId\"", mismatch),
        ("name=\"acc\\ountId\"", mismatch),
        ("name=\r\n \"accountId\"", mismatch),
        ("name=\"account\u{130}d\"", mismatch),
    ] {
        let answer = proxy.send(form(disposition)).await;
        assert_eq!(answer.refused(), refused, "{disposition}");
        assert_eq!(answer.outcome(), Some("not-executed"));
    }
    assert_eq!(gatepay.count(), 0);
    let answer = proxy
        .send(form("name=\"iban\"; filename*=utf-8''a%20b"))
        .await;
    assert_eq!(answer.refusal(), None);
}

#[tokio::test]
async fn a_call_that_changes_something_has_each_parameter_and_each_part_of_a_form_once() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.checks = Strictness::Off)
        .start();
    for query in [
        "prepayId=1&prepayId=2",
        "prepayId=1;PREPAYID=2",
        "prepayId=1&prepay%49d=1",
        "prepayId[]=1&prepayId[]=2",
        "prepayI%2564=1",
        "merchantTradeNo=another",
    ] {
        for path in [CLOSE, REFUND] {
            let call = acme().post(&format!("{path}?{query}"), BY_NUMBER);
            let answer = proxy.send(call).await;
            assert_eq!(answer.refused(), (400, "invalid_body"), "{query}");
            assert_eq!(answer.outcome(), Some("not-executed"));
        }
    }
    let form = |names: [&str; 2]| {
        let part = |name: &str| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n9\r\n")
        };
        let form = names.map(part).concat() + "--b--\r\n";
        let media = "multipart/form-data; boundary=b";
        acme().post(BANK, form).instead("content-type", media)
    };
    for names in [["iban", "IBAN"], ["iban", "iban"], ["iban[]", "i_ban"]] {
        let answer = proxy.send(form(names)).await;
        assert_eq!(answer.refused(), (400, "invalid_body"), "{names:?}");
    }
    assert_eq!(gatepay.count(), 0);
    for call in [
        form(["iban", "swift"]),
        acme().post(&format!("{CLOSE}?merchantTradeNo=A-0001"), BY_NUMBER),
        acme().post(&format!("{QUERY}?x=1&x=2"), BY_NUMBER),
    ] {
        assert_eq!(proxy.send(call).await.refusal(), None);
    }
}

#[tokio::test]
async fn gatepay_is_not_made_to_call_a_tenant_directly_unless_the_institution_says_so() {
    let gatepay = GatePay::start();
    let example = || {
        let own = acme().sub_account;
        let example = examples::prepare(&gatepay.sandbox, own, "save_fixed_address").unwrap();
        assert!(String::from_utf8_lossy(&example.body).contains("callbackUrl"));
        acme().calls(FIXED, &example)
    };
    let proxy = Proxy::before(&gatepay).start();
    let answer = proxy.send(example()).await;
    assert_eq!(answer.refused(), (403, "operation_not_allowed"));
    for word in ["callbackUrl", "GatePay directly", "leave it out"] {
        assert!(answer.message().contains(word), "{}", answer.message());
    }
    let in_the_query = format!("{FIXED}?callbackUrl=https%3A%2F%2Fshop.example");
    let answer = proxy.send(acme().post(&in_the_query, "{}")).await;
    assert_eq!(answer.refusal(), Some("operation_not_allowed"));
    assert_eq!(gatepay.count(), 0);

    let forwards = Proxy::before(&gatepay)
        .with(|settings| settings.fixed_address_callback = FixedAddressCallback::Forward)
        .start();
    let answer = forwards.send(example()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(String::from_utf8_lossy(&gatepay.last().body).contains("callbackUrl"));
}

#[tokio::test]
async fn the_institution_never_pays_a_tenants_rewards() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    // Without On-Behalf-Of GatePay would take the institution's own money.
    gatepay
        .sandbox
        .fund(INSTITUTION_ACCOUNT, "USDT", "100")
        .unwrap();
    let has = |account| gatepay.sandbox.balance(account, "USDT");
    let before = has(INSTITUTION_ACCOUNT);
    for shop in [acme(), globex()] {
        let own = shop.sub_account;
        let example = examples::prepare(&gatepay.sandbox, own, "create_batch_transfer").unwrap();
        let funded = has(own);
        let answer = proxy.send(shop.calls(BATCH, &example)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = gatepay.last();
        assert_eq!(received.target, BATCH);
        assert_eq!(received.header(header::ON_BEHALF_OF), Some(own));
        assert_ne!(has(own), funded, "the tenant paid");
    }
    assert_eq!(has(INSTITUTION_ACCOUNT), before);
}
