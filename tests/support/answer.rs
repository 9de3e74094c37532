//! What a shop was answered.

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
    /// Whether its connection ends with it.
    pub(crate) fn closes(&self) -> bool {
        self.headers
            .get("connection")
            .is_some_and(|value| value == "close")
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Why the proxy refused, if it did.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.header(headers::REFUSAL.as_str())
    }

    /// The status, and why the proxy refused.
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

    /// When to come back, in seconds.
    pub(crate) fn retry_after(&self) -> u64 {
        self.header(RETRY_AFTER.as_str())
            .and_then(|seconds| seconds.parse().ok())
            .expect("a number of seconds")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    /// The code of the envelope.
    pub(crate) fn code(&self) -> String {
        self.json()["code"]
            .as_str()
            .expect("the envelope has a code")
            .to_owned()
    }

    /// The sentence of a refusal.
    pub(crate) fn message(&self) -> String {
        self.json()["errorMessage"]
            .as_str()
            .expect("the envelope has a message")
            .to_owned()
    }

    /// Everything of it in one text, for tests of what must not be there.
    pub(crate) fn text(&self) -> String {
        format!("{self:?} {}", String::from_utf8_lossy(&self.body))
    }
}
