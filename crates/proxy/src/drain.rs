//! Drain: how the process ends without losing a request.
//!
//! First it still answers but asks callers to go elsewhere (`Connection: close`, `/ready` false), then it accepts no
//! more, finishes what is in flight, and leaves.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// How long before its end whatever waits for more has to say what it knows.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How far along the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not ending.
    Serving,
    /// Answering, and asking callers to go elsewhere.
    Leaving,
    /// Finishing what is in flight, admitting nothing.
    Finishing,
    /// Leaving, finished or not.
    Over,
}

/// The phase, and what still runs.
pub struct Drain {
    phase: watch::Sender<Phase>,
    began: OnceLock<Instant>,
    running: AtomicUsize,
    idle: Notify,
}

/// Something that must end before the process does: a connection, or a call that outlived its caller.
pub struct Running(std::sync::Arc<crate::app::App>);

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            began: OnceLock::new(),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }
}

impl Drain {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a later phase.
    pub fn enter(&self, phase: Phase) {
        if phase > Phase::Serving {
            self.began.get_or_init(Instant::now);
        }
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    /// Waits for a phase to begin.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as this struct, so waiting does not fail.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Waits until a drain that may take as long as this is about to end.
    pub async fn nearly_over(&self, deadline: Duration) {
        self.reached(Phase::Leaving).await;
        let began = *self.began.get_or_init(Instant::now);
        sleep_until(began + deadline.saturating_sub(LAST_WORDS)).await;
    }

    /// How many things still run.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Waits until nothing runs.
    pub async fn finished(&self) {
        loop {
            let idle = self.idle.notified();
            if self.running() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Running {
    /// Counts one more.
    pub fn begin(app: &std::sync::Arc<crate::app::App>) -> Self {
        app.drain.running.fetch_add(1, Ordering::AcqRel);
        Self(std::sync::Arc::clone(app))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let drain = &self.0.drain;
        if drain.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            drain.idle.notify_waiters();
        }
    }
}
