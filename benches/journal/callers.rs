//! Tenants that send one refund after the other, each on a connection that it keeps.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use gatepay_core::{ClientId, Credential, SecretKey, sign};
use gatepay_proxy::process::clock::{self, Clock};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// How many tenants share the connections.
pub(super) const TENANTS: usize = 8;
/// Time limit of a call.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Callers;

impl Callers {
    /// Returns the latency of each call that GatePay answered, in milliseconds, the failures of the others, and the
    /// duration of the whole run.
    pub(super) fn run(
        address: SocketAddr,
        connections: usize,
        length: Duration,
    ) -> (Vec<f64>, Vec<String>, Duration) {
        let calling = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                // All callers connect before the measurement begins, so that connecting is not measured.
                let mut streams = Vec::new();
                for _ in 0..connections {
                    let stream = TcpStream::connect(address).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    streams.push(stream);
                }
                let begun = Instant::now();
                let callers = streams.into_iter().enumerate();
                let calling: JoinSet<_> = callers
                    .map(|(number, stream)| call_until(begun + length, number % TENANTS, stream))
                    .collect();
                let (mut took, mut failed) = (Vec::new(), Vec::new());
                for (times, failure) in calling.join_all().await {
                    took.extend(times);
                    failed.extend(failure);
                }
                (took, failed, begun.elapsed())
            })
        });
        calling.join().unwrap()
    }
}

/// The client id of a tenant.
pub(super) fn client_id(tenant: usize) -> String {
    format!("client-{tenant}")
}

/// The secret of a tenant.
pub(super) fn secret(tenant: usize) -> String {
    format!("fake-secret-of-{tenant}")
}

async fn call_until(
    deadline: Instant,
    tenant: usize,
    mut stream: TcpStream,
) -> (Vec<f64>, Option<String>) {
    let key = SecretKey::new(Zeroizing::new(secret(tenant))).unwrap();
    let credential = Credential::new(ClientId::parse(&client_id(tenant)).unwrap(), &key);
    let clock = Clock::system();
    let (mut took, mut bytes) = (Vec::new(), Vec::with_capacity(4096));
    while Instant::now() < deadline {
        let request = request(&credential, &clock);
        let begun = Instant::now();
        let answered = tokio::time::timeout(PATIENCE, answer(&mut stream, &request, &mut bytes));
        match answered.await {
            Ok(Ok(())) => took.push(begun.elapsed().as_secs_f64() * 1e3),
            Ok(Err(failure)) => return (took, Some(failure)),
            Err(_) => return (took, Some("no answer".to_owned())),
        }
    }
    (took, None)
}

/// A new refund request.
fn request(credential: &Credential, clock: &Clock) -> String {
    let number = hex::encode(clock::random::<8>());
    let body =
        format!(r#"{{"refundRequestId":"R-{number}","prepayId":"42698101","refundAmount":"1"}}"#);
    let stamp = clock.stamp();
    let mut request = format!(
        "POST /v1/pay/order/refund HTTP/1.1\r\nhost: pay.example\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in sign::headers(credential, &stamp.as_stamp(), body.as_bytes()) {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    request + "\r\n" + &body
}

async fn answer(stream: &mut TcpStream, request: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
    let broken = |error: std::io::Error| error.to_string();
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let length = super::http::message(stream, bytes).await.map_err(broken)?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    if !text.starts_with("HTTP/1.1 200 ") || text.contains("x-gatepay-proxy-refusal") {
        return Err(text.into_owned());
    }
    bytes.drain(..length);
    Ok(())
}
