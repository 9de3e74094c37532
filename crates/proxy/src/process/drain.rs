//! Drain: how the process ends without losing a request.
//!
//! First the process still answers but asks callers to go elsewhere (`Connection: close`, `/ready` false). Then it
//! accepts no more connections, and lets the accepted connections send their request. Then it admits nothing more and
//! hands the replay memory over. At last it finishes the requests in flight, and ends.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a connection has, once the process drains, to send its first request and to learn that the caller should go
/// elsewhere: some round trips. The connection was accepted, so its caller expects to be served.
pub const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);
/// How long before the cut a waiting look-up must answer with the outcome known so far.
const LOOK_UP_MARGIN: Duration = Duration::from_millis(500);
/// The most time of the deadline that is kept for closing, in which the records and access lines of cut calls are
/// written and threads end.
const CLOSING: Duration = Duration::from_secs(2);
/// The least time for closing, however short the deadline is or however late an immediate end is requested.
const CLOSING_AT_LEAST: Duration = Duration::from_secs(1);

/// How much longer than the drain deadline a successor waits for what the process before it holds.
const HANDOVER: Duration = Duration::from_secs(5);

/// How long a successor waits for the state folder, and for the store's file, of a process that drains.
pub fn successor_patience(drain_deadline: Duration) -> Duration {
    drain_deadline + HANDOVER
}

/// The phase of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainPhase {
    /// The process serves and is not ending.
    Serving,
    /// Answering, and asking callers to go elsewhere.
    Leaving,
    /// Accepting no connection, and finishing the calls in flight.
    Finishing,
    /// The process ends, finished or not.
    Over,
}

/// The drain phase, and the count of running connections and calls.
pub struct Drain {
    phase: watch::Sender<DrainPhase>,
    /// The same phase, or briefly a later one, which can be read without a lock.
    ahead: AtomicU8,
    began: OnceLock<Instant>,
    /// When [`DrainPhase::Over`] began.
    over: OnceLock<Instant>,
    running: AtomicUsize,
    idle: Notify,
    gates: Mutex<Vec<Arc<EntryGate>>>,
}

/// Counts a connection, or a call that outlived its caller, that must end before the process does.
pub struct RunningGuard(Arc<Drain>);

/// The entry gate of one worker's callers. Each worker has its own gate, so counting callers costs other cores nothing.
#[derive(Default)]
pub struct EntryGate {
    inside: AtomicUsize,
    shut: AtomicBool,
}

/// Counts a caller that may still be admitted: a connection before its first request, or a request before its permit.
pub struct EntryGuard(Arc<EntryGate>);

/// The interval at which the entry gates are checked for entering callers.
const GATE_CHECK: Duration = Duration::from_millis(2);

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(DrainPhase::Serving),
            ahead: AtomicU8::new(DrainPhase::Serving as u8),
            began: OnceLock::new(),
            over: OnceLock::new(),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
            gates: Mutex::default(),
        }
    }
}

impl Drain {
    /// The phase now.
    pub fn phase(&self) -> DrainPhase {
        match self.ahead.load(Ordering::Acquire) {
            0 => DrainPhase::Serving,
            1 => DrainPhase::Leaving,
            2 => DrainPhase::Finishing,
            _ => DrainPhase::Over,
        }
    }

    /// Goes on to a later phase.
    pub fn enter(&self, phase: DrainPhase) {
        if phase > DrainPhase::Serving {
            self.began.get_or_init(Instant::now);
        }
        if phase == DrainPhase::Over {
            self.over.get_or_init(Instant::now);
        }
        self.ahead.fetch_max(phase as u8, Ordering::AcqRel);
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    /// Waits for a phase to begin.
    pub async fn reached(&self, phase: DrainPhase) {
        let mut changes = self.phase.subscribe();
        let mut reached = pin!(changes.wait_for(|now| *now >= phase));
        let mut registered: Option<Waker> = None;
        poll_fn(|cx| {
            // Every connection waits for this, and polls on every activity. `wait_for` takes two locks for each poll.
            // While the process serves and the registered waker is unchanged, the poll is skipped. In later phases each
            // poll goes through: a phase can be seen before its waiters are woken, and a woken waiter is no longer
            // registered.
            if let Some(waker) = &registered
                && self.phase() == DrainPhase::Serving
                && waker.will_wake(cx.waker())
            {
                return Poll::Pending;
            }
            // A task without remaining budget is not registered either.
            registered = has_budget_remaining().then(|| cx.waker().clone());
            // The sender lives as long as this struct, so waiting does not fail.
            reached.as_mut().poll(cx).map(drop)
        })
        .await;
    }

    /// Waits until connections that were accepted before a phase began have had the time to begin.
    pub async fn long_after(&self, phase: DrainPhase) {
        self.reached(phase).await;
        sleep(FIRST_REQUEST_WAIT).await;
    }

    /// Waits until a drain that may take as long as this is about to end.
    pub async fn before_deadline(&self, deadline: Duration) {
        self.reached(DrainPhase::Leaving).await;
        let cut = self.cut_at(deadline);
        sleep_until(cut.checked_sub(LOOK_UP_MARGIN).unwrap_or(cut)).await;
    }

    /// When the calls in flight are cut, in a drain that may take `deadline`: a little earlier than the deadline, so
    /// that the process has ended by then.
    pub fn cut_at(&self, deadline: Duration) -> Instant {
        self.began() + cut_after(deadline)
    }

    /// When the process must have ended, in a drain that may take `deadline`, even if a thread is stuck. A deadline
    /// under ten seconds may be exceeded by up to a second, because closing takes time.
    pub fn ends_at(&self, deadline: Duration) -> Instant {
        let end = (self.began() + deadline).max(self.cut_at(deadline) + CLOSING_AT_LEAST);
        match self.over.get() {
            Some(over) => end.min(*over + CLOSING),
            None => end,
        }
    }

    /// Whether the calls in flight were cut, or should have been.
    pub fn is_cut(&self, deadline: Duration) -> bool {
        self.over.get().is_some() || Instant::now() >= self.cut_at(deadline)
    }

    /// When the drain began; the present moment before that.
    fn began(&self) -> Instant {
        self.began.get().copied().unwrap_or_else(Instant::now)
    }

    /// An entry gate that [`entered`](Self::entered) waits for.
    pub fn entry_gate(&self) -> Arc<EntryGate> {
        let gate = Arc::new(EntryGate::default());
        self.gates().push(Arc::clone(&gate));
        gate
    }

    /// Waits until every entry gate is shut and every caller inside was admitted or refused.
    pub async fn entered(&self) {
        while self.gates().iter().any(|gate| gate.is_used()) {
            sleep(GATE_CHECK).await;
        }
    }

    fn gates(&self) -> MutexGuard<'_, Vec<Arc<EntryGate>>> {
        self.gates.lock()
    }

    /// How many connections and calls still run.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Waits until the process drains and no call runs, but no longer than the drain lasts.
    pub async fn last_call_ended(&self) {
        self.reached(DrainPhase::Finishing).await;
        tokio::select! {
            () = self.finished() => {}
            () = self.reached(DrainPhase::Over) => {}
        }
    }

    /// Waits until no connection and no call runs.
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

/// How long after the drain began calls in flight are cut.
pub fn cut_after(deadline: Duration) -> Duration {
    deadline.saturating_sub(CLOSING.min(deadline / 10))
}

impl RunningGuard {
    /// Counts one more connection or call.
    pub fn begin(drain: &Arc<Drain>) -> Self {
        drain.running.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(drain))
    }
}

impl EntryGate {
    /// Counts a caller as entering, until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> EntryGuard {
        self.inside.fetch_add(1, Ordering::AcqRel);
        EntryGuard(Arc::clone(self))
    }

    /// Shuts the gate: no more connections enter.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    fn is_used(&self) -> bool {
        // The order matters: a caller that entered before the gate was shut is counted by the time of the second load.
        !self.shut.load(Ordering::Acquire) || self.inside.load(Ordering::Acquire) > 0
    }
}

impl Drop for EntryGuard {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Wake};
    use tokio::task::coop::consume_budget;
    use tokio::task::yield_now;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_drain_waiter_is_woken_by_every_phase_however_often_it_polled() {
        let drain = Drain::default();
        let mut reached = pin!(drain.reached(DrainPhase::Finishing));
        let looker = || {
            let woken = Arc::<Woken>::default();
            (Waker::from(Arc::clone(&woken)), woken)
        };
        let (first, second) = (looker(), looker());
        let mut look = |waker: &Waker| reached.as_mut().poll(&mut Context::from_waker(waker));
        for _ in 0..3 {
            assert!(look(&first.0).is_pending());
        }
        drain.enter(DrainPhase::Leaving);
        assert_eq!(first.1.0.load(Ordering::Relaxed), 1);
        for _ in 0..3 {
            assert!(look(&first.0).is_pending());
        }
        for _ in 0..3 {
            assert!(look(&second.0).is_pending());
        }
        drain.enter(DrainPhase::Finishing);
        assert_eq!(second.1.0.load(Ordering::Relaxed), 1);
        assert!(look(&second.0).is_ready());
        assert_eq!(drain.phase(), DrainPhase::Finishing);
        drain.enter(DrainPhase::Leaving);
        assert_eq!(drain.phase(), DrainPhase::Finishing, "there is no way back");
    }

    /// Runs a function in the midst of waking the waiters.
    struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

    impl Wake for Meanwhile {
        fn wake(self: Arc<Self>) {
            let act = self.0.lock().take();
            if let Some(act) = act {
                act();
            }
        }
    }

    #[test]
    fn a_drain_waiter_that_saw_a_phase_before_its_wake_up_is_woken_for_the_next() {
        let drain: &'static Drain = Box::leak(Box::default());
        let reached = || Box::pin(drain.reached(DrainPhase::Finishing));
        // The order of waking is unknown, so there are many waiters of both kinds.
        let waiting = (0..64).map(|_| (reached(), Arc::<Woken>::default()));
        let waiting = Arc::new(Mutex::new(waiting.collect::<Vec<_>>()));
        let look = {
            let waiting = Arc::clone(&waiting);
            move || {
                for (reached, woken) in &mut *waiting.lock() {
                    woken.0.store(0, Ordering::Relaxed);
                    let waker = Waker::from(Arc::clone(woken));
                    let looked = reached.as_mut().poll(&mut Context::from_waker(&waker));
                    assert!(looked.is_pending());
                }
            }
        };
        let meanwhile = Arc::new(Meanwhile(Mutex::new(Some(Box::new(look.clone())))));
        let waker = Waker::from(Arc::clone(&meanwhile));
        let mut others: Vec<_> = (0..64).map(|_| reached()).collect();
        for other in &mut others {
            let looked = other.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(looked.is_pending());
        }
        drain.enter(DrainPhase::Leaving);
        assert!(meanwhile.0.lock().is_none(), "they have looked");
        look();
        drain.enter(DrainPhase::Finishing);
        for (_, woken) in &*waiting.lock() {
            assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn a_drain_waiter_without_task_budget_is_woken_too() {
        let drain = Drain::default();
        let mut reached = pin!(drain.reached(DrainPhase::Finishing));
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut look = || {
            let looked = reached.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(looked.is_pending());
        };
        poll_fn(|cx| {
            while has_budget_remaining() {
                let _used = pin!(consume_budget()).poll(cx);
            }
            look();
            Poll::Ready(())
        })
        .await;
        yield_now().await;
        look();
        woken.0.store(0, Ordering::Relaxed);
        drain.enter(DrainPhase::Leaving);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_drain_phase_that_begins_during_a_poll_is_not_missed() {
        for _ in 0..1_000 {
            let drain = Arc::new(Drain::default());
            let goes_on = Arc::clone(&drain);
            let goes_on = std::thread::spawn(move || {
                goes_on.enter(DrainPhase::Leaving);
                goes_on.enter(DrainPhase::Finishing);
            });
            let reached = drain.reached(DrainPhase::Finishing);
            let reached = tokio::time::timeout(Duration::from_secs(20), reached);
            reached.await.expect("it is woken");
            goes_on.join().unwrap();
        }
    }
}
