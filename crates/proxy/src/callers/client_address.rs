//! The client address of a connection or request. Only trusted proxies may say that it differs from the peer's.
//!
//! A connection comes from its peer, or from the address in a trusted peer's PROXY header. A request comes from its
//! connection's address; if that is a trusted proxy's, from the last untrusted address in `X-Forwarded-For`.

use gatepay_http1::request_head::RequestHead;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// An address, and whether it is a trusted proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    /// The address. An IPv4 address in IPv6 form is stored as IPv4.
    pub address: IpAddr,
    trusted: bool,
}

/// The networks of `listen.trusted_proxies`.
pub struct TrustedProxies(Vec<IpNet>);

impl ClientAddress {
    /// Whether the address is a trusted proxy's, which may name another address.
    pub fn is_trusted(self) -> bool {
        self.trusted
    }

    /// The address, if limits may apply to it. A trusted proxy's is exempt, because it stands for many callers.
    pub fn attributable(self) -> Option<IpAddr> {
        (!self.trusted).then_some(self.address)
    }
}

impl TrustedProxies {
    /// Trusts these networks.
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.to_vec())
    }

    /// Classifies an address as trusted or not.
    pub fn origin(&self, address: IpAddr) -> ClientAddress {
        let address = address.to_canonical();
        ClientAddress {
            address,
            trusted: self.0.iter().any(|network| network.contains(&address)),
        }
    }

    /// The client address of a request that arrived on `connection`.
    ///
    /// Several `X-Forwarded-For` lines form one list. Each proxy appends its peer's address, so only the end of the
    /// list is reliable: read backwards, up to the first address that is untrusted or unreadable.
    pub fn caller(&self, connection: ClientAddress, head: &RequestHead<'_>) -> ClientAddress {
        if !connection.trusted {
            return connection;
        }
        let mut origin = connection;
        let lines: Vec<_> = head.all(FORWARDED_FOR).collect();
        for line in lines.into_iter().rev() {
            let Ok(line) = str::from_utf8(line) else {
                return origin;
            };
            for hop in line
                .rsplit(',')
                .map(str::trim)
                .filter(|hop| !hop.is_empty())
            {
                if !origin.trusted {
                    return origin;
                }
                let Some(address) = hop_address(hop) else {
                    return origin;
                };
                origin = self.origin(address);
            }
        }
        origin
    }
}

/// Parses an address as proxies write it: bare, in brackets, or with a port.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || hop.parse().ok().map(|hop: SocketAddr| hop.ip());
    hop.parse().ok().or_else(bracketed).or_else(with_port)
}

/// The network that counts as one address: for IPv6 the /64, because a host with one IPv6 address has a whole /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[4..].fill(0);
            IpAddr::V6(segments.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    fn trusted() -> TrustedProxies {
        TrustedProxies::new(
            &["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().unwrap()),
        )
    }

    fn caller(peer: &str, lines: &[&[u8]]) -> (String, bool) {
        let trusted = trusted();
        let (mut parts, ()) = Request::new(()).into_parts();
        for line in lines {
            let line = HeaderValue::from_bytes(line).unwrap();
            parts.headers.append(FORWARDED_FOR, line);
        }
        let head = RequestHead::of_parts(&parts);
        let origin = trusted.caller(trusted.origin(peer.parse().unwrap()), &head);
        (origin.address.to_string(), origin.is_trusted())
    }

    #[test]
    fn the_last_address_that_no_trusted_proxy_has_is_the_callers() {
        for (peer, lines, address) in [
            ("10.0.0.1", &[&b"192.0.2.1"[..]][..], "192.0.2.1"),
            ("10.0.0.1", &[b"203.0.113.9, 192.0.2.1"], "192.0.2.1"),
            (
                "10.0.0.1",
                &[b"203.0.113.9,192.0.2.1 ,\t10.9.9.9"],
                "192.0.2.1",
            ),
            (
                "10.0.0.1",
                &[b"203.0.113.9", b"192.0.2.1", b"10.2.0.1"],
                "192.0.2.1",
            ),
            ("10.0.0.1", &[b"192.0.2.1:50123"], "192.0.2.1"),
            ("10.0.0.1", &[b"[2001:db8::7]:443"], "2001:db8::7"),
            ("10.0.0.1", &[b"[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1", &[b"2001:db8::7, 2001:db8:1::2"], "2001:db8::7"),
            ("::ffff:10.0.0.1", &[b"::ffff:192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &[b", ,192.0.2.1,,", b""], "192.0.2.1"),
        ] {
            assert_eq!(
                caller(peer, lines),
                (address.to_owned(), false),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn forwarded_addresses_of_an_untrusted_peer_are_ignored() {
        for line in ["192.0.2.1", "10.0.0.1", "junk", ""] {
            let seen = caller("198.51.100.7", &[line.as_bytes()]);
            assert_eq!(seen, ("198.51.100.7".to_owned(), false), "{line}");
        }
    }

    #[test]
    fn junk_ends_the_list_at_the_proxy_that_passed_it_on() {
        for line in [
            &b"192.0.2.1, unknown"[..],
            b"192.0.2.1, 192.0.2.1.1",
            b"192.0.2.1, \xff",
            b"192.0.2.1, for=192.0.2.1",
            b"192.0.2.1 10.0.0.1",
        ] {
            assert_eq!(caller("10.0.0.1", &[line]), ("10.0.0.1".to_owned(), true));
        }
        let behind_two = caller("10.0.0.1", &[b"192.0.2.1, -, 10.0.0.2"]);
        assert_eq!(behind_two, ("10.0.0.2".to_owned(), true));
    }

    #[test]
    fn a_trusted_proxy_that_names_no_caller_is_the_caller() {
        assert_eq!(caller("10.0.0.1", &[]), ("10.0.0.1".to_owned(), true));
        assert_eq!(
            caller("10.0.0.1", &[b"10.0.0.2"]),
            ("10.0.0.2".to_owned(), true)
        );
    }

    proptest! {
        #[test]
        fn the_address_added_by_the_trusted_proxy_wins_over_any_that_callers_write(
            written in proptest::collection::vec("[ -~]{0,40}", 0..4),
        ) {
            let lines: Vec<&[u8]> = written
                .iter()
                .map(String::as_bytes)
                .chain([&b"192.0.2.1"[..]])
                .collect();
            prop_assert_eq!(caller("10.0.0.1", &lines), ("192.0.2.1".to_owned(), false));
        }
    }
}
