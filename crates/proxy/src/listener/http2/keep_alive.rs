//! Keep-alive: detects whether the peer of a silent HTTP/2 connection is gone.

use std::future::pending;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep_until, timeout};

use crate::callers::activity::ConnectionActivity;

/// How long no byte moves before the peer is sent a PING.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer has to answer the PING.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until the peer fails to answer a PING. A PING is sent whenever no byte has moved for `INTERVAL`.
pub async fn peer_is_gone(pings: Option<PingPong>, activity: &ConnectionActivity) {
    let Some(mut pings) = pings else {
        return pending().await;
    };
    loop {
        let due = activity.last_activity() + INTERVAL;
        sleep_until(due).await;
        if activity.last_activity() + INTERVAL > due {
            continue;
        }
        match timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is over, and its own future reports the end.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}
