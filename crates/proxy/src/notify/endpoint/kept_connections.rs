//! Kept connections: the idle connections to one endpoint.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::upstream::connection::{Liveness, UpstreamConnection};

/// The most idle connections to one endpoint.
const MOST_KEPT: usize = 4;
/// How long a connection may be idle. Common servers close one after 5 s to 75 s.
const IDLE: Duration = Duration::from_secs(4);
/// How long a connection serves new requests, so that an endpoint's new addresses are used, and checked.
const OLDEST: Duration = Duration::from_mins(1);
/// The most requests of one connection.
const MOST_REQUESTS: u32 = 100;

/// A connection to an endpoint.
pub(super) struct EndpointConnection {
    pub(super) connection: UpstreamConnection,
    opened: Instant,
    requests: u32,
    idle_since: Instant,
}

impl EndpointConnection {
    pub(super) fn new(connection: UpstreamConnection) -> Self {
        let now = Instant::now();
        Self {
            connection,
            opened: now,
            requests: 0,
            idle_since: now,
        }
    }

    /// Whether the connection may serve another request, apart from what its peer does.
    fn is_fresh(&self, now: Instant) -> bool {
        let idle = self.connection.idle().map_or(IDLE, |idle| idle.min(IDLE));
        now < self.idle_since + idle && now < self.opened + OLDEST && self.requests < MOST_REQUESTS
    }
}

/// The idle connections to one endpoint.
#[derive(Default)]
pub(super) struct KeptConnections(Mutex<Vec<EndpointConnection>>);

impl KeptConnections {
    /// The connection that was used last, if its peer has neither closed it nor sent bytes.
    pub(super) fn take(&self) -> Option<EndpointConnection> {
        let mut kept = self.0.lock();
        let now = Instant::now();
        while let Some(mut last) = kept.pop() {
            if last.is_fresh(now) && last.connection.is_quiet(Liveness::Now) {
                return Some(last);
            }
        }
        None
    }

    /// Keeps a connection after a whole answer, if it may serve another request.
    pub(super) fn keep(&self, mut used: EndpointConnection) {
        used.requests += 1;
        used.idle_since = Instant::now();
        let mut kept = self.0.lock();
        if used.connection.is_free() && used.is_fresh(used.idle_since) && kept.len() < MOST_KEPT {
            kept.push(used);
        }
    }

    /// Closes connections that are idle for too long.
    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        self.0.lock().retain(|kept| kept.is_fresh(now));
    }
}
