//! Keep-alive: whether the other end of a silent HTTP/2 connection is still there.

use std::future::pending;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep_until, timeout};

use crate::callers::activity::ConnectionActivity;

/// How long nothing moves before the other end is asked.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the other end does not answer a PING that it is sent whenever nothing has moved for a while.
pub async fn peer_is_gone(pings: Option<PingPong>, pace: &ConnectionActivity) {
    let Some(mut pings) = pings else {
        return pending().await;
    };
    loop {
        let due = pace.moved() + INTERVAL;
        sleep_until(due).await;
        if pace.moved() + INTERVAL > due {
            continue;
        }
        match timeout(PATIENCE, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is over, and says so itself.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}
