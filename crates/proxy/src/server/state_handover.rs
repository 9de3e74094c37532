//! The state folder between two processes: what the start takes of the previous process, and what the end leaves to the next.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepay_tenancy::settings::Settings;

use crate::app::{self, App};
use crate::cluster::{halt_cache, local_halts};
use crate::process::drain::successor_patience;
use crate::process::state_dir::{
    HandoverFile, PreviousRun, StateDir, SuspensionFile, SuspensionList,
};
use crate::process::watermark::StampWatermark;

/// The state folder as the process starts, and the state of the previous run in it.
pub(super) struct InheritedState {
    pub(super) path: Option<PathBuf>,
    pub(super) folder: Option<StateDir>,
    /// How long to wait for the lock of the state folder.
    patience: Duration,
    /// The time within which the previous run must have ended for its replay memory to be used.
    guard: Duration,
    fresh_credentials: bool,
    /// Whether this run has a store.
    has_store: bool,
    /// The parties that the previous run left suspended by hand, and the file that holds them.
    pub(super) suspended: Option<(SuspensionFile, SuspensionList)>,
}

impl InheritedState {
    /// Opens the state folder, unless a previous process may still hold its lock.
    pub(super) fn open(
        settings: &Settings,
        is_successor: bool,
        fresh_credentials: bool,
    ) -> io::Result<Self> {
        let path = settings.state_dir.clone();
        let folder = match path.as_deref() {
            Some(path) if !is_successor => Some(StateDir::open(path)?),
            _ => None,
        };
        Ok(Self {
            path,
            folder,
            patience: successor_patience(settings.drain.deadline),
            guard: Duration::from_millis(settings.window.future_ms),
            fresh_credentials,
            has_store: settings.store.is_some(),
            suspended: None,
        })
    }

    /// Waits for the lock if the folder is not open yet, and takes the replay memory and the stamp watermark.
    pub(super) fn inherit(&mut self) -> io::Result<(PreviousRun, StampWatermark)> {
        if self.folder.is_none()
            && let Some(path) = &self.path
        {
            self.folder = Some(StateDir::open_in_turn(path, self.patience)?);
        }
        let (previous, watermark) = match &mut self.folder {
            Some(folder) => {
                let (file, left) = left_suspended(folder)?;
                // Before the memory is taken: a start that fails leaves it to the next one.
                let mut moved = SuspensionList::new();
                if let Some(path) = &self.path {
                    let _readable = local_halts::left_in(path)?;
                    if !self.has_store {
                        moved = suspended_in_store(path)?;
                    }
                }
                let previous = folder.inherit(self.guard)?;
                let mut list = left.clone().unwrap_or_default();
                for (party, suspension) in moved {
                    list.entry(party).or_insert(suspension);
                }
                // From now on a missing file means that the file was removed.
                if left.as_ref() != Some(&list) {
                    file.write(&list)?;
                }
                self.suspended = Some((file, list));
                (previous, folder.watermark()?)
            }
            None => (PreviousRun::FirstUse, StampWatermark::nowhere()),
        };
        let previous = match previous {
            PreviousRun::FirstUse if self.fresh_credentials => PreviousRun::NeverServed,
            previous => previous,
        };
        Ok((previous, watermark))
    }
}

/// The manual suspensions that the previous run left, if known, and the file that holds them. Changes nothing.
fn left_suspended(state: &StateDir) -> io::Result<(SuspensionFile, Option<SuspensionList>)> {
    let file = state.suspensions();
    let left = file.read()?;
    if left.is_none() && state.is_used()? {
        tracing::warn!(
            "state_dir has no file `suspended`: it was removed, or the last process was of a version without it; no party is suspended by hand"
        );
    }
    Ok((file, left))
}

/// The parties that were suspended in the store that the last run had.
fn suspended_in_store(folder: &Path) -> io::Result<SuspensionList> {
    let halts = halt_cache::left_in(folder)?.unwrap_or_default();
    Ok(halts.iter().filter_map(app::suspension).collect())
}

/// The handover of the replay memory to the next process.
pub(super) struct ReplayHandover {
    state: Option<StateDir>,
    /// The file that was handed over; `None` before the handover and after the process has ended.
    departure: Option<HandoverFile>,
    handed_over: bool,
}

impl ReplayHandover {
    /// Before the handover, with the folder of this process if it has one.
    pub(super) fn of(state: Option<StateDir>) -> Self {
        Self {
            state,
            departure: None,
            handed_over: false,
        }
    }

    /// Marks the end of this process: the next process measures from here how long no process served.
    pub(super) fn ends(&mut self) {
        let departure = self.departure.take();
        if let Some(Err(error)) = departure.map(|departure| departure.touch()) {
            tracing::warn!(%error, "state_dir cannot be written: the next start may refuse requests for timestamp.future_ms");
        }
    }

    /// Closes the replay memory, so that this process admits nothing more, writes the memory for the next process, and
    /// releases the folder. The process that holds the folder's lock owns the memory, so two processes never own it at
    /// once, even with calls still in flight here.
    pub(super) fn hand_over(&mut self, app: &App) {
        if self.handed_over {
            return;
        }
        self.handed_over = true;
        app.admission.watermark.close();
        app.admission.tenant_limits.suspensions.close();
        app.local_halts.leave_folder();
        if let Some(cluster) = &app.cluster {
            cluster.leave_folder();
        }
        let memory = app.admission.replay.hand_over();
        let Some(state) = self.state.take() else {
            return;
        };
        match state.hand_over(&memory) {
            Ok(departure) => {
                self.departure = Some(departure);
                tracing::info!(
                    bytes = memory.len(),
                    running = app.lifecycle.drain.running(),
                    "draining: replay memory handed over"
                );
            }
            Err(error) => tracing::error!(
                %error,
                "the replay memory was not handed over: the next start will refuse requests for timestamp.future_ms"
            ),
        }
    }
}
