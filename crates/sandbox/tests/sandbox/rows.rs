//! Every operation of the catalogue is answered, under every path it has.

use gatepay_core::Catalogue;
use gatepay_core::envelope::{AnswerVerdict, judge};
use gatepay_core::operation::{MediaType, Method, Operation};
use gatepay_sandbox::{AnswerForms, Sandbox, examples};

use crate::support::{
    ACME, MERCHANT_ID, QUERY, call, config, create_body, example, post, signed, start,
};

/// The method and path in GatePay's documentation, and those in other sources.
fn paths(row: &Operation) -> impl Iterator<Item = (Method, &str)> {
    let path = row.institution_path.as_deref();
    path.map(|path| (row.institution_method, path))
        .into_iter()
        .chain(row.alternatives.iter().copied())
}

fn sandbox() -> Sandbox {
    sandbox_with(AnswerForms::Clients)
}

fn sandbox_with(forms: AnswerForms) -> Sandbox {
    let mut config = config();
    config.answer_forms = forms;
    config.merchant_id = Some(MERCHANT_ID.to_owned());
    start(config)
}

#[test]
fn every_row_is_answered_with_success_under_every_path() {
    every_row_succeeds(&sandbox());
}

#[test]
fn every_row_is_answered_with_success_in_the_documentations_forms_too() {
    every_row_succeeds(&sandbox_with(AnswerForms::Documentation));
}

fn every_row_succeeds(sandbox: &Sandbox) {
    let mut answered = 0;
    for row in Catalogue::standard().rows() {
        for (method, path) in paths(row) {
            let asked = examples::prepare_for(sandbox, ACME, &row.name, method).unwrap();
            let (status, _, body) = call(sandbox, &example(path, ACME, &asked));
            let verdict = judge(row.kind, status, body.as_bytes()).verdict;
            assert_eq!(
                (status, verdict),
                (200, AnswerVerdict::Success),
                "{path}: {body}"
            );
            answered += 1;
        }
    }
    assert!(answered > Catalogue::standard().rows().len());
    assert!(sandbox.received().iter().all(|one| one.executed));
}

#[test]
fn an_example_can_be_prepared_again_and_again() {
    let sandbox = sandbox();
    for row in Catalogue::standard().rows() {
        let prepared = examples::prepare(&sandbox, ACME, &row.name);
        let again = examples::prepare(&sandbox, ACME, &row.name);
        assert_eq!(
            prepared.is_some(),
            row.institution_path.is_some(),
            "{}",
            row.name
        );
        let Some((path, prepared)) = row.institution_path.as_deref().zip(again) else {
            continue;
        };
        if prepared.method == row.institution_method {
            let (_, _, body) = call(&sandbox, &example(path, ACME, &prepared));
            let verdict = judge(row.kind, 200, body.as_bytes()).verdict;
            assert_eq!(verdict, AnswerVerdict::Success, "{path}: {body}");
        }
    }
}

#[test]
fn parameters_of_a_get_may_stand_in_a_signed_body() {
    let sandbox = sandbox_with(AnswerForms::Documentation);
    let asked = examples::prepare(&sandbox, ACME, "query_order_v2").unwrap();
    let (name, prepay_id) = asked.query.as_deref().unwrap().split_once('=').unwrap();
    let body = format!("{{\"{name}\":\"{prepay_id}\"}}");
    let path = "/payment/open/institution/v2/pay/order/query?other=%20";
    let headers = [
        ("Content-Type", "application/json"),
        ("X-GatePay-On-Behalf-Of", ACME),
    ];
    let (_, _, answer) = call(&sandbox, &signed("GET", path, &headers, &body));
    assert!(
        answer.contains("\"bizData\"") && answer.contains(prepay_id),
        "{answer}"
    );
}

#[test]
fn names_of_parameters_are_read_in_any_case() {
    let sandbox = sandbox();
    let base = "/payment/open/institution/v1/pay";
    let native = post(
        &format!("{base}/transactions/native"),
        ACME,
        &create_body("A-17").replace("merchantTradeNo", "MerchantTradeNo"),
    );
    let (_, _, created) = call(&sandbox, &native);
    assert!(created.contains("\"prepayId\""), "{created}");
    let query = post(QUERY, ACME, r#"{"MERCHANTTRADENO":"A-17"}"#);
    let (_, _, found) = call(&sandbox, &query);
    assert!(found.contains("PENDING"), "{found}");
    let headers = [("X-GatePay-On-Behalf-Of", ACME)];
    let list = format!("{base}/channelmanage/list?Page=0&Count=500");
    let (_, _, refused) = call(&sandbox, &signed("GET", &list, &headers, ""));
    assert!(
        refused.contains("400001"),
        "pages have 200 at most: {refused}"
    );
}

#[test]
fn a_row_takes_its_own_media_type_and_no_other() {
    let sandbox = sandbox();
    for row in Catalogue::standard().rows() {
        let (Some(path), MediaType::Multipart) = (&row.institution_path, row.media) else {
            continue;
        };
        let mut asked = examples::prepare(&sandbox, ACME, &row.name).unwrap();
        asked.content_type = Some("application/json");
        let (_, _, refused) = call(&sandbox, &example(path, ACME, &asked));
        assert!(refused.contains("400007"), "{refused}");
        asked.content_type = Some("multipart/form-data");
        let (_, _, refused) = call(&sandbox, &example(path, ACME, &asked));
        assert!(refused.contains("400007"), "without a boundary: {refused}");
    }
}
