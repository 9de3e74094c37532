use crate::support::abuse::{self, ATTACKS, Attack, Fields, Report, Uplink};
use crate::support::scripted::Scripted;
use crate::support::*;
use gatepay_proxy::callers::auth_throttle::FLOOD_WAIT;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

const ABUSER: &str = "127.0.0.8";

/// A request that gets as far as a request without a secret can, in the fields of HTTP/2.
fn fields(proxy: &Proxy, method: &str, path: &str, call: &Call) -> Vec<(&'static str, String)> {
    http2_fields(method, path, call.lines(&proxy.clock).leak())
}

fn unproved(proxy: &Proxy) -> Vec<(&'static str, String)> {
    fields(
        proxy,
        "POST",
        QUERY,
        &acme().post(QUERY, BY_NUMBER).secret("fake-other"),
    )
}

/// Attacks from one address, with all that a line can carry.
async fn attack(
    kind: Attack,
    from: &str,
    to: SocketAddr,
    fields: Fields<'_>,
    time: Duration,
) -> io::Result<Report> {
    abuse::attack(&Uplink::of(u64::MAX), kind, from, to, fields, time).await
}

/// In the normal run each attack uses one connection for some seconds; `benches/exhaustion` uses a thousand, and
/// measures.
#[tokio::test]
async fn every_flood_costs_the_attacker_its_connection_and_other_callers_nothing() {
    let gatepay = GatePay::start();
    let proxy = Arc::new(Proxy::before(&gatepay).start());
    let over = Arc::new(AtomicBool::new(false));
    let honest = tokio::spawn({
        let (proxy, over) = (Arc::clone(&proxy), Arc::clone(&over));
        async move {
            let mut connection = Http2::open(proxy.address()).await;
            let mut served = 0;
            while !over.load(Ordering::Relaxed) {
                let call = acme().post(QUERY, BY_NUMBER);
                assert_eq!(
                    connection.send(call.request(&proxy.clock)).await.status,
                    200
                );
                assert_eq!(
                    proxy.send(globex().post(QUERY, BY_NUMBER)).await.status,
                    200
                );
                served += 1;
            }
            served
        }
    });
    for kind in ATTACKS.into_iter().filter(|kind| kind.is_flood()) {
        let fields = unproved(&proxy);
        let report = attack(kind, ABUSER, proxy.address(), &fields, PATIENCE).await;
        let report = report.unwrap();
        assert!(report.closed, "{kind:?}: still open after {report:?}");
        assert!(report.frames < 200_000, "{kind:?}: {report:?}");
    }
    over.store(true, Ordering::Relaxed);
    assert!(honest.await.expect("everybody else was served") > 0);
    proxy.counts("connections 0").await;
    let metrics = proxy.metrics().await;
    let mut lines = metrics.lines();
    let floods = lines.find_map(|line| line.strip_prefix("gatepay_proxy_http2_floods_total "));
    // Some connections end with another protocol error before the flood is detected.
    assert!(
        floods.unwrap().parse::<usize>().unwrap() >= ATTACKS.len() / 2,
        "{floods:?}"
    );
}

#[tokio::test]
async fn a_siege_ends_with_the_time_it_is_given() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.listen.body_timeout = Duration::from_secs(1);
            settings.listen.head_timeout = Duration::from_secs(1);
            settings.listen.answer_timeout = Duration::from_secs(1);
            settings.listen.idle_timeout = Duration::from_secs(1);
        })
        .start();
    let fields = unproved(&proxy);
    let siege = |kind| attack(kind, ABUSER, proxy.address(), &fields, PATIENCE);
    let (window, bodies) = tokio::join!(siege(Attack::ZeroWindow), siege(Attack::SlowBodies));
    assert!(window.unwrap().closed && bodies.unwrap().closed);
    assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn an_address_is_served_again_a_moment_after_its_flood() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        // The wait does not count toward the head timeout.
        .with(|settings| settings.listen.head_timeout = Duration::from_millis(500))
        .start();
    let fields = unproved(&proxy);
    let flood = attack(
        Attack::Pings,
        ABUSER,
        proxy.address(),
        &fields,
        Duration::from_secs(30),
    );
    assert!(flood.await.unwrap().closed);
    proxy.counts("http2_floods_total 1").await;
    let call = || acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    for (from, waits) in [(ABUSER, true), ("127.0.0.7", false)] {
        let begun = Instant::now();
        let mut caller = proxy.raw_from(from).await;
        caller.write(call()).await;
        assert_eq!(caller.answer().await.status, 200, "nobody is refused");
        assert!(begun.elapsed() >= FLOOD_WAIT || !waits, "{from}");
    }
}

#[tokio::test]
async fn one_address_has_a_quarter_of_all_requests_and_the_others_the_rest() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.max_requests = 8.try_into().unwrap())
        .start();
    // The attack asks for more requests than the limit of eight: its bodies never come, and two streams, on any
    // connections, are the whole share of one address.
    let fields = unproved(&proxy);
    let siege = attack(
        Attack::SlowBodies,
        ABUSER,
        proxy.address(),
        &fields,
        PATIENCE,
    );
    let others = async {
        until("it has as many as it may", || {
            proxy.app().metrics.requests_crowded.get() > 0
        })
        .await;
        assert!(proxy.app().metrics.requests.in_flight.get() <= 2);
        // Refused in HTTP/1 as in HTTP/2, and unread.
        let mut same = proxy.raw_from(ABUSER).await;
        same.write(acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock))
            .await;
        let answer = same.answer().await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.refusal(), Some("overloaded"));
        assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
    };
    // The siege ends with what is shown beside it.
    tokio::select! {
        report = siege => panic!("the siege is over: {report:?}"),
        () = others => {}
    }
    proxy.counts("in_flight 0").await;
    assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
}

#[tokio::test]
async fn an_unread_answer_gives_back_its_seat() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .tenant(acme().seats(1))
        .with(|settings| {
            settings.listen.head_timeout = Duration::from_secs(1);
            settings.listen.answer_timeout = Duration::from_millis(500);
        })
        .start();
    // One call whose answer finds no window, and then pings.
    let fields = fields(&proxy, "GET", DETAILS, &acme().get(DETAILS));
    let stalled = attack(
        Attack::ZeroWindow,
        ABUSER,
        proxy.address(),
        &fields,
        PATIENCE,
    );
    assert!(stalled.await.unwrap().closed);
    proxy.counts("readers_stalled_total 1").await;
    proxy.counts("in_flight 0").await;
    assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
}

#[tokio::test]
async fn money_calls_whose_streams_are_reset_run_on_within_the_tenants_seats() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream)
        .tenant(acme().seats(2))
        .start();
    let connection = Http2::open(proxy.address()).await;
    for number in 0..10 {
        let refund = A_REFUND.replace("R-0001", &format!("R-{number:04}"));
        let request = acme().post(REFUND, refund).request(&proxy.clock);
        let mut caller = connection.clone();
        let call = tokio::spawn(async move { caller.send(request).await });
        if number < 2 {
            until("it is at GatePay", || upstream.count() == number + 1).await;
            // The call's stream is reset; GatePay's work goes on, and the call keeps its permit.
            call.abort();
        } else {
            assert_eq!(call.await.unwrap().refused(), (429, "too_many_in_flight"));
        }
    }
    assert_eq!(upstream.count(), 2);
    upstream.release();
    proxy.counts("in_flight 0").await;
    let lines = proxy.stop().await;
    let reached = lines.iter().filter(|line| line["attempts"] == 1);
    let reached: Vec<_> = reached
        .map(|line| (&line["caller_left"], &line["status"]))
        .collect();
    assert_eq!(reached, [(&true.into(), &200.into()); 2]);
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_answers_is_left() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.listen.head_timeout = Duration::from_secs(1);
            settings.listen.answer_timeout = Duration::from_secs(1);
        })
        .start();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let mut tcp = socket.connect(proxy.address()).await.unwrap();
    // Requests without end, and none of their answers read: they fill all buffers.
    let unknown = "GET /nowhere HTTP/1.1\r\nhost: pay.example\r\n\r\n".repeat(100);
    let writing = async {
        while tokio::io::AsyncWriteExt::write_all(&mut tcp, unknown.as_bytes())
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(PATIENCE, writing)
        .await
        .expect("it is closed");
    proxy.counts("readers_stalled_total 1").await;
    proxy.counts("connections 0").await;
}

#[tokio::test]
async fn a_body_that_drips_is_refused_before_its_time_is_over() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.body_timeout = Duration::from_secs(4))
        .start();
    let all = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    let (begin, drops) = all.split_at(all.len() - 20);
    let mut caller = proxy.raw().await;
    caller.write(begin).await;
    for drop in &drops[..10] {
        // A machine that stalls may let the time pass before all of them.
        if caller.is_answered() || caller.try_write(&[*drop]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Within half of the body timeout, the deadline for its first two kilobytes.
    let answer = caller.answer().await;
    assert_eq!(answer.refused(), (408, "request_timeout"));
    assert!(
        answer.message().contains("within 2000 ms"),
        "{}",
        answer.message()
    );
}
