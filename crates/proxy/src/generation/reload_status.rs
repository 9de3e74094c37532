//! Reload requests and the result of the last reload: the part of reloading that every module may hold.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};

use gatepay_tenancy::settings::Settings;
use gatepay_tenancy::{ConfigFacts, PartyId, Plan, facts};
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::oneshot;

/// Takes reload requests, and holds the result of the last reload.
#[derive(Default)]
pub struct ReloadControl {
    asks: Mutex<Option<Sender<ReloadRequest>>>,
    state: Mutex<ReloadState>,
    /// The settings of `proxy.toml` in force, including defaults that the file does not set.
    settings: Mutex<ConfigFacts>,
    /// The names of the `[[admin.operator]]` in `proxy.toml`, once it was read again.
    operators: Mutex<Option<Vec<PartyId>>>,
}

/// A request to the thread that reloads.
pub(crate) enum ReloadRequest {
    /// To read the files now.
    Now {
        /// The hash of the change to confirm, if it has to be confirmed.
        confirm: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<ReloadReport>,
    },
    /// To end the thread.
    End,
}

/// The result of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// The configuration in the files is now in force.
    Applied,
    /// The configuration in the files was in force before.
    Unchanged,
    /// The configuration in the files is wrong, and the one in force stays.
    Failed,
    /// The change removes or moves so much that an accident would do harm: an operator has to confirm it.
    Waiting,
    /// The files keep changing; they are read again.
    Unsettled,
}

/// The answer to a reload request.
#[derive(Debug, Serialize)]
pub struct ReloadReport {
    /// The result of the reload.
    pub result: ReloadResult,
    /// The changes that were made, or that would be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The problems of the configuration, each with file, line and key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The problems for which the next start would refuse the files, though they are in force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next_start: Vec<String>,
}

/// How the files compare with the configuration in force.
#[derive(Debug, Default, Clone, Serialize)]
pub struct ReloadState {
    /// Whether the configuration in the files is in force.
    pub in_step: bool,
    /// When it was applied, in milliseconds since 1970; `null` if the files are not watched.
    pub applied_ms: Option<u64>,
    /// The problems of the files.
    pub problems: Vec<String>,
    /// The change that waits to be confirmed.
    pub waiting: Option<WaitingChange>,
    /// The tenants that were suspended ahead of the rest of the files, which is wrong or waits.
    pub suspended_ahead: BTreeSet<String>,
    /// The tenants of which credentials were ended ahead of the rest of the files, which is wrong or waits.
    pub credentials_ended_ahead: BTreeSet<String>,
    /// Keys of `proxy.toml` that wait for the next start.
    pub restart: BTreeSet<String>,
    /// The problems for which the next start would refuse the files, which are in force: those keys change how the files are
    /// read.
    pub next_start: Vec<String>,
    /// The hash of the configuration in force: the same for the same configuration, in any process. `null` until it is
    /// known.
    pub hash: Option<String>,
}

/// A change that an operator has to confirm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitingChange {
    /// The hash with which it is confirmed.
    pub confirm: String,
    /// A summary of the change, in a line.
    pub summary: String,
    /// The reasons why it waits.
    pub guard: Vec<String>,
}

impl ReloadControl {
    /// Asks for a reload, with the hash of the change to confirm, if it has to be confirmed. `None` if the files are
    /// not watched, or the process is ending.
    pub async fn now(&self, confirm: Option<String>) -> Option<ReloadReport> {
        let (reply, answer) = oneshot::channel();
        let asks = self.asks.lock().clone()?;
        asks.send(ReloadRequest::Now { confirm, reply }).ok()?;
        answer.await.ok()
    }

    /// Asks for a reload without waiting for its result.
    pub fn soon(&self) {
        if let Some(asks) = &*self.asks.lock() {
            let (reply, _) = oneshot::channel();
            // If the thread has ended, the process is ending too.
            let _ = asks.send(ReloadRequest::Now {
                confirm: None,
                reply,
            });
        }
    }

    /// The channel on which reload requests arrive from now on, until [`end`](Self::end).
    pub(crate) fn asked(&self) -> Receiver<ReloadRequest> {
        let (asks, asked) = channel();
        *self.asks.lock() = Some(asks);
        asked
    }

    /// Locks the state for a change.
    pub(crate) fn lock_state(&self) -> MutexGuard<'_, ReloadState> {
        self.state.lock()
    }

    /// Locks the settings in force for a change.
    pub(crate) fn lock_settings(&self) -> MutexGuard<'_, ConfigFacts> {
        self.settings.lock()
    }

    /// Notes the operators that `proxy.toml` names now. Call this before parties go into force that name them.
    pub(crate) fn now_names(&self, operators: impl Iterator<Item = PartyId>) {
        *self.operators.lock() = Some(operators.collect());
    }

    /// Whether `proxy.toml` names this operator of the process's start still. The links of parties are those of its
    /// present names: the secrets of an operator with another name now are not known.
    pub fn still_names(&self, operator: &PartyId) -> bool {
        let operators = self.operators.lock();
        operators
            .as_ref()
            .is_none_or(|names| names.contains(operator))
    }

    /// How the files compare with the configuration in force.
    pub fn state(&self) -> ReloadState {
        self.state.lock().clone()
    }

    /// The control of a process that starts with these settings.
    pub fn beginning_with(settings: &Settings) -> Self {
        Self {
            settings: Mutex::new(facts::of_settings(settings)),
            ..Self::default()
        }
    }

    /// The settings of `proxy.toml` in force, including defaults that the file does not set.
    pub fn settings(&self) -> ConfigFacts {
        self.settings.lock().clone()
    }

    /// Ends the thread that reloads: the files are read no more.
    pub fn end(&self) {
        if let Some(asks) = self.asks.lock().take() {
            // The thread may have ended by itself.
            let _ = asks.send(ReloadRequest::End);
        }
    }
}

impl ReloadReport {
    /// The report for files that kept changing.
    pub(crate) fn unsettled() -> Self {
        Self {
            result: ReloadResult::Unsettled,
            plan: None,
            problems: Vec::new(),
            next_start: Vec::new(),
        }
    }
}
