//! The log of received requests and their results.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use gatepay_core::header;
use serde_json::{Value, json};

/// A received request and its result.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// The arrival time of the request's head, in milliseconds since 1970 by the sandbox's clock.
    pub at_ms: u64,
    /// The method as sent.
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// Names in lower case, values as sent, in the order received; values of a repeated name are adjacent.
    pub headers: Vec<(String, Bytes)>,
    /// The whole body after transfer decoding; empty if it was not read.
    pub body: Bytes,
    /// The name of the catalogue row that the request calls; `None` if there is none.
    pub operation: Option<String>,
    /// Whether signature, timestamp, nonce and client id were valid.
    pub verified: bool,
    /// Whether the request reached the ledger; `answer_status` and `answer_body` have the result.
    pub executed: bool,
    /// The HTTP status of the answer, even if a fault prevented delivery; `None` if no answer was composed.
    pub answer_status: Option<u16>,
    /// The body of the answer, even if a fault prevented delivery.
    pub answer_body: Bytes,
}

impl ReceivedRequest {
    /// The first value of a header, if it is text. The name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        str::from_utf8(value).ok()
    }

    /// Headers for display, with the signature masked.
    fn shown_headers(&self) -> Vec<(&str, String)> {
        self.headers
            .iter()
            .map(|(name, value)| {
                let value = if name == header::SIGNATURE {
                    "<masked>".to_owned()
                } else {
                    String::from_utf8_lossy(value).into_owned()
                };
                (name.as_str(), value)
            })
            .collect()
    }

    /// The request in the form of `GET /-/sandbox/received`.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "atMs": self.at_ms,
            "method": self.method,
            "target": self.target,
            "headers": self.shown_headers(),
            "body": String::from_utf8_lossy(&self.body),
            "operation": self.operation,
            "verified": self.verified,
            "executed": self.executed,
            "answerStatus": self.answer_status,
            "answerBody": String::from_utf8_lossy(&self.answer_body),
        })
    }
}

/// The signature is masked: the output of a failing test may become public.
impl fmt::Debug for ReceivedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("at_ms", &self.at_ms)
            .field("method", &self.method)
            .field("target", &self.target)
            .field("headers", &self.shown_headers())
            .field("body", &self.body)
            .field("operation", &self.operation)
            .field("verified", &self.verified)
            .field("executed", &self.executed)
            .field("answer_status", &self.answer_status)
            .field("answer_body", &self.answer_body)
            .finish()
    }
}

/// The newest requests, up to `capacity`.
pub(crate) struct ReceivedLog {
    newest: VecDeque<ReceivedRequest>,
    capacity: usize,
}

impl ReceivedLog {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            newest: VecDeque::new(),
            capacity,
        }
    }

    pub(crate) fn push(&mut self, received: ReceivedRequest) {
        if self.capacity == 0 {
            return;
        }
        if self.newest.len() == self.capacity {
            self.newest.pop_front();
        }
        self.newest.push_back(received);
    }

    pub(crate) fn clear(&mut self) {
        self.newest.clear();
    }

    /// All requests in the log, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ReceivedRequest> {
        self.newest.iter()
    }
}
