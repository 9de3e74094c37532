//! Callers that call continuously, each on a connection of its own, during another event.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gatepay_proxy::process::clock::Clock;
use tokio::task::JoinSet;

use super::{Answer, BY_NUMBER, Connection, QUERY, Shop, until};

/// Callers in the background.
pub(crate) struct Traffic {
    began: Instant,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    callers: JoinSet<Tally>,
}

/// The count of each status; 0 is a broken connection.
pub(crate) type Tally = BTreeMap<u16, usize>;

impl Traffic {
    /// Starts this number of a shop's callers, each with this pause between two calls.
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

    /// Waits until this number of further calls has been answered.
    pub(crate) async fn more(&self, calls: usize) {
        let now = self.sent.load(Ordering::Relaxed);
        until("calls go on", || {
            self.sent.load(Ordering::Relaxed) >= now + calls
        })
        .await;
    }

    /// Ends the traffic: the counts of statuses, and the duration.
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
