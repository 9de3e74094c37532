//! Reload: changed files become the next generation as a whole, or change nothing.
//!
//! A dedicated thread polls the files, reads those that differ, builds the generation, and swaps the one pointer. The
//! thread also drops the previous generation, so no request pays for any of these steps. The thread polls every
//! `poll_ms`, less often if polling would take more than a fiftieth of a core, and at once on request. In between it looks
//! at the files that file events name. In any case a generation is built only after a look at all files.
//!
//! Restrictions do not wait for the whole. While the files have an error, or a change waits for confirmation, the
//! current generation continues with the parties suspended that the files suspend, with the credentials ended that the
//! files end, and with everything else unchanged. This only ever removes permissions. Only a complete generation restores
//! them.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gatepay_admission::replay_capacity::replay_capacity;
use gatepay_tenancy::watch::{ChangedFiles, NextConfiguration};
use gatepay_tenancy::{
    ConfigFacts, ConfigHash, ConfigSnapshot, ConfigWatch, Party, Plan, Problem, Registry, facts,
};
use prometheus::IntGauge;

use crate::app::App;
use crate::generation::reload_status::{
    ReloadReport, ReloadRequest, ReloadResult, ReloadState, WaitingChange,
};
use crate::generation::{Generation, GenerationInputs};
use crate::process::systemd::{self, ServiceStage};
use crate::tls::certificate::CertificateRenewal;

/// Looks up an environment variable.
pub type EnvironmentLookup = fn(&str) -> Option<String>;

/// A file that just changed may still be being written: its content is accepted once it looked the same for this long,
/// or for a quarter of the poll interval if that is shorter.
const SETTLE: Duration = Duration::from_millis(200);
/// The settle time of a requested reload: the caller has finished writing. It exceeds one tick of the file system's
/// clock, so that a write after the read gets a different file time.
const SETTLE_WHEN_ASKED: Duration = Duration::from_millis(20);
/// How often reading restarts because files change meanwhile, before the next poll takes over.
const TRIES: usize = 10;
/// Polling takes at most a fiftieth of a core: the pause after a poll is this multiple of the CPU time of the poll,
/// with a reserve because the next poll may take longer.
const SHARE: u32 = 60;
/// The most problems that are logged and reported.
const PROBLEMS: usize = 50;
/// The most changes that are logged.
const CHANGES: usize = 20;
/// The most changes in a record of the audit journal, in which one record is one line.
const CHANGES_IN_JOURNAL: usize = 1_000;
/// The keys that take effect without a restart, besides those of the institution.
const LIVE: [&str; 5] = [
    "tenants",
    "operators",
    "caps.timezone",
    "caps.raise_after",
    "caps.all",
];
/// The prefix of further keys that take effect without a restart.
const LIVE_BELOW: &str = "upstream.quota.";

/// Watches the files from now on, on a dedicated thread, until
/// [`ReloadControl::end`](crate::generation::reload_status::ReloadControl::end).
pub fn follow(
    app: &Arc<App>,
    watch: ConfigWatch,
    env: EnvironmentLookup,
) -> std::io::Result<JoinHandle<()>> {
    let asked = app.lifecycle.reload.asked();
    let mut follower = ReloadThread {
        app: Arc::clone(app),
        watch,
        env,
        leftover: Vec::new(),
        unbuilt: false,
        hash: ConfigHash::default(),
    };
    *app.lifecycle.reload.lock_state() = ReloadState {
        in_step: true,
        applied_ms: Some(app.clock.unix_ms()),
        ..ReloadState::default()
    };
    let thread = thread::Builder::new().name("reload".into());
    thread.spawn(move || follower.run(&asked))
}

/// When the files are looked at next.
struct LookSchedule {
    /// The shortest time between two looks.
    interval: Duration,
    /// The time between two looks at all files, so that they take no more than their share.
    pause: Duration,
    /// The time between two looks at the files that were hinted at, likewise.
    hints_pause: Duration,
    /// When all files are looked at next.
    due: Instant,
    /// From when on a hint may advance that: as often again as it comes by itself.
    may_advance: Instant,
}

impl LookSchedule {
    fn every(interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            interval,
            pause: interval,
            hints_pause: interval,
            due: now + interval,
            may_advance: now,
        }
    }

    /// How long until the next look at any file.
    fn wait(&self, now: Instant) -> Duration {
        self.hints_pause
            .min(self.due.saturating_duration_since(now))
    }

    /// Whether all files are looked at now; `advance` if any of them may have changed.
    fn is_due(&mut self, now: Instant, advance: bool) -> bool {
        if self.due <= now {
            return true;
        }
        if !advance || now < self.may_advance {
            return false;
        }
        self.may_advance = now + self.pause;
        true
    }

    fn all_seen(&mut self, now: Instant, cost: Duration) {
        self.pause = self.interval.max(cost.saturating_mul(SHARE));
        self.due = now + self.pause;
    }

    fn hints_taken(&mut self, cost: Duration) {
        self.hints_pause = self.interval.max(cost.saturating_mul(SHARE));
    }
}

struct ReloadThread {
    app: Arc<App>,
    watch: ConfigWatch,
    env: EnvironmentLookup,
    /// Old generations that requests may still hold: kept here so that no request is the last owner and has to free
    /// one.
    leftover: Vec<Arc<Generation>>,
    /// Whether files were read from which no generation was built yet.
    unbuilt: bool,
    /// The hash of the current generation.
    hash: ConfigHash,
}

impl ReloadThread {
    fn run(&mut self, asked: &Receiver<ReloadRequest>) {
        yield_to_requests();
        self.watch.take_hints();
        // Computed only once the process serves: for a hundred thousand tenants the hash takes a quarter of a second.
        self.hash = ConfigHash::of(self.app.generation.load().side());
        let hash = self.show_hash();
        self.app.lifecycle.reload.lock_state().hash = Some(hash);
        let poll = self.app.settings.poll;
        let settle = SETTLE.min(poll / 4);
        // A change takes effect within the poll interval. So polls come earlier by the settle time, and by a reserve
        // for reading and building, which run at a lower priority than requests.
        let interval = poll.saturating_sub(settle + poll / 10);
        let mut looks = LookSchedule::every(interval);
        loop {
            self.app
                .metrics
                .reloads
                .poll_seconds
                .set((looks.pause + settle).as_secs_f64());
            match asked.recv_timeout(looks.wait(Instant::now())) {
                Ok(ReloadRequest::Now { confirm, reply }) => {
                    systemd::tell(ServiceStage::Reloading);
                    let answer = self.reload(confirm.as_deref());
                    systemd::tell(ServiceStage::Ready);
                    // The requester may have stopped waiting.
                    let _ = reply.send(answer);
                }
                Ok(ReloadRequest::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(changed) = self.look(&mut looks)
                        && self.read(changed, settle)
                    {
                        self.build(None);
                    }
                }
            }
            self.leftover.retain(|old| Arc::strong_count(old) > 1);
        }
    }

    /// Looks at all files if their time has come or any may have changed, and otherwise at those that were hinted at.
    /// Returns the files that have to be read, none if files that were read before wait to be built; `None` if there
    /// is nothing to do.
    fn look(&mut self, looks: &mut LookSchedule) -> Option<ChangedFiles> {
        let began = cpu_time();
        // Also before a look at all files: that look finds every change up to now that a hint names.
        let hinted = self.watch.hinted_files();
        let cost = || cpu_time().saturating_sub(began);
        if !looks.is_due(Instant::now(), hinted.everywhere) {
            looks.hints_taken(cost());
            // Without a look at all files nothing is known of the others: files that were read before are not built yet.
            return (!hinted.changed.is_empty()).then_some(hinted.changed);
        }
        let changed = self.watch.changed_files_on_this_thread();
        looks.all_seen(Instant::now(), cost());
        (!changed.is_empty() || self.unbuilt).then_some(changed)
    }

    fn reload(&mut self, confirm: Option<&str>) -> ReloadReport {
        // After the files that were hinted at are read, all are looked at.
        let hinted = self.watch.hinted_files();
        let changed = if hinted.everywhere || hinted.changed.is_empty() {
            self.watch.changed_files()
        } else {
            hinted.changed
        };
        if self.read(changed, SETTLE_WHEN_ASKED) {
            self.build(confirm)
        } else {
            ReloadReport::unsettled()
        }
    }

    /// Reads the files that differ, each once it has settled, until none differs. Files that keep changing delay the whole,
    /// and not the restrictions in other files.
    fn read(&mut self, mut changed: ChangedFiles, settle: Duration) -> bool {
        for _ in 0..TRIES {
            if changed.is_empty() {
                return true;
            }
            thread::sleep(settle);
            let settled = self.watch.settled(&changed);
            let any_settled = !settled.is_empty();
            if any_settled {
                self.watch.read(&settled, &self.env);
                self.unbuilt = true;
            }
            changed = self.watch.changed_files();
            if any_settled && !changed.is_empty() {
                self.restrict_ahead();
            }
        }
        if changed.is_empty() {
            return true;
        }
        tracing::warn!(
            files = changed.len(),
            "files keep changing; they are read again"
        );
        self.is_out_of_step();
        false
    }

    /// Shows that the files differ from the configuration in force, until they are built.
    fn is_out_of_step(&mut self) {
        // They may end as they were before, which is no change.
        self.unbuilt = true;
        self.app.metrics.reloads.in_step.set(0);
        self.app.lifecycle.reload.lock_state().in_step = false;
    }

    fn build(&mut self, confirm: Option<&str>) -> ReloadReport {
        let before = self.app.generation.load_full();
        let next = match self.watch.next_after(&before.registry) {
            Ok(next) => next,
            Err(invalid) => {
                // First, because invalid files are read once more for their problems, and there may be many.
                self.restrict_ahead();
                let problems = self.watch.problems(&invalid, &self.env);
                return self.failed(&problems);
            }
        };
        self.unbuilt = false;
        let plan = planned(&before, &next);
        let confirmed = confirm == Some(plan.hash.as_str());
        if !plan.guard.is_empty() && self.app.settings.reload_guard && !confirmed {
            // Only the remaining changes need confirmation.
            let plan = match self.restrict_ahead() {
                Some(now) => planned(&now, &next),
                None => plan,
            };
            return self.waits(plan);
        }
        let renewal = match self.app.renew_certificate() {
            Ok(renewal) => renewal,
            Err(text) => {
                self.restrict_ahead();
                return self.failed(&[Problem {
                    file: "proxy.toml".into(),
                    line: None,
                    key: "listen.tls".to_owned(),
                    text,
                }]);
            }
        };
        let next_start = self.apply(&before, next, &plan, renewal);
        ReloadReport {
            result: if plan.changes || renewal == CertificateRenewal::Renewed {
                ReloadResult::Applied
            } else {
                ReloadResult::Unchanged
            },
            plan: Some(plan),
            problems: Vec::new(),
            next_start,
        }
    }

    /// Takes away, in the current generation, the rights that the parties' own tables take away: a standing, and the time
    /// for which a credential is valid. Returns the resulting generation if anything changed.
    ///
    /// Every change made here would happen anyway once the rest is fixed or confirmed. A restriction in one party's own
    /// table need not wait for the table of another party.
    fn restrict_ahead(&mut self) -> Option<Arc<Generation>> {
        let before = self.app.generation.load_full();
        let registry = self.watch.restricted(&before.registry)?;
        let app = &self.app;
        let generation = Arc::new(Generation::new(
            Some(&before),
            Arc::clone(&before.catalogue),
            registry,
            Arc::clone(&before.institution),
            (Arc::clone(&before.caps), before.written.clone()),
            self.inputs(),
        ));
        app.generation.store(Arc::clone(&generation));

        let plan = Plan::between(before.side(), generation.side());
        self.journal_changes(&plan, CertificateRenewal::Unchanged);
        self.hash = plan.leads_to(self.hash);
        self.show_restricted(&before.registry, &generation.registry);
        self.leftover.push(before);
        Some(generation)
    }

    /// Logs and counts the parties that lost rights ahead of the rest of the files.
    fn show_restricted(&self, before: &Registry, now: &Registry) {
        let lost = |lost: fn(&Party, &Party) -> bool| -> BTreeSet<String> {
            let pairs = before.parties().zip(now.parties());
            let pairs = pairs.map(|(old, new)| (old.party(), new.party()));
            let lost = pairs.filter(|(old, new)| lost(old, new));
            lost.map(|(_, new)| new.id.to_string()).collect()
        };
        let suspended = lost(|old, new| old.standing != new.standing);
        let ended = lost(|old, new| !Arc::ptr_eq(&old.credentials, &new.credentials));
        let meters = &self.app.metrics.reloads;
        let hash = self.show_hash();
        let mut state = self.app.lifecycle.reload.lock_state();
        state.hash = Some(hash);
        let count = |all: &mut BTreeSet<String>, more: &BTreeSet<String>, meter: &IntGauge| {
            all.extend(more.iter().cloned());
            meter.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
        };
        count(
            &mut state.suspended_ahead,
            &suspended,
            &meters.suspended_ahead,
        );
        let all_ended = &mut state.credentials_ended_ahead;
        count(all_ended, &ended, &meters.credentials_ended_ahead);
        drop(state);
        let names = |parties: &BTreeSet<String>| {
            let some: Vec<_> = parties.iter().take(CHANGES).map(String::as_str).collect();
            some.join(", ")
        };
        if !suspended.is_empty() {
            tracing::warn!(
                parties = names(&suspended),
                count = suspended.len(),
                "suspended at once, or restricted to reads; the other changes in the files are not applied yet"
            );
        }
        if !ended.is_empty() {
            tracing::warn!(
                parties = names(&ended),
                count = ended.len(),
                "credentials end at once as their files say; the other changes in the files are not applied yet"
            );
        }
    }

    fn failed(&mut self, problems: &[Problem]) -> ReloadReport {
        // An error without a problem was transient, and the next poll retries the build.
        self.unbuilt = problems.is_empty();
        if self.unbuilt {
            tracing::warn!(
                "a fault in the files was gone when it was looked for; they are read again"
            );
            self.is_out_of_step();
            return ReloadReport::unsettled();
        }
        for problem in problems.iter().take(PROBLEMS) {
            tracing::error!(%problem, "not reloaded: the configuration from before stays in force");
        }
        if problems.len() > PROBLEMS {
            let more = problems.len() - PROBLEMS;
            tracing::error!(
                more,
                "not reloaded: there are more problems; `gatepay-proxy check` prints all"
            );
        }
        let problems: Vec<_> = problems
            .iter()
            .take(PROBLEMS)
            .map(Problem::to_string)
            .collect();
        let meters = &self.app.metrics.reloads;
        meters.failed.inc();
        meters.in_step.set(0);
        meters.waiting.set(0);
        let mut state = self.app.lifecycle.reload.lock_state();
        state.in_step = false;
        state.waiting = None;
        state.problems.clone_from(&problems);
        ReloadReport {
            result: ReloadResult::Failed,
            plan: None,
            problems,
            next_start: Vec::new(),
        }
    }

    fn waits(&self, plan: Plan) -> ReloadReport {
        let meters = &self.app.metrics.reloads;
        meters.guarded.inc();
        meters.in_step.set(0);
        meters.waiting.set(1);
        let mut state = self.app.lifecycle.reload.lock_state();
        state.in_step = false;
        state.problems.clear();
        state.waiting = Some(WaitingChange {
            confirm: plan.hash.clone(),
            summary: plan.summary.clone(),
            guard: plan.guard.clone(),
        });
        drop(state);
        // The log line comes last: a reader of it finds the reload state already up to date.
        tracing::warn!(
            summary = plan.summary,
            guard = plan.guard.join("; "),
            confirm = plan.hash,
            "not reloaded yet: to confirm the change, POST /-/reload?confirm=<the hash>"
        );
        ReloadReport {
            result: ReloadResult::Waiting,
            plan: Some(plan),
            problems: Vec::new(),
            next_start: Vec::new(),
        }
    }

    /// Puts a configuration in force. Returns the problems for which the next start would refuse it.
    fn apply(
        &mut self,
        before: &Arc<Generation>,
        next: NextConfiguration,
        plan: &Plan,
        renewal: CertificateRenewal,
    ) -> Vec<String> {
        let app = &self.app;
        let inputs = self.inputs();
        let restart = self.waiting_for_a_restart(&next);
        let quota = &next.settings.upstream.quota;
        // The replay memory is resized first, so that no request admitted by the new limits is refused for lack of
        // room.
        app.admission
            .replay
            .resize(replay_capacity(&app.settings, quota, &next.registry));
        app.admission.quota.adjust(quota);
        let operators = next.settings.admin.operators.iter();
        let operators = operators.map(|operator| operator.name.clone());
        app.lifecycle.reload.now_names(operators);
        let generation = Arc::new(Generation::new(
            Some(before),
            Arc::clone(&before.catalogue),
            next.registry,
            Arc::clone(&next.settings.institution),
            (
                next.settings.caps.clone().into(),
                in_force(&app.settings.written, &next.settings.written),
            ),
            inputs,
        ));
        app.generation.store(Arc::clone(&generation));
        generation.end_series_of(before, inputs);

        let now_ms = app.clock.unix_ms();
        self.count_applied(!restart.is_empty(), now_ms);
        tracing::info!(
            summary = plan.summary,
            changes = in_words(plan, renewal, CHANGES).join("; "),
            "reloaded"
        );
        // Changes that wait for the next start are part of the plan, but not in force.
        let in_force_plan =
            (!restart.is_empty()).then(|| Plan::between(before.side(), generation.side()));
        let done = in_force_plan.as_ref().unwrap_or(plan);
        self.journal_changes(done, renewal);
        self.hash = done.leads_to(self.hash);
        let hash = self.show_hash();
        let app = &self.app;
        let mut settings = app.lifecycle.reload.lock_settings();
        *settings = in_force(&settings, &facts::of_settings(&next.settings));
        drop(settings);
        self.show_applied(restart, hash, now_ms);
        self.watch.now_in_force();
        self.leftover.push(Arc::clone(before));
        self.look_at_the_next_start()
    }

    /// Looks whether the next start would refuse the files that are now in force, because keys of `proxy.toml` that wait for
    /// it change how they are read. They are in force all the same: a secret that was replaced must not wait for a restart.
    fn look_at_the_next_start(&self) -> Vec<String> {
        let problems = self.watch.problems_of_the_next_start(&self.env);
        let problems: Vec<_> = problems
            .iter()
            .map(Problem::to_string)
            .take(PROBLEMS)
            .collect();
        let mut state = self.app.lifecycle.reload.lock_state();
        if problems != state.next_start {
            state.next_start.clone_from(&problems);
            drop(state);
            for problem in &problems {
                tracing::error!(
                    problem,
                    "in force, but the next start would refuse it: `gatepay-proxy check` prints all"
                );
            }
        }
        problems
    }

    /// Shows the hash of the configuration in force, in the metrics and to the other instances, and returns it.
    fn show_hash(&self) -> String {
        let hash = self.hash.to_string();
        self.app.metrics.reloads.at_work(&hash);
        if let Some(cluster) = &self.app.cluster {
            cluster.tell_configuration(&hash);
        }
        hash
    }

    /// Sets the metrics after a reload.
    fn count_applied(&self, needs_restart: bool, now_ms: u64) {
        let meters = &self.app.metrics.reloads;
        meters.applied.inc();
        meters.in_step.set(1);
        meters.waiting.set(0);
        meters.suspended_ahead.set(0);
        meters.credentials_ended_ahead.set(0);
        meters.restart_needed.set(i64::from(needs_restart));
        meters.applied_now(now_ms);
    }

    /// Sets the reload state after a reload, and warns of keys that take effect at the next start.
    fn show_applied(&self, restart: BTreeSet<String>, hash: String, now_ms: u64) {
        let mut state = self.app.lifecycle.reload.lock_state();
        if restart != state.restart && !restart.is_empty() {
            let keys: Vec<&str> = restart.iter().map(String::as_str).collect();
            tracing::warn!(
                keys = keys.join(", "),
                "these keys of proxy.toml take effect after a restart"
            );
        }
        *state = ReloadState {
            in_step: true,
            applied_ms: Some(now_ms),
            problems: Vec::new(),
            waiting: None,
            suspended_ahead: BTreeSet::new(),
            credentials_ended_ahead: BTreeSet::new(),
            restart,
            next_start: mem::take(&mut state.next_start),
            hash: Some(hash),
        };
    }

    fn inputs(&self) -> GenerationInputs<'_> {
        GenerationInputs {
            settings: &self.app.settings,
            tenant_limits: &self.app.admission.tenant_limits,
            series: &self.app.metrics.tenants,
        }
    }

    /// Writes the changes to the audit journal, if one is configured and anything changed.
    fn journal_changes(&self, plan: &Plan, renewal: CertificateRenewal) {
        if let Some(journal) = &self.app.journal
            && (plan.changes || renewal == CertificateRenewal::Renewed)
        {
            let changes = in_words(plan, renewal, CHANGES_IN_JOURNAL);
            journal.configuration(plan.hash.clone(), changes);
        }
    }

    fn waiting_for_a_restart(&self, next: &NextConfiguration) -> BTreeSet<String> {
        let (start, now) = (&self.app.settings.written, &next.settings.written);
        let mut keys: BTreeSet<String> = start
            .keys()
            .chain(now.keys())
            .filter(|key| start.get(*key) != now.get(*key) && !is_live(key))
            .cloned()
            .collect();
        keys.extend(next.restart.iter().map(|key| (*key).to_owned()));
        keys
    }
}

fn planned(before: &Generation, next: &NextConfiguration) -> Plan {
    let next = ConfigSnapshot {
        written: &next.settings.written,
        institution: &next.settings.institution,
        // Parties are read against the operations in force.
        catalogue: &before.catalogue,
        registry: &next.registry,
    };
    Plan::between(before.side(), next)
}

/// The settings of `proxy.toml` in force: those of the start, except for the keys that need no restart.
fn in_force(start: &ConfigFacts, now: &ConfigFacts) -> ConfigFacts {
    let fixed = start.iter().filter(|(key, _)| !is_live(key));
    let live = now.iter().filter(|(key, _)| is_live(key));
    let facts = fixed.chain(live);
    facts
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn is_live(key: &str) -> bool {
    LIVE.contains(&key) || key.starts_with(LIVE_BELOW)
}

/// The changes, a line each, at most `most` of them, then a count of the rest.
fn in_words(plan: &Plan, renewal: CertificateRenewal, most: usize) -> Vec<String> {
    let renewed =
        (renewal == CertificateRenewal::Renewed).then_some("listen.tls: another certificate");
    let lines = plan.to_string();
    let mut all = renewed.into_iter().chain(lines.lines()).map(str::to_owned);
    let mut words: Vec<_> = all.by_ref().take(most).collect();
    let more = all.count();
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words
}

/// Lowers the priority of this thread below that of the workers. Failure to do so does not prevent the reload.
fn yield_to_requests() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, 10);
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_look_at_all_files_has_its_share_and_a_hint_advances_it_as_often_again_at_most() {
        let mut looks = LookSchedule::every(SECOND);
        let mut now = looks.due;
        assert!(looks.is_due(now, false));
        looks.all_seen(now, SECOND);
        let pause = SECOND * SHARE;
        assert_eq!((looks.pause, looks.due), (pause, now + pause));
        assert_eq!(looks.wait(now), SECOND, "hints are taken in between");
        looks.hints_taken(SECOND / 10);
        assert_eq!(looks.wait(now), SECOND / 10 * SHARE);
        now += SECOND;
        assert!(!looks.is_due(now, false));
        assert!(looks.is_due(now, true));
        looks.all_seen(now, SECOND);
        let (advanced, mut count) = (now, 0);
        while count < 2 {
            now += SECOND;
            if looks.is_due(now, true) {
                looks.all_seen(now, SECOND);
                count += 1;
            }
        }
        assert!(now >= advanced + pause, "one was due, and one advanced");
        assert_eq!(looks.wait(looks.due), Duration::ZERO);
    }
}
