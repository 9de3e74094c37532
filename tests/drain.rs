use crate::support::scripted::Scripted;
use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use std::time::Duration;

#[tokio::test]
async fn a_leaving_process_answers_and_asks_callers_to_close_their_connections() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.drain.grace = PATIENCE)
        .start();
    let mut kept = proxy.connect().await;
    let answer = kept
        .send(acme().post(QUERY, BY_NUMBER).request(&proxy.clock))
        .await;
    assert_eq!(answer.header("connection"), None);

    proxy.leave();
    let draining = proxy.admin("/ready").await;
    assert_eq!(
        (draining.status, &*draining.body),
        (503, b"draining\n".as_slice())
    );
    assert_eq!(proxy.admin("/live").await.status, 200);
    proxy.counts("ready 0").await;
    let answer = kept
        .send(acme().post(QUERY, BY_NUMBER).request(&proxy.clock))
        .await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    let answer = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
}

#[tokio::test]
async fn an_answer_that_is_under_way_is_waited_for() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream).start();
    let address = proxy.address();
    let request = acme().post(CREATE, order("A-0001")).request(&proxy.clock);
    let mut caller = proxy.connect().await;
    let answer = tokio::spawn(async move { caller.send(request).await.status });
    until("GatePay has it", || upstream.count() == 1).await;
    let stopped = tokio::spawn(proxy.stop());
    until("nobody else is let in", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    assert!(!stopped.is_finished());
    upstream.release();
    assert_eq!(answer.await.unwrap(), 200);
    assert_eq!(stopped.await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_accepted_connection_may_still_send_a_request_during_the_drain() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let (address, clock) = (proxy.address(), proxy.clock.clone());
    let mut caller = proxy.raw().await;
    proxy.counts("connections 1").await;
    let stopped = tokio::spawn(proxy.stop());
    until("nobody else is let in", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    let call = acme().post(QUERY, BY_NUMBER);
    caller.write(call.bytes(&clock)).await;
    let answer = caller.answer().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(stopped.await.unwrap().len(), 1);
}

#[tokio::test]
async fn callers_that_only_keep_a_connection_do_not_hold_up_the_end() {
    assert_not_held_up_by("").await;
    assert_not_held_up_by("POST /v1/pay/order HTTP/1.1\r\nhost: x\r\n").await;
}

#[tokio::test]
async fn silent_http_2_connections_do_not_hold_up_the_end() {
    // Preface and settings; the proxy's frames after them get no answer, as from a machine that was switched off.
    assert_not_held_up_by("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
}

async fn assert_not_held_up_by(said: &str) {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0))
        .with(|settings| {
            settings.listen.head_timeout = Duration::from_secs(1);
            settings.drain.deadline = Duration::from_secs(5);
        })
        .start();
    let mut idle = proxy.raw().await;
    idle.write(said).await;
    proxy.counts("connections 1").await;
    // `stop` checks that the end was in order, not at the deadline.
    assert!(proxy.stop().await.is_empty());
}
