//! Endpoints, their claims, due events and attempts.

use std::time::Duration;

use gatepay_core::ownership::TenantIncarnation;

use super::event::EventId;

/// How long an instance may deliver to an endpoint after it has claimed it, or has renewed its claim.
///
/// The time runs from the beginning of the call. An attempt is begun only if it ends within the claim.
pub const CLAIM_LASTS: Duration = Duration::from_secs(30);

/// The number of bytes of a tenant's answer that are kept.
pub const LONGEST_SAID: usize = 256;

/// A URL of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// The tenant.
    pub tenant: TenantIncarnation,
    /// A URL that a call of the tenant's named; `None` for the URL in the tenant's file.
    pub url: Option<String>,
}

/// The right of one instance to deliver to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointClaim {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// The endpoint's number in the store.
    pub number: i64,
    /// Counts the claims of the endpoint.
    pub turn: i64,
    /// The breaker as the last attempt left it.
    pub breaker: EndpointBreaker,
}

/// What an endpoint's breaker remembers. The store keeps it, and does not claim the endpoint before
/// [`open_until_ms`](Self::open_until_ms); the rules are the delivery's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointBreaker {
    /// Failed attempts since the last success.
    pub failures: u32,
    /// When the first of them failed.
    pub failing_since_ms: Option<u64>,
    /// Nothing is sent before this time. After it the next attempt is a probe.
    pub open_until_ms: Option<u64>,
    /// How many probes have failed one after another.
    pub failed_probes: u32,
}

/// The head of a line, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueEvent {
    /// The event.
    pub id: EventId,
    /// The line: no second event of it may be sent while an attempt is under way.
    pub line: i64,
    /// The kind, as [`NotificationKind`](gatepay_core::notification::NotificationKind) spells it.
    pub kind: String,
    /// The object.
    pub object: String,
    /// The status as GatePay sent it.
    pub status: String,
    /// When the event came.
    pub received_ms: u64,
    /// Since when the event waits: its arrival, its assignment or its replay. The schedule's age runs from here.
    pub waits_since_ms: u64,
    /// Attempts so far, of all replays and instances. The next one is this number and one.
    pub attempts: u32,
    /// Failed attempts since [`waits_since_ms`](Self::waits_since_ms), which the schedule counts.
    pub failed_attempts: u32,
    /// Whether another final status of the object contradicts it.
    pub has_conflict: bool,
    /// Whether another body came before for the same status.
    pub is_changed: bool,
    /// The body as GatePay sent it.
    pub body: Vec<u8>,
}

/// A digest of an endpoint's URL: the store keeps no URL of a tenant's file, where secrets may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UrlPrint(pub i64);

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The event.
    pub event: EventId,
    /// The claim under which the attempt was made: [`EndpointClaim::number`] and [`EndpointClaim::turn`].
    pub claim: (i64, i64),
    /// The instance.
    pub instance: i64,
    /// How long the attempt took.
    pub took: Duration,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// The result in a word, for people.
    pub outcome: String,
    /// The beginning of the answer's body; the store keeps [`LONGEST_SAID`] bytes.
    pub said: Vec<u8>,
    /// What becomes of the event.
    pub effect: AttemptEffect,
    /// The breaker after the attempt.
    pub breaker: EndpointBreaker,
}

/// What an attempt means for its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEffect {
    /// The tenant has acknowledged it.
    Delivered,
    /// It failed, and is due again after the delay.
    Retry(Duration),
    /// The schedule is used up.
    Dead,
    /// The endpoint is gone (410): it is turned off, and the event keeps its place. The print is that of the URL that
    /// answered so.
    EndpointOff(UrlPrint),
}

/// What a recorded attempt changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptVerdict {
    /// The event, its line and the endpoint are as the attempt says.
    Recorded,
    /// The claim was taken by another instance. The attempt is listed, and an acknowledgment counts; a failure changes
    /// nothing.
    ClaimLost,
    /// The event was superseded, delivered, or has died meanwhile. The attempt is listed, and an acknowledgment counts.
    Overtaken,
    /// The store has no such event: it was kept no longer.
    Forgotten,
}

/// An endpoint as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// Why nothing is sent to it.
    pub off: Option<EndpointOffReason>,
    /// The URL that answered 410 last.
    pub gone: Option<UrlPrint>,
    /// Its breaker.
    pub breaker: EndpointBreaker,
    /// When it is to be claimed next.
    pub next_ms: Option<u64>,
    /// The instance that delivers to it now.
    pub claimed_by: Option<i64>,
    /// Events that wait.
    pub waiting: u64,
    /// Dead events.
    pub dead: u64,
    /// When the oldest waiting event came.
    pub oldest_waiting_ms: Option<u64>,
}

/// Why nothing is sent to an endpoint. Its events wait until it is turned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointOffReason {
    /// It answered 410.
    Gone,
    /// The tenant has no such endpoint any more, or is another incarnation.
    Removed,
    /// The tenant is suspended.
    Suspended,
    /// No credential of the tenant is in force.
    NoCredential,
    /// An operator turned it off.
    Operator,
}

impl EndpointOffReason {
    /// Every reason.
    pub const ALL: &[Self] = &[
        Self::Gone,
        Self::Removed,
        Self::Suspended,
        Self::NoCredential,
        Self::Operator,
    ];

    /// The word for the reason.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Removed => "removed",
            Self::Suspended => "suspended",
            Self::NoCredential => "no_credential",
            Self::Operator => "operator",
        }
    }

    /// The reason that a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|reason| reason.as_str() == word)
    }
}
