use crate::support::*;
use gatepay_core::operation::AccountHeader;
use gatepay_core::{Catalogue, header};
use gatepay_sandbox::{AnswerForms, InjectedFault, examples};
use gatepay_tenancy::settings::Settings;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Long enough for two questions, half a second and one and a half after the loss: a machine that stalls may lose one. A
/// question that finds the call is the last one.
fn two_questions(settings: &mut Settings) {
    settings.upstream.resolve = Duration::from_millis(3_900);
}

fn create() -> Call {
    acme().post(CREATE, order("A-0001"))
}

/// The reported outcome of the call.
fn observed(answer: &Answer) -> Value {
    assert_eq!(answer.refused(), (504, "outcome_unknown"));
    answer.json()["data"]["observed"].clone()
}

/// The questions GatePay was asked after the call itself.
fn questions(gatepay: &GatePay) -> Vec<String> {
    let received = gatepay.received();
    let asked = received.iter().skip(1);
    asked
        .map(|asked| asked.operation.clone().unwrap())
        .collect()
}

#[tokio::test]
async fn a_lost_call_that_gatepay_carried_out_is_found_with_its_order() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(two_questions).start();
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    let begun = Instant::now();
    let answer = proxy.send(create()).await;
    assert!(begun.elapsed() >= Duration::from_millis(500));
    assert_eq!(observed(&answer), "found");
    assert_eq!(answer.outcome(), Some("found"));
    let seen = &answer.json()["data"]["order"];
    assert_eq!(seen["merchantTradeNo"], "A-0001");
    assert!(answer.message().contains("do not repeat it"));

    let asked = gatepay.last();
    assert!(asked.verified && asked.answer_body.len() > 50);
    assert_eq!(asked.target, format!("{PREFIX}{QUERY}"));
    assert_eq!(&*asked.body, br#"{"merchantTradeNo":"A-0001"}"#);
    let account = asked.header(header::ON_BEHALF_OF);
    assert_eq!(account, Some(acme().sub_account));
    assert_eq!(gatepay.count(), 2, "the call once, and one question");
    let count = r#"resolutions_total{observed="found"} 1"#;
    proxy.counts(count).await;
    let line = &proxy.stop().await[0];
    assert_eq!(
        (&line["outcome"], &line["observed"], &line["attempts"]),
        (&json!("unknown"), &json!("found"), &json!(1))
    );
}

#[tokio::test]
async fn a_call_is_looked_up_by_its_key_in_any_letter_case() {
    for (name, query) in [
        ("MerchantTradeNo", ""),
        ("MERCHANTTRADENO", "?"),
        ("x", "?merchanttradeno=A-0001"),
    ] {
        let gatepay = GatePay::start();
        let proxy = Proxy::before(&gatepay).with(two_questions).start();
        assert_eq!(proxy.send(create()).await.code(), "000000");
        gatepay.inject(InjectedFault::ResetAfterExecuting.once());
        let body = order("A-0001").replace("merchantTradeNo", name);
        let answer = proxy
            .send(acme().post(&format!("{CREATE}{query}"), body))
            .await;
        assert_eq!(observed(&answer), "found", "{name}{query}");
        assert_eq!(&*gatepay.last().body, br#"{"merchantTradeNo":"A-0001"}"#);
        let lines = proxy.stop().await;
        let keys: Vec<_> = lines.iter().map(|line| &line["key"]).collect();
        assert_eq!(keys, ["A-0001"; 2], "{name}{query}");
    }
}

#[tokio::test]
async fn every_call_that_has_a_look_up_is_looked_up_by_its_own_key() {
    every_call_is_looked_up(AnswerForms::Clients).await;
}

#[tokio::test]
async fn a_lost_call_is_looked_up_in_the_forms_of_the_documentation_too() {
    every_call_is_looked_up(AnswerForms::Documentation).await;
}

async fn every_call_is_looked_up(forms: AnswerForms) {
    let catalogue = everything_on();
    let mut calls = JoinSet::new();
    for row in Catalogue::standard().rows() {
        let Some(look_up) = row.look_up.clone() else {
            continue;
        };
        let (row, catalogue) = (row.clone(), catalogue.clone());
        calls.spawn(async move {
            let gatepay = GatePay::with(|config| config.answer_forms = forms);
            let proxy = Proxy::before(&gatepay)
                .catalogue(catalogue)
                .operator(office())
                .with(two_questions)
                .with(|settings| {
                    whole(&mut settings.institution).account_id =
                        Some(INSTITUTION_ACCOUNT.to_owned());
                })
                .start();
            let path = row.institution_path.as_deref().unwrap();
            let (method, account) = (row.institution_method, acme().sub_account);
            let example =
                examples::prepare_for(&gatepay.sandbox, account, &row.name, method).unwrap();
            let call = office().calls(path, &example);
            let call = match row.account {
                AccountHeader::OnBehalfOf => call.header(header::ON_BEHALF_OF, account),
                AccountHeader::MerchantId | AccountHeader::None => call,
            };
            gatepay.inject(InjectedFault::ResetAfterExecuting.once());
            let answer = proxy.send(call).await;
            let what = format!("{}: {}", row.name, answer.text());
            let (want, outcome) = if look_up.proves {
                ("found", "found")
            } else {
                ("unknown", "unknown")
            };
            assert_eq!(observed(&answer), want, "{what}");
            assert_eq!(answer.outcome(), Some(outcome), "{what}");
            assert!(answer.json()["data"]["order"].is_object(), "{what}");
            let questions = questions(&gatepay);
            let is_own = |asked: &String| *asked == look_up.operation;
            assert!(
                (1..=2).contains(&questions.len()) && questions.iter().all(is_own),
                "{questions:?}: {what}"
            );
        });
    }
    assert_eq!(calls.join_all().await.len(), 18);
}

/// The second order query has two forms: with and without a wrapping of its own around the order.
#[tokio::test]
async fn an_order_is_found_by_a_query_that_wraps_it_and_by_one_that_does_not() {
    for (forms, wrapped) in [
        (AnswerForms::Clients, false),
        (AnswerForms::Documentation, true),
    ] {
        let mut rows = Catalogue::standard().rows().to_vec();
        let create_order = rows.iter_mut().find(|row| row.name == "create_order");
        let look_up = create_order.and_then(|row| row.look_up.as_mut());
        look_up.expect("the row has one").operation = "query_order_v2";
        let catalogue = Catalogue::new(rows).expect("the query is in it");
        let gatepay = GatePay::with(|config| config.answer_forms = forms);
        let proxy = Proxy::before(&gatepay)
            .catalogue(catalogue)
            .with(two_questions)
            .start();
        gatepay.inject(InjectedFault::ResetAfterExecuting.once());
        let answer = proxy.send(create()).await;
        assert_eq!(observed(&answer), "found", "{forms:?}");
        assert_eq!(questions(&gatepay), ["query_order_v2"]);
        let order = &answer.json()["data"]["order"];
        assert_eq!(order.get("bizData").is_some(), wrapped, "{order}");
    }
}

#[tokio::test]
async fn a_call_that_gatepay_does_not_have_may_still_be_under_way() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(two_questions).start();
    for (call, advice) in [
        (
            create(),
            "ask POST /v1/pay/order/query by merchantTradeNo A-0001",
        ),
        (
            acme().post(REFUND, A_REFUND),
            "ask GET /v2/pay/refund/details by refundRequestId R-0001",
        ),
    ] {
        gatepay.inject(InjectedFault::ResetBeforeExecuting.once());
        let answer = proxy.send(call).await;
        assert_eq!(observed(&answer), "not_found");
        assert_eq!(answer.outcome(), Some("unknown"));
        assert_eq!(answer.json()["data"]["order"], Value::Null);
        assert!(answer.message().contains(advice), "{}", answer.message());
    }
}

#[tokio::test]
async fn gatepay_is_asked_again_because_a_call_may_arrive_late() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.resolve = PATIENCE)
        .start();
    gatepay.inject(InjectedFault::ResetBeforeExecuting.once());
    let mut caller = proxy.connect().await;
    let request = create().request(&proxy.clock);
    let answer = tokio::spawn(async move { caller.send(request).await });
    until("the first question was asked", || gatepay.count() == 2).await;
    // This second create stands for the late execution by a slow GatePay.
    assert_eq!(proxy.send(create()).await.status, 200);
    let answer = answer.await.unwrap();
    assert_eq!(observed(&answer), "found");
    // By the second question, or by the third after a stall of the machine.
    let count = gatepay.count();
    assert!((4..=5).contains(&count), "{count}");
}

#[tokio::test]
async fn an_order_with_the_same_number_at_another_price_is_not_the_lost_call() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(two_questions).start();
    let dearer = order("A-0001").replace("1.21", "5.00");
    assert_eq!(proxy.send(acme().post(CREATE, dearer)).await.status, 200);
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    let answer = proxy.send(create()).await;
    assert_eq!(observed(&answer), "not_found");
    let seen = &answer.json()["data"]["order"];
    assert_eq!(seen["orderAmount"], "5.00", "and it is shown");
}

#[tokio::test]
async fn a_call_that_gatepay_offers_no_query_for_says_so() {
    let off = changed("[[operation]]\nname = 'query_order'\nenabled = false");
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .catalogue(off)
        .with(two_questions)
        .start();
    gatepay.inject(InjectedFault::ResetAfterExecuting.times(2));
    let gift = acme().post("/v1/pay/gift/create", "{}");
    for call in [gift, create()] {
        let answer = proxy.send(call).await;
        assert_eq!(observed(&answer), "unknown");
        assert!(
            answer.message().contains("offers no query"),
            "{}",
            answer.message()
        );
    }
    assert_eq!(gatepay.count(), 2, "nothing was asked");
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_end_the_search() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(two_questions).start();
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    let mut caller = proxy.raw().await;
    caller.write(&create().bytes(&proxy.clock)).await;
    until("GatePay has it", || gatepay.count() == 1).await;
    caller.reset();
    until("GatePay was asked", || gatepay.count() == 2).await;
    let line = &proxy.stop().await[0];
    assert_eq!(
        (&line["observed"], &line["caller_left"]),
        (&json!("found"), &json!(true))
    );
}

#[tokio::test]
async fn the_end_of_a_drain_is_not_waited_for_but_told_the_truth() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.upstream.resolve = Duration::from_mins(1);
            settings.drain.deadline = Duration::from_secs(2);
        })
        .start();
    gatepay.inject(InjectedFault::ResetBeforeExecuting.once());
    let mut caller = proxy.connect().await;
    let request = create().request(&proxy.clock);
    let answer = tokio::spawn(async move { caller.send(request).await });
    until("GatePay was asked", || gatepay.count() >= 2).await;
    let lines = proxy.stop().await;
    let answer = answer.await.unwrap();
    assert_eq!(observed(&answer), "not_found", "what was known by then");
    assert_eq!(lines[0]["observed"], "not_found");
}

#[tokio::test]
async fn questions_count_against_the_institutions_quota() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(two_questions)
        .with(|settings| settings.upstream.quota.rate = rate(1, 1))
        .start();
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    let answer = proxy.send(create()).await;
    assert_eq!(observed(&answer), "unknown");
    assert_eq!(gatepay.count(), 1);
}
