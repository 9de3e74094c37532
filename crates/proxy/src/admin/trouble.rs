//! Problems in words, for the status: the same causes as the alerts, but without the alerts' delays.

use gatepay_core::Kind;
use gatepay_tenancy::facts::time;

use crate::admin::status_report::{ProblemSeverity, StatusProblem, StatusReport, WorkerReport};
use crate::metrics::totals::MetricTotals;
use crate::prom::outcome::RequestOutcome;

use ProblemSeverity::{Bad, Warn};

/// The remaining life of a certificate in seconds below which a warning is shown, and below which it is severe.
const EXPIRES_SOON_S: u64 = 14 * 86_400;
const EXPIRES_NOW_S: u64 = 2 * 86_400;
/// The clock offset in milliseconds above which the problem is shown; at 10,000 ms GatePay accepts no request.
const APART_MS: u64 = 4_000;
/// The age in seconds from which a notification without an owner is a problem.
const QUARANTINED_LONG_S: f64 = 3_600.0;
/// The number of parties, suspended by hand or with notifications undelivered, that get a line of their own.
const NAMED: usize = 5;

/// All problems in this status, the worst first.
pub(super) fn of(status: &StatusReport, since: &MetricTotals, expiry: i64) -> Vec<StatusProblem> {
    let mut found = ProblemList(Vec::new());
    found.in_money(status, since);
    found.at_gatepay(status, since);
    found.in_store(status);
    found.in_halts(status);
    found.in_approvals(status);
    found.in_notifications(status);
    found.in_here(status, since, expiry);
    found.by_hand(status);
    found.in_files(status);
    found.in_credentials(status);
    let ProblemList(mut troubles) = found;
    troubles.sort_by_key(|trouble| trouble.severity);
    troubles
}

struct ProblemList(Vec<StatusProblem>);

impl ProblemList {
    fn say(&mut self, severity: ProblemSeverity, so: bool, text: impl Into<String>) {
        if so {
            self.0.push(StatusProblem {
                severity,
                text: text.into(),
            });
        }
    }

    fn in_money(&mut self, status: &StatusReport, since: &MetricTotals) {
        let lost = since.of_kind(Kind::Money, RequestOutcome::Unknown);
        let text =
            format!("{lost} money calls have no known outcome: look for them in the access lines");
        self.say(Bad, lost > 0, text);
        let others = since.ended(RequestOutcome::Unknown) - lost;
        self.say(
            Warn,
            others > 0,
            format!("{others} other calls have no known outcome"),
        );
        let unwritten = status
            .journal
            .as_ref()
            .is_some_and(|journal| !journal.available);
        let text = "the audit journal cannot be written: write and money calls are refused";
        self.say(Bad, unwritten, text);
    }

    fn at_gatepay(&mut self, status: &StatusReport, since: &MetricTotals) {
        let down = "the circuit breaker is open: GatePay keeps failing, and calls are refused without being sent";
        self.say(Bad, status.upstream.breaker_open, down);
        let failing = status.upstream.failing.join(", ");
        let text = format!(
            "the circuit breaker of {failing} is open: GatePay keeps failing their calls, and they are refused without being sent"
        );
        self.say(Warn, !failing.is_empty(), text);
        let rejected = since.refused("institution_rejected") > 0;
        let text = "GatePay refuses the institution's own signature, clock or client id: no tenant can pay";
        self.say(Bad, rejected, text);
        let offset = status.upstream.clock_offset_ms.unwrap_or(0);
        let text = format!(
            "this machine's clock and GatePay's differ by {offset} ms; from 10,000 ms GatePay refuses every request"
        );
        self.say(Bad, offset.unsigned_abs() > APART_MS, text);
        let quota = &status.quota;
        let (configured, in_force) = (quota.configured, quota.in_force);
        let text = format!(
            "GatePay has pushed back: the rate in force is {in_force} of {configured} requests per second"
        );
        self.say(Warn, in_force < configured, text);
        let pushed_back = quota.pushed_back.join(", ");
        let text =
            format!("GatePay pushes back {pushed_back}: the rate of these tenants is lowered");
        self.say(Warn, !pushed_back.is_empty(), text);
        let spent = since.refused("institution_quota") > 0;
        self.say(Warn, spent, "the institution's quota is spent");
    }

    fn in_store(&mut self, status: &StatusReport) {
        let Some(store) = &status.store else {
            return;
        };
        let away =
            "the store that instances share does not answer: requests are refused and not sent";
        self.say(Bad, !store.available, away);
        let guarded = store.guarded_ms;
        let text = format!(
            "the store is guarded: it refuses requests for {} s more, since copies may have been admitted before",
            guarded.div_ceil(1_000)
        );
        self.say(Warn, guarded > 0, text);
        let (offset, allowed) = (store.clock_offset_ms, store.max_skew_ms);
        let text = format!(
            "the store's clock and this machine's differ by {offset} ms; beyond {allowed} ms this instance is not ready"
        );
        let apart = offset.unsigned_abs();
        let severity = if apart > allowed { Bad } else { Warn };
        self.say(severity, apart > allowed / 2, text);
        let standbys = store.asynchronous_standbys;
        let text = format!(
            "{standbys} standbys of the store are asynchronous: a failover can lose commits"
        );
        self.say(Warn, standbys > 0, text);
        let configurations = store.configurations;
        let text = format!(
            "the instances have {configurations} different configurations: GET /cluster shows which"
        );
        self.say(Warn, configurations > 1, text);
        for scope in &store.halts {
            self.say(Warn, true, format!("halted on all instances: {scope}"));
        }
    }

    fn in_approvals(&mut self, status: &StatusReport) {
        let waiting = status.approvals_waiting;
        let text = format!(
            "{waiting} money calls wait for an operator to approve or reject them: `gatepay-proxy approvals`"
        );
        self.say(Warn, waiting > 0, text);
    }

    /// With a store the halts are among those of the store.
    fn in_halts(&mut self, status: &StatusReport) {
        let halts = status.halts.iter().filter(|_| status.store.is_none());
        for scope in halts {
            self.say(Warn, true, format!("halted: {scope}"));
        }
    }

    fn in_notifications(&mut self, status: &StatusReport) {
        let Some(it) = &status.notifications else {
            return;
        };
        let (count, oldest_s) = (it.quarantined, it.oldest_quarantined_seconds);
        let text = format!(
            "{count} notifications have no owner, the oldest for {:.0} minutes: notifications list --state quarantined shows them",
            oldest_s / 60.0
        );
        self.say(Warn, oldest_s > QUARANTINED_LONG_S, text);
        let unproved = "notifications.ask has no effect, since no proof of GatePay's isolation is in force: run probe isolation";
        self.say(Warn, it.asking_unproved, unproved);
        let dead = it.dead;
        let text = format!(
            "{dead} notifications were not delivered, and their schedule is used up: notifications list --state dead shows them"
        );
        self.say(Warn, dead > 0, text);
        for tenant in it.tenants.iter().take(NAMED) {
            let (id, lag_s) = (&tenant.id, tenant.lag_ms / 1_000);
            let text = format!(
                "notifications of {id} have waited for {lag_s} s: its endpoint keeps failing"
            );
            self.say(Warn, tenant.breakers_open > 0 && tenant.lag_ms > 0, text);
            let text =
                format!("an endpoint of {id} is turned off: notifications endpoints shows why");
            self.say(Warn, tenant.endpoints_off > 0, text);
        }
    }

    fn in_here(&mut self, status: &StatusReport, since: &MetricTotals, expiry: i64) {
        let internal = since.refused("internal") > 0;
        self.say(
            Bad,
            internal,
            "requests are answered `internal`: the log says why",
        );
        let WorkerReport {
            stalled,
            longest_stall_seconds: longest,
        } = status.workers;
        let text = format!(
            "{stalled} workers have run no other task for {longest:.0} s: their callers wait; restart the process"
        );
        self.say(Bad, stalled > 0, text);
        let full = since.refused("overloaded") > 0;
        self.say(Bad, full, "the proxy is overloaded and refuses requests");
        let replay = &status.replay;
        let filling = replay.entries > replay.limit / 10 * 9;
        self.say(Bad, filling, "the replay memory is nearly full");
        let starting = "starting: requests stamped before the last restart may be repeats, so they are refused for now";
        self.say(Warn, status.phase == "starting", starting);
        let draining = "draining: the process ends after the requests in flight";
        self.say(Warn, status.phase == "draining", draining);
        let dropped = status.process.lines_dropped;
        let text = format!("{dropped} access lines were lost since the start");
        self.say(Warn, dropped > 0, text);
        let expiry = u64::try_from(expiry).ok().filter(|expiry| *expiry > 0);
        if let Some(expiry) = expiry {
            let left = expiry.saturating_sub(status.now_ms / 1_000);
            let severity = if left < EXPIRES_NOW_S { Bad } else { Warn };
            let text = format!(
                "the listener's certificate expires in {} hours",
                left / 3_600
            );
            self.say(severity, left < EXPIRES_SOON_S, text);
        }
    }

    fn by_hand(&mut self, status: &StatusReport) {
        let suspensions = &status.suspensions;
        for one in suspensions.parties.iter().take(NAMED) {
            let text = format!("{} is suspended by hand: {}", one.party, one.by);
            self.say(Warn, true, text);
        }
        let more = suspensions.count.saturating_sub(NAMED);
        let text = format!("{more} more are suspended by hand");
        self.say(Warn, more > 0, text);
        let text = "state_dir lacks a suspension by hand: a restart would lose it";
        self.say(Bad, !suspensions.kept, text);
    }

    fn in_credentials(&mut self, status: &StatusReport) {
        for key in &status.not_in_force {
            let (party, client_id, why) = (&key.party, &key.client_id, &key.why);
            let since = time(key.since_ms);
            let text = format!(
                "{party} is refused since {since}: it signs as {client_id}, a credential that {why}"
            );
            self.say(Bad, true, text);
        }
    }

    fn in_files(&mut self, status: &StatusReport) {
        let reload = &status.reload;
        // Without a watcher of the files, their state is unknown.
        let watched = reload.applied_ms.is_some();
        for problem in reload.problems.iter().take(NAMED) {
            let text = format!("the configuration on disk is not applied: {problem}");
            self.say(Warn, watched, text);
        }
        let more = reload.problems.len().saturating_sub(NAMED);
        let text = format!("the configuration on disk has {more} more problems");
        self.say(Warn, more > 0, text);
        self.say(
            Warn,
            watched && !reload.in_step && reload.problems.is_empty(),
            "the configuration on disk is not applied",
        );
        self.say(
            Warn,
            reload.waiting.is_some(),
            "a change of the configuration waits to be confirmed",
        );
        let restart = !reload.restart.is_empty();
        self.say(
            Warn,
            restart,
            "a change of proxy.toml takes effect after a restart",
        );
    }
}
