//! Status report: the JSON of `/status`. Fields are only ever added.

use serde::Serialize;

use crate::admin::last_hour::MinuteReport;
use crate::caps::meters::UsedCap;
use crate::generation::refusal_counts::RefusalView;
use crate::generation::reload_status::ReloadState;
use crate::generation::suspension::SuspendedBy;
use crate::generation::tenant_limits::TenantLimitsView;
use crate::notify::deliver::meters::DeliveryBacklog;

/// The state of the proxy at one moment.
#[derive(Serialize)]
pub struct StatusReport {
    pub(super) version: &'static str,
    pub(super) now_ms: u64,
    pub(super) started_ms: u64,
    pub(super) phase: &'static str,
    /// The current problems, the worst first.
    pub(super) problems: Vec<StatusProblem>,
    /// The age in seconds of the snapshot that this status is compared with.
    pub(super) window_seconds: f64,
    pub(super) tenants_total: usize,
    /// The minutes of the last hour, the oldest first.
    pub(super) hour: Vec<MinuteReport>,
    pub(super) traffic: TrafficReport,
    pub(super) latency_ms: LatencyReport,
    pub(super) refusals: Vec<RefusalCount>,
    /// The busiest tenants, by their use of the institution's quota.
    pub(super) tenants: Vec<BusyTenant>,
    /// Parties with recent refusals, the most often refused first.
    pub(super) refused_tenants: Vec<RefusedParty>,
    /// Credentials that sign requests though they are not in force; a limited number.
    pub(super) not_in_force: Vec<KeyNotInForce>,
    /// The credentials that were used last.
    pub(super) credentials: Vec<CredentialReport>,
    pub(super) quota: QuotaReport,
    pub(super) upstream: UpstreamReport,
    pub(super) replay: ReplayReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) journal: Option<JournalReport>,
    /// The store that instances share, if one is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) store: Option<StoreReport>,
    /// GatePay's notifications and their deliveries, if they are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) notifications: Option<NotificationReport>,
    pub(super) workers: WorkerReport,
    /// Tenants and operators that are suspended by hand.
    pub(super) suspensions: ByHand,
    /// Halts in force, by scope.
    pub(super) halts: Vec<String>,
    /// The money caps that are used most; a limited number.
    pub(super) caps: Vec<UsedCap>,
    /// Money calls that operators have yet to approve or reject.
    pub(super) approvals_waiting: i64,
    pub(super) reload: ReloadState,
    pub(super) process: ProcessReport,
}

#[derive(Serialize)]
pub(super) struct TrafficReport {
    pub(super) requests_per_second: f64,
    pub(super) in_flight: i64,
    pub(super) connections: i64,
    pub(super) outcomes: OutcomeReport,
}

#[derive(Serialize)]
pub(super) struct OutcomeReport {
    pub(super) success: u64,
    pub(super) failure: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
    pub(super) caller_left: u64,
}

#[derive(Serialize)]
pub(super) struct LatencyReport {
    pub(super) whole: LatencyQuantiles,
    pub(super) upstream: LatencyQuantiles,
    pub(super) own: LatencyQuantiles,
}

#[derive(Serialize)]
pub(super) struct LatencyQuantiles {
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct RefusalCount {
    pub(super) reason: &'static str,
    pub(super) count: u64,
    pub(super) total: u64,
}

#[derive(Serialize)]
pub(super) struct BusyTenant {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) limits: TenantLimitsView,
    #[serde(flatten)]
    pub(super) refusals: RefusalView,
}

#[derive(Serialize)]
pub(super) struct RefusedParty {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) refusals: RefusalView,
    pub(super) last_ms: u64,
}

#[derive(Serialize)]
pub(super) struct CredentialReport {
    pub(super) client_id: String,
    pub(super) party: String,
    pub(super) uses: u64,
    pub(super) last_used_ms: u64,
    pub(super) not_after_ms: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct KeyNotInForce {
    pub(super) client_id: String,
    pub(super) party: String,
    pub(super) requests: u64,
    pub(super) since_ms: u64,
    pub(super) last_ms: u64,
    pub(super) not_before_ms: Option<u64>,
    pub(super) not_after_ms: Option<u64>,
    /// Why the credential is not in force, as the end of a sentence.
    #[serde(skip)]
    pub(super) why: String,
}

#[derive(Serialize)]
pub(super) struct QuotaReport {
    pub(super) configured: u32,
    pub(super) in_force: u32,
    pub(super) used: f64,
    pub(super) left: i64,
    pub(super) active: u32,
    /// Parties with a lowered rate, because GatePay pushed them back; a limited number.
    pub(super) pushed_back: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct UpstreamReport {
    pub(super) breaker_open: bool,
    /// Parties with an open circuit breaker of their own; a limited number.
    pub(super) failing: Vec<String>,
    pub(super) connections: i64,
    pub(super) clock_offset_ms: Option<i64>,
    pub(super) lost_calls: u64,
}

#[derive(Serialize)]
pub(super) struct ReplayReport {
    pub(super) entries: usize,
    pub(super) limit: usize,
}

#[derive(Serialize)]
pub(super) struct JournalReport {
    pub(super) available: bool,
    pub(super) records: u64,
}

#[derive(Serialize)]
pub(super) struct StoreReport {
    /// Hosts, database and user, or the file.
    pub(super) place: String,
    pub(super) available: bool,
    /// How long the store still refuses stamps, in milliseconds.
    pub(super) guarded_ms: u64,
    /// `none`, `asynchronous` or `synchronous`; `None` before the first sign of life.
    pub(super) replication: Option<&'static str>,
    /// Standbys that no commit waits for.
    pub(super) asynchronous_standbys: u32,
    pub(super) instances: usize,
    /// The instances themselves; a limited number.
    pub(super) members: Vec<InstanceLine>,
    /// The number of different configurations of the instances.
    pub(super) configurations: usize,
    /// The store's clock less this machine's, in milliseconds.
    pub(super) clock_offset_ms: i64,
    /// The most by which the clocks may differ, in milliseconds.
    pub(super) max_skew_ms: u64,
    /// The scopes of the halts in force.
    pub(super) halts: Vec<String>,
}

/// An instance that shares the store.
#[derive(Serialize)]
pub(super) struct InstanceLine {
    /// The name of its machine or pod.
    pub(super) host: String,
    /// Whether it is the one that answers.
    pub(super) this: bool,
    pub(super) version: String,
    /// The hash of its configuration.
    pub(super) configuration: String,
    /// The age of its last sign of life, in milliseconds.
    pub(super) lag_ms: u64,
}

/// Counts are since the start of this process; what is in the store is of all instances.
#[derive(Serialize)]
pub(super) struct NotificationReport {
    /// Notifications that were stored.
    pub(super) received: u64,
    /// Notifications that could not be stored: GatePay repeats them.
    pub(super) not_stored: u64,
    /// Calls to the listener that GatePay has not signed.
    pub(super) unsigned: u64,
    /// Notifications without an owner, in the store.
    pub(super) quarantined: i64,
    /// The age of the oldest of them; 0 if there is none.
    pub(super) oldest_quarantined_seconds: f64,
    /// Whether `notifications.ask` is set and no proof is in force, so that GatePay is not asked for owners.
    pub(super) asking_unproved: bool,
    /// Notifications that a tenant acknowledged.
    pub(super) delivered: u64,
    /// Attempts that failed.
    pub(super) failed: u64,
    /// Open connections to tenants' endpoints.
    pub(super) connections: i64,
    /// The age of the oldest notification that waits for its delivery, in milliseconds; 0 if none waits.
    pub(super) lag_ms: u64,
    /// Notifications whose schedule is used up, in the store.
    pub(super) dead: u64,
    /// Tenants with something undelivered, the longest waiting first; a limited number.
    pub(super) tenants: Vec<DeliveryBacklog>,
}

#[derive(Default, Serialize)]
pub(super) struct WorkerReport {
    /// The number of workers that made no progress for a second.
    pub(super) stalled: usize,
    pub(super) longest_stall_seconds: f64,
}

#[derive(Serialize)]
pub(super) struct ProcessReport {
    /// The processor use as a fraction of one core.
    pub(super) cpu: f64,
    pub(super) resident_bytes: i64,
    pub(super) open_files: i64,
    pub(super) max_files: i64,
    pub(super) lines_dropped: u64,
}

/// A problem of the proxy, its configuration or its surroundings.
#[derive(Serialize)]
pub(super) struct StatusProblem {
    pub(super) severity: ProblemSeverity,
    pub(super) text: String,
}

/// The severity of a problem, the worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProblemSeverity {
    Bad,
    Warn,
}

#[derive(Serialize)]
pub(super) struct ByHand {
    pub(super) count: usize,
    /// Whether the state folder holds all suspensions, so that a restart keeps them.
    pub(super) kept: bool,
    /// The suspended parties; a limited number.
    pub(super) parties: Vec<SuspendedParty>,
}

#[derive(Serialize)]
pub(super) struct SuspendedParty {
    pub(super) party: String,
    #[serde(flatten)]
    pub(super) by: SuspendedBy,
}
