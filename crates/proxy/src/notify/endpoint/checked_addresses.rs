//! Checked addresses: the addresses of an endpoint at this moment, each of them allowed.
//!
//! A name may have other addresses at the next look-up (DNS rebinding). So a name is resolved and checked anew for each
//! connection, and the connection goes to the address that was checked.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use gatepay_core::destination::{DestinationHost, DestinationUrl, special_range};
use gatepay_tenancy::notifications::EndpointBounds;
use tokio::net::lookup_host;
use tokio::sync::Semaphore;

/// The addresses of a name, once they are known.
pub type NameLookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Resolves names.
pub trait NameResolver: Send + Sync {
    /// All addresses of a name, with this port.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> NameLookup<'a>;
}

/// The system's resolver.
pub struct SystemResolver;

impl NameResolver for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> NameLookup<'a> {
        Box::pin(async move { Ok(lookup_host((name, port)).await?.collect()) })
    }
}

/// Why an endpoint has no address to connect to.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// An address of the endpoint is special and not allowed. The others are not used either: the name is not what its
    /// tenant says.
    #[error("the address {address} is not on the public Internet ({range})")]
    Forbidden {
        /// The address.
        address: IpAddr,
        /// The name of its range.
        range: &'static str,
    },
    /// The name was not resolved.
    #[error("name resolution: {0}")]
    Unresolved(io::Error),
    /// The name has no address.
    #[error("the name has no address")]
    NoAddress,
}

/// The addresses of a URL, each of them allowed. A look-up holds a permit of `lookups` until it ends: the system's
/// resolver cannot be stopped, so a look-up may outlive the attempt that began it.
pub async fn checked_addresses(
    url: &DestinationUrl,
    bounds: &EndpointBounds,
    resolver: &Arc<dyn NameResolver>,
    lookups: &Arc<Semaphore>,
) -> Result<Vec<SocketAddr>, AddressError> {
    let addresses = match url.host() {
        DestinationHost::Address(address) => vec![SocketAddr::new(*address, url.port())],
        DestinationHost::Name(name) => {
            let found = resolve(name.clone(), url.port(), resolver, lookups).await;
            found.map_err(AddressError::Unresolved)?
        }
    };
    for address in addresses.iter().map(SocketAddr::ip) {
        if let Some(range) = forbidding_range(address, bounds) {
            return Err(AddressError::Forbidden { address, range });
        }
    }
    if addresses.is_empty() {
        return Err(AddressError::NoAddress);
    }
    Ok(addresses)
}

/// The special range that forbids an address.
fn forbidding_range(address: IpAddr, bounds: &EndpointBounds) -> Option<&'static str> {
    special_range(address).filter(|_| !bounds.allows(address))
}

async fn resolve(
    name: String,
    port: u16,
    resolver: &Arc<dyn NameResolver>,
    lookups: &Arc<Semaphore>,
) -> io::Result<Vec<SocketAddr>> {
    let permit = Arc::clone(lookups).acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let resolver = Arc::clone(resolver);
    let lookup = tokio::spawn(async move {
        let found = resolver.resolve(&name, port).await;
        drop(permit);
        found
    });
    let found = lookup.await.map_err(io::Error::other)??;
    // The port is the URL's, whatever the resolver says.
    let with_port = |mut address: SocketAddr| {
        address.set_port(port);
        address
    };
    Ok(found.into_iter().map(with_port).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowed_network_is_an_exception_for_its_addresses_alone() {
        let allow_networks = ["10.1.0.0/16", "fd00:1::/32"].map(|net| net.parse().unwrap());
        let bounds = EndpointBounds {
            allow_networks: allow_networks.into(),
            ..EndpointBounds::default()
        };
        for (address, allowed) in [
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("::ffff:10.1.2.3", false),
            ("fd00:1::5", true),
            ("fd00:2::5", false),
            ("8.8.8.8", true),
        ] {
            let range = forbidding_range(address.parse().unwrap(), &bounds);
            assert_eq!(range.is_none(), allowed, "{address}");
        }
    }
}
