//! What can be asked of a reload and what became of the last: the side of it that every room may hold.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gatepay_tenancy::settings::Settings;
use gatepay_tenancy::{Facts, Plan, facts};
use serde::Serialize;
use tokio::sync::oneshot;

/// Where a reload is asked for, and what became of the last.
#[derive(Default)]
pub struct ReloadControl {
    asks: Mutex<Option<Sender<ReloadRequest>>>,
    state: Mutex<ReloadState>,
    /// What is in force of `proxy.toml`, said there or not.
    settings: Mutex<Facts>,
}

/// What the thread that reloads is asked for.
pub(crate) enum ReloadRequest {
    /// To look at the files now.
    Now {
        /// The hash of the change that is meant, if it has to be confirmed.
        confirm: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<ReloadReport>,
    },
    /// To end.
    End,
}

/// What became of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// What the files say is at work.
    Applied,
    /// It was before.
    Unchanged,
    /// Something is wrong with it, and what was at work still is.
    Failed,
    /// It removes or moves too much to be an accident nobody minds: somebody has to confirm it.
    Waiting,
    /// The files keep changing; they are looked at again.
    Unsettled,
}

/// What is answered to whoever asks for a reload.
#[derive(Debug, Serialize)]
pub struct ReloadReport {
    /// What became of it.
    pub result: ReloadResult,
    /// What changes, or would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// What is wrong, each with file, line and key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// How the files and what is at work compare.
#[derive(Debug, Default, Clone, Serialize)]
pub struct ReloadState {
    /// Whether what the files say is at work.
    pub in_step: bool,
    /// When it was applied, in milliseconds since 1970; `null` if nobody watches the files.
    pub applied_ms: Option<u64>,
    /// What is wrong with the files.
    pub problems: Vec<String>,
    /// The change that waits to be confirmed.
    pub waiting: Option<WaitingChange>,
    /// Who was suspended ahead of the rest, which is wrong or waits.
    pub suspended_ahead: BTreeSet<String>,
    /// Keys of `proxy.toml` that wait for the next start.
    pub restart: BTreeSet<String>,
    /// What all that is at work is called: the same for the same configuration, in any process. `null` until it is known.
    pub hash: Option<String>,
}

/// A change that somebody has to confirm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitingChange {
    /// What to confirm it with.
    pub confirm: String,
    /// What it changes, in a line.
    pub summary: String,
    /// Why it waits.
    pub guard: Vec<String>,
}

impl ReloadControl {
    /// Asks for a reload, with the hash of the change that is meant if it has to be confirmed. `None` if nobody watches
    /// the files, or the process is ending.
    pub async fn now(&self, confirm: Option<String>) -> Option<ReloadReport> {
        let (reply, answer) = oneshot::channel();
        let asks = lock(&self.asks).clone()?;
        asks.send(ReloadRequest::Now { confirm, reply }).ok()?;
        answer.await.ok()
    }

    /// The same, without waiting for what becomes of it.
    pub fn soon(&self) {
        if let Some(asks) = &*lock(&self.asks) {
            let (reply, _) = oneshot::channel();
            // If it has ended, so does the process.
            let _ = asks.send(ReloadRequest::Now {
                confirm: None,
                reply,
            });
        }
    }

    /// Where requests for a reload arrive from now on, until [`end`](Self::end).
    pub(crate) fn asked(&self) -> Receiver<ReloadRequest> {
        let (asks, asked) = channel();
        *lock(&self.asks) = Some(asks);
        asked
    }

    /// The state, to be changed.
    pub(crate) fn lock_state(&self) -> MutexGuard<'_, ReloadState> {
        lock(&self.state)
    }

    /// The settings in force, to be changed.
    pub(crate) fn lock_settings(&self) -> MutexGuard<'_, Facts> {
        lock(&self.settings)
    }

    /// How the files and what is at work compare.
    pub fn state(&self) -> ReloadState {
        lock(&self.state).clone()
    }

    /// Of a process that starts with these settings.
    pub fn beginning_with(settings: &Settings) -> Self {
        Self {
            settings: Mutex::new(facts::of_settings(settings)),
            ..Self::default()
        }
    }

    /// What is in force of `proxy.toml`, said there or not.
    pub fn settings(&self) -> Facts {
        lock(&self.settings).clone()
    }

    /// Looks at the files no more.
    pub fn end(&self) {
        if let Some(asks) = lock(&self.asks).take() {
            // It may have ended by itself.
            let _ = asks.send(ReloadRequest::End);
        }
    }
}

impl ReloadReport {
    /// The files kept changing.
    pub(crate) fn unsettled() -> Self {
        Self {
            result: ReloadResult::Unsettled,
            plan: None,
            problems: Vec::new(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
