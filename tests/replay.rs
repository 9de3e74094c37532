use crate::support::scripted::Scripted;
use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use gatepay_tenancy::ReplayRule;
use std::fs;
use std::path::Path;
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
async fn a_tenant_may_be_held_to_a_new_nonce_for_every_request() {
    let gatepay = GatePay::start();
    let strict = acme().with(|party| party.replay = ReplayRule::Nonce);
    let proxy = Proxy::before(&gatepay)
        .tenant(strict)
        .tenant(globex())
        .start();
    let call = acme().post(QUERY, BY_NUMBER).nonce("kept");
    assert_eq!(proxy.send(call.clone()).await.status, 200);
    assert_eq!(proxy.send(call.clone()).await.refusal(), Some("replayed"));
    proxy.clock.advance(Duration::from_secs(1));
    let answer = proxy.send(call).await;
    assert_eq!(answer.refused(), (401, "replayed"));
    let message = answer.message();
    assert!(
        message.contains("nonce was used with another timestamp")
            && message.contains("1000 ms ago"),
        "{message}"
    );
    let other = globex().post(QUERY, BY_NUMBER).nonce("kept");
    assert_eq!(proxy.send(other).await.status, 200, "it is acme's alone");
    assert_eq!(gatepay.count(), 2);
}

#[tokio::test]
async fn one_of_many_simultaneous_copies_is_executed() {
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

/// The process crashes, and the next process has a clock an hour behind: the guard lasts until no stamp from before is
/// fresh.
#[tokio::test]
async fn a_request_admitted_by_a_later_clock_before_a_crash_is_not_admitted_again() {
    let upstream = Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{}}"#);
    let [running, left] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let start = |clock: &Clock, folder: &Path| {
        let folder = folder.to_owned();
        let plan = Proxy::at(&upstream.url(), clock);
        plan.with(|settings| settings.state_dir = Some(folder))
            .start()
    };
    let hour = Duration::from_hours(1);
    let later = Clock::manual(T0);
    later.advance(hour);
    let before = start(&later, running.path());
    let ahead = acme().post(CREATE, order("A-0001"));
    let ahead = ahead.timestamp(&(later.unix_ms() + 10_000)).request(&later);
    assert_eq!(before.connect().await.send(ahead.clone()).await.status, 200);
    for file in fs::read_dir(running.path()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
    }

    let clock = Clock::manual(T0);
    let after = start(&clock, left.path());
    let ready = after.admin("/ready").await.status;
    let fresh = acme().post(QUERY, BY_NUMBER);
    let refused = after.send(fresh.clone()).await;
    assert_eq!((ready, refused.refused()), (503, (503, "starting")));
    clock.advance(hour + Duration::from_secs(10));
    let answer = after.connect().await.send(ahead.clone()).await;
    assert_eq!(answer.refused(), (503, "starting"), "it would be fresh");
    clock.advance(Duration::from_millis(1));
    assert_eq!(after.send(fresh).await.status, 200);
    let answer = after.connect().await.send(ahead).await;
    assert_eq!(answer.refused(), (503, "starting"));
    assert_eq!(upstream.count(), 2);
}
