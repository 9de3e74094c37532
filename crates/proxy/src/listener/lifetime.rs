//! Lifetime: when a connection ends although nothing on it is late, and why one ended before its time.

use std::sync::Arc;

use tokio::time::Instant;

use crate::callers::activity::{ConnectionActivity, LeaveReason};
use crate::journey::Worker;
use crate::process::clock;
use crate::tls::certificate::{ClientCa, ListenerIdentity};

/// What ends a connection although nothing on it is late.
pub struct ConnectionLifetime {
    worker: Arc<Worker>,
    /// What the connection waits for, and since when.
    pub pace: Arc<ConnectionActivity>,
    /// When it is too old.
    pub ends: Instant,
    client_ca: Option<ClientCa>,
}

/// Why a connection ended before its time.
pub enum CloseReason {
    /// It broke, or its peer broke the rules of HTTP/2.
    Broken(h2::Error),
    /// Its peer does not take its answers.
    Stalled,
}

impl ConnectionLifetime {
    /// Of a connection that begins now.
    pub fn begin(worker: &Arc<Worker>, pace: &Arc<ConnectionActivity>) -> Self {
        let app = &worker.app;
        let age = app.settings.listen.connection_age;
        // Connections that were opened together do not end together.
        let early = age
            .mul_f64(f64::from(u16::from_le_bytes(clock::random())) / f64::from(u16::MAX) / 10.0);
        Self {
            worker: Arc::clone(worker),
            pace: Arc::clone(pace),
            ends: Instant::now() + age.saturating_sub(early),
            client_ca: app
                .listener_identity
                .as_ref()
                .map(ListenerIdentity::client_ca),
        }
    }

    /// When to judge the connection for the first time.
    pub fn first_look(&self) -> Instant {
        let head_timeout = self.worker.app.settings.listen.head_timeout;
        self.ends.min(Instant::now() + head_timeout)
    }

    /// Asks the connection to leave if it is time; when to look again otherwise, `next` at the latest.
    pub fn judge(&self, next: Instant) -> Instant {
        let app = &self.worker.app;
        let ended = &app.metrics.connections_ended;
        let is_old = self.ends <= Instant::now();
        let client_ca = app
            .listener_identity
            .as_ref()
            .map(ListenerIdentity::client_ca);
        if is_old && self.pace.leave(LeaveReason::Age) {
            ended.age.inc();
        } else if client_ca != self.client_ca && self.pace.leave(LeaveReason::ClientCa) {
            ended.client_ca.inc();
        }
        if is_old { next } else { next.min(self.ends) }
    }

    /// Its peer does not take its answers. What is left of them is not waited for, by the system either: it is told
    /// before the connection is let go.
    pub fn stalled(&self) -> CloseReason {
        self.pace.abort();
        CloseReason::Stalled
    }
}
