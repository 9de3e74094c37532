//! A sandbox with two sub-accounts and a clock that stands still, and a client that sees every byte.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gatepay_core::sign::headers;
use gatepay_core::{ClientId, Credential, SecretKey, Stamp, header};
use gatepay_sandbox::examples::ExampleRequest;
use gatepay_sandbox::{Sandbox, SandboxConfig, SubAccount};
use serde_json::{Value, json};

pub(crate) const NOW: u64 = 1_767_225_600_000;
pub(crate) const ACME: &str = "2124538349";
pub(crate) const MERCHANT_ID: &str = "10002";
pub(crate) const OTHER: &str = "2124538350";
pub(crate) const QUERY: &str = "/payment/open/institution/v1/pay/order/query";
pub(crate) const CREATE: &str = "/payment/open/institution/v1/pay/order";

pub(crate) fn credential() -> Credential {
    let secret = SecretKey::new("c2VjcmV0".to_owned().into()).unwrap();
    Credential::new(ClientId::parse("institution").unwrap(), &secret)
}

pub(crate) fn config() -> SandboxConfig {
    let mut config = SandboxConfig::new(credential(), Arc::new(|| NOW));
    config.sub_accounts = vec![SubAccount::active(ACME), SubAccount::active(OTHER)];
    config
}

pub(crate) fn start(config: SandboxConfig) -> Sandbox {
    Sandbox::start(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

/// A signed POST of JSON, as it stands on the wire.
pub(crate) fn post(path: &str, account: &str, body: &str) -> Vec<u8> {
    let on_behalf_of = [
        ("Content-Type", "application/json"),
        (header::ON_BEHALF_OF, account),
    ];
    signed("POST", path, &on_behalf_of, body)
}

/// An example as it stands on the wire, with every header that names an account.
pub(crate) fn example(path: &str, account: &str, example: &ExampleRequest) -> Vec<u8> {
    let target = match &example.query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let accounts = [
        (header::ON_BEHALF_OF, account),
        (header::MERCHANT_ID, MERCHANT_ID),
    ];
    let media_type = example.content_type.map(|media| ("Content-Type", media));
    let headers: Vec<_> = accounts.into_iter().chain(media_type).collect();
    let body = str::from_utf8(&example.body).unwrap();
    signed(example.method.as_str(), &target, &headers, body)
}

/// A signed request as it stands on the wire.
pub(crate) fn signed(method: &str, target: &str, unsigned: &[(&str, &str)], body: &str) -> Vec<u8> {
    static NONCE: AtomicU64 = AtomicU64::new(1);
    let nonce = format!("nonce{}", NONCE.fetch_add(1, Ordering::Relaxed));
    let timestamp = NOW.to_string();
    let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).unwrap();
    let signed = headers(&credential(), &stamp, body.as_bytes());
    let signed = signed.iter().map(|(name, value)| (*name, value.as_str()));
    let headers: String = signed
        .chain(unsigned.iter().copied())
        .flat_map(|(name, value)| [name, ": ", value, "\r\n"])
        .collect();
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: sandbox\r\n\
         Content-Length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

pub(crate) fn create_body(number: &str) -> String {
    json!({
        "merchantTradeNo": number,
        "env": {"terminalType": "APP"},
        "currency": "GT",
        "orderAmount": "1.21",
        "goods": {"goodsName": "NF2T"},
    })
    .to_string()
}

/// Sends bytes on a new connection and reads to its end: the bytes received, and how the connection ended.
pub(crate) fn exchange(sandbox: &Sandbox, request: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let mut stream = TcpStream::connect(sandbox.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer).map(|_| ());
    (answer, end)
}

/// Calls the sandbox and splits its answer into status, head and body.
pub(crate) fn call(sandbox: &Sandbox, request: &[u8]) -> (u16, String, String) {
    let closing = String::from_utf8(request.to_vec()).unwrap().replacen(
        "\r\n",
        "\r\nConnection: close\r\n",
        1,
    );
    let (answer, end) = exchange(sandbox, closing.as_bytes());
    end.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

/// Calls the sandbox and reads its envelope.
pub(crate) fn envelope(sandbox: &Sandbox, request: &[u8]) -> Value {
    serde_json::from_str(&call(sandbox, request).2).unwrap()
}
