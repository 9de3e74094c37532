//! Address limits: each address's open connections, requests and unverified request bytes, so that one address cannot
//! take all that the limits allow.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gatepay_tenancy::settings::ListenSettings;
use parking_lot::Mutex;

use crate::callers::client_address::{ClientAddress, network};

/// The addresses with open connections. An IPv6 /64 counts as one address. The map has at most as many entries as
/// connections are open.
pub struct AddressLimits {
    max: AtomicUsize,
    open: Mutex<HashMap<IpAddr, AddressCounts>>,
    requests: RequestCounts,
}

/// The requests of all addresses.
struct RequestCounts {
    max: usize,
    open: AtomicUsize,
}

#[derive(Default)]
struct AddressCounts {
    connections: usize,
    shared: Arc<AddressShared>,
}

/// The counters that all connections of one address share.
#[derive(Default)]
struct AddressShared {
    requests: AtomicUsize,
    unauthenticated: Arc<AtomicUsize>,
}

/// The divisor of `listen.max_requests` that gives one address's share.
const SHARE: usize = 4;

/// A connection's slot among those of its address, held until dropped.
pub struct AddressSlot {
    limits: Arc<AddressLimits>,
    network: IpAddr,
    shared: Arc<AddressShared>,
}

/// A request's slot, held until dropped: as long as anything of the request or its answer is held.
pub struct RequestSlot {
    limits: Arc<AddressLimits>,
    /// The counters of its address. `None` for a trusted proxy, which may use all slots.
    shared: Option<Arc<AddressShared>>,
}

/// The peer of a connection.
pub struct ConnectionPeer {
    /// The peer's address.
    pub origin: ClientAddress,
    /// The connection's slot. A trusted proxy needs none, because it stands for many callers.
    pub address_slot: Option<AddressSlot>,
}

impl ConnectionPeer {
    /// The counter of unverified request bytes from the peer's address, if limits apply to it.
    pub fn unauthenticated_bytes(&self) -> Option<&Arc<AtomicUsize>> {
        self.address_slot
            .as_ref()
            .map(|address_slot| &address_slot.shared.unauthenticated)
    }
}

impl AddressLimits {
    /// The limits of these settings: connections for each address, and requests for all.
    pub fn new(listen: &ListenSettings) -> Arc<Self> {
        Arc::new(Self {
            max: AtomicUsize::new(listen.max_connections_per_address.get()),
            open: Mutex::default(),
            requests: RequestCounts {
                max: listen.max_requests.get(),
                open: AtomicUsize::new(0),
            },
        })
    }

    /// Sets how many connections an address may have from now on.
    pub fn limit_addresses_to(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// A slot for one more connection from this address, unless the address has as many as it may.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<AddressSlot> {
        let network = network(address);
        let mut open = self.open.lock();
        let neighborhood = open.entry(network).or_default();
        if neighborhood.connections >= self.max.load(Ordering::Relaxed) {
            return None;
        }
        neighborhood.connections += 1;
        Some(AddressSlot {
            limits: Arc::clone(self),
            network,
            shared: Arc::clone(&neighborhood.shared),
        })
    }

    /// A slot for one more request of this peer, unless its address or all addresses together have as many as they may.
    pub fn request_slot(self: &Arc<Self>, peer: &ConnectionPeer) -> Option<RequestSlot> {
        // Dropping the slot releases both counts, also after a refusal.
        let request_slot = RequestSlot {
            limits: Arc::clone(self),
            shared: peer
                .address_slot
                .as_ref()
                .map(|address_slot| Arc::clone(&address_slot.shared)),
        };
        let RequestCounts { max, open } = &self.requests;
        let all = open.fetch_add(1, Ordering::Relaxed) < *max;
        let share = max.div_ceil(SHARE);
        let own = request_slot
            .shared
            .as_ref()
            .is_none_or(|shared| shared.requests.fetch_add(1, Ordering::Relaxed) < share);
        (all && own).then_some(request_slot)
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.limits.requests.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(shared) = &self.shared {
            shared.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for RequestSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seat")
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let open = &self.limits.open;
        let mut open = open.lock();
        if let Entry::Occupied(mut neighborhood) = open.entry(self.network) {
            neighborhood.get_mut().connections -= 1;
            if neighborhood.get().connections == 0 {
                neighborhood.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::client_address::TrustedProxies;

    fn limits(max: usize) -> Arc<AddressLimits> {
        AddressLimits::new(&ListenSettings {
            max_connections_per_address: max.try_into().unwrap(),
            max_requests: 8.try_into().unwrap(),
            ..ListenSettings::default()
        })
    }

    fn peer(limits: &Arc<AddressLimits>, text: &str, trusted: &[ipnet::IpNet]) -> ConnectionPeer {
        let origin = TrustedProxies::new(trusted).origin(address(text));
        let address_slot = origin
            .attributable()
            .map(|address| limits.enter(address).unwrap());
        ConnectionPeer {
            origin,
            address_slot,
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_so_many_and_gets_them_back() {
        let limits = limits(2);
        let one = limits.enter(address("192.0.2.1"));
        let two = limits.enter(address("192.0.2.1"));
        assert!(one.is_some() && two.is_some());
        assert!(limits.enter(address("192.0.2.1")).is_none());
        assert!(limits.enter(address("192.0.2.2")).is_some());
        drop(one);
        assert!(limits.enter(address("192.0.2.1")).is_some());
    }

    #[test]
    fn of_ipv6_a_network_counts_as_one() {
        let limits = limits(1);
        let _one = limits.enter(address("2001:db8::1"));
        assert!(limits.enter(address("2001:db8::2")).is_none());
        assert!(limits.enter(address("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn one_address_has_a_part_of_all_requests_and_a_refused_request_takes_none() {
        let limits = limits(2);
        let (one, again) = (
            peer(&limits, "192.0.2.1", &[]),
            peer(&limits, "192.0.2.1", &[]),
        );
        let first = limits.request_slot(&one);
        let second = limits.request_slot(&again);
        assert!(first.is_some() && second.is_some());
        for _ in 0..20 {
            assert!(limits.request_slot(&one).is_none());
        }
        // All others together have the rest, a trusted proxy among them.
        let proxy = peer(
            &limits,
            "192.0.2.2",
            &["192.0.2.2/32".parse::<ipnet::IpNet>().unwrap()],
        );
        let rest: Vec<_> = (0..6)
            .map(|_| limits.request_slot(&proxy).unwrap())
            .collect();
        assert!(limits.request_slot(&proxy).is_none());
        assert!(
            limits
                .request_slot(&peer(&limits, "192.0.2.3", &[]))
                .is_none()
        );
        drop((first, rest));
        assert!(limits.request_slot(&again).is_some());
        drop(second);
        assert_eq!(limits.requests.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_address_without_connections_is_forgotten() {
        let limits = limits(2);
        let places: Vec<_> = (0..=255)
            .map(|last| limits.enter(address(&format!("192.0.2.{last}"))))
            .collect();
        drop(places);
        assert!(limits.open.lock().is_empty());
    }
}
