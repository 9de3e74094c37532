//! Destination URL: the rules for a tenant's notification endpoint, against forged requests to inner networks (SSRF).
//!
//! A URL has one spelling here: what this parser accepts, every client reads in the same way. The rules are half of the
//! protection. The other half is the caller's: it resolves the name itself, refuses each address for which
//! [`is_global_unicast`] is false, and connects to exactly that address, anew for each connection. A redirect is a
//! failed delivery.

mod special_ranges;

// From `core`, which has no sockets.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

pub use special_ranges::{is_global_unicast, special_range};

/// The institution's settings for destinations.
pub struct DestinationRules<'r> {
    /// The ports that a destination may have: `[notifications] ports`.
    pub ports: &'r [u16],
    /// Whether an address is allowed although it is special: `[notifications] allow_networks`.
    pub allows: &'r dyn Fn(IpAddr) -> bool,
}

/// An endpoint's URL that keeps the rules.
///
/// Its text is not printed beyond the origin, since paths and queries of webhooks often hold a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DestinationUrl {
    host: DestinationHost,
    port: u16,
    path_and_query: String,
}

/// The host of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DestinationHost {
    /// A DNS name in lower case, without a final dot.
    Name(String),
    /// An address that is global unicast or allowed.
    Address(IpAddr),
}

/// Why a text is not a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The scheme is not `https`, in lower case.
    #[error("must begin with https://")]
    NotHttps,
    /// The text is longer than [`LONGEST_URL`].
    #[error("must have at most 2048 bytes")]
    TooLong,
    /// A character has no place in a URL, or is one that clients read differently, such as a backslash.
    #[error(
        "must have only characters of a URL; write a name outside ASCII in its xn-- form, others as %XX"
    )]
    Character,
    /// The URL has a fragment, which is never sent.
    #[error("must not have a fragment (#)")]
    Fragment,
    /// The URL has a user or a password.
    #[error("must not have a user or password (@)")]
    UserInfo,
    /// The port is not one of the configured ones, or has another spelling than plain digits.
    #[error("has a port that notifications.ports does not list")]
    Port,
    /// The host is not a DNS name with a dot.
    #[error("must name a host by its full DNS name")]
    Host,
    /// The host is a number, or an address in another spelling than the usual one.
    #[error("spells an address in an unusual way")]
    UnusualAddress,
    /// The host is an address in a special range, or a name of this machine.
    #[error(
        "names a host that is not on the public Internet ({0}); notifications.allow_networks can allow it"
    )]
    Special(&'static str),
    /// A `%` is not followed by two hexadecimal digits.
    #[error("has a % without two hexadecimal digits")]
    Escape,
}

/// The largest length of a URL, in bytes.
pub const LONGEST_URL: usize = 2_048;

const HTTPS_PORT: u16 = 443;

impl DestinationUrl {
    /// Parses a URL and checks it against the rules.
    pub fn parse(text: &str, rules: &DestinationRules<'_>) -> Result<Self, DestinationError> {
        let rest = text
            .strip_prefix("https://")
            .ok_or(DestinationError::NotHttps)?;
        check_characters(text)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(end);
        if authority.contains('@') {
            return Err(DestinationError::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        let port = port.map_or(Ok(HTTPS_PORT), parse_port)?;
        if !rules.ports.contains(&port) {
            return Err(DestinationError::Port);
        }
        let host = DestinationHost::parse(host)?;
        host.check(rules)?;
        check_escapes(path_and_query)?;
        let slash = if path_and_query.starts_with('/') {
            ""
        } else {
            "/"
        };
        Ok(Self {
            host,
            port,
            path_and_query: format!("{slash}{path_and_query}"),
        })
    }

    /// The host.
    pub fn host(&self) -> &DestinationHost {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path and query as written; at least `/`.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The value of the `Host` header: the host, and the port unless it is 443.
    pub fn authority(&self) -> String {
        match self.port {
            HTTPS_PORT => self.host.to_string(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// Whether both URLs have the same host and port.
    pub fn has_origin_of(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }

    /// Whether the URL is an origin alone, as `[notifications] urls` lists them.
    pub fn is_origin(&self) -> bool {
        self.path_and_query == "/"
    }
}

impl fmt::Display for DestinationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl fmt::Debug for DestinationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DestinationUrl({self}/..)")
    }
}

impl fmt::Display for DestinationHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl DestinationHost {
    fn parse(text: &str) -> Result<Self, DestinationError> {
        if let Some(address) = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
        {
            let usual = |parsed: &Ipv6Addr| parsed.to_string() == address;
            let parsed = address.parse().ok().filter(usual);
            return parsed
                .map(|address: Ipv6Addr| Self::Address(address.into()))
                .ok_or(DestinationError::UnusualAddress);
        }
        if is_numeric(text) {
            let usual = |parsed: &Ipv4Addr| parsed.to_string() == text;
            let parsed = text.parse().ok().filter(usual);
            return parsed
                .map(|address: Ipv4Addr| Self::Address(address.into()))
                .ok_or(DestinationError::UnusualAddress);
        }
        let name = text.to_ascii_lowercase();
        let is_full = name.contains('.') || name == LOCALHOST;
        if name.len() <= 253 && is_full && name.split('.').all(is_label) {
            Ok(Self::Name(name))
        } else {
            Err(DestinationError::Host)
        }
    }

    /// Checks an address, and the names that mean this machine (RFC 6761).
    fn check(&self, rules: &DestinationRules<'_>) -> Result<(), DestinationError> {
        let address = match self {
            Self::Name(name) if is_localhost(name) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Name(_) => return Ok(()),
            Self::Address(address) => *address,
        };
        match special_range(address) {
            Some(range) if !(rules.allows)(address) => Err(DestinationError::Special(range)),
            _ => Ok(()),
        }
    }
}

const LOCALHOST: &str = "localhost";

fn is_localhost(name: &str) -> bool {
    let before = name.strip_suffix(LOCALHOST);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Whether a client may take a host for an IPv4 address: its last label is a decimal, octal or hexadecimal number (WHATWG
/// URL, "ends in a number"). A final dot hides no number.
fn is_numeric(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_hex = hex.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    is_hex || (!last.is_empty() && last.bytes().all(|digit| digit.is_ascii_digit()))
}

/// A label of a host name: letters, digits and inner hyphens (RFC 1123, 2.1).
fn is_label(label: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(is_inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn check_characters(text: &str) -> Result<(), DestinationError> {
    if text.len() > LONGEST_URL {
        return Err(DestinationError::TooLong);
    }
    let is_refused = |byte: u8| !byte.is_ascii_graphic() || br#""<>\^`{|}"#.contains(&byte);
    if text.bytes().any(is_refused) {
        return Err(DestinationError::Character);
    }
    if text.contains('#') {
        return Err(DestinationError::Fragment);
    }
    Ok(())
}

/// Host and port of an authority without a user.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), DestinationError> {
    let end_of_host = match authority.find(']') {
        Some(at) if authority.starts_with('[') => at + 1,
        _ => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end_of_host);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(DestinationError::Host),
    }
}

/// A port of plain digits without a leading zero.
fn parse_port(text: &str) -> Result<u16, DestinationError> {
    let is_plain = text.bytes().all(|digit| digit.is_ascii_digit()) && !text.starts_with('0');
    let port = is_plain.then(|| text.parse().ok());
    port.flatten().ok_or(DestinationError::Port)
}

fn check_escapes(path_and_query: &str) -> Result<(), DestinationError> {
    let mut parts = path_and_query.split('%');
    let _before_the_first = parts.next();
    let is_escape = |part: &str| {
        let digits = part.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if parts.all(is_escape) {
        Ok(())
    } else {
        Err(DestinationError::Escape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<DestinationUrl, DestinationError> {
        let rules = DestinationRules {
            ports: &[443, 8_443],
            allows: &|_| false,
        };
        DestinationUrl::parse(text, &rules)
    }

    #[test]
    fn ordinary_urls_are_accepted_as_written() {
        for (text, host, port, path) in [
            (
                "https://shop.example/gatepay/notify",
                "shop.example",
                443,
                "/gatepay/notify",
            ),
            ("https://shop.example", "shop.example", 443, "/"),
            ("https://shop.example?a=b", "shop.example", 443, "/?a=b"),
            ("https://shop.example:443/", "shop.example", 443, "/"),
            (
                "https://SHOP.Example:8443/A%2fb?c=%20&d=[1]",
                "shop.example",
                8_443,
                "/A%2fb?c=%20&d=[1]",
            ),
            (
                "https://xn--bcher-kva.example/x;y=1,2",
                "xn--bcher-kva.example",
                443,
                "/x;y=1,2",
            ),
            (
                "https://a-1.0x2.example/@user:pass",
                "a-1.0x2.example",
                443,
                "/@user:pass",
            ),
            (
                "https://127.0.0.1.nip.example/",
                "127.0.0.1.nip.example",
                443,
                "/",
            ),
            ("https://93.184.216.34/hook", "93.184.216.34", 443, "/hook"),
            (
                "https://[2606:2800:220:1::1]:8443/",
                "[2606:2800:220:1::1]",
                8_443,
                "/",
            ),
        ] {
            let url = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (&*url.host().to_string(), url.port(), url.path_and_query()),
                (host, port, path)
            );
        }
    }

    /// Ways to name a forbidden host, or to let two parsers see two hosts.
    const REFUSED: [(&str, DestinationError); 122] = {
        use DestinationError::{
            Character, Escape, Fragment, Host, NotHttps, Port, Special, UnusualAddress, UserInfo,
        };
        [
            // Schemes.
            ("", NotHttps),
            ("shop.example", NotHttps),
            ("http://shop.example/", NotHttps),
            ("HTTPS://shop.example/", NotHttps),
            ("https:/shop.example/", NotHttps),
            ("https:shop.example/", NotHttps),
            ("//shop.example/", NotHttps),
            (" https://shop.example/", NotHttps),
            ("file:///etc/passwd", NotHttps),
            ("ftp://shop.example/", NotHttps),
            ("gopher://shop.example/", NotHttps),
            ("https+unix://shop.example/", NotHttps),
            // Users, and what hides a host behind one.
            ("https://user@shop.example/", UserInfo),
            ("https://user:pass@shop.example/", UserInfo),
            ("https://@shop.example/", UserInfo),
            ("https://shop.example:443@127.0.0.1/", UserInfo),
            ("https://shop.example@[::1]/", UserInfo),
            ("https://127.0.0.1?@shop.example/", Special("loopback")),
            ("https://127.0.0.1#@shop.example/", Fragment),
            ("https://shop.example#@127.0.0.1/", Fragment),
            (r"https://127.0.0.1\@shop.example/", Character),
            (r"https://shop.example\@127.0.0.1/", Character),
            (r"https://shop.example\.evil.example/", Character),
            ("https://shop.example/#fragment", Fragment),
            // Characters.
            ("https://shop.example/a b", Character),
            ("https://shop.example/\t", Character),
            ("https://shop.exam\nple/", Character),
            ("https://shop.example/\r\nHost: x", Character),
            ("https://shop.example\0/", Character),
            ("https://shop.example/\u{7f}", Character),
            ("https://bücher.example/", Character),
            ("https://１２７.０.０.１/", Character),
            ("https://①②⑦.⓪.⓪.①/", Character),
            ("https://shop。example/", Character),
            ("https://shop.example/\u{200b}", Character),
            ("https://shop.example/{id}", Character),
            ("https://shop.example/<x>", Character),
            ("https://shop.example/|", Character),
            ("https://shop.example/^", Character),
            ("https://shop.example/`", Character),
            ("https://shop.example/\"", Character),
            ("https://shop.example/%", Escape),
            ("https://shop.example/%2", Escape),
            ("https://shop.example/%zz", Escape),
            ("https://shop.example/?a=%u0041", Escape),
            // Ports.
            ("https://shop.example:80/", Port),
            ("https://shop.example:22/", Port),
            ("https://shop.example:0/", Port),
            ("https://shop.example:/", Port),
            ("https://shop.example:0443/", Port),
            ("https://shop.example:+443/", Port),
            ("https://shop.example:443443/", Port),
            ("https://shop.example:65979/", Port),
            ("https://shop.example:443:443/", Port),
            ("https://shop.example:-443/", Port),
            ("https://shop.example:0x1bb/", Port),
            // Names.
            ("https:///", Host),
            ("https://", Host),
            ("https://?x", Host),
            ("https://:443/", Host),
            ("https://./", Host),
            ("https://../", Host),
            ("https://shop/", Host),
            ("https://gateway:8443/", Host),
            ("https://shop.example./", Host),
            ("https://.shop.example/", Host),
            ("https://shop..example/", Host),
            ("https://-shop.example/", Host),
            ("https://shop-.example/", Host),
            ("https://shop_1.example/", Host),
            ("https://shop.example%2eevil.example/", Host),
            ("https://%31%32%37.0.0.1/", UnusualAddress),
            ("https://shop%00.example/", Host),
            ("https://*.example/", Host),
            ("https://shop.example;evil.example/", Host),
            ("https://shop.example,evil.example/", Host),
            ("https://localhost/", Special("loopback")),
            ("https://LOCALHOST/", Special("loopback")),
            ("https://foo.localhost/", Special("loopback")),
            ("https://localhost./", Host),
            // IPv4, in the usual spelling.
            ("https://127.0.0.1/", Special("loopback")),
            ("https://127.255.255.254/", Special("loopback")),
            ("https://0.0.0.0/", Special("this network")),
            ("https://10.1.2.3/", Special("private use")),
            ("https://172.16.0.1/", Special("private use")),
            ("https://192.168.0.1:8443/", Special("private use")),
            (
                "https://169.254.169.254/latest/meta-data/",
                Special("link-local"),
            ),
            ("https://100.100.100.200/", Special("carrier-grade NAT")),
            ("https://192.0.0.192/", Special("IETF protocol assignments")),
            ("https://198.18.0.1/", Special("benchmarking")),
            ("https://203.0.113.5/", Special("documentation")),
            ("https://224.0.0.1/", Special("multicast")),
            ("https://255.255.255.255/", Special("broadcast")),
            // IPv4, in spellings that some clients accept.
            ("https://2130706433/", UnusualAddress),
            ("https://017700000001/", UnusualAddress),
            ("https://0x7f000001/", UnusualAddress),
            ("https://0X7F000001/", UnusualAddress),
            ("https://0x7f.0.0.1/", UnusualAddress),
            ("https://0177.0.0.1/", UnusualAddress),
            ("https://127.0.0.01/", UnusualAddress),
            ("https://127.0.0.0x1/", UnusualAddress),
            ("https://127.1/", UnusualAddress),
            ("https://127.0.1/", UnusualAddress),
            ("https://127.0.0.1./", UnusualAddress),
            ("https://127.0.0.1.1/", UnusualAddress),
            ("https://256.0.0.1/", UnusualAddress),
            ("https://425.510.425.510/", UnusualAddress),
            ("https://0/", UnusualAddress),
            ("https://1.1/", UnusualAddress),
            ("https://shop.0x/", UnusualAddress),
            ("https://0x.0x.0/", UnusualAddress),
            // IPv6.
            ("https://[::1]/", Special("loopback")),
            ("https://[::]/", Special("unspecified")),
            ("https://[::ffff:127.0.0.1]/", Special("IPv4-mapped")),
            ("https://[::ffff:7f00:1]/", UnusualAddress),
            ("https://[64:ff9b::a9fe:a9fe]/", Special("NAT64")),
            ("https://[2002:7f00:1::]/", Special("6to4")),
            ("https://[fd00:ec2::254]/", Special("unique local")),
            ("https://[fe80::1%25eth0]/", UnusualAddress),
            ("https://[0:0:0:0:0:0:0:1]/", UnusualAddress),
            ("https://[::1/", Port),
            ("https://::1/", Port),
        ]
    };

    #[test]
    fn every_other_spelling_is_refused() {
        for (text, error) in REFUSED {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        let long = format!("https://shop.example/{}", "a".repeat(LONGEST_URL));
        assert_eq!(parse(&long), Err(DestinationError::TooLong));
        let label = format!("https://{}.example/", "a".repeat(64));
        assert_eq!(parse(&label), Err(DestinationError::Host));
        let name = format!("https://{}example/", "abcdefg.".repeat(31));
        assert_eq!(parse(&name), Err(DestinationError::Host));
    }

    #[test]
    fn the_institution_can_allow_its_own_networks() {
        let allows = |address: IpAddr| address.is_loopback();
        let rules = DestinationRules {
            ports: &[8_443],
            allows: &allows,
        };
        let parse = |text| DestinationUrl::parse(text, &rules);
        for text in [
            "https://127.0.0.1:8443/",
            "https://[::1]:8443/",
            "https://localhost:8443/x",
            "https://a.localhost:8443/",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        assert_eq!(
            parse("https://10.0.0.1:8443/"),
            Err(DestinationError::Special("private use"))
        );
        assert_eq!(
            parse("https://0x7f000001:8443/"),
            Err(DestinationError::UnusualAddress)
        );
        assert_eq!(
            parse("https://shop.example/"),
            Err(DestinationError::Port),
            "443 is not listed"
        );
    }

    #[test]
    fn a_url_shows_its_origin_and_never_its_path() {
        let url = parse("https://shop.example:8443/hook/s3cret?key=s3cret").unwrap();
        assert_eq!(url.to_string(), "https://shop.example:8443");
        assert_eq!(url.authority(), "shop.example:8443");
        assert!(!format!("{url:?}").contains("s3cret"));
        let origin = parse("https://shop.example:8443").unwrap();
        assert!(url.has_origin_of(&origin) && origin.is_origin() && !url.is_origin());
        for other in [
            "https://shop.example",
            "https://shop.example.evil.example:8443",
            "https://x.shop.example:8443",
        ] {
            assert!(!url.has_origin_of(&parse(other).unwrap()), "{other}");
        }
        assert_eq!(
            parse("https://shop.example/").unwrap().authority(),
            "shop.example"
        );
        assert_eq!(
            parse("https://[2606:2800:220:1::1]/").unwrap().authority(),
            "[2606:2800:220:1::1]"
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_one_host_for_every_parser(text in "https://[a-z0-9.:@\\\\\\[\\]%?#/-]{0,24}") {
            if let Ok(url) = parse(&text) {
                let rest = &text["https://".len()..];
                let host = url.host().to_string();
                prop_assert!(rest.starts_with(&host));
                let after = &rest[host.len()..];
                prop_assert!(after.is_empty() || after.starts_with([':', '/', '?']));
                prop_assert!(url.path_and_query().starts_with('/'));
                if let DestinationHost::Address(address) = url.host() {
                    prop_assert!(is_global_unicast(*address));
                }
            }
        }

        #[test]
        fn every_text_is_judged(text in "\\PC{0,60}") {
            let _ = parse(&text);
            let _ = parse(&format!("https://{text}"));
        }
    }
}
