//! Ending: when an HTTP/2 connection is let go that does not end by itself.

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

/// How long a caller has to answer a GOAWAY before an idle connection is dropped.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a connection that is ending is looked at.
const ENDING: Duration = Duration::from_millis(50);
/// How often it is looked whether a connection has asked, while the process drains.
const LOOK: Duration = Duration::from_millis(2);

/// Whether the caller is to be sent a GOAWAY: streams that are open end, new ones go elsewhere.
#[derive(Default)]
pub struct GoawaySignal(AtomicBool);

impl GoawaySignal {
    fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is to be sent, and was not when this was asked before.
    pub fn is_due(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// How far a connection is on its way to the end.
pub struct ConnectionEnding<'a> {
    worker: &'a Worker,
    lifetime: &'a ConnectionLifetime,
    farewell: &'a GoawaySignal,
    /// The process finishes what is in flight.
    finishing: bool,
    /// Something was late, and its caller was told to go.
    late: bool,
    /// It was asked to leave.
    leaves: bool,
}

impl<'a> ConnectionEnding<'a> {
    /// Of a connection that begins. Its caller is sent a GOAWAY whenever `farewell` is due.
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

    /// Waits until the connection is to be let go.
    ///
    /// # Errors
    /// If that is before its time.
    pub async fn reached(
        mut self,
        pings: Option<PingPong>,
        entering: EntryGuard,
    ) -> Result<(), CloseReason> {
        let (drain, pace) = (&self.worker.app.drain, &self.lifetime.pace);
        let mut gone = pin!(keep_alive::peer_is_gone(pings, pace));
        let mut leaving = pin!(leave(self.worker, pace, self.farewell, entering));
        let mut finishing = pin!(drain.reached(DrainPhase::Finishing));
        let mut asked_to_leave = pin!(pace.asked_to_leave());
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
                    // Streams whose bodies are awaited do not end by themselves, and nothing is proved of any.
                    if pace.leaves() == Some(LeaveReason::SlowBody) && pace.only_receives() {
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

    /// Looks at the clock: whether that is the end, or when to look again. A peer that has gone silent never acknowledges
    /// the GOAWAY; once it has all its answers it is left.
    fn look(&mut self) -> ControlFlow<Result<(), CloseReason>, Instant> {
        let pace = &self.lifetime.pace;
        let now = Instant::now();
        match pace.check_timeouts() {
            TimeoutCheck::Stalled => ControlFlow::Break(Err(self.lifetime.stalled())),
            // It had its time to acknowledge the GOAWAY.
            _ if self.leaves && pace.is_idle_for(self.patience()) => ControlFlow::Break(Ok(())),
            TimeoutCheck::Late if self.late => ControlFlow::Break(Ok(())),
            // A request that is under way meets a GOAWAY, and not a closed door.
            TimeoutCheck::Late => {
                self.late = true;
                self.farewell.say();
                ControlFlow::Continue(now + FAREWELL)
            }
            _ if self.finishing && pace.is_settled() => ControlFlow::Break(Ok(())),
            _ if self.finishing || self.leaves => ControlFlow::Continue(now + ENDING),
            TimeoutCheck::Fine(until) => ControlFlow::Continue(self.lifetime.judge(until)),
        }
    }

    /// How long a caller has to acknowledge the GOAWAY by which its connection leaves.
    fn patience(&self) -> Duration {
        let pace = &self.lifetime.pace;
        match (pace.leaves(), pace.party()) {
            // A new connection waits meanwhile.
            (Some(LeaveReason::Full | LeaveReason::SlowBody), None) => ENDING,
            (Some(LeaveReason::Full | LeaveReason::SlowBody), Some(_)) => FAREWELL / 4,
            _ => self.worker.app.settings.listen.head_timeout,
        }
    }
}

/// Sends the caller away once the process leaves. One that is new may ask before, or it could never ask at all. It opens
/// more requests until it has read the GOAWAY, so the connection stays at the door for so long.
async fn leave(
    worker: &Worker,
    pace: &ConnectionActivity,
    farewell: &GoawaySignal,
    entering: EntryGuard,
) -> Infallible {
    let drain = &worker.app.drain;
    let asked = async {
        drain.reached(DrainPhase::Leaving).await;
        while !pace.has_asked() {
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
