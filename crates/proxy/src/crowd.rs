//! Crowd: how many connections each address has open, and how much of what came over them is not proved to be
//! anybody's, so that one cannot take all there may be.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use crate::origin::{Origin, network};

/// Who has connections open. Of IPv6 a /64 counts as one address. It holds no more entries than connections are open.
pub struct Crowd {
    most: usize,
    open: Mutex<HashMap<IpAddr, Neighborhood>>,
}

#[derive(Default)]
struct Neighborhood {
    connections: usize,
    unproved: Arc<AtomicUsize>,
}

/// A connection's place in the crowd, until dropped.
pub struct Place {
    crowd: Arc<Crowd>,
    network: IpAddr,
    unproved: Arc<AtomicUsize>,
}

/// The other end of a connection.
pub struct Peer {
    /// Where it is.
    pub origin: Origin,
    /// Its place; a trusted proxy needs none, for behind it are many.
    pub place: Option<Place>,
}

impl Peer {
    /// How many bytes of requests that nobody proved yet came from its address, if that can be held against it.
    pub fn unproved(&self) -> Option<&Arc<AtomicUsize>> {
        self.place.as_ref().map(|place| &place.unproved)
    }
}

impl Crowd {
    /// So many for each.
    pub fn new(most: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self {
            most: most.get(),
            open: Mutex::default(),
        })
    }

    /// One more connection from this address, unless it has as many as it may.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let neighborhood = open.entry(network).or_default();
        if neighborhood.connections >= self.most {
            return None;
        }
        neighborhood.connections += 1;
        Some(Place {
            crowd: Arc::clone(self),
            network,
            unproved: Arc::clone(&neighborhood.unproved),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = &self.crowd.open;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn crowd(most: usize) -> Arc<Crowd> {
        Crowd::new(most.try_into().unwrap())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_so_many_and_gets_them_back() {
        let crowd = crowd(2);
        let one = crowd.enter(address("192.0.2.1"));
        let two = crowd.enter(address("192.0.2.1"));
        assert!(one.is_some() && two.is_some());
        assert!(crowd.enter(address("192.0.2.1")).is_none());
        assert!(crowd.enter(address("192.0.2.2")).is_some());
        drop(one);
        assert!(crowd.enter(address("192.0.2.1")).is_some());
    }

    #[test]
    fn of_ipv6_a_network_counts_as_one() {
        let crowd = crowd(1);
        let _one = crowd.enter(address("2001:db8::1"));
        assert!(crowd.enter(address("2001:db8::2")).is_none());
        assert!(crowd.enter(address("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn nobody_is_remembered_who_has_left() {
        let crowd = crowd(2);
        let places: Vec<_> = (0..=255)
            .map(|last| crowd.enter(address(&format!("192.0.2.{last}"))))
            .collect();
        drop(places);
        assert!(crowd.open.lock().unwrap().is_empty());
    }
}
