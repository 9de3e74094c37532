//! The accounts that a call may act for, and movements of money over HTTP.

use gatepay_core::header;
use gatepay_sandbox::{ApiFailure, OpeningBalance, Sandbox, examples};
use serde_json::{Value, json};

use crate::support::{
    ACME, MERCHANT_ID, OTHER, config, create_body, envelope, post, signed, start,
};

const INSTITUTION: &str = "1000000000";
const TRANSFER: &str = "/transfer/open/institution/v1/pay/transfer";
const REWARDS: &str = "/v1/pay/batch/transfer";

fn json_post(sandbox: &Sandbox, path: &str, unsigned: &[(&str, &str)], body: &Value) -> Value {
    let headers = [&[("Content-Type", "application/json")], unsigned].concat();
    envelope(sandbox, &signed("POST", path, &headers, &body.to_string()))
}

#[test]
fn without_on_behalf_of_the_institution_pays_rewards() {
    let mut config = config();
    config.opening_balances = vec![
        OpeningBalance::new(INSTITUTION, "USDT", "10"),
        OpeningBalance::new(ACME, "USDT", "20.5"),
    ];
    let sandbox = start(config);
    let rewards = |number| {
        json!({
            "merchant_batch_no": number, "currency": "USDT",
            "batchorderList": [{"user_id": 1, "amount": "2", "currency": "USDT"}],
        })
    };
    let paid = json_post(&sandbox, REWARDS, &[], &rewards("1"));
    assert_eq!(paid["status"], "SUCCESS");
    let on_behalf_of = [(header::ON_BEHALF_OF, ACME)];
    json_post(&sandbox, REWARDS, &on_behalf_of, &rewards("1"));
    assert_eq!(sandbox.balance(INSTITUTION, "USDT"), "8");
    assert_eq!(sandbox.balance(ACME, "USDT"), "18.5");
    let unknown = [(header::ON_BEHALF_OF, "17")];
    let refused = json_post(&sandbox, REWARDS, &unknown, &rewards("2"));
    assert_eq!(refused["code"], "400203");
}

#[test]
fn the_institution_may_be_named_for_transfers_and_for_nothing_of_a_merchants() {
    let sandbox = start(config());
    sandbox.fund(INSTITUTION, "USDT", "5").unwrap();
    let transfer = json!({
        "merchantBatchNo": "1", "accountId": ACME, "currency": "USDT", "amount": "5",
    });
    let institution = [(header::ON_BEHALF_OF, INSTITUTION)];
    let paid = json_post(&sandbox, TRANSFER, &institution, &transfer);
    assert_eq!(paid["data"]["status"], "PAID");
    assert_eq!(sandbox.balance(ACME, "USDT"), "5");

    let order = post(
        "/payment/open/institution/v1/pay/order",
        INSTITUTION,
        &create_body("order-1"),
    );
    assert_eq!(envelope(&sandbox, &order)["code"], "400203");
}

#[test]
fn fee_settings_name_the_merchant_and_no_account() {
    let mut config = config();
    config.merchant_id = Some(MERCHANT_ID.to_owned());
    let sandbox = start(config);
    let path = "/rate/commission_rule/list";
    let named = |id| json_post(&sandbox, path, &[(header::MERCHANT_ID, id)], &json!({}));
    assert_eq!(named(MERCHANT_ID)["status"], "SUCCESS");
    assert_eq!(named("10003")["code"], "500008");
    let nobody = json_post(&sandbox, path, &[], &json!({}));
    assert_eq!(nobody["code"], "400001");
}

#[test]
fn an_account_that_is_created_can_be_acted_for_once_it_is_active() {
    let sandbox = start(config());
    let created = json_post(
        &sandbox,
        "/merchant/open/institution/v1/accounts/create",
        &[],
        &json!({
            "request_id": "r1", "customer_id": "c1", "display_name": "New", "account_holder": {},
        }),
    );
    assert_eq!(created["data"]["status"], "INIT");
    let path = "/merchant/open/institution/v1/accounts/query?request_id=r1";
    let found = envelope(&sandbox, &signed("GET", path, &[], ""));
    let id = found["data"]["account_id"].as_str().unwrap();
    let path = "/payment/open/institution/v1/pay/order";
    let order = envelope(&sandbox, &post(path, id, &create_body("order-1")));
    assert_eq!(order["status"], "SUCCESS");
}

#[test]
fn money_comes_in_over_the_emulators_own_paths_too() {
    let sandbox = start(config());
    let own = |path: &str, body: Value| {
        let body = body.to_string();
        let length = body.len();
        let request = format!(
            "POST /-/sandbox/{path} HTTP/1.1\r\nHost: s\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        envelope(&sandbox, request.as_bytes())["code"].clone()
    };
    let funding = |account| json!({"account": account, "currency": "USDT", "amount": "3"});
    assert_eq!(own("fund", funding(OTHER)), "000000");
    assert_eq!(own("fund", funding("17")), "400203");
    assert_eq!(sandbox.balance(OTHER, "USDT"), "3");

    let saved = examples::prepare(&sandbox, ACME, "save_fixed_address").unwrap();
    let path = "/payment/open/institution/v1/pay/fixedaddress/save";
    let saved = envelope(&sandbox, &crate::support::example(path, ACME, &saved));
    let address = &saved["data"]["address"];
    let deposit = |currency| json!({"address": address, "currency": currency, "amount": "1.5"});
    assert_eq!(own("deposit", deposit("USDT")), "000000");
    assert_eq!(own("deposit", deposit("BTC")), "400205");
    assert_eq!(sandbox.balance(ACME, "USDT"), "1.5");
}

#[test]
fn an_opening_balance_needs_an_account_and_an_amount() {
    for (account, amount) in [("17", "1"), (ACME, "0"), (ACME, "one")] {
        let mut config = config();
        config.opening_balances = vec![OpeningBalance::new(account, "USDT", amount)];
        let error = Sandbox::start(config, ([127, 0, 0, 1], 0).into()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
    let sandbox = start(config());
    assert_eq!(
        sandbox.fund(ACME, "USDT", "-1"),
        Err(ApiFailure::Malformed("amount"))
    );
    assert_eq!(
        sandbox.fund("17", "USDT", "1"),
        Err(ApiFailure::UnknownAccount)
    );
}
