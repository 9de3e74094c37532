//! The log of sent notifications and their answers.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use serde_json::{Value, json};

/// One attempt to deliver a notification, and its answer.
#[derive(Clone, PartialEq, Eq)]
pub struct SentNotification {
    /// The notification's number, from 1 on; repetitions have the same.
    pub id: u64,
    /// The number of the attempt, from 1 on.
    pub attempt: u32,
    /// The time of the attempt, in milliseconds since 1970 by the sandbox's clock.
    pub at_ms: u64,
    /// The URL called.
    pub url: String,
    /// Whether the URL is another than the institution's: of a fixed address, a subscription, or given by hand.
    pub has_own_url: bool,
    /// `X-GatePay-Timestamp` as sent.
    pub timestamp: String,
    /// `X-GatePay-Nonce` as sent.
    pub nonce: String,
    /// `X-GatePay-Signature` as sent.
    pub signature: String,
    /// The body as sent.
    pub body: Bytes,
    /// The answer; `None` if none came.
    pub answer: Option<CallbackAnswer>,
    /// Why no answer came.
    pub error: Option<String>,
    /// Whether the answer acknowledges the notification: HTTP status 200 and `returnCode` `SUCCESS`.
    pub acknowledged: bool,
    /// When the next attempt is due, by the sandbox's clock; `None` if there is none.
    pub next_ms: Option<u64>,
}

/// The answer to a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl CallbackAnswer {
    /// GatePay's rule (protocol.md 5.4), read strictly: a client should be tested against no less.
    pub(crate) fn acknowledges(&self) -> bool {
        let body = || serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        self.status == 200 && body()["returnCode"] == "SUCCESS"
    }
}

impl SentNotification {
    /// The attempt in the form of `GET /-/sandbox/notifications`.
    pub(crate) fn to_json(&self) -> Value {
        let answer = self.answer.as_ref();
        json!({
            "id": self.id,
            "attempt": self.attempt,
            "atMs": self.at_ms,
            "url": self.url,
            "hasOwnUrl": self.has_own_url,
            "timestamp": self.timestamp,
            "nonce": self.nonce,
            "signature": "<masked>",
            "body": String::from_utf8_lossy(&self.body),
            "answerStatus": answer.map(|answer| answer.status),
            "answerBody": answer.map(|answer| String::from_utf8_lossy(&answer.body)),
            "error": self.error,
            "acknowledged": self.acknowledged,
            "nextMs": self.next_ms,
        })
    }
}

/// The signature is masked: the output of a failing test may become public.
impl fmt::Debug for SentNotification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentNotification")
            .field("id", &self.id)
            .field("attempt", &self.attempt)
            .field("at_ms", &self.at_ms)
            .field("url", &self.url)
            .field("has_own_url", &self.has_own_url)
            .field("timestamp", &self.timestamp)
            .field("nonce", &self.nonce)
            .field("body", &self.body)
            .field("answer", &self.answer)
            .field("error", &self.error)
            .field("acknowledged", &self.acknowledged)
            .field("next_ms", &self.next_ms)
            .finish_non_exhaustive()
    }
}

/// The newest attempts, up to `capacity`.
pub(crate) struct SentLog {
    newest: VecDeque<SentNotification>,
    capacity: usize,
}

impl SentLog {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            newest: VecDeque::new(),
            capacity,
        }
    }

    pub(crate) fn push(&mut self, sent: SentNotification) {
        if self.capacity == 0 {
            return;
        }
        if self.newest.len() == self.capacity {
            self.newest.pop_front();
        }
        self.newest.push_back(sent);
    }

    /// All attempts in the log, oldest first.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &SentNotification> {
        self.newest.iter()
    }
}
