//! Callers that hang up at every byte: nothing goes on by halves, what was admitted ends, nothing leaks.

use crate::support::*;
use gatepay_sandbox::Fault;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SEATS: u32 = 24;
/// A few at a time: each may have a call in flight that it does not wait for.
const CALLERS: usize = 4;

/// What a caller does before it hangs up, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Until {
    written: usize,
    read: usize,
}

/// How it hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As a process does that ends.
    Close,
    /// As one does that crashes, or a firewall in between.
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
    for (number, (until, way)) in all.iter().enumerate() {
        let times = arrived.get(&name(number + 1)).copied().unwrap_or(0);
        match until {
            Until { written, .. } if *written < asked => assert_eq!(times, 0, "{until:?} {way:?}"),
            // Whether a caller that leaves at once was heard is chance; that it was heard once is not.
            Until { read: 0, .. } => assert!(times <= 1, "{until:?} {way:?}"),
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

/// Sends so much of a request, reads so much of its answer, and is gone.
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

/// How long the answer is on the wire.
async fn answer_to(bytes: &[u8], address: SocketAddr) -> usize {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // Asked for its end: who says that nothing more comes has left, and is answered nothing.
    let last = "connection: close\r\n";
    let request = String::from_utf8_lossy(bytes).replacen("host:", &format!("{last}host:"), 1);
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    answer.len() - last.len()
}

/// What as many callers are answered at a time as there are seats: none of them was lost.
async fn all_seats(gatepay: &GatePay, proxy: &Proxy) -> Vec<u16> {
    gatepay.inject(Fault::Delay(Duration::from_millis(300)).times(SEATS));
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

/// Every number's digits are as many.
fn name(number: usize) -> String {
    format!("N-{number:06}")
}
