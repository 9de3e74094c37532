//! Callers that hang up at every byte: no call is executed by halves, admitted calls end, no permit leaks.

use crate::support::scripted::Scripted;
use crate::support::tls::{Caller, Files, Pair};
use crate::support::*;
use gatepay_sandbox::InjectedFault;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SEATS: u32 = 24;
/// A few at a time: each may have a call in flight without waiting for it.
const CALLERS: usize = 4;

/// The bytes that a caller sends and reads before it hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Until {
    written: usize,
    read: usize,
}

/// The way of hanging up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As an ending process does.
    Close,
    /// As a crashing process does, or a firewall in between.
    Reset,
}

#[tokio::test]
async fn whenever_a_caller_hangs_up_a_call_is_made_whole_once_or_not_at_all() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).tenant(acme().seats(SEATS)).start();
    let paid = gatepay.paid_order(&proxy).await;
    let bytes = |number: usize| refund(&paid, number).bytes(&proxy.clock);
    let (asked, answered) = (bytes(0).len(), answer_to(&bytes(0), proxy.address()).await);
    gatepay.sandbox.clear();
    let before = gatepay.cents();

    let during_request = (0..=asked).map(|written| Until { written, read: 0 });
    let during_answer = (1..=answered).map(|read| Until {
        written: asked,
        read,
    });
    let all: Vec<(Until, Way)> = during_request
        .chain(during_answer)
        .flat_map(|until| [(until, Way::Close), (until, Way::Reset)])
        .collect();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let mine = all
            .iter()
            .copied()
            .enumerate()
            .skip(caller)
            .step_by(CALLERS);
        let mine: Vec<_> = mine
            .map(|(number, (until, way))| (bytes(number + 1), until, way))
            .collect();
        let address = proxy.address();
        callers.spawn(async move {
            for (bytes, until, way) in mine {
                hang_up(&bytes, until, way, address).await;
            }
        });
    }
    callers.join_all().await;
    proxy.counts("in_flight 0").await;
    proxy.counts("connections 0").await;

    let mut arrived: HashMap<String, usize> = HashMap::new();
    for received in gatepay.received() {
        assert!(received.verified && received.executed, "{received:?}");
        let body: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
        let number = body["refundRequestId"].as_str().unwrap().to_owned();
        *arrived.entry(number).or_default() += 1;
    }
    for (number, &(until, way)) in all.iter().enumerate() {
        let times = arrived.get(&name(number + 1)).copied().unwrap_or(0);
        match until {
            Until { written, .. } if written < asked => assert_eq!(times, 0, "{until:?} {way:?}"),
            // A request before an immediate reset may be lost, by chance; a second execution is impossible.
            Until { read: 0, .. } if way == Way::Reset => assert!(times <= 1, "{until:?}"),
            Until { .. } => assert_eq!(times, 1, "{until:?} {way:?}"),
        }
    }
    assert!(arrived.len() >= 2 * answered);
    assert_eq!(before - gatepay.cents(), arrived.len(), "a cent each, once");

    assert_eq!(all_seats(&gatepay, &proxy).await, vec![200; SEATS as usize]);
    let lines = proxy.stop().await;
    let recorded = |name: &str| lines.iter().filter(|line| line["key"] == name).count();
    for (number, times) in arrived {
        assert_eq!(recorded(&number), times, "{number}");
    }
}

#[tokio::test]
async fn a_caller_that_sends_nothing_more_is_answered_and_its_connection_closed() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream).start();
    let mut callers = Vec::new();
    for call in [
        acme().post(CREATE, order("A-0001")),
        acme().post(REFUND, A_REFUND),
        acme().post(QUERY, BY_NUMBER),
        acme().get(DETAILS),
    ] {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let bytes = String::from_utf8(call.bytes(&proxy.clock)).unwrap();
            let mut caller = proxy.raw().await;
            caller.write(bytes.replacen("HTTP/1.1", version, 1)).await;
            caller.half_close().await;
            callers.push(caller);
        }
    }
    until("GatePay has all", || upstream.count() == callers.len()).await;
    proxy.counts("connections 8").await;
    upstream.release();
    for mut caller in callers {
        let answer = caller.answer().await;
        assert_eq!(answer.refused(), (200, "not refused"));
        assert!(caller.rest().await.unwrap().is_empty());
    }
    proxy.counts("connections 0").await;
    let lines = proxy.stop().await;
    assert!(lines.iter().all(|line| line["caller_left"] == false));
}

#[tokio::test]
async fn a_caller_that_ends_its_side_over_tls_is_answered_with_close_notify_or_without() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let upstream = Scripted::held();
    let named = files.named();
    let proxy = Proxy::before_scripted(&upstream)
        .with(move |settings| settings.listen.tls = Some(named))
        .start();
    let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
    let mut callers = Vec::new();
    for version in versions {
        for says_so in [true, false] {
            let caller = Caller::speaking(&[version], &["http/1.1"], &[&pair], None);
            let mut tls = caller.connect(proxy.address()).await.unwrap();
            let bytes = acme().post(REFUND, A_REFUND).bytes(&proxy.clock);
            tls.write_all(&bytes).await.unwrap();
            tls.flush().await.unwrap();
            if says_so {
                tls.shutdown().await.unwrap();
            } else {
                tls.get_mut().0.shutdown().await.unwrap();
            }
            callers.push(tls);
        }
    }
    until("GatePay has all", || upstream.count() == callers.len()).await;
    upstream.release();
    for mut tls in callers {
        let mut answer = Vec::new();
        let read = tls.read_to_end(&mut answer);
        let read = tokio::time::timeout(PATIENCE, read).await;
        assert!(read.is_ok_and(|read| read.is_ok()));
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.len());
    }
    proxy.counts("connections 0").await;
}

#[tokio::test]
async fn every_request_before_the_end_of_what_a_caller_sends_is_answered() {
    let upstream = Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{}}"#);
    let proxy = Proxy::before_scripted(&upstream).start();
    let mut caller = proxy.raw().await;
    let calls = [
        acme().post(CREATE, order("A-0001")),
        acme().post(QUERY, BY_NUMBER),
        acme().post(REFUND, A_REFUND),
    ];
    let bytes = calls.map(|call| call.bytes(&proxy.clock)).concat();
    caller.write(bytes).await;
    caller.half_close().await;
    for _ in 0..3 {
        assert_eq!(caller.answer().await.status, 200);
    }
    assert!(caller.rest().await.unwrap().is_empty());
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn an_end_within_a_request_is_the_end_of_it() {
    let upstream = Scripted::body("{}");
    let proxy = Proxy::before_scripted(&upstream).start();
    let bytes = acme().post(REFUND, A_REFUND).bytes(&proxy.clock);
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    for (sent, is_answered) in [(head.unwrap(), false), (bytes.len() - 1, true)] {
        let mut caller = proxy.raw().await;
        caller.write(&bytes[..sent]).await;
        caller.half_close().await;
        let rest = caller.rest().await.unwrap();
        assert_eq!(rest.starts_with(b"HTTP/1.1 400 "), is_answered, "{sent}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_read_whose_caller_resets_behind_its_end_gives_everything_back_with_its_answer() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream)
        .tenant(acme().seats(1))
        .start();
    let read = || acme().post(QUERY, BY_NUMBER);
    let mut caller = proxy.raw().await;
    caller.write(read().bytes(&proxy.clock)).await;
    caller.half_close().await;
    until("GatePay has it", || upstream.count() == 1).await;
    caller.reset();
    upstream.release();
    proxy.counts("in_flight 0").await;
    proxy.counts("connections 0").await;
    assert_eq!(proxy.send(read()).await.status, 200);
}

/// Sends part of a request, reads part of its answer, and hangs up.
async fn hang_up(bytes: &[u8], until: Until, way: Way, address: SocketAddr) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(&bytes[..until.written]).await.unwrap();
    let mut answer = vec![0; until.read];
    tcp.read_exact(&mut answer).await.unwrap();
    if way == Way::Reset {
        let socket = socket2::SockRef::from(&tcp);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// The length of the answer on the wire, in bytes.
async fn answer_to(bytes: &[u8], address: SocketAddr) -> usize {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // The request asks for the connection's end, which a half-closing caller is told too.
    let last = "connection: close\r\n";
    let request = String::from_utf8_lossy(bytes).replacen("host:", &format!("{last}host:"), 1);
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    answer.len() - last.len()
}

/// The statuses of as many concurrent callers as there are permits: no permit was lost.
async fn all_seats(gatepay: &GatePay, proxy: &Proxy) -> Vec<u16> {
    gatepay.inject(InjectedFault::Delay(Duration::from_millis(300)).times(SEATS));
    let mut calls = JoinSet::new();
    for _ in 0..SEATS {
        let mut connection = proxy.connect().await;
        let request = acme().post(QUERY, BY_NUMBER).request(&proxy.clock);
        calls.spawn(async move { connection.send(request).await.status });
    }
    calls.join_all().await
}

fn refund(paid: &str, number: usize) -> Call {
    let name = name(number);
    let body =
        format!(r#"{{"refundRequestId":"{name}","prepayId":"{paid}","refundAmount":"0.01"}}"#);
    acme().post(REFUND, body)
}

/// Every number has the same number of digits.
fn name(number: usize) -> String {
    format!("N-{number:06}")
}
