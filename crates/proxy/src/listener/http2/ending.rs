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
use crate::journey::Worker;
use crate::listener::lifetime::{CloseReason, ConnectionLifetime};
use crate::process::drain::{DrainPhase, EntryGuard, FIRST_WORD};

/// How long a caller has to close an idle connection after a GOAWAY, before the connection is dropped.
const FAREWELL: Duration = Duration::from_secs(1);
/// The interval at which an ending connection is checked.
const ENDING: Duration = Duration::from_millis(50);
/// The interval at which, while the process drains, a connection is checked for its first request.
const LOOK: Duration = Duration::from_millis(2);

/// Whether a GOAWAY is to be sent to the caller: open streams are finished, and new ones go elsewhere.
#[derive(Default)]
pub struct GoawaySignal(AtomicBool);

impl GoawaySignal {
    fn say(&self) {
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
    farewell: &'a GoawaySignal,
    /// Whether the process only finishes the requests in flight.
    finishing: bool,
    /// Whether a timeout passed and a GOAWAY was requested for it.
    late: bool,
    /// Whether the connection was asked to leave.
    leaves: bool,
}

impl<'a> ConnectionEnding<'a> {
    /// The state of a connection that begins. Its caller is sent a GOAWAY whenever `farewell` is due.
    pub fn new(
        worker: &'a Worker,
        lifetime: &'a ConnectionLifetime,
        farewell: &'a GoawaySignal,
    ) -> Self {
        Self {
            worker,
            lifetime,
            farewell,
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
        entering: EntryGuard,
    ) -> Result<(), CloseReason> {
        let (drain, activity) = (&self.worker.app.drain, &self.lifetime.activity);
        let mut gone = pin!(keep_alive::peer_is_gone(pings, activity));
        let mut leaving = pin!(leave(self.worker, activity, self.farewell, entering));
        let mut finishing = pin!(drain.reached(DrainPhase::Finishing));
        let mut asked_to_leave = pin!(activity.asked_to_leave());
        let mut alarm = pin!(sleep_until(self.lifetime.first_look()));
        loop {
            let next = tokio::select! {
                biased;
                () = &mut gone => return Ok(()),
                never = &mut leaving => match never {},
                () = &mut finishing, if !self.finishing => {
                    self.finishing = true;
                    Instant::now() + ENDING
                }
                () = &mut asked_to_leave, if !self.leaves => {
                    self.leaves = true;
                    // Streams that await their bodies do not end by themselves, and none of them is verified.
                    if activity.leaves() == Some(LeaveReason::SlowBody) && activity.only_receives() {
                        return Ok(());
                    }
                    self.farewell.say();
                    Instant::now() + self.patience()
                }
                () = &mut alarm => match self.look() {
                    ControlFlow::Continue(next) => next,
                    ControlFlow::Break(ended) => return ended,
                },
            };
            alarm.set(sleep_until(next));
        }
    }

    /// Checks the timeouts: returns the end, or when to check again. A silent peer never acknowledges the GOAWAY, so
    /// its connection is dropped once it has all its answers.
    fn look(&mut self) -> ControlFlow<Result<(), CloseReason>, Instant> {
        let activity = &self.lifetime.activity;
        let now = Instant::now();
        match activity.check_timeouts() {
            TimeoutCheck::Stalled => ControlFlow::Break(Err(self.lifetime.stalled())),
            // The caller had its time to acknowledge the GOAWAY.
            _ if self.leaves && activity.is_idle_for(self.patience()) => ControlFlow::Break(Ok(())),
            TimeoutCheck::Late if self.late => ControlFlow::Break(Ok(())),
            // A request that the caller is just sending meets a GOAWAY, not a closed connection.
            TimeoutCheck::Late => {
                self.late = true;
                self.farewell.say();
                ControlFlow::Continue(now + FAREWELL)
            }
            _ if self.finishing && activity.is_settled() => ControlFlow::Break(Ok(())),
            _ if self.finishing || self.leaves => ControlFlow::Continue(now + ENDING),
            TimeoutCheck::Fine(until) => ControlFlow::Continue(self.lifetime.judge(until)),
        }
    }

    /// How long a caller has to acknowledge the GOAWAY after its connection was asked to leave.
    fn patience(&self) -> Duration {
        let activity = &self.lifetime.activity;
        match (activity.leaves(), activity.party()) {
            // A new connection waits for the slot meanwhile.
            (Some(LeaveReason::Full | LeaveReason::SlowBody), None) => ENDING,
            (Some(LeaveReason::Full | LeaveReason::SlowBody), Some(_)) => FAREWELL / 4,
            _ => self.worker.app.settings.listen.head_timeout,
        }
    }
}

/// Sends the GOAWAY once the drain begins. A new caller may send its first request before, or it could never send one.
/// The caller may open more requests until it has read the GOAWAY, so the entry guard is held for `FIRST_WORD` more.
async fn leave(
    worker: &Worker,
    activity: &ConnectionActivity,
    farewell: &GoawaySignal,
    entering: EntryGuard,
) -> Infallible {
    let drain = &worker.app.drain;
    let asked = async {
        drain.reached(DrainPhase::Leaving).await;
        while !activity.has_asked() {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = asked => {}
        () = drain.long_after(DrainPhase::Leaving) => {}
    }
    farewell.say();
    sleep(FIRST_WORD).await;
    drop(entering);
    pending().await
}
