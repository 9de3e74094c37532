//! Ending an HTTP/2 connection that does not end by itself.

use std::convert::Infallible;
use std::future::pending;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use h2::PingPong;
use tokio::time::{Instant, sleep, sleep_until};

use super::keep_alive;
use crate::callers::activity::{ConnectionActivity, LeaveReason, TimeoutCheck};
use crate::listener::lifetime::{CloseReason, ConnectionLifetime};
use crate::process::drain::{DrainPhase, EntryGuard, FIRST_REQUEST_WAIT};
use crate::worker::Worker;

/// How long a caller has to close an idle connection after a GOAWAY, before the connection is dropped.
const GOAWAY_WAIT: Duration = Duration::from_secs(1);
/// The interval at which an ending connection is checked.
const ENDING_CHECK: Duration = Duration::from_millis(50);
/// The interval at which, while the process drains, a connection is checked for its first request.
const FIRST_REQUEST_CHECK: Duration = Duration::from_millis(2);

/// Whether a GOAWAY is to be sent to the caller: open streams are finished, and new ones go elsewhere.
#[derive(Default)]
pub struct GoawaySignal(AtomicBool);

impl GoawaySignal {
    fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a GOAWAY is to be sent that no earlier call reported.
    pub fn is_due(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// The progress of a connection towards its end.
pub struct ConnectionEnding<'a> {
    worker: &'a Worker,
    lifetime: &'a ConnectionLifetime,
    goaway: &'a GoawaySignal,
    /// Whether the process only finishes the requests in flight.
    finishing: bool,
    /// Whether a timeout passed and a GOAWAY was requested for it.
    late: bool,
    /// Whether the connection was asked to leave.
    leaves: bool,
}

impl<'a> ConnectionEnding<'a> {
    /// The state of a connection that begins. Its caller is sent a GOAWAY whenever `goaway` is due.
    pub fn new(
        worker: &'a Worker,
        lifetime: &'a ConnectionLifetime,
        goaway: &'a GoawaySignal,
    ) -> Self {
        Self {
            worker,
            lifetime,
            goaway,
            finishing: false,
            late: false,
            leaves: false,
        }
    }

    /// Waits until the connection is to be dropped.
    ///
    /// # Errors
    /// If the connection ends early.
    pub async fn reached(
        mut self,
        pings: Option<PingPong>,
        entry: EntryGuard,
    ) -> Result<(), CloseReason> {
        let (drain, activity) = (&self.worker.app.lifecycle.drain, &self.lifetime.activity);
        let mut gone = pin!(keep_alive::peer_is_gone(pings, activity));
        let mut leaving = pin!(leave(self.worker, activity, self.goaway, entry));
        let mut finishing = pin!(drain.reached(DrainPhase::Finishing));
        let mut asked_to_leave = pin!(activity.asked_to_leave());
        let mut alarm = pin!(sleep_until(self.lifetime.first_check()));
        loop {
            let next = tokio::select! {
                biased;
                () = &mut gone => return Ok(()),
                never = &mut leaving => match never {},
                () = &mut finishing, if !self.finishing => {
                    self.finishing = true;
                    Instant::now() + ENDING_CHECK
                }
                () = &mut asked_to_leave, if !self.leaves => {
                    self.leaves = true;
                    // Streams that await their bodies do not end by themselves, and none of them is verified.
                    if activity.leaves() == Some(LeaveReason::SlowBody) && activity.only_receives() {
                        return Ok(());
                    }
                    self.goaway.request();
                    Instant::now() + self.goaway_wait()
                }
                () = &mut alarm => match self.check() {
                    ControlFlow::Continue(next) => next,
                    ControlFlow::Break(ended) => return ended,
                },
            };
            alarm.set(sleep_until(next));
        }
    }

    /// Checks the timeouts: returns the end, or when to check again. A silent peer never acknowledges the GOAWAY, so
    /// its connection is dropped once it has all its answers.
    fn check(&mut self) -> ControlFlow<Result<(), CloseReason>, Instant> {
        let activity = &self.lifetime.activity;
        let now = Instant::now();
        match activity.check_timeouts() {
            TimeoutCheck::Stalled => ControlFlow::Break(Err(self.lifetime.stalled())),
            // The caller had its time to acknowledge the GOAWAY.
            _ if self.leaves && activity.is_idle_for(self.goaway_wait()) => {
                ControlFlow::Break(Ok(()))
            }
            TimeoutCheck::Late if self.late => ControlFlow::Break(Ok(())),
            // A request that the caller is just sending meets a GOAWAY, not a closed connection.
            TimeoutCheck::Late => {
                self.late = true;
                self.goaway.request();
                ControlFlow::Continue(now + GOAWAY_WAIT)
            }
            _ if self.finishing && activity.is_settled() => ControlFlow::Break(Ok(())),
            _ if self.finishing || self.leaves => ControlFlow::Continue(now + ENDING_CHECK),
            TimeoutCheck::Fine(until) => ControlFlow::Continue(self.lifetime.judge(until)),
        }
    }

    /// How long a caller has to acknowledge the GOAWAY after its connection was asked to leave.
    fn goaway_wait(&self) -> Duration {
        let activity = &self.lifetime.activity;
        match (activity.leaves(), activity.party()) {
            // A new connection waits for the slot meanwhile.
            (Some(LeaveReason::Full | LeaveReason::SlowBody), None) => ENDING_CHECK,
            (Some(LeaveReason::Full | LeaveReason::SlowBody), Some(_)) => GOAWAY_WAIT / 4,
            _ => self.worker.app.settings.listen.head_timeout,
        }
    }
}

/// Sends the GOAWAY once the drain begins. A new caller may send its first request before, or it could never send one.
/// The caller may open more requests until it has read the GOAWAY, so the entry guard is held for `FIRST_REQUEST_WAIT`
/// more.
async fn leave(
    worker: &Worker,
    activity: &ConnectionActivity,
    goaway: &GoawaySignal,
    entry: EntryGuard,
) -> Infallible {
    let drain = &worker.app.lifecycle.drain;
    let first_request = async {
        drain.reached(DrainPhase::Leaving).await;
        while !activity.had_request() {
            sleep(FIRST_REQUEST_CHECK).await;
        }
    };
    tokio::select! {
        () = first_request => {}
        () = drain.long_after(DrainPhase::Leaving) => {}
    }
    goaway.request();
    sleep(FIRST_REQUEST_WAIT).await;
    drop(entry);
    pending().await
}
