//! Special ranges: addresses that are not globally reachable unicast, by IANA's registries of special-purpose addresses
//! (RFC 6890 and its updates, RFC 9602, RFC 9637 and RFC 9780 among them).

// From `core`, which has no sockets.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is globally reachable unicast.
///
/// An IPv6 address that carries an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo) is not, whatever the IPv4
/// address is: a gateway on the way may reach a private address by it.
pub fn is_global_unicast(address: IpAddr) -> bool {
    special_range(address).is_none()
}

/// The name of the special range that an address belongs to.
///
/// Of IPv6, only `2000::/3` is assigned as global unicast; all other addresses are special.
pub fn special_range(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    let has = |(network, prefix, _): &&(Ipv4Addr, u32, &str)| {
        (bits ^ network.to_bits()).leading_zeros() >= *prefix
    };
    SPECIAL_V4.iter().find(has).map(|(_, _, name)| *name)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    let has = |(network, prefix, _): &&(Ipv6Addr, u32, &str)| {
        (bits ^ network.to_bits()).leading_zeros() >= *prefix
    };
    let named = SPECIAL_V6.iter().find(has).map(|(_, _, name)| *name);
    let is_assigned = bits >> 125 == 0b001;
    named.or((!is_assigned).then_some("not assigned as global unicast"))
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

const fn v6(a: u16, b: u16, c: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

/// IANA IPv4 Special-Purpose Address Registry, and multicast. Anycast services of the registry are special too, though
/// globally reachable: no tenant's endpoint is among them.
const SPECIAL_V4: [(Ipv4Addr, u32, &str); 19] = [
    (v4(0, 0, 0, 0), 8, "this network"),
    (v4(10, 0, 0, 0), 8, "private use"),
    (v4(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (v4(127, 0, 0, 0), 8, "loopback"),
    (v4(169, 254, 0, 0), 16, "link-local"),
    (v4(172, 16, 0, 0), 12, "private use"),
    (v4(192, 0, 0, 0), 24, "IETF protocol assignments"),
    (v4(192, 0, 2, 0), 24, "documentation"),
    (v4(192, 31, 196, 0), 24, "AS112"),
    (v4(192, 52, 193, 0), 24, "AMT"),
    (v4(192, 88, 99, 0), 24, "6to4 relay"),
    (v4(192, 168, 0, 0), 16, "private use"),
    (v4(192, 175, 48, 0), 24, "AS112"),
    (v4(198, 18, 0, 0), 15, "benchmarking"),
    (v4(198, 51, 100, 0), 24, "documentation"),
    (v4(203, 0, 113, 0), 24, "documentation"),
    (v4(224, 0, 0, 0), 4, "multicast"),
    (v4(255, 255, 255, 255), 32, "broadcast"),
    (v4(240, 0, 0, 0), 4, "reserved"),
];

/// IANA IPv6 Special-Purpose Address Registry, multicast, and the former site-local addresses.
const SPECIAL_V6: [(Ipv6Addr, u32, &str); 25] = [
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0),
        96,
        "IPv4-mapped",
    ),
    (
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0),
        96,
        "IPv4-translated",
    ),
    (Ipv6Addr::UNSPECIFIED, 96, "IPv4-compatible"),
    (v6(0x64, 0xff9b, 0), 96, "NAT64"),
    (v6(0x64, 0xff9b, 1), 48, "local-use NAT64"),
    (v6(0x100, 0, 0), 64, "discard"),
    (Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 0), 64, "dummy"),
    (v6(0x2001, 0, 0), 32, "Teredo"),
    (v6(0x2001, 2, 0), 48, "benchmarking"),
    (v6(0x2001, 3, 0), 32, "AMT"),
    (v6(0x2001, 0x10, 0), 28, "ORCHID"),
    (v6(0x2001, 0x20, 0), 28, "ORCHIDv2"),
    (v6(0x2001, 0x30, 0), 28, "drone remote identification"),
    (v6(0x2001, 0, 0), 23, "IETF protocol assignments"),
    (v6(0x2001, 0xdb8, 0), 32, "documentation"),
    (v6(0x2002, 0, 0), 16, "6to4"),
    (v6(0x2620, 0x4f, 0x8000), 48, "AS112"),
    (v6(0x3fff, 0, 0), 20, "documentation"),
    (v6(0x5f00, 0, 0), 16, "SRv6"),
    (v6(0xfc00, 0, 0), 7, "unique local"),
    (v6(0xfe80, 0, 0), 10, "link-local"),
    (v6(0xfec0, 0, 0), 10, "site-local"),
    (v6(0xff00, 0, 0), 8, "multicast"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(address: &str) -> Option<&'static str> {
        special_range(address.parse().unwrap())
    }

    #[test]
    fn the_first_and_last_address_of_each_range_are_special() {
        for (network, prefix, name) in SPECIAL_V4 {
            let first = network.to_bits();
            let last = first | u32::MAX.checked_shr(prefix).unwrap_or(0);
            assert_eq!(
                first & u32::MAX.checked_shr(prefix).unwrap_or(0),
                0,
                "{network}/{prefix}"
            );
            for bits in [first, last] {
                let found = special_range(Ipv4Addr::from_bits(bits).into());
                assert!(
                    found == Some(name) || found.is_some() && name == "reserved",
                    "{network}"
                );
            }
        }
        for (network, prefix, name) in SPECIAL_V6 {
            let first = network.to_bits();
            let last = first | u128::MAX.checked_shr(prefix).unwrap_or(0);
            assert_eq!(
                first & u128::MAX.checked_shr(prefix).unwrap_or(0),
                0,
                "{network}/{prefix}"
            );
            for bits in [first, last] {
                assert!(
                    special_range(Ipv6Addr::from_bits(bits).into()).is_some(),
                    "{network} {name}"
                );
            }
        }
    }

    #[test]
    fn addresses_beside_the_ranges_are_global() {
        for address in [
            "1.0.0.0",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2000::",
            "2001:200::",
            "2001:4860:4860::8888",
            "2001:db7:ffff::",
            "2001:db9::",
            "2003::1",
            "2606:2800:220:1::1",
            "2620:4f:7fff::",
            "2a00:1450::1",
            "3ffe::",
            "3fff:1000::",
            "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert_eq!(range(address), None, "{address}");
            assert!(is_global_unicast(address.parse().unwrap()));
        }
    }

    #[test]
    fn addresses_in_the_ranges_are_not_global() {
        for (address, name) in [
            ("0.0.0.0", "this network"),
            ("0.1.2.3", "this network"),
            ("10.0.0.1", "private use"),
            ("100.100.100.200", "carrier-grade NAT"),
            ("127.0.0.1", "loopback"),
            ("127.1.2.3", "loopback"),
            ("169.254.169.254", "link-local"),
            ("172.16.0.1", "private use"),
            ("172.31.255.255", "private use"),
            ("192.0.0.8", "IETF protocol assignments"),
            ("192.0.0.170", "IETF protocol assignments"),
            ("192.0.0.192", "IETF protocol assignments"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4 relay"),
            ("192.168.1.1", "private use"),
            ("198.19.255.255", "benchmarking"),
            ("203.0.113.7", "documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.250", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::2", "IPv4-compatible"),
            ("::127.0.0.1", "IPv4-compatible"),
            ("::ffff:127.0.0.1", "IPv4-mapped"),
            ("::ffff:8.8.8.8", "IPv4-mapped"),
            ("::ffff:0:10.0.0.1", "IPv4-translated"),
            ("64:ff9b::169.254.169.254", "NAT64"),
            ("64:ff9b::808:808", "NAT64"),
            ("64:ff9b:1::1", "local-use NAT64"),
            ("100::1", "discard"),
            ("100:0:0:1::1", "dummy"),
            ("2001::1", "Teredo"),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
            ("2001:1::1", "IETF protocol assignments"),
            ("2001:2::1", "benchmarking"),
            ("2001:4:112::1", "IETF protocol assignments"),
            ("2001:10::1", "ORCHID"),
            ("2001:2f::1", "ORCHIDv2"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::", "6to4"),
            ("2002:a00:1::1", "6to4"),
            ("3fff::1", "documentation"),
            ("3fff:fff::1", "documentation"),
            ("5f00::1", "SRv6"),
            ("fc00::1", "unique local"),
            ("fd00:ec2::254", "unique local"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("4000::1", "not assigned as global unicast"),
            ("1::1", "not assigned as global unicast"),
        ] {
            assert_eq!(range(address), Some(name), "{address}");
        }
    }

    proptest! {
        /// The standard library knows some of the ranges too.
        #[test]
        fn no_address_that_the_standard_library_calls_special_is_global(bits in any::<u32>(), wide in any::<u128>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            let is_special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_broadcast()
                || v4.is_documentation() || v4.is_multicast() || v4.is_unspecified();
            prop_assert!(!is_special || !is_global_unicast(v4.into()));
            for v6 in [v4.to_ipv6_mapped(), v4.to_ipv6_compatible()] {
                prop_assert!(!is_global_unicast(v6.into()));
            }
            let v6 = Ipv6Addr::from_bits(wide);
            let is_special = v6.is_loopback() || v6.is_multicast() || v6.is_unspecified()
                || v6.is_unique_local() || v6.is_unicast_link_local();
            prop_assert!(!is_special || !is_global_unicast(v6.into()));
        }
    }
}
