//! Destination policy: the institution's rules about the URLs and addresses of tenants' endpoints.

use std::net::IpAddr;

use gatepay_core::destination::{
    DestinationError, DestinationRules, DestinationUrl, special_range,
};
use ipnet::IpNet;

/// The rules of `[notifications]` in `proxy.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationPolicy {
    /// The ports that an endpoint may have.
    pub ports: Vec<u16>,
    /// Special addresses that an endpoint may have, for example of a tenant in the institution's own network.
    pub allow_networks: Vec<IpNet>,
}

impl Default for DestinationPolicy {
    /// HTTPS's port and its usual alternative; no special address.
    fn default() -> Self {
        Self {
            ports: vec![443, 8_443],
            allow_networks: Vec::new(),
        }
    }
}

impl DestinationPolicy {
    /// Parses a URL and checks it against the rules.
    pub fn parse(&self, url: &str) -> Result<DestinationUrl, DestinationError> {
        let rules = DestinationRules {
            ports: &self.ports,
            allows: &|address| self.allows(address),
        };
        DestinationUrl::parse(url, &rules)
    }

    /// Whether an address is allowed although it is special.
    fn allows(&self, address: IpAddr) -> bool {
        let mut networks = self.allow_networks.iter();
        networks.any(|network| network.contains(&address))
    }

    /// The special range that forbids an address.
    pub fn forbidding_range(&self, address: IpAddr) -> Option<&'static str> {
        special_range(address).filter(|_| !self.allows(address))
    }
}
