//! Penalty: addresses that keep failing authentication take turns, so that guessing cannot crowd out those who sign.
//!
//! Addresses of which a connection ended in a flood of frames wait before the next is read, so that coming back at once
//! gains nothing. Nobody is refused for their address: a right signature only waits. The lists are bounded and forget.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::callers::client_address::network;

/// How many failures are an accident: a shop that mistyped its secret tries a few times.
const PATIENCE: u32 = 20;
/// How many requests of such an address are verified at once.
const AT_ONCE: usize = 4;
/// How long an address is remembered after its last failure.
const MEMORY: Duration = Duration::from_mins(1);
/// How many addresses are remembered; beyond that the least used are forgotten, which only spares them.
const ADDRESSES: u64 = 65_536;

/// How long an address is remembered after its last flood.
const FLOOD_MEMORY: Duration = Duration::from_secs(10);
/// How long a connection from there waits until it is read. A client that does no harm on purpose only begins later.
pub const FLOOD_WAIT: Duration = Duration::from_secs(1);

/// Whose connections ended in floods.
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
    /// A connection from this address was a flood.
    pub fn ended(&self, address: IpAddr) {
        self.0.insert(network(address), ());
    }

    /// Whether there was one not long ago.
    pub fn remember(&self, address: IpAddr) -> bool {
        self.0.contains_key(&network(address))
    }
}

/// Who has been failing.
pub struct AuthThrottle(Cache<IpAddr, Arc<FailureRecord>>);

struct FailureRecord {
    failures: AtomicU32,
    turns: Arc<Semaphore>,
}

/// A turn to be verified, until dropped.
pub struct ThrottlePermit(Option<OwnedSemaphorePermit>);

impl ThrottlePermit {
    /// Whether it had to be waited for in a queue of its address.
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
    /// A request from this address was not from who it claimed to be from.
    pub fn failed(&self, address: IpAddr) {
        let fresh = || {
            Arc::new(FailureRecord {
                failures: AtomicU32::new(0),
                turns: Arc::new(Semaphore::new(AT_ONCE)),
            })
        };
        let address = network(address);
        // `get_with` is atomic: of racing first failures one makes the record and all count in it.
        let record = self.0.get_with(address, fresh);
        record.failures.fetch_add(1, Ordering::Relaxed);
        // It is remembered from its last failure on, however often it is looked at.
        self.0.insert(address, record);
        // So that the count of entries is no longer zero when the next request looks.
        self.0.run_pending_tasks();
    }

    /// Whether requests from this address have to take turns.
    pub fn is_failing(&self, address: IpAddr) -> bool {
        self.record(address).is_some()
    }

    fn record(&self, address: IpAddr) -> Option<Arc<FailureRecord>> {
        if self.0.entry_count() == 0 {
            // As a rule nobody is failing, and then nobody is looked up.
            return None;
        }
        let record = self.0.get(&network(address))?;
        (record.failures.load(Ordering::Relaxed) >= PATIENCE).then_some(record)
    }

    /// Waits for a turn to be verified; at once for everybody who has not been failing.
    pub async fn permit(&self, address: IpAddr) -> ThrottlePermit {
        match self.record(address) {
            Some(record) => ThrottlePermit(Arc::clone(&record.turns).acquire_owned().await.ok()),
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
    async fn who_keeps_failing_takes_turns_and_others_do_not_notice() {
        let penalties = AuthThrottle::default();
        let (guesser, shop) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..PATIENCE {
            assert!(!penalties.permit(guesser).await.is_limited());
            penalties.failed(guesser);
        }
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(penalties.permit(guesser).await);
        }
        assert!(turns.iter().all(ThrottlePermit::is_limited));
        let mut next = Box::pin(penalties.permit(guesser));
        let soon = Duration::from_millis(1);
        assert!(
            tokio::time::timeout(soon, &mut next).await.is_err(),
            "a fifth at once waits"
        );
        assert!(!penalties.permit(shop).await.is_limited());
        turns.pop();
        assert!(next.await.is_limited(), "it is not refused, it only waited");
    }

    #[test]
    fn a_flood_is_remembered_of_its_neighborhood_and_of_nobody_else() {
        let floods = RecentFloods::default();
        floods.ended(address("2001:db8::1"));
        assert!(floods.remember(address("2001:db8::2")));
        assert!(!floods.remember(address("2001:db8:0:1::1")));
    }

    #[tokio::test]
    async fn a_neighborhood_of_ipv6_addresses_is_one() {
        let penalties = AuthThrottle::default();
        for host in 0..PATIENCE {
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
