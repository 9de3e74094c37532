use crate::support::*;
use std::time::Duration;

#[tokio::test]
async fn the_same_request_twice_is_acted_on_once() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let request = acme().post(CREATE, order("A-0001")).request(&proxy.clock);
    let mut connection = proxy.connect().await;
    assert_eq!(connection.send(request.clone()).await.status, 200);
    proxy.clock.advance(Duration::from_millis(1_500));
    let answer = connection.send(request).await;
    assert_eq!(
        (answer.status, answer.refusal(), answer.outcome()),
        (401, Some("replayed"), Some("unknown"))
    );
    let message = answer.message();
    assert!(message.contains("1500 ms ago"), "{message}");
    assert!(
        message.contains("/v1/pay/order/query by merchantTradeNo A-0001"),
        "{message}"
    );
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn a_signature_for_one_path_is_not_good_for_another() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let call = acme().post(QUERY, BY_NUMBER).nonce("same").timestamp(&T0);
    assert_eq!(proxy.send(call.clone()).await.status, 200);
    let elsewhere = acme().post(CLOSE, BY_NUMBER).nonce("same").timestamp(&T0);
    assert_eq!(proxy.send(elsewhere).await.refusal(), Some("replayed"));
}

#[tokio::test]
async fn a_nonce_may_be_kept_while_the_time_goes_on() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let call = acme().post(QUERY, BY_NUMBER).nonce("kept");
    for _ in 0..3 {
        assert_eq!(proxy.send(call.clone()).await.status, 200);
        assert_eq!(proxy.send(call.clone()).await.refusal(), Some("replayed"));
        proxy.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(gatepay.count(), 3);
}

#[tokio::test]
async fn of_many_copies_at_once_one_is_acted_on() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let call = acme().post(CREATE, order("A-0001")).nonce("same");
    let mut copies = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (mut connection, request) = (proxy.connect().await, call.request(&proxy.clock));
        copies.spawn(async move { connection.send(request).await });
    }
    let answers = copies.join_all().await;
    let answered = answers.iter().filter(|answer| answer.status == 200).count();
    let replayed = answers
        .iter()
        .filter(|answer| answer.refusal() == Some("replayed"))
        .count();
    assert_eq!((answered, replayed, gatepay.count()), (1, 31, 1));
}

#[tokio::test]
async fn two_tenants_may_choose_the_same_stamp() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for shop in [acme(), globex()] {
        let call = shop.post(QUERY, BY_NUMBER).nonce("same").timestamp(&T0);
        assert_eq!(proxy.send(call).await.status, 200);
    }
}
