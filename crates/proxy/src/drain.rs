//! Drain: how the process ends without losing a request.
//!
//! First it still answers but asks callers to go elsewhere (`Connection: close`, `/ready` false), then it accepts no
//! more connections, lets those it has accepted ask, admits nothing more and hands the replay memory over, finishes
//! what is in flight, and leaves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::app::App;

/// How long before its end whatever waits for more has to say what it knows.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How far along the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not ending.
    Serving,
    /// Answering, and asking callers to go elsewhere.
    Leaving,
    /// Accepting no connection, and finishing what is in flight.
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
    doors: Mutex<Vec<Arc<Door>>>,
}

/// Something that must end before the process does: a connection, or a call that outlived its caller.
pub struct Running(Arc<App>);

/// Where one worker's callers come in. One each, so that counting them costs other cores nothing.
#[derive(Default)]
pub struct Door {
    inside: AtomicUsize,
    shut: AtomicBool,
}

/// Somebody who may still be admitted: a connection that has not asked yet, or a request up to its permit.
pub struct Entering(Arc<Door>);

/// How often it is looked whether somebody is still entering.
const LOOK: Duration = Duration::from_millis(2);

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            began: OnceLock::new(),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
            doors: Mutex::default(),
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

    /// A door that is counted in [`entered`](Self::entered).
    pub fn door(&self) -> Arc<Door> {
        let door = Arc::new(Door::default());
        self.doors().push(Arc::clone(&door));
        door
    }

    /// Waits until every door is shut and everybody who came in was admitted or refused.
    pub async fn entered(&self) {
        while self.doors().iter().any(|door| door.is_used()) {
            sleep(LOOK).await;
        }
    }

    fn doors(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Door>>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub fn begin(app: &Arc<App>) -> Self {
        app.drain.running.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(app))
    }
}

impl Door {
    /// Somebody comes in.
    pub fn enter(self: &Arc<Self>) -> Entering {
        self.inside.fetch_add(1, Ordering::AcqRel);
        Entering(Arc::clone(self))
    }

    /// No connection comes in any more.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    fn is_used(&self) -> bool {
        // In this order: whoever came in before the door was shut is counted by then.
        !self.shut.load(Ordering::Acquire) || self.inside.load(Ordering::Acquire) > 0
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
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
