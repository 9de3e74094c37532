//! `store check`: the facts about a store that an operator must know before instances depend on it.

use std::fmt;

use crate::engine::Store;
use crate::error::StoreError;
use crate::instance::{ClusterView, Replication};
use crate::notifications::delivery::EndpointState;
use crate::notifications::listing::NotificationCounts;
use crate::postgres::PostgresStore;
use crate::server_facts::{GuardFacts, ServerFacts};
use crate::settings::{Failover, StoreTerms};
use crate::sqlite::SqliteStore;

/// Everything that was found, in the order in which it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreCheck {
    /// The findings.
    pub findings: Vec<StoreFinding>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFinding {
    /// How grave it is.
    pub severity: FindingSeverity,
    /// The finding, in a sentence without a full stop.
    pub text: String,
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSeverity {
    /// As it should be.
    Fine,
    /// It works; the operator should know.
    Warning,
    /// Instances cannot serve with it.
    Problem,
}

/// The oldest PostgreSQL that is supported: `server_version_num`.
const OLDEST_SERVER: u32 = 140_000;

impl Store {
    /// Asks the store for all that instances depend on. `clock` reads this machine's clock, in milliseconds since 1970.
    /// Changes nothing.
    pub async fn check(&self, terms: &StoreTerms, clock: impl Fn() -> u64) -> StoreCheck {
        match self {
            Self::Postgres(store) => check_postgres(store, terms, clock).await,
            Self::Sqlite(store) => check_sqlite(store).await,
        }
    }
}

async fn check_postgres(
    store: &PostgresStore,
    terms: &StoreTerms,
    clock: impl Fn() -> u64,
) -> StoreCheck {
    let mut check = StoreCheck::default();
    match store.server_facts().await {
        Ok(facts) => check.server(&facts),
        Err(error) => {
            check.problem(error.to_string());
            return check;
        }
    }
    match store.usable_schema().await {
        Ok(schema) => check.fine(format!("schema {schema}")),
        Err(error) => {
            check.problem(error.to_string());
            return check;
        }
    }
    match (store.guard_facts().await, terms.failover) {
        (Ok(facts), failover) => {
            check.guard(&facts, failover, terms);
            // Asked again for the time alone: the connection stands, so that this takes one round trip.
            let asked_ms = clock();
            match store.guard_facts().await {
                Ok(facts) => check.clock(facts.at_ms, (asked_ms, clock()), terms),
                Err(error) => check.problem(error.to_string()),
            }
        }
        (Err(error), Failover::Lossless) => {
            check.warning(format!(
                "the server's identity cannot be read, which failover = \"lossless\" does not need: {error}"
            ));
        }
        (Err(error @ StoreError::Refused { .. }), Failover::Guarded) => check.problem(format!(
            "the server's identity cannot be read, which failover = \"guarded\" needs: {error}"
        )),
        (Err(error), Failover::Guarded) => check.problem(error.to_string()),
    }
    match store.cluster().await {
        Ok(view) => check.cluster(&view, terms.failover),
        Err(error) => check.problem(error.to_string()),
    }
    match store.notification_counts().await {
        Ok(counts) => check.notifications(&counts),
        Err(error) => check.problem(error.to_string()),
    }
    check
}

async fn check_sqlite(store: &SqliteStore) -> StoreCheck {
    let mut check = StoreCheck::default();
    if let Err(error) = store.check_pages().await {
        check.problem(error.to_string());
        return check;
    }
    match store.is_restored().await {
        Ok(false) => check.fine("the file is readable".to_owned()),
        Ok(true) => check
            .problem("the file was put back: money is refused until `store distrust`".to_owned()),
        Err(error) => {
            check.problem(error.to_string());
            return check;
        }
    }
    match store.cluster().await {
        Ok(view) => check.halts(&view),
        Err(error) => check.problem(error.to_string()),
    }
    match store.notification_counts().await {
        Ok(counts) => check.notifications(&counts),
        Err(error) => check.problem(error.to_string()),
    }
    check
}

impl StoreCheck {
    /// The gravest finding.
    pub fn severity(&self) -> FindingSeverity {
        let severities = self.findings.iter().map(|finding| finding.severity);
        severities.max().unwrap_or(FindingSeverity::Fine)
    }

    fn fine(&mut self, text: String) {
        self.add(FindingSeverity::Fine, text);
    }

    fn warning(&mut self, text: String) {
        self.add(FindingSeverity::Warning, text);
    }

    fn problem(&mut self, text: String) {
        self.add(FindingSeverity::Problem, text);
    }

    fn add(&mut self, severity: FindingSeverity, text: String) {
        self.findings.push(StoreFinding { severity, text });
    }

    fn server(&mut self, facts: &ServerFacts) {
        let version = format!(
            "PostgreSQL {}.{}",
            facts.version / 10_000,
            facts.version % 10_000
        );
        if facts.version < OLDEST_SERVER {
            self.problem(format!("{version}: 14 is the oldest that is supported"));
        } else {
            self.fine(version);
        }
        match (facts.encrypted, facts.local) {
            (true, _) => self.fine("the connection is encrypted".to_owned()),
            (false, true) => self.fine("the connection is plain, on this machine".to_owned()),
            (false, false) => self.warning("the connection is not encrypted".to_owned()),
        }
        if facts.superuser {
            self.warning(
                "the role is a superuser; `serve` needs one that only executes the functions"
                    .to_owned(),
            );
        }
    }

    fn guard(&mut self, facts: &GuardFacts, failover: Failover, terms: &StoreTerms) {
        let GuardFacts {
            system_id,
            timeline,
            ..
        } = facts;
        self.fine(format!("system {system_id}, timeline {timeline}"));
        if failover == Failover::Guarded && !(facts.known && facts.confirmed) {
            let guard_ms = terms.guard_ms();
            self.warning(format!(
                "no instance has confirmed this start of the server: the next one refuses stamps for {guard_ms} ms, unless \
                 its state_dir remembers the server"
            ));
        }
    }

    /// Compares the server's clock with this machine's at some moment between the question and the answer.
    fn clock(&mut self, at_ms: u64, (asked_ms, answered_ms): (u64, u64), terms: &StoreTerms) {
        let offset_ms = at_ms.abs_diff(asked_ms.midpoint(answered_ms));
        let doubt_ms = answered_ms.abs_diff(asked_ms).div_ceil(2);
        let text = format!(
            "clocks differ by {offset_ms} ms, give or take {doubt_ms} ms; at most {} are allowed",
            terms.max_skew_ms
        );
        // A slow answer alone is no difference, and no proof that there is none.
        if offset_ms.saturating_sub(doubt_ms) > terms.max_skew_ms {
            self.problem(text);
        } else if offset_ms.saturating_add(doubt_ms) > terms.max_skew_ms / 2 {
            self.warning(text);
        } else {
            self.fine(text);
        }
    }

    fn cluster(&mut self, view: &ClusterView, failover: Failover) {
        match (view.replication, failover) {
            (Replication::Synchronous, _) => self.fine("commits wait for a standby".to_owned()),
            (Replication::None, _) => self.fine("no standby is attached".to_owned()),
            (Replication::Asynchronous { standbys }, Failover::Guarded) => self.warning(format!(
                "{standbys} standbys are asynchronous: a failover loses the last ledger rows, and stamps may be admitted \
                 twice if the old primary still answers"
            )),
            (Replication::Asynchronous { standbys }, Failover::Lossless) => self.problem(format!(
                "{standbys} standbys are asynchronous, and failover = \"lossless\" sets no guard: stamps may be admitted \
                 twice after a failover"
            )),
        }
        self.halts(view);
    }

    fn notifications(&mut self, counts: &NotificationCounts) {
        let sum = |of: fn(&EndpointState) -> u64| counts.endpoints.iter().map(of).sum::<u64>();
        let (waiting, dead) = (sum(|it| it.waiting), sum(|it| it.dead));
        let text = format!(
            "notifications: {waiting} waiting, {dead} dead, {} in quarantine",
            counts.quarantined
        );
        if counts.quarantined > 0 || dead > 0 {
            self.warning(text);
        } else {
            self.fine(text);
        }
        for endpoint in counts.endpoints.iter().filter(|it| it.waiting > 0) {
            if let Some(reason) = endpoint.off {
                let tenant = &endpoint.endpoint.tenant;
                self.warning(format!(
                    "an endpoint of {} (sub-account {}) is off ({}) with {} notifications waiting",
                    tenant.tenant,
                    tenant.account,
                    reason.as_str(),
                    endpoint.waiting
                ));
            }
        }
    }

    fn halts(&mut self, view: &ClusterView) {
        let wait_ms = view.guarded_until.saturating_sub(view.now_ms);
        if wait_ms > 0 {
            self.warning(format!("stamps are refused for {wait_ms} ms more"));
        }
        for halt in &view.halts {
            self.warning(format!("halted: {} (by {})", halt.scope, halt.by));
        }
        self.fine(format!("instances: {}", view.instances.len()));
    }
}

impl fmt::Display for StoreCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for StoreFinding { severity, text } in &self.findings {
            let mark = match severity {
                FindingSeverity::Fine => "fine",
                FindingSeverity::Warning => "warning",
                FindingSeverity::Problem => "problem",
            };
            writeln!(f, "{mark}: {text}")?;
        }
        Ok(())
    }
}
