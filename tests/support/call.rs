//! A request before it is signed and sent.

use bytes::Bytes;
use gatepay_admission::replay::{Replay, StampFingerprint};
use gatepay_core::{Stamp, header, sign};
use gatepay_proxy::process::clock::Clock;
use gatepay_tenancy::ReplayRule;
use http::{Method, Request};
use http_body_util::Full;

use super::{Shop, credential};

#[derive(Clone)]
pub(crate) struct Call {
    shop: Shop,
    method: Method,
    path: String,
    body: Bytes,
    /// The signed body, where it differs from the body sent.
    signed_body: Option<Bytes>,
    timestamp: Option<String>,
    nonce: Option<String>,
    secret: Option<&'static str>,
    more: Vec<(String, String)>,
    less: Vec<String>,
}

impl Call {
    pub(crate) fn new(shop: &Shop, method: Method, path: &str, body: Bytes) -> Self {
        Self {
            shop: shop.clone(),
            method,
            path: path.to_owned(),
            body,
            signed_body: None,
            timestamp: None,
            nonce: None,
            secret: None,
            more: Vec::new(),
            less: Vec::new(),
        }
    }

    pub(crate) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn timestamp(mut self, text: &impl ToString) -> Self {
        self.timestamp = Some(text.to_string());
        self
    }

    pub(crate) fn nonce(mut self, text: &str) -> Self {
        self.nonce = Some(text.to_owned());
        self
    }

    /// Signs other bytes than are sent.
    pub(crate) fn signing(mut self, body: impl Into<Bytes>) -> Self {
        self.signed_body = Some(body.into());
        self
    }

    /// Sends another body than was signed.
    pub(crate) fn with_body(&self, body: impl Into<Bytes>) -> Self {
        let mut call = self.clone();
        let signed = std::mem::replace(&mut call.body, body.into());
        call.signed_body.get_or_insert(signed);
        call
    }

    /// Signs with a secret other than the shop's.
    pub(crate) fn secret(mut self, secret: &'static str) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Sends this text instead of a signature.
    pub(crate) fn signature(self, text: &str) -> Self {
        self.instead(header::SIGNATURE, text)
    }

    /// Adds a header line.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.more.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a header out.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.less.push(name.to_ascii_lowercase());
        self
    }

    /// Replaces the value of a header.
    pub(crate) fn instead(self, name: &str, value: &str) -> Self {
        self.without(name).header(name, value)
    }

    /// The header lines, signed at the clock's time.
    pub(crate) fn lines(&self, clock: &Clock) -> Vec<(String, String)> {
        let fresh = clock.stamp();
        let fresh = fresh.as_stamp();
        let or = |own: &Option<String>, fresh: &str| own.clone().unwrap_or(fresh.to_owned());
        let timestamp = or(&self.timestamp, fresh.timestamp());
        let nonce = or(&self.nonce, fresh.nonce());
        let credential = credential(self.shop.client_id, self.secret.unwrap_or(self.shop.secret));
        let body = self.signed_body.as_ref().unwrap_or(&self.body);
        let signature = match Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()) {
            Ok(stamp) => sign(&credential.key, &stamp, body).to_string(),
            // The proxy refuses a stamp that no client could sign before it looks at the signature.
            Err(_) => "0".repeat(128),
        };
        let mut lines: Vec<(String, String)> = vec![
            ("host".into(), "pay.example".into()),
            (header::CLIENT_ID.into(), self.shop.client_id.into()),
            (header::TIMESTAMP.into(), timestamp),
            (header::NONCE.into(), nonce),
            (header::SIGNATURE.into(), signature),
        ];
        if !self.body.is_empty() {
            lines.push(("content-type".into(), "application/json".into()));
        }
        lines.retain(|(name, _)| !self.less.contains(name));
        lines.extend(self.more.iter().cloned());
        lines
    }

    /// The call's fingerprint in the replay memory. The call has a timestamp and a nonce of its own.
    pub(crate) fn fingerprint(&self, replay: &Replay) -> StampFingerprint {
        let [timestamp, nonce] = [&self.timestamp, &self.nonce]
            .map(|text| text.as_deref().expect("it is set").as_bytes());
        let stamp = Stamp::parse(timestamp, nonce).expect("a stamp that clients sign");
        replay.fingerprint(self.shop.client_id, &stamp, ReplayRule::Pair)
    }

    /// The request in the form that a client library takes.
    pub(crate) fn request(&self, clock: &Clock) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path);
        for (name, value) in self.lines(clock) {
            request = request.header(name, value);
        }
        request
            .body(Full::new(self.body.clone()))
            .expect("a well-formed request")
    }

    /// As bytes for a raw socket, with a Content-Length.
    pub(crate) fn bytes(&self, clock: &Clock) -> Vec<u8> {
        let length = format!("content-length: {}", self.body.len());
        [self.head(clock, &length).as_slice(), &self.body].concat()
    }

    /// As bytes for a raw socket, with a body in chunks of these many bytes.
    pub(crate) fn chunked(&self, clock: &Clock, bytes: usize) -> Vec<u8> {
        let mut wire = self.head(clock, "transfer-encoding: chunked");
        for chunk in self.body.chunks(bytes) {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        wire
    }

    /// The head alone, as bytes for a raw socket, with this line last.
    pub(crate) fn head(&self, clock: &Clock, framing: &str) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in self.lines(clock) {
            text.extend([&name, ": ", &value, "\r\n"]);
        }
        text.extend([framing, "\r\n\r\n"]);
        text.into_bytes()
    }
}

/// The fields of an HTTP/2 request with these header lines: the pseudo-header fields, then the lines without `host`.
pub(crate) fn http2_fields<'l>(
    method: &str,
    path: &str,
    lines: &'l [(String, String)],
) -> Vec<(&'l str, String)> {
    let mut fields = vec![
        (":method", method.to_owned()),
        (":path", path.to_owned()),
        (":authority", "pay.example".to_owned()),
    ];
    let own = lines.iter().filter(|(name, _)| name != "host");
    fields.extend(own.map(|(name, value)| (name.as_str(), value.clone())));
    fields
}
