//! Ledger row test: compares the rows with `docs/gatepay/endpoints.json`, and reads the keys of `samples.json`.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::body::BodyReading;
use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_core::ledger_rows::{KeyFields, LedgerRow, ROWS};
use gatepay_core::{Catalogue, Kind, Operation};
use serde_json::{Value, json};

fn documented(file: &str) -> Value {
    let path = format!("{}/../../docs/gatepay/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the page is in docs/");
    serde_json::from_str(&text).expect("the page is JSON")
}

fn row(name: &str) -> (Operation, &'static LedgerRow) {
    let operation = Catalogue::standard()
        .named(name)
        .expect("a row of the catalogue")
        .clone();
    let row = LedgerRow::of(&operation).expect("a row of the ledger");
    (operation, row)
}

fn key(kind: LedgerKeyKind, text: &str) -> LedgerKey {
    LedgerKey::new(kind, text).expect("a legible text")
}

fn intents(name: &str, query: &str, body: &Value) -> Vec<LedgerKey> {
    let (operation, row) = row(name);
    let body = body.to_string();
    row.intents(&BodyReading::read(&operation, Some(query), body.as_bytes()))
}

fn own_ids(name: &str, call: &Value, status: u16, answer: &str) -> Vec<LedgerKey> {
    let (operation, row) = row(name);
    let call = call.to_string();
    let call = BodyReading::read(&operation, None, call.as_bytes());
    row.own_ids(&operation, &call, status, answer.as_bytes())
}

#[test]
fn every_operation_that_changes_something_has_a_row_with_intents_or_a_reason() {
    let catalogue = Catalogue::standard();
    let changing = catalogue.rows().iter().filter(|row| row.kind != Kind::Read);
    let changing: Vec<&str> = changing.map(|row| row.name.as_ref()).collect();
    let rows: Vec<&str> = ROWS.iter().map(|row| row.operation).collect();
    assert_eq!(rows, changing, "the catalogue's order, none twice");
    for row in ROWS {
        assert_eq!(
            row.intents.is_empty(),
            !row.reason.is_empty(),
            "{}",
            row.operation
        );
    }
}

#[test]
fn intents_are_the_documented_idempotency_fields() {
    let catalogue = Catalogue::standard();
    let mut compared = 0;
    for documented in documented("endpoints.json").as_array().unwrap() {
        let path = |name: &str| documented[name].as_str();
        let find = |row: &&Operation| {
            row.method.as_str() == documented["method"]
                && match path("merchant_path") {
                    Some(merchant) => row.merchant_path.as_deref() == Some(merchant),
                    None => row.institution_path.as_deref() == path("institution_path"),
                }
        };
        let operation = catalogue.rows().iter().find(find).unwrap();
        let Some(row) = LedgerRow::of(operation) else {
            assert_eq!(documented["kind"], "read", "{}", operation.name);
            continue;
        };
        // The order of a refund is not part of the refund's own number.
        let own = |key: &&KeyFields| key.kind != LedgerKeyKind::OrderRefund;
        let fields = row.intents.iter().filter(own).flat_map(|key| key.fields);
        let fields: BTreeSet<&str> = fields.copied().collect();
        let keys: BTreeSet<&str> = operation.key.fields().collect();
        if row.intents.is_empty() {
            let changes = row.reason.contains("another call made");
            assert!(keys.is_empty() || changes, "{}", operation.name);
        } else {
            compared += 1;
            assert_eq!(fields, keys, "{}", operation.name);
            let documented = documented["idempotency_field"].as_str().unwrap();
            for field in fields {
                assert!(documented.contains(field), "{}: {field}", operation.name);
            }
        }
    }
    assert_eq!(compared, 21);
}

#[test]
fn a_namespace_belongs_to_one_field() {
    let mut fields: BTreeMap<LedgerKeyKind, BTreeSet<&[&str]>> = BTreeMap::new();
    for row in ROWS {
        for key in row.intents.iter().chain(row.own_ids) {
            fields.entry(key.kind).or_default().insert(key.fields);
        }
    }
    for (kind, fields) in fields {
        assert_eq!(fields.len(), 1, "{kind}");
    }
}

#[test]
fn the_documented_samples_have_their_numbers_and_ids() {
    let page = documented("samples.json");
    let sample = |operation: &str| {
        let samples = page["samples"].as_array().unwrap();
        let found = samples.iter().find(|one| one["operation"] == operation);
        let found = found.unwrap();
        (found["request"].clone(), found["response"].to_string())
    };
    let (call, answer) = sample("create order");
    assert_eq!(
        intents("create_order", "", &call),
        [key(LedgerKeyKind::TradeNumber, "22212345678555")]
    );
    assert_eq!(
        own_ids("create_order", &call, 200, &answer),
        [key(LedgerKeyKind::PrepayId, "GATE202400001")]
    );
    let (call, answer) = sample("refund order");
    assert_eq!(
        intents("refund_order", "", &call),
        [
            key(LedgerKeyKind::RefundNumber, "156123911"),
            key(LedgerKeyKind::OrderRefund, "1647438500687506 156123911"),
        ],
        "the order's prepayId alone is no intent of its refund"
    );
    assert_eq!(own_ids("refund_order", &call, 200, &answer), []);
    let (call, answer) = sample("close order");
    assert_eq!(intents("close_order", "", &call), []);
    assert_eq!(own_ids("close_order", &call, 200, &answer), []);
}

#[test]
fn every_value_of_a_number_is_an_intent() {
    let number = |text: &str| key(LedgerKeyKind::TradeNumber, text);
    let call =
        json!({"merchantTradeNo": 17, "MERCHANTTRADENO": "18", "goods": {"merchantTradeNo": "19"}});
    assert_eq!(
        intents("create_order", "merchantTradeNo=16", &call),
        [number("16"), number("18"), number("17")],
        "the test writes names in alphabetical order"
    );
    for nothing in [
        json!({"merchantTradeNo": null}),
        json!({"merchantTradeNo": 1.5}),
        json!([]),
    ] {
        assert_eq!(intents("create_order", "", &nothing), [], "{nothing}");
    }
    assert_eq!(
        intents(
            "save_fixed_address",
            "",
            &json!({"channelId": "shop 1", "chain": "eth"})
        ),
        [key(LedgerKeyKind::AddressLabel, "ETH shop 1")]
    );
}

#[test]
fn the_currency_of_an_order_is_gatepays_word_or_the_only_one_of_the_call() {
    let answered = |operation: &str, answer: &str| {
        let (operation, row) = row(operation);
        let currency = row.answered_currency(&operation, 200, answer.as_bytes());
        currency.map(|currency| currency.to_string())
    };
    let paid = r#"{"status":"SUCCESS","code":"000000","data":{"prepayId":"P1","currency":"USDT"}}"#;
    let said = answered("create_checkout_order", paid);
    assert_eq!(said.as_deref(), Some("USDT"));
    assert_eq!(answered("create_order", paid), None, "no page documents it");
    for other in [
        paid.replace("SUCCESS", "FAIL"),
        paid.replace(r#","currency":"USDT""#, ""),
        paid.replace(r#""USDT""#, r#""USDT","CURRENCY":"SHIB""#),
    ] {
        assert_eq!(answered("create_checkout_order", &other), None, "{other}");
    }
    let called = |rest: &Value| {
        let mut call = json!({ "currency": "shib" });
        let members = rest.as_object().unwrap().clone();
        call.as_object_mut().unwrap().extend(members);
        let (operation, _) = row("create_checkout_order");
        let call = call.to_string();
        let reading = BodyReading::read(&operation, None, call.as_bytes());
        LedgerRow::called_currency(&reading).map(|currency| currency.to_string())
    };
    for alone in [json!({}), json!({ "fiatAmount": "0", "fiatCurrency": "" })] {
        assert_eq!(called(&alone).as_deref(), Some("SHIB"), "{alone}");
    }
    for beside in [
        json!({ "fiatCurrency": "USD" }),
        json!({ "fiatAmount": "10000" }),
        json!({ "fiat_amount": "1" }),
        json!({ "actualCurrency": "USDT" }),
    ] {
        assert_eq!(called(&beside), None, "{beside}");
    }
}

#[test]
fn own_ids_are_read_from_every_form_of_data() {
    let id = [key(LedgerKeyKind::PrepayId, "P1")];
    for answer in [
        r#"{"status":"SUCCESS","code":"000000","data":{"prepayId":"P1"}}"#,
        r#"{"status":"SUCCESS","data":"{\"prepayId\":\"P1\"}"}"#,
        r#"{"status":"SUCCESS","data":{"bizCode":"0","bizData":{"prepayId":"P1"}}}"#,
        r#"{"code":"0","data":[{"prepayId":"P1"}],"success":true}"#,
    ] {
        assert_eq!(
            own_ids("create_order", &json!({}), 200, answer),
            id,
            "{answer}"
        );
    }
    let address = r#"{"status":"SUCCESS","data":{"chain":"TRX","address":"TQn9","channelId":"c"}}"#;
    assert_eq!(
        own_ids("save_fixed_address", &json!({}), 200, address),
        [key(LedgerKeyKind::DepositAddress, "TRX TQn9")]
    );
}

#[test]
fn an_answer_that_proves_nothing_has_no_own_ids() {
    for (status, answer) in [
        (200, r#"{"status":"FAIL","data":{"prepayId":"P1"}}"#),
        (
            500,
            r#"{"status":"SUCCESS","code":"000000","data":{"prepayId":"P1"}}"#,
        ),
        (
            200,
            r#"{"status":"SUCCESS","data":{"prepayId":"P2","prepayId":"P1"}}"#,
        ),
        (
            200,
            r#"{"status":"SUCCESS","data":{"prepayId":"P2","PREPAYID":"P1"}}"#,
        ),
        (
            200,
            r#"{"status":"SUCCESS","data":"{\"prepayId\":\"P2\",\"prepayId\":\"P1\"}"}"#,
        ),
        (
            200,
            r#"{"status":"SUCCESS","data":{"order":{"prepayId":"P1"}}}"#,
        ),
        (200, r#"{"status":"SUCCESS","data":{"prepayId":"P1"}"#),
    ] {
        assert_eq!(
            own_ids("create_order", &json!({}), status, answer),
            [],
            "{answer}"
        );
    }
}

#[test]
fn a_number_that_the_caller_chose_is_never_an_own_id() {
    let answer =
        |id: &str| json!({"status": "SUCCESS", "code": "000000", "data": {"batch_id": id}});
    let call = json!({"batch_id": "b_1"});
    assert_eq!(
        own_ids("create_payout", &call, 200, &answer("b_1").to_string()),
        []
    );
    assert_eq!(
        own_ids("create_payout", &call, 200, &answer("7001").to_string()),
        [key(LedgerKeyKind::PayoutId, "7001")]
    );
    // GatePay may trim a number, change its case, or read one that is no key here.
    for chosen in [
        json!(" P1"),
        json!("p1\n"),
        json!("P1\u{a0}"),
        json!("x".repeat(257)),
        json!(1e3),
    ] {
        let call = json!({"batch_id": chosen});
        let ids = own_ids("create_payout", &call, 200, &answer("P1").to_string());
        assert_eq!(ids, [], "{call}");
    }
}

#[test]
fn a_journal_gives_the_callers_number_and_gatepays_own_ids() {
    let journaled = |name: &str, named: &str, key: Option<&str>, ids: &[(&str, &'static str)]| {
        let id = |field: &str| {
            ids.iter()
                .find(|(name, _)| *name == field)
                .map(|(_, id)| *id)
        };
        row(name).1.journaled((named, key), id)
    };
    let ids = [("prepayId", "506"), ("merchantTradeNo", "A-1")];
    let both = [
        key(LedgerKeyKind::TradeNumber, "A-1"),
        key(LedgerKeyKind::PrepayId, "506"),
    ];
    assert_eq!(
        journaled("create_order", "merchantTradeNo", Some("A-1"), &ids),
        both
    );
    // Without a success there is no id of GatePay's.
    let intent = &both[..1];
    assert_eq!(
        journaled("create_order", "merchantTradeNo", Some("A-1"), &[]),
        intent
    );
    // A batch's id that echoes the caller's number is not GatePay's, and none is without that number.
    let number = [key(LedgerKeyKind::PayoutNumber, "B-1")];
    let echo = [("batch_id", "b1")];
    assert_eq!(
        journaled("create_payout", "batch_id", Some("B-1"), &echo),
        number
    );
    assert_eq!(journaled("create_payout", "batch_id", None, &echo), []);
    // An address counts with its chain alone.
    let address = [("chain", "ETH"), ("address", "0xAB"), ("planNo", "9")];
    let told = r#"{"status":"SUCCESS","data":{"chain":"ETH","address":"0xAB"}}"#;
    let deposit = own_ids("save_fixed_address", &json!({}), 200, told);
    assert_eq!(deposit.len(), 1);
    assert_eq!(journaled("save_fixed_address", "", None, &address), deposit);
    assert_eq!(journaled("save_fixed_address", "", None, &address[1..]), []);
    // An id that may have been cut is left out.
    let long = "5".repeat(64).leak();
    assert_eq!(
        journaled(
            "create_order",
            "merchantTradeNo",
            None,
            &[("prepayId", long)]
        ),
        []
    );
}
