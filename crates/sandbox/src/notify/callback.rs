//! The call of a callback URL: one connection, one request, one answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::header;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::notify::outbox::NotificationAttempt;
use crate::notify::sent::CallbackAnswer;

/// The longest answer that is read, in bytes. An acknowledgment has 40.
const LONGEST_ANSWER: usize = 64 << 10;

/// A URL that notifications may be sent to: `https`, or `http` to a loopback address.
pub(crate) struct CallbackUrl {
    uri: Uri,
    host: String,
    port: u16,
    is_https: bool,
}

impl CallbackUrl {
    /// Reads a URL, or states its fault.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("is no URL: {error}"))?;
        let host = uri.host().ok_or("has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_loopback(host) => false,
            Some("http") => return Err("is plain http to another machine".to_owned()),
            _ => return Err("is neither https nor http".to_owned()),
        };
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
            is_https,
            uri,
        })
    }

    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// Makes an attempt and waits for its answer, at most `longest`.
pub(crate) async fn call(
    attempt: &NotificationAttempt,
    tls: Option<Arc<ClientConfig>>,
    longest: Duration,
) -> Result<CallbackAnswer, String> {
    let called = tokio::time::timeout(longest, connect_and_post(attempt, tls)).await;
    called.unwrap_or_else(|_elapsed| Err("no answer in time".to_owned()))
}

async fn connect_and_post(
    attempt: &NotificationAttempt,
    tls: Option<Arc<ClientConfig>>,
) -> Result<CallbackAnswer, String> {
    let url = CallbackUrl::parse(&attempt.url).map_err(|problem| format!("the URL {problem}"))?;
    let tcp = TcpStream::connect((url.host.as_str(), url.port))
        .await
        .map_err(|error| error.to_string())?;
    drop(tcp.set_nodelay(true));
    if !url.is_https {
        return post(tcp, &url, attempt).await;
    }
    let tls = tls.ok_or("https needs a trust anchor")?;
    let name = ServerName::try_from(url.host.clone()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await;
    post(stream.map_err(|error| error.to_string())?, &url, attempt).await
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &CallbackUrl,
    attempt: &NotificationAttempt,
) -> Result<CallbackAnswer, String> {
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    tokio::spawn(connection);
    let answer = sender.send_request(request(url, attempt)?).await;
    let (head, body) = answer.map_err(said)?.into_parts();
    let body = Limited::new(body, LONGEST_ANSWER).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok(CallbackAnswer {
        status: head.status.as_u16(),
        body,
    })
}

/// The headers of protocol.md 5.1. No page mentions the client id's.
fn request(
    url: &CallbackUrl,
    attempt: &NotificationAttempt,
) -> Result<Request<Full<Bytes>>, String> {
    let path = url.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = url
        .uri
        .authority()
        .map_or("", |authority| authority.as_str());
    Request::post(path)
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/json")
        .header(header::TIMESTAMP, &attempt.timestamp)
        .header(header::NONCE, &attempt.nonce)
        .header(header::SIGNATURE, &attempt.signature)
        .body(Full::new(attempt.body.clone()))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_allowed_to_this_machine_only() {
        for (url, allowed) in [
            ("https://notify.example/gatepay", true),
            ("http://127.0.0.1:8443/gatepay", true),
            ("http://[::1]:8443/", true),
            ("http://localhost", true),
            ("http://192.0.2.1/", false),
            ("http://localhost.example/", false),
            ("ftp://127.0.0.1/", false),
            ("/gatepay", false),
            ("", false),
        ] {
            assert_eq!(CallbackUrl::parse(url).is_ok(), allowed, "{url}");
        }
    }
}
