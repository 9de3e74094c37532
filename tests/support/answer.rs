//! An answer that a shop received.

use bytes::Bytes;
use gatepay_proxy::headers;
use http::HeaderMap;
use http::header::RETRY_AFTER;
use serde_json::Value;

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Whether the connection ends with this answer.
    pub(crate) fn closes(&self) -> bool {
        self.headers
            .get("connection")
            .is_some_and(|value| value == "close")
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The proxy's reason for a refusal, if it refused.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.header(headers::REFUSAL.as_str())
    }

    /// The status, and the proxy's reason for the refusal.
    pub(crate) fn refused(&self) -> (u16, &str) {
        (self.status, self.refusal().unwrap_or("not refused"))
    }

    pub(crate) fn outcome(&self) -> Option<&str> {
        self.header(headers::OUTCOME.as_str())
    }

    pub(crate) fn request_id(&self) -> String {
        self.header(headers::REQUEST_ID.as_str())
            .expect("every answer has an id")
            .to_owned()
    }

    /// The `Retry-After` delay, in seconds.
    pub(crate) fn retry_after(&self) -> u64 {
        self.header(RETRY_AFTER.as_str())
            .and_then(|seconds| seconds.parse().ok())
            .expect("a number of seconds")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    /// The envelope's code.
    pub(crate) fn code(&self) -> String {
        self.json()["code"]
            .as_str()
            .expect("the envelope has a code")
            .to_owned()
    }

    /// The refusal's message.
    pub(crate) fn message(&self) -> String {
        self.json()["errorMessage"]
            .as_str()
            .expect("the envelope has a message")
            .to_owned()
    }

    /// Status, head and body in one text, for tests of texts that must not appear.
    pub(crate) fn text(&self) -> String {
        format!("{self:?} {}", String::from_utf8_lossy(&self.body))
    }
}
