//! Authentication throttle: an address that keeps failing authentication has few requests verified at once, so that
//! guessing cannot crowd out callers with right signatures.
//!
//! After a connection ended in a flood of frames, new connections of its address wait before they are read, so that
//! an immediate reconnect gains nothing. No request is refused for its address: a right signature only waits. The lists
//! are bounded, and their entries expire.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::callers::client_address::network;

/// How many failures make an address throttled. A shop that mistyped its secret tries a few times.
const FAILURES: u32 = 20;
/// How many requests of a throttled address are verified at once.
const AT_ONCE: usize = 4;
/// How long an address is remembered after its last failure.
const MEMORY: Duration = Duration::from_mins(1);
/// How many addresses each list remembers. Beyond that the least used are forgotten, which only spares them.
const ADDRESSES: u64 = 65_536;

/// How long an address is remembered after its last flood.
const FLOOD_MEMORY: Duration = Duration::from_secs(10);
/// How long a connection from such an address waits before it is read. For a client that means no harm, this is only a
/// delay.
pub const FLOOD_WAIT: Duration = Duration::from_secs(1);

/// The addresses of which a connection recently ended in a flood.
pub struct RecentFloods(Cache<IpAddr, ()>);

impl Default for RecentFloods {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(ADDRESSES)
                .time_to_live(FLOOD_MEMORY)
                .build(),
        )
    }
}

impl RecentFloods {
    /// Notes that a connection from this address ended in a flood.
    pub fn ended(&self, address: IpAddr) {
        self.0.insert(network(address), ());
    }

    /// Whether a connection from this address ended in a flood recently.
    pub fn remember(&self, address: IpAddr) -> bool {
        self.0.contains_key(&network(address))
    }
}

/// The addresses that recently failed authentication.
pub struct AuthThrottle(Cache<IpAddr, Arc<FailureRecord>>);

struct FailureRecord {
    failures: AtomicU32,
    permits: Arc<Semaphore>,
}

/// A permit to be verified, held until dropped.
pub struct ThrottlePermit(Option<OwnedSemaphorePermit>);

impl ThrottlePermit {
    /// Whether the address is throttled, so that the permit counts against its limit.
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }
}

impl Default for AuthThrottle {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(ADDRESSES)
                .time_to_live(MEMORY)
                .build(),
        )
    }
}

impl AuthThrottle {
    /// Notes that a request from this address failed authentication.
    pub fn failed(&self, address: IpAddr) {
        let fresh = || {
            Arc::new(FailureRecord {
                failures: AtomicU32::new(0),
                permits: Arc::new(Semaphore::new(AT_ONCE)),
            })
        };
        let address = network(address);
        // `get_with` is atomic: of racing first failures only one makes the record, and all count in it.
        let record = self.0.get_with(address, fresh);
        record.failures.fetch_add(1, Ordering::Relaxed);
        // The record expires a fixed time after the last failure, however often it is read.
        self.0.insert(address, record);
        // Updates `entry_count`, which the next request's `record` reads.
        self.0.run_pending_tasks();
    }

    /// Whether requests from this address are throttled.
    pub fn is_failing(&self, address: IpAddr) -> bool {
        self.record(address).is_some()
    }

    fn record(&self, address: IpAddr) -> Option<Arc<FailureRecord>> {
        if self.0.entry_count() == 0 {
            // Usually no address is failing, which makes the look-up unnecessary.
            return None;
        }
        let record = self.0.get(&network(address))?;
        (record.failures.load(Ordering::Relaxed) >= FAILURES).then_some(record)
    }

    /// Waits for a permit to be verified. An address that is not throttled gets one at once.
    pub async fn permit(&self, address: IpAddr) -> ThrottlePermit {
        match self.record(address) {
            Some(record) => ThrottlePermit(Arc::clone(&record.permits).acquire_owned().await.ok()),
            None => ThrottlePermit(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_keeps_failing_waits_in_turn_and_other_addresses_do_not() {
        let penalties = AuthThrottle::default();
        let (guesser, shop) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..FAILURES {
            assert!(!penalties.permit(guesser).await.is_limited());
            penalties.failed(guesser);
        }
        let mut permits = Vec::new();
        for _ in 0..AT_ONCE {
            permits.push(penalties.permit(guesser).await);
        }
        assert!(permits.iter().all(ThrottlePermit::is_limited));
        let mut next = Box::pin(penalties.permit(guesser));
        let soon = Duration::from_millis(1);
        assert!(
            tokio::time::timeout(soon, &mut next).await.is_err(),
            "a fifth at once waits"
        );
        assert!(!penalties.permit(shop).await.is_limited());
        permits.pop();
        assert!(next.await.is_limited(), "it is not refused, it only waited");
    }

    #[test]
    fn a_flood_slows_down_only_its_own_network() {
        let floods = RecentFloods::default();
        floods.ended(address("2001:db8::1"));
        assert!(floods.remember(address("2001:db8::2")));
        assert!(!floods.remember(address("2001:db8:0:1::1")));
    }

    #[tokio::test]
    async fn a_neighborhood_of_ipv6_addresses_is_one() {
        let penalties = AuthThrottle::default();
        for host in 0..FAILURES {
            penalties.failed(address(&format!("2001:db8::{host:x}")));
        }
        assert!(
            penalties
                .permit(address("2001:db8::ffff"))
                .await
                .is_limited()
        );
        assert!(
            !penalties
                .permit(address("2001:db8:0:1::1"))
                .await
                .is_limited()
        );
    }
}
