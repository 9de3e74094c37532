//! Callers that call all the time, each on a connection of its own, while something else happens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gatepay_proxy::process::clock::Clock;
use tokio::task::JoinSet;

use super::{Answer, BY_NUMBER, Connection, QUERY, Shop, until};

/// Calls under way.
pub(crate) struct Traffic {
    began: Instant,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    callers: JoinSet<Tally>,
}

/// How often each status was answered; 0 is a connection that broke.
pub(crate) type Tally = BTreeMap<u16, usize>;

impl Traffic {
    /// So many callers of a shop, each with this pause between two calls.
    pub(crate) fn of(shop: &Shop, address: SocketAddr, callers: usize, pause: Duration) -> Self {
        let mut traffic = Self {
            began: Instant::now(),
            stop: Arc::default(),
            sent: Arc::default(),
            callers: JoinSet::new(),
        };
        for _ in 0..callers {
            let (stop, sent) = (Arc::clone(&traffic.stop), Arc::clone(&traffic.sent));
            let shop = shop.clone();
            traffic.callers.spawn(async move {
                let mut tally = Tally::new();
                let mut connection = Connection::open(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let request = shop.post(QUERY, BY_NUMBER).request(&Clock::system());
                    let answer = connection.try_send(request).await;
                    if answer.as_ref().map_or(true, Answer::closes) {
                        connection = Connection::open(address).await;
                    }
                    let status = answer.map_or(0, |answer| answer.status);
                    *tally.entry(status).or_default() += 1;
                    sent.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                }
                tally
            });
        }
        traffic
    }

    /// Waits until so many more calls have been answered.
    pub(crate) async fn more(&self, calls: usize) {
        let now = self.sent.load(Ordering::Relaxed);
        until("calls go on", || {
            self.sent.load(Ordering::Relaxed) >= now + calls
        })
        .await;
    }

    /// Ends it: what was answered, and how long it took.
    pub(crate) async fn end(self) -> (Tally, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::new();
        for tally in self.callers.join_all().await {
            for (status, count) in tally {
                *all.entry(status).or_default() += count;
            }
        }
        (all, self.began.elapsed())
    }
}
