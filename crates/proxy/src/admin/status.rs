//! Status: the current state of the proxy. The page at `/` of the admin listener shows it to people, and `/status`
//! gives it to programs. Its fields are only added to.
//!
//! The status needs no measurement of its own: it compares the metrics with an earlier snapshot of them.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepay_admission::quota::QuotaView;
use gatepay_store::instance::{ClusterView, InstanceView};
use gatepay_tenancy::DatedCredential;
use http::HeaderValue;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::admin::last_hour::LastHour;
use crate::admin::status_report::{
    BusyTenant, ByHand, CredentialReport, InstanceLine, JournalReport, KeyNotInForce,
    LatencyQuantiles, LatencyReport, NotificationReport, OutcomeReport, ProcessReport, QuotaReport,
    RefusalCount, RefusedParty, ReplayReport, StatusReport, StoreReport, SuspendedParty,
    TrafficReport, UpstreamReport, WorkerReport,
};
use crate::admin::{cluster_view, halt, trouble};
use crate::app::App;
use crate::cluster::meters::{asynchronous, configurations};
use crate::generation::Generation;
use crate::generation::credential_usage::{NotInForceUse, why_not_in_force};
use crate::generation::tenant_limits::TenantLimits;
use crate::metrics::totals::{LatencySpread, MetricTotals};
use crate::notify::deliver::meters::DeliveryResult;
use crate::notify::receive::meters::ReceptionResult;
use crate::process::drain::DrainPhase;
use crate::process::heartbeat::StalledWorkers;
use crate::prom::outcome::RequestOutcome;

/// The status page: one file, which fetches only `/status`.
pub const PAGE: &str = include_str!("page.html");

/// A status compares with the oldest snapshot of at most this age.
const WINDOW: Duration = Duration::from_secs(30);
/// The least time between two kept snapshots, since many clients may poll the status.
const APART: Duration = Duration::from_secs(2);
/// The number of parties or credentials that a list of the status names at most.
const BUSIEST: usize = 15;
/// The time after its last refusal during which a party is listed as refused.
const REFUSED_LATELY: Duration = Duration::from_mins(10);
/// The number of parties suspended by hand that the status names at most.
const SUSPENDED: usize = 100;

/// The content security policy of the page: it allows the page's own script and style alone, by their digests.
pub static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let digest = |element: &str| {
        let inside = PAGE
            .split_once(&format!("<{element}>"))
            .and_then(|(_, rest)| rest.split_once(&format!("</{element}>")))
            .map_or("", |(inside, _)| inside);
        STANDARD.encode(Sha256::digest(inside))
    };
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest("script"),
        digest("style")
    );
    HeaderValue::try_from(policy).expect("it is visible ASCII")
});

/// Earlier snapshots of the metrics.
#[derive(Default)]
pub struct SnapshotHistory {
    /// The snapshots of the latest status requests.
    recent: Mutex<VecDeque<StatusSnapshot>>,
    /// The last hour.
    pub(super) hour: Arc<LastHour>,
}

struct StatusSnapshot {
    at: Duration,
    totals: MetricTotals,
    cpu: f64,
}

impl SnapshotHistory {
    /// The current status, compared with an earlier snapshot.
    pub fn look(&self, app: &App) -> StatusReport {
        let process = app.metrics.process.look();
        let now = StatusSnapshot {
            at: app.clock.elapsed(),
            totals: app.metrics.totals(),
            cpu: process.cpu,
        };
        let mut snapshots = self.recent.lock();
        while snapshots
            .front()
            .is_some_and(|snapshot| now.at.saturating_sub(snapshot.at) > WINDOW)
        {
            snapshots.pop_front();
        }
        let before = snapshots
            .front()
            .filter(|before| now.at.saturating_sub(before.at) >= APART / 2);
        let (since, window, cpu) = if let Some(before) = before {
            (
                now.totals.since(&before.totals),
                now.at.saturating_sub(before.at),
                now.cpu - before.cpu,
            )
        } else {
            // There is no recent snapshot that is old enough: the window is then the whole time since the start.
            let up = app.clock.unix_ms().saturating_sub(app.lifecycle.began_ms);
            (now.totals.clone(), Duration::from_millis(up), now.cpu)
        };
        let seconds = window.as_secs_f64().max(0.001);
        let mut status = status(
            app,
            &now.totals,
            &since,
            seconds,
            ProcessReport {
                cpu: cpu / seconds,
                resident_bytes: process.resident,
                open_files: process.open_files,
                max_files: process.most_files,
                lines_dropped: app.metrics.lines_dropped.get(),
            },
        );
        status.hour = self.hour.minutes();
        if snapshots
            .back()
            .is_none_or(|last| now.at.saturating_sub(last.at) >= APART)
        {
            snapshots.push_back(now);
        }
        status
    }
}

fn status(
    app: &App,
    totals: &MetricTotals,
    since: &MetricTotals,
    window_seconds: f64,
    process: ProcessReport,
) -> StatusReport {
    let (generation, now_ms) = (app.generation.load(), app.clock.unix_ms());
    let (tenants, used) = busiest(&generation, app.clock.elapsed());
    let mut status = StatusReport {
        version: env!("CARGO_PKG_VERSION"),
        now_ms,
        started_ms: app.lifecycle.began_ms,
        phase: phase(app),
        problems: Vec::new(),
        window_seconds,
        tenants_total: generation.registry.tenants().len(),
        hour: Vec::new(),
        traffic: traffic(app, since, window_seconds),
        latency_ms: LatencyReport {
            whole: latency(&since.whole),
            upstream: latency(&since.upstream),
            own: latency(&since.own),
        },
        refusals: refusals(totals, since),
        tenants,
        refused_tenants: refused_parties(&generation, now_ms),
        not_in_force: not_in_force(&generation, now_ms),
        credentials: credentials(&generation),
        quota: quota(app, &generation, used),
        upstream: upstream(app, &generation),
        replay: ReplayReport {
            entries: app.admission.replay.entries(),
            limit: app.admission.replay.capacity(),
        },
        journal: journal(app),
        store: store(app, now_ms),
        notifications: notifications(app),
        workers: workers(app),
        suspensions: suspensions(app),
        halts: app.halts().iter().map(|it| halt::word(&it.scope)).collect(),
        caps: app.metrics.caps.fullest(),
        approvals_waiting: app.metrics.caps.approvals_waiting.get(),
        reload: app.lifecycle.reload.state(),
        process,
    };
    status.problems = trouble::of(&status, since, app.metrics.certificate_expiry.get());
    status
}

/// The phase of the process: `starting`, `serving` or `draining`.
fn phase(app: &App) -> &'static str {
    match app.lifecycle.drain.phase() {
        DrainPhase::Serving if app.is_starting() => "starting",
        DrainPhase::Serving => "serving",
        _ => "draining",
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts to look at")]
fn traffic(app: &App, since: &MetricTotals, window_seconds: f64) -> TrafficReport {
    let metrics = &app.metrics;
    let outcome = |end| since.ended(end);
    TrafficReport {
        requests_per_second: since.requests() as f64 / window_seconds,
        in_flight: metrics.requests.in_flight.get(),
        connections: metrics.connections.get(),
        outcomes: OutcomeReport {
            success: outcome(RequestOutcome::Success),
            failure: outcome(RequestOutcome::Failure),
            unknown: outcome(RequestOutcome::Unknown),
            refused: outcome(RequestOutcome::Refused) + outcome(RequestOutcome::RefusedUnknown),
            caller_left: outcome(RequestOutcome::CallerLeft),
        },
    }
}

/// The institution's quota, of which the parties use `used`.
fn quota(app: &App, generation: &Generation, used: f64) -> QuotaReport {
    let now = app.clock.elapsed();
    let QuotaView {
        configured,
        in_force,
        left,
        active,
        ..
    } = app.admission.quota.view();
    QuotaReport {
        configured,
        in_force,
        used,
        left,
        active,
        pushed_back: named(generation, |limits| limits.pushed_back_to(now).is_some()),
    }
}

fn upstream(app: &App, generation: &Generation) -> UpstreamReport {
    let metrics = &app.metrics;
    UpstreamReport {
        breaker_open: app.upstream.breaker.is_open(),
        failing: named(generation, |limits| limits.breaker.is_failing()),
        connections: metrics.upstream.connections.get(),
        clock_offset_ms: app.upstream.clock.offset_ms(),
        lost_calls: metrics
            .upstream
            .resolutions
            .iter()
            .map(prometheus::IntCounter::get)
            .sum(),
    }
}

fn journal(app: &App) -> Option<JournalReport> {
    let metrics = &app.metrics;
    app.journal.as_ref().map(|journal| JournalReport {
        available: journal.is_available(),
        records: metrics.journal.records.get(),
    })
}

/// The store, as the newest sign of life showed it.
fn store(app: &App, now_ms: u64) -> Option<StoreReport> {
    let cluster = app.cluster.as_ref()?;
    let view = cluster.view().map(|(view, _)| view);
    let view = view.as_ref();
    Some(StoreReport {
        place: cluster.place().to_owned(),
        available: cluster.is_available(),
        guarded_ms: cluster.guarded_until().saturating_sub(now_ms),
        replication: view.map(|view| cluster_view::replication(view.replication)),
        asynchronous_standbys: view.map_or(0, |view| asynchronous(view.replication)),
        instances: view.map_or(0, |view| view.instances.len()),
        members: view.map_or_else(Vec::new, |view| members(view, cluster.id())),
        configurations: view.map_or(0, configurations),
        clock_offset_ms: cluster.offset_ms(),
        max_skew_ms: app.settings.store.as_ref()?.max_skew_ms,
        halts: view.map_or_else(Vec::new, |view| {
            let halts = view.halts.iter().take(BUSIEST);
            halts.map(|halt| halt.scope.to_string()).collect()
        }),
    })
}

/// The first instances, of which `own` is this one.
fn members(view: &ClusterView, own: i64) -> Vec<InstanceLine> {
    let instances = view.instances.iter().take(BUSIEST);
    let line = |instance: &InstanceView| InstanceLine {
        host: instance.host.clone(),
        this: instance.id == own,
        version: instance.version.clone(),
        configuration: instance.config_hash.clone(),
        lag_ms: view.now_ms.saturating_sub(instance.seen_ms),
    };
    instances.map(line).collect()
}

fn notifications(app: &App) -> Option<NotificationReport> {
    let settings = app.notifications.as_ref()?.settings();
    let (received, deliveries) = (&app.metrics.notifications, &app.metrics.deliveries);
    let attempts_failed = [
        DeliveryResult::Failed,
        DeliveryResult::Dead,
        DeliveryResult::Gone,
    ];
    let backlog = deliveries.backlog(BUSIEST);
    Some(NotificationReport {
        received: received.count(ReceptionResult::New) + received.count(ReceptionResult::Changed),
        not_stored: received.count(ReceptionResult::Failed),
        unsigned: received.count(ReceptionResult::Unsigned),
        quarantined: received.quarantined.get(),
        oldest_quarantined_seconds: received.oldest_quarantined.get(),
        asking_unproved: settings.ask && received.asking.get() == 0,
        delivered: deliveries.count(DeliveryResult::Delivered),
        failed: attempts_failed
            .map(|result| deliveries.count(result))
            .iter()
            .sum(),
        connections: deliveries.connections.get(),
        lag_ms: backlog.lag_ms,
        dead: backlog.dead,
        tenants: backlog.longest,
    })
}

fn workers(app: &App) -> WorkerReport {
    app.lifecycle.heartbeats.stalled().map_or_else(
        WorkerReport::default,
        |StalledWorkers {
             workers, longest, ..
         }| WorkerReport {
            stalled: workers,
            longest_stall_seconds: longest.as_secs_f64(),
        },
    )
}

/// The parties that use most of the quota, and the total use of all parties.
fn busiest(generation: &Generation, now: Duration) -> (Vec<BusyTenant>, f64) {
    let all_limits = generation
        .all_tenant_limits()
        .map(|limits| limits.view(now))
        .enumerate();
    let mut busy: Vec<_> = all_limits
        .filter(|(_, limits)| limits.used > 0.0 || limits.in_flight > 0)
        .collect();
    let used = busy.iter().map(|(_, limits)| limits.used).sum();
    busy.sort_by(|(_, one), (_, other)| other.used.total_cmp(&one.used));
    busy.truncate(BUSIEST);
    let named = |(position, limits)| BusyTenant {
        id: generation.registry.at(position).party().id.to_string(),
        limits,
        refusals: generation.tenant_limits(position).refusals.view(),
    };
    (busy.into_iter().map(named).collect(), used)
}

/// The parties with recent refusals, with their refusals since the start by cause.
fn refused_parties(generation: &Generation, now_ms: u64) -> Vec<RefusedParty> {
    let lately = |last_ms: &u64| {
        let ago = now_ms.saturating_sub(*last_ms);
        u128::from(ago) <= REFUSED_LATELY.as_millis()
    };
    let all_limits = generation.all_tenant_limits().enumerate();
    let refused = all_limits.filter_map(|(position, limits)| {
        let last_ms = limits.refusals.last_ms().filter(lately)?;
        Some((Reverse(limits.refusals.total()), position, last_ms))
    });
    let mut refused: Vec<_> = refused.collect();
    refused.sort_unstable();
    refused.truncate(BUSIEST);
    let named = |(_, position, last_ms)| RefusedParty {
        id: generation.registry.at(position).party().id.to_string(),
        refusals: generation.tenant_limits(position).refusals.view(),
        last_ms,
    };
    refused.into_iter().map(named).collect()
}

/// The ids of the first parties for which `is_so` holds.
fn named(generation: &Generation, is_so: impl Fn(&TenantLimits) -> bool) -> Vec<String> {
    let all_limits = generation.all_tenant_limits().enumerate();
    let all_limits = all_limits.filter(|(_, limits)| is_so(limits)).take(BUSIEST);
    let id = |(position, _)| generation.registry.at(position).party().id.to_string();
    all_limits.map(id).collect()
}

/// The parties that are suspended by hand.
fn suspensions(app: &App) -> ByHand {
    let all = app.suspensions();
    let some = all.iter().take(SUSPENDED);
    ByHand {
        count: all.len(),
        kept: !app.admission.tenant_limits.suspensions.are_unkept(),
        parties: some
            .map(|(party, suspension)| SuspendedParty {
                party: party.to_string(),
                by: suspension.into(),
            })
            .collect(),
    }
}

/// Credentials that sign requests though they are not in force, those with the longest such use first.
fn not_in_force(generation: &Generation, now_ms: u64) -> Vec<KeyNotInForce> {
    let all = generation
        .credentials()
        .filter_map(|(position, dated, used)| {
            let used = used.not_in_force(dated, now_ms)?;
            Some((used.since_ms, position, dated, used))
        });
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(since, position, ..)| (*since, *position));
    all.truncate(BUSIEST);
    let named = |(since_ms, position, dated, used): (_, _, &DatedCredential, NotInForceUse)| {
        KeyNotInForce {
            client_id: dated.credential.client_id.to_string(),
            party: generation.registry.at(position).party().id.to_string(),
            requests: used.requests,
            since_ms,
            last_ms: used.last_ms,
            not_before_ms: dated.not_before,
            not_after_ms: dated.not_after,
            why: why_not_in_force(dated, now_ms).unwrap_or_default(),
        }
    };
    all.into_iter().map(named).collect()
}

/// The credentials that were used last.
fn credentials(generation: &Generation) -> Vec<CredentialReport> {
    let all = generation.credentials();
    let mut used: Vec<_> = all
        .filter_map(|(position, dated, used)| Some((used.last_ms()?, position, dated, used)))
        .collect();
    used.sort_by_key(|(last, position, ..)| (Reverse(*last), *position));
    used.truncate(BUSIEST);
    used.into_iter()
        .map(|(last_used_ms, position, dated, used)| CredentialReport {
            client_id: dated.credential.client_id.to_string(),
            party: generation.registry.at(position).party().id.to_string(),
            uses: used.count(),
            last_used_ms,
            not_after_ms: dated.not_after,
        })
        .collect()
}

/// The causes of refusals since the start, those in the current window first.
fn refusals(totals: &MetricTotals, since: &MetricTotals) -> Vec<RefusalCount> {
    let both = totals.refusals().zip(since.refusals());
    let mut refusals: Vec<_> = both
        .filter(|((_, total), _)| *total > 0)
        .map(|((reason, total), (_, count))| RefusalCount {
            reason,
            count,
            total,
        })
        .collect();
    refusals.sort_by_key(|refused| (Reverse(refused.count), refused.reason));
    refusals
}

fn latency(spread: &LatencySpread) -> LatencyQuantiles {
    LatencyQuantiles {
        p50: spread.milliseconds(0.5),
        p90: spread.milliseconds(0.9),
        p99: spread.milliseconds(0.99),
    }
}
