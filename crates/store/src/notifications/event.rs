//! Events that arrive, their owner, and quarantine.

use std::fmt;
use std::time::Duration;

use gatepay_core::ledger_key::{HintStrength, LedgerKey};
use gatepay_core::notification::{DuplicateKey, Notification, StatusRank};
use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};
use uuid::Uuid;

/// The id of a stored event: a UUID of version 7, made by the store. It stays the same over all attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub Uuid);

/// The largest number of events in one call of [`receive`](crate::engine::Store::receive).
pub const MOST_EVENTS: usize = 256;

/// An event in quarantine is decided again after this delay, if the ledger does not learn one of its keys before.
pub const FIRST_DECISION_DELAY: Duration = Duration::from_secs(5);

/// A verified notification with the decision about its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What makes a repetition a duplicate.
    pub key: DuplicateKey,
    /// The place of the status in the object's life.
    pub rank: Option<StatusRank>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// The token of the URL that GatePay called.
    pub token: Option<String>,
    /// The keys that lead from the ledger back to the event while it is in quarantine.
    pub hints: Vec<LedgerKey>,
    /// The owner.
    pub placement: EventPlacement,
}

/// The owner of an event, or quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventPlacement {
    /// A tenant gets it. If the incarnation is no longer the tenant's newest, the store puts the event into quarantine,
    /// as [`Removed`](QuarantineReason::Removed).
    Tenant {
        /// The tenant.
        tenant: TenantIncarnation,
        /// The URL that a call of the tenant's named; `None` for the URL in the tenant's file.
        url: Option<String>,
        /// What the decision rests on.
        by: PlacementBasis,
    },
    /// It is about the institution itself.
    Operators,
    /// It waits for an operator, or for the ledger to learn a key.
    Quarantine(QuarantineReason),
}

/// What the decision about an owner rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacementBasis {
    /// Hints of the notification.
    Hints(HintStrength),
    /// The event is about the institution itself, or the proxy's own news; the owner is an operator.
    Institution,
    /// GatePay's answer to a question on the tenant's behalf.
    Asked,
    /// An operator's order.
    Operator(String),
}

/// The state of a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventState {
    /// It has no owner yet.
    Quarantined,
    /// It is to be delivered.
    Waiting,
    /// Its tenant has acknowledged it.
    Delivered,
    /// A later status takes its place.
    Superseded,
    /// The schedule is used up, until it is replayed.
    Dead,
    /// It is about the institution, and is not sent.
    Operator,
}

/// The answer to one event of a batch. It counts once the call has returned: then it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiveResult {
    /// The event is stored.
    New(EventArrival),
    /// The event is stored with a mark: another body came before for the same kind, object and status.
    Changed(EventArrival),
    /// The same bytes were stored before.
    Duplicate(EventId),
}

/// An event at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventArrival {
    /// The event.
    pub id: EventId,
    /// Its state.
    pub state: EventState,
    /// Whether it contradicts another final status of its object: to be alerted.
    pub has_conflict: bool,
    /// Why it is in quarantine.
    pub quarantine: Option<QuarantineReason>,
}

/// An event in quarantine that is to be decided again. It is not returned again for [`DECISION_LEASE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedEvent {
    /// The event.
    pub id: EventId,
    /// When it came.
    pub received_ms: u64,
    /// Why it was put into quarantine.
    pub reason: QuarantineReason,
    /// How many times it has been decided again, this time included. A time counts once its decision is made.
    pub decisions: u32,
    /// The token of the URL that GatePay called.
    pub token: Option<String>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// The time that an instance has for a repeated decision.
pub const DECISION_LEASE: Duration = Duration::from_mins(1);

/// The result of a repeated decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuarantineDecision {
    /// The event leaves quarantine, or stays in it without another decision until the ledger learns one of its keys.
    Placed(EventPlacement),
    /// The event stays, and is decided again after the delay.
    Again(QuarantineReason, Duration),
    /// The event stays, and is due at once for a decision by answers of GatePay's.
    Ask(QuarantineReason),
}

/// The queues of events in quarantine that are due for a decision. Answers of GatePay's take time: decisions without them
/// do not wait for those with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuarantineQueue {
    /// Decisions by the store and the configuration alone.
    Known,
    /// Decisions for which GatePay is asked.
    Asked,
}

/// How long an operator's proposal of an assignment waits for another operator.
pub const PROPOSAL_LASTS: Duration = Duration::from_hours(24);

/// What became of an operator's proposal to give an event to a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposalResult {
    /// It waits for another operator. A proposal of the same operator before it is replaced.
    Noted,
    /// Another operator has proposed the same: it may be carried out.
    Confirmed {
        /// The other operator.
        by: String,
    },
    /// Another operator has proposed another tenant, or another incarnation.
    Differs {
        /// The other operator.
        by: String,
        /// The other tenant id.
        tenant: String,
    },
}

/// A decision as the engines carry it out.
pub(crate) struct DecisionTerms {
    pub(crate) placement: EventPlacement,
    /// The time until the next decision; `None` for no further one.
    pub(crate) delay: Option<Duration>,
    /// Whether the next decision is by answers of GatePay's.
    pub(crate) to_ask: bool,
}

impl DecisionTerms {
    pub(crate) fn of(decision: &QuarantineDecision) -> Self {
        let stays = |reason: &QuarantineReason| EventPlacement::Quarantine(*reason);
        let (placement, delay) = match decision {
            QuarantineDecision::Placed(placement) => (placement.clone(), None),
            QuarantineDecision::Again(reason, delay) => (stays(reason), Some(*delay)),
            QuarantineDecision::Ask(reason) => (stays(reason), Some(Duration::ZERO)),
        };
        Self {
            placement,
            delay,
            to_ask: matches!(decision, QuarantineDecision::Ask(_)),
        }
    }

    pub(crate) fn assigned(tenant: &TenantIncarnation, url: Option<&str>, by: &str) -> Self {
        Self {
            placement: EventPlacement::Tenant {
                tenant: tenant.clone(),
                url: url.map(str::to_owned),
                by: PlacementBasis::Operator(by.to_owned()),
            },
            delay: None,
            to_ask: false,
        }
    }
}

impl EventArrival {
    /// Whether the event has a tenant as its owner.
    pub const fn is_owned(&self) -> bool {
        !matches!(self.state, EventState::Quarantined | EventState::Operator)
    }
}

impl NewEvent {
    /// An event of a notification that was [read](Notification::read) from `body`.
    pub fn new(
        notification: &Notification,
        body: Vec<u8>,
        token: Option<String>,
        placement: EventPlacement,
    ) -> Self {
        let hints = notification.hints.iter();
        Self {
            key: notification.duplicate_key(),
            rank: notification.rank,
            body,
            token,
            hints: hints.map(|hint| hint.key.clone()).collect(),
            placement,
        }
    }

    /// A digest of kind, object and status.
    pub(crate) fn news_digest(&self) -> [u8; 32] {
        let without_body = DuplicateKey {
            body_sha256: [0; 32],
            ..self.key.clone()
        };
        without_body.digest()
    }

    /// The rank in one number with the same order: odd if it is final.
    pub(crate) fn rank_number(&self) -> Option<i64> {
        let number = |rank: StatusRank| i64::from(rank.rank) * 2 + i64::from(rank.is_final);
        self.rank.map(number)
    }
}

impl EventId {
    /// The id that a text states.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// When the event came, in milliseconds since 1970.
    pub fn came_ms(&self) -> u64 {
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&self.0.as_bytes()[..6]);
        u64::from_be_bytes(ms)
    }

    /// The lowest id of an event that came at this time, in milliseconds since 1970.
    pub(crate) fn floor(ms: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl EventState {
    /// Every state.
    pub const ALL: &[Self] = &[
        Self::Quarantined,
        Self::Waiting,
        Self::Delivered,
        Self::Superseded,
        Self::Dead,
        Self::Operator,
    ];

    /// The word for the state.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined",
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Superseded => "superseded",
            Self::Dead => "dead",
            Self::Operator => "operator",
        }
    }

    /// Whether an index lists the events in this state.
    pub(crate) fn is_listed(self) -> bool {
        matches!(self, Self::Quarantined | Self::Operator | Self::Dead)
    }

    /// Whether a tenant owns the events in this state.
    pub const fn has_owner(self) -> bool {
        !matches!(self, Self::Quarantined | Self::Operator)
    }

    /// The state that a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|state| state.as_str() == word)
    }
}

impl fmt::Display for PlacementBasis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hints(strength) => f.write_str(strength.as_str()),
            Self::Institution => f.write_str("institution"),
            Self::Asked => f.write_str("asked"),
            Self::Operator(name) => write!(f, "operator {name}"),
        }
    }
}

impl fmt::Display for EventState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
