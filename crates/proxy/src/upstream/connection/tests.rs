use super::*;
use crate::upstream::connect::UpstreamConnector;
use crate::upstream::meters::UpstreamMeters;
use crate::upstream::pool::{Pool, PoolLimits};
use crate::upstream::wait_line::LineClaim;
use gatepay_tenancy::UpstreamUrl;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::yield_now;

/// More bytes than the kernel buffers for a peer that does not read.
const FLOOD: usize = 64 << 20;

/// An upstream connection, and the stream at its other end.
async fn pair() -> (UpstreamConnection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connection = connect(&url, None).await;
    (connection, listener.accept().await.unwrap().0)
}

async fn connect(url: &str, tls: Option<Arc<rustls::ClientConfig>>) -> UpstreamConnection {
    let limit = Duration::from_secs(20);
    let upstream = UpstreamConnector::new(UpstreamUrl::parse(url).unwrap(), tls, limit).unwrap();
    let meters = UpstreamMeters::unscraped();
    let limits = PoolLimits {
        connections: 1,
        idle: 1,
        idle_timeout: limit,
    };
    let pool = Pool::new(Arc::new(upstream), Arc::new(meters), limits);
    *pool
        .connect(LineClaim::OWN, after(20_000))
        .await
        .unwrap()
        .pooled
        .connection
}

fn after(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

fn request(body: usize) -> impl FnMut(&mut Vec<u8>) -> Bytes {
    let bytes = Bytes::from(vec![b'x'; body]);
    move |head| {
        let text = format!("POST / HTTP/1.1\r\ncontent-length: {body}\r\n\r\n");
        head.extend_from_slice(text.as_bytes());
        bytes.clone()
    }
}

async fn body(connection: &mut UpstreamConnection) -> Result<Vec<u8>, ExchangeError> {
    let mut whole = Vec::new();
    while let Some(piece) = connection.piece().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

/// Waits until the kernel has bytes for this connection and the reactor has seen them.
async fn until_heard(connection: &UpstreamConnection) {
    while connection.stream.is_silent(Liveness::Now)
        || connection.stream.is_silent(Liveness::Lately)
    {
        yield_now().await;
    }
}

#[tokio::test]
async fn other_tasks_run_while_a_long_request_is_written() {
    let (mut connection, mut peer) = pair().await;
    let reads = tokio::spawn(async move {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).await.unwrap();
        all.len()
    });
    let body = 64 * YIELD_AFTER;
    let mut sending = RequestWriter::new(vec![b'x'; body].into(), 0);
    poll_fn(|cx| {
        let before = sending.done;
        let sent = sending.poll(b"head", &mut connection.stream, cx);
        assert!(sending.done - before <= 2 * YIELD_AFTER, "in one turn");
        sent
    })
    .await
    .unwrap();
    drop(connection);
    assert_eq!(reads.await.unwrap(), body + 4);
}

#[tokio::test]
async fn a_second_request_follows_on_a_connection_after_any_interim_answers() {
    let (mut connection, mut peer) = pair().await;
    for _ in 0..3 {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
                           HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        peer.write_all(&answer[..40]).await.unwrap();
        let rest = async {
            yield_now().await;
            peer.write_all(&answer[40..]).await.unwrap();
        };
        let mut request = request(9);
        let (head, ()) = tokio::join!(connection.ask(&mut request, |_| true, after(20_000)), rest);
        assert_eq!(head.unwrap().status.as_u16(), 200);
        assert_eq!(body(&mut connection).await.unwrap(), b"{}");
        assert!(
            connection.is_free()
                && connection.is_quiet(Liveness::Now)
                && connection.is_quiet(Liveness::Lately)
        );
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_read_and_the_connection_not_reused() {
    for closes in [false, true] {
        let (mut connection, mut peer) = pair().await;
        let server = async move {
            peer.read_exact(&mut [0; 100]).await.unwrap();
            let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}";
            peer.write_all(answer).await.unwrap();
            (!closes).then_some(peer)
        };
        let mut request = request(FLOOD);
        let (head, _peer) = tokio::join!(
            connection.ask(&mut request, |_| true, after(20_000)),
            server
        );
        assert_eq!(head.unwrap().status.as_u16(), 413, "closes: {closes}");
        assert_eq!(body(&mut connection).await.unwrap(), b"{}");
        assert!(!connection.is_free());
    }
}

#[tokio::test]
async fn an_answer_from_before_the_request_is_not_its_answer() {
    let (mut connection, mut peer) = pair().await;
    let mut flood = request(FLOOD);
    // Long enough for the kernel's buffers to be full by then.
    let late = connection.ask(&mut flood, |_| true, after(2_000)).await;
    assert!(matches!(late, Err(ExchangeError::Late)), "it does not read");
    let before = connection.written();
    assert!(before > 0 && before < FLOOD as u64);
    peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let unasked = connection
        .ask(&mut request(9), |_| true, after(20_000))
        .await;
    assert!(
        matches!(unasked, Err(ExchangeError::Unasked)),
        "{unasked:?}"
    );
    assert_eq!(connection.written(), before, "and nothing was sent");
}

#[tokio::test]
async fn an_odd_informational_answer_ends_the_reuse_of_its_connection() {
    for (before, keeps) in [
        ("HTTP/1.1 100 Continue\r\n\r\n", true),
        ("HTTP/1.1 100 Continue\n\n", false),
        ("HTTP/1.1 100 Continue\r\nX : y\r\n\r\n", false),
    ] {
        let (mut connection, mut peer) = pair().await;
        let answer = format!("{before}HTTP/1.1 204 No Content\r\n\r\n");
        peer.write_all(answer.as_bytes()).await.unwrap();
        connection
            .ask(&mut request(9), |_| true, after(20_000))
            .await
            .unwrap();
        assert_eq!(connection.is_free(), keeps, "{before:?}");
    }
}

#[tokio::test]
async fn half_a_head_and_its_end_are_no_answer() {
    let (mut connection, mut peer) = pair().await;
    peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Len")
        .await
        .unwrap();
    peer.shutdown().await.unwrap();
    let closed = connection
        .ask(&mut request(9), |_| true, after(20_000))
        .await;
    assert!(matches!(closed, Err(ExchangeError::Closed)), "{closed:?}");
    assert!(!connection.is_free());
}

#[tokio::test]
async fn a_deadline_holds_against_an_endless_answer() {
    for said in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let (mut connection, mut peer) = pair().await;
        let chunk = format!("1;{}\r\nx\r\n", "x".repeat(500));
        let flood = if said.contains("200") { &chunk } else { said }.repeat(5_000);
        let server = tokio::spawn(async move {
            let _ = peer.write_all(said.as_bytes()).await;
            while peer.write_all(flood.as_bytes()).await.is_ok() {}
        });
        let exchange = async {
            connection
                .ask(&mut request(9), |_| true, after(200))
                .await?;
            while connection.piece().await?.is_some() {}
            Ok(())
        };
        let watched = tokio::time::timeout(Duration::from_secs(20), exchange).await;
        let ended: Result<(), ExchangeError> = watched.expect("it ends by its own deadline");
        assert!(matches!(ended, Err(ExchangeError::Late)), "{ended:?}");
        server.abort();
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_end_the_connection() {
    let answer = |body: usize| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; body]].concat()
    };
    for filled in [2, READ - answer(4_000).len() + 4_000] {
        let (mut connection, mut peer) = pair().await;
        peer.write_all(&[answer(filled), answer(3)].concat())
            .await
            .unwrap();
        connection
            .ask(&mut request(9), |_| true, after(20_000))
            .await
            .unwrap();
        assert_eq!(body(&mut connection).await.unwrap().len(), filled);
        assert!(!(connection.is_free() && connection.is_quiet(Liveness::Now)));
        assert!(!(connection.is_free() && connection.is_quiet(Liveness::Lately)));
    }
}

#[tokio::test]
async fn over_tls_too_and_a_word_between_the_two_ends_harms_nothing() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let server = async {
        let tcp = listener.accept().await.unwrap().0;
        acceptor.accept(tcp).await.unwrap()
    };
    let tls = crate::tls::config::client(Some(&ca)).unwrap();
    let (mut connection, mut peer) = tokio::join!(connect(&url, Some(tls)), server);
    for _ in 0..2 {
        peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            .await
            .unwrap();
        peer.flush().await.unwrap();
        connection
            .ask(&mut request(9), |_| true, after(20_000))
            .await
            .unwrap();
        assert_eq!(body(&mut connection).await.unwrap(), b"{}");
        // Like a session ticket: a TLS message without a request.
        peer.get_mut().1.refresh_traffic_keys().unwrap();
        peer.flush().await.unwrap();
        until_heard(&connection).await;
        assert!(connection.is_free() && connection.is_quiet(Liveness::Now));
    }
    // The read takes all bytes off the socket at once, and the first byte fills the buffer.
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4055\r\n\r\n";
    let first = format!("{head}{}", "x".repeat(4_055));
    assert_eq!(first.len(), READ);
    connection.received = BytesMut::new();
    peer.write_all(format!("{first}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    peer.flush().await.unwrap();
    connection
        .ask(&mut request(9), |_| true, after(20_000))
        .await
        .unwrap();
    assert_eq!(body(&mut connection).await.unwrap().len(), 4_055);
    assert!(!(connection.is_free() && connection.is_quiet(Liveness::Now)));
}
