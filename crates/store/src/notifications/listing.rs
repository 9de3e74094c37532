//! Lists of events, replay, counts and retention.

use std::time::Duration;

use gatepay_core::ownership::TenantIncarnation;

use super::delivery::EndpointState;
use super::event::{EventId, EventState};

/// The largest number of events in a list, and in one step of a replay.
pub const MOST_LISTED: u32 = 1_000;

/// The largest number of events on a page, which has their bodies.
pub const MOST_ON_PAGE: u32 = 100;

/// The number of events that a page examines if no index serves its filter.
pub(crate) const MOST_EXAMINED: u32 = 5_000;

/// One event in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSummary {
    /// The event.
    pub id: EventId,
    /// Its place among the events of its tenant: the cursor behind it. 0 without an owner.
    pub place: i64,
    /// When it came.
    pub received_ms: u64,
    /// The kind, as [`NotificationKind`](gatepay_core::notification::NotificationKind) spells it.
    pub kind: String,
    /// The object.
    pub object: String,
    /// The status as GatePay sent it.
    pub status: String,
    /// The owner.
    pub tenant: Option<TenantIncarnation>,
    /// What the decision about the owner rests on: a [`PlacementBasis`](super::event::PlacementBasis).
    pub placed_by: Option<String>,
    /// Its state.
    pub state: EventState,
    /// Why it is in quarantine: a word of [`QuarantineReason`](gatepay_core::ownership::QuarantineReason).
    pub quarantine: Option<String>,
    /// Whether another final status of the object contradicts it.
    pub has_conflict: bool,
    /// Whether another body came before for the same status.
    pub is_changed: bool,
    /// Attempts so far.
    pub attempts: u32,
    /// When it is due next, if it waits.
    pub next_ms: Option<u64>,
}

/// A page of a tenant's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events, in the order in which they got their owner. With a filter a page may be empty and not the last.
    pub events: Vec<(EventSummary, Vec<u8>)>,
    /// The cursor for the next page.
    pub next: i64,
    /// Whether there are more now.
    pub has_more: bool,
}

/// One event with all that is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDetail {
    /// The event.
    pub summary: EventSummary,
    /// The URL that its call named; `None` for the tenant's configured one.
    pub url: Option<String>,
    /// The token of the URL that GatePay called.
    pub token: Option<String>,
    /// The body as GatePay sent it.
    pub body: Vec<u8>,
    /// The attempts of the last 30 days, the oldest first.
    pub attempts: Vec<AttemptRow>,
}

/// A recorded attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// Counts the attempts of one event, from 1 on.
    pub number: u32,
    /// When it ended.
    pub at_ms: u64,
    /// The instance.
    pub instance: i64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// The result in a word.
    pub outcome: String,
    /// The beginning of the answer's body.
    pub said: Vec<u8>,
}

/// The dead events that are sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayFilter {
    /// One event.
    Event(EventId),
    /// The events of a tenant that came at this time or later, up to [`MOST_LISTED`] in one call.
    Tenant {
        /// The tenant.
        tenant: TenantIncarnation,
        /// In milliseconds since 1970.
        since_ms: u64,
    },
}

/// The result of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RedeliveryReport {
    /// Events that wait again.
    pub waiting: u32,
    /// Events that a later status has superseded.
    pub superseded: u32,
    /// Whether there may be more: the call is repeated.
    pub has_more: bool,
}

/// The figures for metrics and for `store check`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotificationCounts {
    /// Events in quarantine.
    pub quarantined: u64,
    /// When the oldest of them came.
    pub oldest_quarantined_ms: Option<u64>,
    /// Calls whose outcome is not known.
    pub open_calls: u64,
    /// Every endpoint with its events, the tenants' removed incarnations included. A tenant's figures are the sums.
    pub endpoints: Vec<EndpointState>,
    /// The store's clock.
    pub now_ms: u64,
}

/// How long rows are kept. Events in quarantine are kept until they have an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionTerms {
    /// Events with an owner, counted from their arrival: `keep_days`.
    pub events: Duration,
    /// Attempts.
    pub attempts: Duration,
    /// The ledger.
    pub owners: Duration,
}

/// What one step of the retention removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionReport {
    /// Events.
    pub events: u32,
    /// Attempts.
    pub attempts: u32,
    /// Rows of the ledger.
    pub owners: u32,
    /// Objects without an event.
    pub objects: u32,
}

/// The number of rows of each table that one step of the retention removes at most.
pub const RETENTION_STEP: u32 = 500;

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 60 * 60)
}

impl Default for RetentionTerms {
    fn default() -> Self {
        Self {
            events: days(90),
            attempts: days(30),
            owners: days(400),
        }
    }
}

impl RetentionReport {
    /// Whether there may be more: the next step follows at once.
    pub fn has_more(&self) -> bool {
        let rows = [self.events, self.attempts, self.owners, self.objects];
        rows.contains(&RETENTION_STEP)
    }
}

impl EventPage {
    /// The page of the events that were examined up to the place `last`. `is_full` states that there may be more behind it.
    pub(crate) fn of(
        events: Vec<(EventSummary, Vec<u8>)>,
        last: i64,
        is_full: bool,
        most: u32,
    ) -> Self {
        let is_cut = events.len() == usize::try_from(most).unwrap_or(usize::MAX);
        let next = match events.last() {
            Some((event, _)) if is_cut => event.place,
            _ => last,
        };
        Self {
            has_more: is_full || next < last,
            next,
            events,
        }
    }
}

impl EventSummary {
    /// Where the next page begins: behind a full page, or behind the last id that was examined if there are more.
    pub(crate) fn next_page(events: &[Self], last: Option<EventId>, most: u32) -> Option<EventId> {
        let is_full = events.len() == usize::try_from(most).unwrap_or(usize::MAX);
        let behind = events.last().filter(|_| is_full).map(|event| event.id);
        behind.or(last)
    }
}
