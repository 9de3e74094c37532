//! Caller shares: the connections and the bytes of bodies that each address holds at the listener for notifications, so
//! that no address can shut out the others.
//!
//! An address may hold a part of what the others leave. The more addresses hold as much as they may, the smaller the part of
//! the next one, but something is left for it. Many addresses together can take all connections: an address without one
//! then gets the place of the longest of those that have sent nothing signed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::callers::client_address::network;

/// The part of what others leave that one address may hold, as a divisor: a proxy in front of the listener is one address.
const PART: usize = 4;

/// What all callers hold. An IPv6 /64 counts as one address.
pub struct CallerShares(Mutex<SharedPools>);

struct SharedPools {
    connections: SharedPool,
    bytes: SharedPool,
    /// The connections that have sent nothing signed, by their number: the longest first.
    unproved: BTreeMap<u64, UnprovedConnection>,
    opened: u64,
}

struct UnprovedConnection {
    address: IpAddr,
    evicted: Arc<Notify>,
}

/// A number of like things, and how many of them each address holds.
struct SharedPool {
    size: usize,
    used: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection of an address, until dropped.
pub struct CallerConnection {
    shares: Arc<CallerShares>,
    address: IpAddr,
    number: u64,
    evicted: Arc<Notify>,
    is_proved: AtomicBool,
}

/// The memory of a body that an address sends, until dropped.
pub struct BodyShare<'c> {
    caller: &'c CallerConnection,
    bytes: usize,
}

impl CallerShares {
    /// The shares of this number of connections and of bytes.
    pub fn new(connections: usize, bytes: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(SharedPools {
            connections: SharedPool::new(connections),
            bytes: SharedPool::new(bytes),
            unproved: BTreeMap::new(),
            opened: 0,
        })))
    }

    /// Takes a connection, unless its address holds as many as it may. An address without one gets the place of another
    /// connection if none is free.
    pub fn connection(self: &Arc<Self>, address: IpAddr) -> Option<CallerConnection> {
        let address = network(address);
        let mut pools = self.0.lock();
        if !pools.connections.take(address, 1) {
            pools.evict_for(address)?;
        }
        let (number, evicted) = (pools.opened, Arc::new(Notify::new()));
        pools.opened += 1;
        let unproved = UnprovedConnection {
            address,
            evicted: Arc::clone(&evicted),
        };
        pools.unproved.insert(number, unproved);
        drop(pools);
        Some(CallerConnection {
            shares: Arc::clone(self),
            address,
            number,
            evicted,
            is_proved: AtomicBool::new(false),
        })
    }
}

impl CallerConnection {
    /// The memory of a body: nothing yet.
    pub fn body(&self) -> BodyShare<'_> {
        let (caller, bytes) = (self, 0);
        BodyShare { caller, bytes }
    }

    /// The address, or the network that counts as one.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Notes that GatePay has signed a call of the connection: its place is its own from now on.
    pub fn prove(&self) {
        let unproved = &mut self.shares.0.lock().unproved;
        if unproved.remove(&self.number).is_some() {
            self.is_proved.store(true, Ordering::Release);
        }
    }

    /// Waits until another connection has got this one's place.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl BodyShare<'_> {
    /// Takes more bytes. Returns whether the address may hold them.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let mut pools = self.caller.shares.0.lock();
        let is_taken = pools.bytes.take(self.caller.address, bytes);
        if is_taken {
            self.bytes += bytes;
        }
        is_taken
    }
}

impl Drop for CallerConnection {
    fn drop(&mut self) {
        let mut pools = self.shares.0.lock();
        let is_unproved = pools.unproved.remove(&self.number).is_some();
        // The place of an evicted one is another's.
        if is_unproved || self.is_proved.load(Ordering::Acquire) {
            pools.connections.give(self.address, 1);
        }
    }
}

impl SharedPools {
    /// Takes a connection for an address that holds none, in the place of the longest one that has sent nothing signed.
    fn evict_for(&mut self, address: IpAddr) -> Option<()> {
        if self.connections.by_address.contains_key(&address) {
            return None;
        }
        let (_, longest) = self.unproved.pop_first()?;
        longest.evicted.notify_one();
        self.connections.give(longest.address, 1);
        self.connections.take(address, 1).then_some(())
    }
}

impl Drop for BodyShare<'_> {
    fn drop(&mut self) {
        let mut pools = self.caller.shares.0.lock();
        pools.bytes.give(self.caller.address, self.bytes);
    }
}

impl SharedPool {
    fn new(size: usize) -> Self {
        Self {
            size,
            used: 0,
            by_address: HashMap::new(),
        }
    }

    fn take(&mut self, address: IpAddr, count: usize) -> bool {
        let own = self.by_address.get(&address).copied().unwrap_or(0);
        let others = self.used - own;
        let share = (self.size - others).div_ceil(PART);
        let is_free = own + count <= share;
        if is_free {
            self.used += count;
            self.by_address.insert(address, own + count);
        }
        is_free
    }

    fn give(&mut self, address: IpAddr, count: usize) {
        self.used -= count;
        if let Some(own) = self.by_address.get_mut(&address) {
            *own -= count;
            if *own == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn an_address_holds_a_quarter_of_what_others_leave() {
        let shares = CallerShares::new(256, 1 << 20);
        let all_of = |number| -> Vec<CallerConnection> {
            std::iter::from_fn(|| shares.connection(address(number))).collect()
        };
        let (first, second) = (all_of(1), all_of(2));
        assert_eq!((first.len(), second.len()), (64, 48));
        drop(first);
        assert_eq!(all_of(3).len(), 52);
        drop(second);
        assert_eq!(all_of(1).len(), 64);
    }

    #[test]
    fn an_address_that_holds_nothing_gets_a_connection_while_one_is_free() {
        let shares = CallerShares::new(8, 1);
        let held: Vec<_> = (0..8)
            .map(|number| shares.connection(address(number)))
            .collect();
        assert!(held.iter().all(Option::is_some));
        assert!(shares.connection(address(7)).is_none(), "none is free");
        for one in held.iter().flatten() {
            one.prove();
        }
        assert!(shares.connection(address(9)).is_none(), "all are proved");
    }

    #[tokio::test]
    async fn an_address_without_a_connection_gets_the_place_of_the_longest_unproved_one() {
        let shares = CallerShares::new(8, 1);
        let held: Vec<_> = (0..8)
            .filter_map(|number| shares.connection(address(number)))
            .collect();
        held[0].prove();
        let ninth = shares.connection(address(9)).unwrap();
        held[1].evicted().await;
        let tenth = shares.connection(address(10)).unwrap();
        held[2].evicted().await;
        // A call that was verified at the same moment changes nothing.
        held[1].prove();
        drop((held, ninth, tenth));
        let pools = shares.0.lock();
        assert_eq!(pools.connections.used, 0);
        assert!(pools.connections.by_address.is_empty() && pools.unproved.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let shares = CallerShares::new(4, 4);
        let connection = |text: &str| shares.connection(text.parse().unwrap());
        let _one = connection("2001:db8::1").unwrap();
        assert!(connection("2001:db8::2").is_none());
        assert!(connection("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn memory_for_a_body_is_taken_as_it_grows_and_given_back_whole() {
        let shares = CallerShares::new(100, 400);
        let (one, other) = (
            shares.connection(address(1)).unwrap(),
            shares.connection(address(2)).unwrap(),
        );
        let again = shares.connection(address(1)).unwrap();
        let (mut first, mut second) = (one.body(), again.body());
        assert!(first.grow(60) && second.grow(40));
        assert!(!first.grow(1), "the bodies of one address share its part");
        assert!(other.body().grow(75));
        drop(first);
        assert!(second.grow(60));
    }

    proptest! {
        #[test]
        fn no_pool_gives_more_than_it_has(takes in prop::collection::vec((0..20_u8, 0..50_usize), 1..200)) {
            let shares = CallerShares::new(1_000, 300);
            let callers: Vec<_> = (0..20).map(|number| shares.connection(address(number)).unwrap()).collect();
            let mut bodies: Vec<_> = callers.iter().map(CallerConnection::body).collect();
            for (number, bytes) in takes {
                bodies[usize::from(number)].grow(bytes);
            }
            prop_assert!(bodies.iter().map(|body| body.bytes).sum::<usize>() <= 300);
            drop(bodies);
            prop_assert_eq!(shares.0.lock().bytes.used, 0);
            prop_assert!(shares.0.lock().bytes.by_address.is_empty());
        }
    }
}
