//! Connection lifetime: the end of a connection without a timeout, and the reasons for an early end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::callers::activity::{ConnectionActivity, LeaveReason};
use crate::journey::ingress::LINGER_AT_THE_END;
use crate::process::clock;
use crate::process::drain::{Drain, DrainPhase};
use crate::tls::certificate::{ClientCa, ListenerIdentity};
use crate::worker::Worker;

/// The age and the client CA of a connection, either of which can end it without a timeout.
pub struct ConnectionLifetime {
    worker: Arc<Worker>,
    /// The state of the connection's waits.
    pub activity: Arc<ConnectionActivity>,
    /// When the connection has reached its greatest age.
    pub max_age_at: Instant,
    client_ca: Option<ClientCa>,
}

/// Why a connection ended early.
pub enum CloseReason {
    /// The connection broke, or its peer broke the rules of HTTP/2.
    Broken(h2::Error),
    /// The peer does not take its answers.
    Stalled,
}

impl ConnectionLifetime {
    /// The lifetime of a connection that begins now.
    pub fn begin(worker: &Arc<Worker>, activity: &Arc<ConnectionActivity>) -> Self {
        let app = &worker.app;
        let age = app.settings.listen.connection_age;
        // Up to a tenth earlier, at random, so that connections that were opened together do not end together.
        let early = age
            .mul_f64(f64::from(u16::from_le_bytes(clock::random())) / f64::from(u16::MAX) / 10.0);
        Self {
            worker: Arc::clone(worker),
            activity: Arc::clone(activity),
            max_age_at: Instant::now() + age.saturating_sub(early),
            client_ca: app
                .listener
                .identity
                .as_ref()
                .map(ListenerIdentity::client_ca),
        }
    }

    /// When to check the connection for the first time.
    pub fn first_check(&self) -> Instant {
        let head_timeout = self.worker.app.settings.listen.head_timeout;
        self.max_age_at.min(Instant::now() + head_timeout)
    }

    /// Asks the connection to leave if its age or the client CA requires it. Returns when to check again, `next` at the
    /// latest.
    pub fn judge(&self, next: Instant) -> Instant {
        let app = &self.worker.app;
        let ended = &app.metrics.connections_ended;
        let is_old = self.max_age_at <= Instant::now();
        let client_ca = app
            .listener
            .identity
            .as_ref()
            .map(ListenerIdentity::client_ca);
        if is_old && self.activity.leave(LeaveReason::Age) {
            ended.age.inc();
        } else if client_ca != self.client_ca && self.activity.leave(LeaveReason::ClientCa) {
            ended.client_ca.inc();
        }
        if is_old {
            next
        } else {
            next.min(self.max_age_at)
        }
    }

    /// Ends a connection whose peer does not take its answers. The drop then resets the connection, so that the system
    /// does not wait to send their rest either.
    pub fn stalled(&self) -> CloseReason {
        self.activity.abort();
        CloseReason::Stalled
    }
}

/// Runs `discard`, which reads the bytes that a caller still sends after its answer, for at most `limit`. Once the
/// process finishes, `discard` is cut after `LINGER_AT_THE_END`.
pub async fn linger(discard: impl Future, limit: Duration, drain: &Drain) {
    tokio::select! {
        _ = timeout(limit, discard) => {}
        () = async {
            drain.reached(DrainPhase::Finishing).await;
            sleep(LINGER_AT_THE_END).await;
        } => {}
    }
}
