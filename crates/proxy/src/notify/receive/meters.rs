//! Metrics of GatePay's notifications up to the decision about their owner. They stay at zero without `[notifications]`.

use gatepay_core::notification::NotificationKind;
use gatepay_core::owner_look_up::OwnerAnswer;
use gatepay_core::ownership::QuarantineReason;
use gatepay_core::settlement::ObjectOutcome;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

use crate::prom::registrar::{Registrar, SECONDS};

/// The metrics of notifications that come in.
#[derive(Clone)]
pub struct ReceptionMeters {
    /// Notifications by kind and result.
    received: IntCounterVec,
    /// Seconds from the head of a notification to its acknowledgment.
    pub acknowledged: Histogram,
    /// Decisions about an owner, by their basis.
    decided: IntCounterVec,
    /// Notifications that contradict another final status of their object.
    pub conflicts: IntCounter,
    /// Connections from addresses that `notifications.addresses` does not list, or beyond the share of their address.
    pub refused_connections: IntCounter,
    /// Look-ups on behalf of candidates, by what the answer shows.
    inquiries: IntCounterVec,
    /// Whether GatePay is asked for owners: 0 or 1.
    pub asking: IntGauge,
    /// Notifications in quarantine.
    pub quarantined: IntGauge,
    /// The age of the oldest of them, in seconds.
    pub oldest_quarantined: Gauge,
    /// Ids of GatePay's, and calls without a known outcome, that the ledger did not take.
    pub lost_notes: IntCounter,
    /// Calls without a known outcome.
    pub open_calls: IntGauge,
    /// Calls without a known outcome that a notification has settled, by outcome.
    settled_calls: IntCounterVec,
}

/// The result of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceptionResult {
    /// It is stored.
    New,
    /// It is stored, and another body came before for the same status.
    Changed,
    /// It was stored before.
    Duplicate,
    /// It is stored, and its body has no single reading.
    Unreadable,
    /// It was not stored: GatePay repeats it.
    Failed,
    /// There was no room for its body: GatePay repeats it.
    Busy,
    /// Its signature is not GatePay's.
    Unsigned,
    /// GatePay has signed it, with a stamp that is too far from the clock.
    Stale,
    /// It is not a notification: a head or a body that GatePay does not send.
    Malformed,
}

impl ReceptionResult {
    const ALL: [Self; 9] = [
        Self::New,
        Self::Changed,
        Self::Duplicate,
        Self::Unreadable,
        Self::Failed,
        Self::Busy,
        Self::Unsigned,
        Self::Stale,
        Self::Malformed,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Duplicate => "duplicate",
            Self::Unreadable => "unreadable",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::Unsigned => "unsigned",
            Self::Stale => "stale",
            Self::Malformed => "malformed",
        }
    }

    /// Whether a body was read, so that its kind is known.
    const fn has_kind(self) -> bool {
        matches!(
            self,
            Self::New | Self::Changed | Self::Duplicate | Self::Failed
        )
    }
}

/// The decisions besides the reasons of a quarantine.
const DECIDED: [&str; 4] = ["certain", "strong", "asked", "operators"];

impl ReceptionMeters {
    /// Makes and registers the metrics.
    pub fn new(make: &Registrar<'_>) -> Self {
        let (received, decided) = (received(make), decided(make));
        let acknowledged = make.histograms(
            "notification_ack_seconds",
            "Seconds from the head of a notification to its acknowledgment, the store's commit included.",
            &SECONDS,
            &[],
        );
        Self {
            received,
            acknowledged: acknowledged.with_label_values::<&str>(&[]),
            decided,
            conflicts: make.counter(
                "notification_conflicts_total",
                "Notifications with a final status that contradicts another final status of the same object.",
            ),
            refused_connections: make.counter(
                "notification_connections_refused_total",
                "Connections to the listener for notifications that were closed at once: from another network than notifications.addresses, or beyond the share of one address.",
            ),
            inquiries: inquiries(make),
            asking: make.gauge(
                "notification_asking",
                "Whether GatePay is asked for the owners of notifications: 1 if notifications.ask is set and a proof that GatePay keeps accounts apart is in force.",
            ),
            quarantined: make.gauge(
                "notifications_quarantined",
                "Notifications without an owner, in the store.",
            ),
            oldest_quarantined: make.gauge_of_parts(
                "notification_quarantine_oldest_seconds",
                "Age of the oldest notification without an owner; 0 if there is none.",
            ),
            open_calls: make.gauge(
                "calls_open",
                "Write and money calls in the store whose outcome is not known.",
            ),
            settled_calls: settled_calls(make),
            lost_notes: make.counter(
                "notification_ledger_lost_total",
                "Ids in GatePay's answers that the ledger did not take: notifications that name them alone go to quarantine.",
            ),
        }
    }

    /// Counts a notification.
    pub fn received(&self, kind: NotificationKind, result: ReceptionResult) {
        let kind = if result.has_kind() {
            kind
        } else {
            NotificationKind::Unknown
        };
        let labels = [kind.as_str(), result.as_str()];
        self.received.with_label_values(&labels).inc();
    }

    /// Notifications with this result since the start, of all kinds.
    pub fn count(&self, result: ReceptionResult) -> u64 {
        let kinds = NotificationKind::ALL
            .iter()
            .filter(|kind| result.has_kind() || **kind == NotificationKind::Unknown);
        let counted = kinds.map(|kind| {
            let labels = [kind.as_str(), result.as_str()];
            self.received.with_label_values(&labels).get()
        });
        counted.sum()
    }

    /// Counts a call that is settled.
    pub fn settled(&self, outcome: ObjectOutcome) {
        self.settled_calls
            .with_label_values(&[outcome.as_str()])
            .inc();
    }

    /// Counts a look-up of an owner.
    pub fn inquired(&self, answer: OwnerAnswer) {
        self.inquiries.with_label_values(&[answer.as_str()]).inc();
    }

    /// Counts a decision about an owner.
    pub fn decided(&self, by: &'static str) {
        self.decided.with_label_values(&[by]).inc();
    }
}

/// The counter of settled calls, with each outcome at zero.
fn settled_calls(make: &Registrar<'_>) -> IntCounterVec {
    let settled_calls = make.counters(
        "calls_settled_total",
        "Write and money calls without a known outcome that a notification has settled: found at GatePay, failed or done.",
        &["outcome"],
    );
    for outcome in ObjectOutcome::ALL {
        settled_calls.with_label_values(&[outcome.as_str()]);
    }
    settled_calls
}

/// The counter of look-ups of owners, with each answer at zero.
fn inquiries(make: &Registrar<'_>) -> IntCounterVec {
    let inquiries = make.counters(
        "notification_inquiries_total",
        "Look-ups at GatePay for the owner of a notification or for a probe, each on behalf of one tenant, by answer: the tenant has the object, has not, or the answer is unclear.",
        &["answer"],
    );
    for answer in OwnerAnswer::ALL {
        inquiries.with_label_values(&[answer.as_str()]);
    }
    inquiries
}

/// The counter of notifications by kind and result, each at zero.
fn received(make: &Registrar<'_>) -> IntCounterVec {
    let received = make.counters(
        "notifications_received_total",
        "Calls to the listener for GatePay's notifications, by kind and result.",
        &["kind", "result"],
    );
    for result in ReceptionResult::ALL {
        for kind in NotificationKind::ALL {
            if result.has_kind() || *kind == NotificationKind::Unknown {
                received.with_label_values(&[kind.as_str(), result.as_str()]);
            }
        }
    }
    received
}

/// The counter of decisions by their basis, each at zero.
fn decided(make: &Registrar<'_>) -> IntCounterVec {
    let decided = make.counters(
        "notification_owner_total",
        "Decisions about a notification's owner, by the strength of the hint or the reason for its quarantine.",
        &["by"],
    );
    let reasons = QuarantineReason::ALL.iter().map(|reason| reason.as_str());
    for by in DECIDED.into_iter().chain(reasons) {
        decided.with_label_values(&[by]);
    }
    decided
}
