//! Probe: what the proxy asks GatePay by itself, when it has to know and no tenant's read tells: whether GatePay is back,
//! and what time it is there.

use std::time::Duration;

use bytes::Bytes;
use gatepay_core::Kind;
use http::Request;
use http_body_util::Full;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::forward::{self, Road};
use crate::quota::Purpose;

/// How often it is looked whether there is something to ask.
const EVERY: Duration = Duration::from_millis(250);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks whenever the breaker is open or GatePay's time is followed and unknown. `ask` gives what signs a read that
/// concerns nobody, if there is such a read.
pub async fn watch<A>(road: Road<'_>, ask: impl Fn() -> Option<A>)
where
    A: FnMut() -> Request<Full<Bytes>>,
{
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !road.breaker.is_due() && !road.guardian.is_lost() {
            continue;
        }
        let Some(attempt) = ask() else {
            road.breaker.despair();
            continue;
        };
        if road.quota.take_for(Purpose::Probe).is_ok() {
            let deadline = Instant::now() + PATIENCE;
            // What comes of it, breaker and guardian hear from `forward`.
            let _ = forward::send(road, Kind::Read, deadline, attempt).await;
        }
    }
}
