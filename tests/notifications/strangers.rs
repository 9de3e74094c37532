//! Strangers at the listener for notifications: GatePay gets through beside them, and they fill neither memory nor log.

use std::net::{Ipv4Addr, SocketAddrV4};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::*;

const HALF_A_HEAD: &str = "POST /gatepay HTTP/1.1\r\nhost: notify.example.com\r\nx-";

/// The head of a call with a body of a MiB that nobody has signed, and the first byte of the body.
fn slow_body() -> String {
    let signature = "0".repeat(128);
    format!(
        "POST /gatepay HTTP/1.1\r\nhost: notify.example.com\r\nx-gatepay-timestamp: 1767225600000\r\nx-gatepay-nonce: n\r\n\
        x-gatepay-signature: {signature}\r\ncontent-length: 1048576\r\n\r\n{{"
    )
}

/// A connection to the listener from one of this machine's addresses.
async fn from(last: u8, listener: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let address = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
    socket.bind(address.into()).unwrap();
    socket.connect(listener).await.unwrap()
}

/// Sends a notification from an address until it is acknowledged. It has to be while strangers hold their connections: the
/// listener closes theirs after ten seconds.
async fn acknowledged_from(
    last: u8,
    receiver: &Receiver,
    body: &Value,
    held_since: Instant,
) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let mut gatepay = Connection::over(from(last, receiver.address).await).await;
        let request = notification(PATH, body, INSTITUTION_SECRET);
        let answer = gatepay.try_send(request).await;
        let held = held_since.elapsed();
        let figures = || {
            format!(
                "{held:?} after the first: {:?}",
                answer.as_ref().map(|it| it.status)
            )
        };
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return if_so(held < Duration::from_secs(9), figures);
        }
        if began.elapsed() > Duration::from_secs(5) {
            return Err(figures());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn one_address_that_holds_all_it_can_does_not_shut_out_gatepay() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let id = receiver.order(&acme(), "A-0001").await;
    receiver.acknowledges(&paid(&id, "A-0001")).await;
    for (said, connections) in [(&*slow_body(), 48), (HALF_A_HEAD, 300)] {
        in_one_of_some_looks(async || {
            let (since, mut held) = (Instant::now(), Vec::new());
            for _ in 0..connections {
                let mut stranger = from(2, receiver.address).await;
                // The listener may close the connection before.
                let _closed = stranger.write_all(said.as_bytes()).await;
                held.push(stranger);
            }
            // The listener has accepted or closed all of them before this one.
            let news = paid(&id, &format!("beside {connections}"));
            acknowledged_from(3, &receiver, &news, since).await
        })
        .await;
    }
    let refused = receiver
        .program
        .metric("notification_connections_refused_total")
        .await;
    assert!(refused.parse::<u32>().unwrap() >= 300 - 64, "{refused}");
    receiver.program.stop().await;
}

#[tokio::test]
async fn many_addresses_that_hold_all_connections_do_not_shut_out_gatepay() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let id = receiver.order(&acme(), "A-0001").await;
    let refused = async || {
        let refused = receiver
            .program
            .metric("notification_connections_refused_total");
        refused.await.parse::<u32>().unwrap()
    };
    in_one_of_some_looks(async || {
        let before = refused().await;
        let (since, mut held, mut free) = (Instant::now(), Vec::new(), 256_usize);
        for address in 10.. {
            let share = free.div_ceil(4);
            for _ in 0..share {
                let mut stranger = from(address, receiver.address).await;
                // A machine that stalls may take so long that the listener closes the first ones.
                let _closed = stranger.write_all(HALF_A_HEAD.as_bytes()).await;
                held.push(stranger);
            }
            free -= share;
            if free == 0 {
                break;
            }
        }
        acknowledged_from(3, &receiver, &paid(&id, "A-0001"), since).await?;
        let refused = refused().await - before;
        if_so(refused == 1, || {
            format!("{refused} connections were refused")
        })
    })
    .await;
    receiver.program.stop().await;
}

#[tokio::test]
async fn bodies_beyond_a_strangers_share_are_counted_apart_from_notifications_that_are_not_stored()
{
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let nearly_whole = slow_body() + &"{".repeat((1 << 20) - 2);
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stranger = from(2, receiver.address).await;
        // A quarter of the memory is for half of them: the others are answered before they have sent all.
        let _closed = stranger.write_all(nearly_whole.as_bytes()).await;
        held.push(stranger);
    }
    until_so("one is told that all are busy", async || {
        receiver.received("UNKNOWN", "busy").await != "0"
    })
    .await;
    assert_eq!(receiver.received("UNKNOWN", "failed").await, "0");
    // So that the end does not wait for their bodies.
    drop(held);
    receiver.program.stop().await;
}

#[tokio::test]
async fn unsigned_calls_write_one_line_and_are_all_counted() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let body = paid("1", "A-0001");
    for _ in 0..40 {
        let forged = notification(PATH, &body, acme().secret);
        assert_eq!(receiver.send(forged).await.0, 401);
    }
    assert_eq!(receiver.received("UNKNOWN", "unsigned").await, "40");
    let message = "the signature of a notification is of none of the institution's credentials";
    until("the log has a line", || {
        !receiver.logged(message).is_empty()
    })
    .await;
    let lines = receiver.logged(message);
    let left_out: u64 = lines
        .iter()
        .map(|line| line["left_out"].as_u64().unwrap())
        .sum();
    // A slow machine may take longer than the ten seconds of one line.
    assert!(lines.len() < 5 && left_out < 40, "{lines:?}");
    assert_eq!(lines[0]["address"], "127.0.0.1");
    receiver.program.stop().await;
}

#[tokio::test]
async fn a_connection_with_a_call_that_is_not_gatepays_is_closed() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let mut stranger = from(2, receiver.address).await;
    let call = "POST /gatepay HTTP/1.1\r\nhost: notify.example.com\r\ncontent-length: 0\r\n\r\n";
    stranger
        .write_all(call.repeat(50).as_bytes())
        .await
        .unwrap();
    let mut answers = Vec::new();
    // The rest of the calls may be answered by a reset.
    let _reset = stranger.read_to_end(&mut answers).await;
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 401").count(), 1, "{answers}");
    receiver.program.stop().await;
}

#[tokio::test]
async fn a_notification_with_an_old_stamp_is_counted_apart_from_unsigned_ones() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let days = |days: u64| Clock::system().unix_ms() - days * 86_400_000;
    let body = paid("1", "A-0001");
    for (age, status, result) in [(91, 401, "stale"), (89, 200, "new")] {
        let mut request = notification(PATH, &body, INSTITUTION_SECRET);
        let key = SecretKey::new(INSTITUTION_SECRET.to_owned().into()).unwrap();
        let stamp = FreshStamp::new(days(age), clock::random());
        let signature = sign(
            &SigningKey::new(&key),
            &stamp.as_stamp(),
            body.to_string().as_bytes(),
        );
        let headers = request.headers_mut();
        for (name, value) in [
            (
                "x-gatepay-timestamp",
                stamp.as_stamp().timestamp().to_owned(),
            ),
            ("x-gatepay-nonce", stamp.as_stamp().nonce().to_owned()),
            ("x-gatepay-signature", signature.to_string()),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        assert_eq!(receiver.send(request).await.0, status);
        let kind = if result == "new" { "PAY" } else { "UNKNOWN" };
        assert_eq!(receiver.received(kind, result).await, "1");
    }
    assert_eq!(receiver.received("UNKNOWN", "unsigned").await, "0");
    receiver.program.stop().await;
}

#[tokio::test]
async fn a_replayed_call_takes_none_of_the_urls_that_a_tenants_calls_may_name() {
    for engine in engines().await {
        let upstream = Scripted::each(|_| {
            let saved =
                r#"{"status":"SUCCESS","code":"000000","data":{"chain":"ETH","address":"0xabc"}}"#;
            Some(scripted::answer("200 OK", "", saved.as_bytes()))
        });
        let folder = folder(&upstream.url(), &engine);
        folder.keeps_a_journal();
        let receiver = Receiver::start(&folder).await;
        let now = Clock::system().unix_ms();
        let save = |url: &str| acme().post(SAVE_ADDRESS, address(url));
        let first = save("https://b.example/0").timestamp(&now).nonce("once");
        assert_eq!(receiver.call(&first).await.status, 200);
        for number in 1..=20 {
            let copy = save(&format!("https://b.example/{number}"));
            let copy = copy.timestamp(&now).nonce("once");
            let refused = receiver.call(&copy).await;
            assert_eq!(refused.refused(), (401, "replayed"), "{number}");
        }
        let urls = |range: std::ops::Range<u32>| {
            range.map(|number| format!("https://b.example/new{number}"))
        };
        for url in urls(0..14) {
            assert_eq!(receiver.call(&save(&url)).await.status, 200, "{url}");
        }
        // The stamp is spent, and nothing was sent.
        let sent = upstream.count();
        for url in urls(14..16) {
            let refused = receiver.call(&save(&url)).await;
            assert_eq!(refused.refused(), (403, "operation_not_allowed"), "{url}");
            assert_eq!(refused.outcome(), Some("not-executed"));
        }
        assert_eq!(upstream.count(), sent);
        receiver.program.stop().await;
    }
}
