//! Where GatePay is: scheme, host and port, and nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Scheme, host and port; never a path, a query or a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// `https` or `http`.
    pub tls: bool,
    /// A name in lower case or an address, an IPv6 one without brackets.
    pub host: String,
    /// The port, given or by scheme.
    pub port: u16,
}

impl UpstreamUrl {
    /// The value of `Host`: with brackets where needed, without the scheme's own port.
    pub fn authority(&self) -> String {
        let Self { tls, host, port } = self;
        let default = if *tls { 443 } else { 80 };
        match (host.contains(':'), *port == default) {
            (false, true) => host.clone(),
            (false, false) => format!("{host}:{port}"),
            (true, true) => format!("[{host}]"),
            (true, false) => format!("[{host}]:{port}"),
        }
    }

    /// Reads `https://host` or `http://host:port`. The error never repeats the text: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err(UrlError::Scheme),
        };
        if rest.contains('@') {
            return Err(UrlError::User);
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(UrlError::Path);
        }
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or(UrlError::Host)?;
            let address = host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
            let port = match rest {
                "" => None,
                _ => Some(rest.strip_prefix(':').ok_or(UrlError::Port)?),
            };
            (address.to_canonical().to_string(), port)
        } else {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            if !is_name(host) {
                return Err(UrlError::Host);
            }
            (host.to_ascii_lowercase(), port)
        };
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or(UrlError::Port)?,
            Some(_) => return Err(UrlError::Port),
        };
        Ok(Self { tls, host, port })
    }

    /// Whether it is on this machine: an address of loopback, or `localhost`.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

/// Why a text is not the URL of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither `https://` nor `http://`.
    #[error("must begin with https:// or http://")]
    Scheme,
    /// A user or password.
    #[error("must have no user or password")]
    User,
    /// More than scheme, host and port.
    #[error("must end after the host and port; paths come from the catalogue")]
    Path,
    /// No name and no address.
    #[error("has no valid host")]
    Host,
    /// Not 1 to 65535.
    #[error("has no valid port")]
    Port,
}

/// A DNS name or an IPv4 address. A host that ends in a number and is no such address is neither, though systems look it
/// up as one: `127.1`, `0x7f.1`.
fn is_name(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_hexadecimal = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    let last_is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .get(..2)
            .is_some_and(|it| it.eq_ignore_ascii_case("0x"))
            && is_hexadecimal(&last[2..]);
    if last_is_number && host.parse::<Ipv4Addr>().is_err() {
        return false;
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ip_address_has_one_spelling_in_a_url() {
        let host = |text: &str| UpstreamUrl::parse(text).map(|url| url.host);
        for (text, expected) in [
            ("http://[::ffff:127.0.0.1]:80", "127.0.0.1"),
            ("http://[0:0:0:0:0:0:0:1]", "::1"),
            ("http://[2001:DB8::1]", "2001:db8::1"),
            ("http://127.0.0.1", "127.0.0.1"),
            ("http://gate.0xyz", "gate.0xyz"),
        ] {
            assert_eq!(host(text), Ok(expected.to_owned()), "{text}");
        }
        for odd in [
            "127.1",
            "2130706433",
            "0x7f.1",
            "0X7F000001",
            "127.0.0.01",
            "1.2.3.4.5",
            "256.1.1.1",
        ] {
            assert_eq!(host(&format!("http://{odd}")), Err(UrlError::Host), "{odd}");
        }
    }

    #[test]
    fn a_url_is_scheme_host_and_port() {
        for (text, tls, host, port, authority) in [
            (
                "https://openplatform.gateapi.io",
                true,
                "openplatform.gateapi.io",
                443,
                "openplatform.gateapi.io",
            ),
            (
                "HTTPS://Example.org:8443/",
                true,
                "example.org",
                8443,
                "example.org:8443",
            ),
            (
                "http://127.0.0.1:8081",
                false,
                "127.0.0.1",
                8081,
                "127.0.0.1:8081",
            ),
            (
                "http://example.org:443",
                false,
                "example.org",
                443,
                "example.org:443",
            ),
            ("http://[::1]:8081", false, "::1", 8081, "[::1]:8081"),
            (
                "https://[2001:db8::1]",
                true,
                "2001:db8::1",
                443,
                "[2001:db8::1]",
            ),
        ] {
            let url = UpstreamUrl::parse(text).unwrap();
            assert_eq!(
                (url.tls, url.host.as_str(), url.port),
                (tls, host, port),
                "{text}"
            );
            assert_eq!(url.authority(), authority);
        }
    }

    #[test]
    fn a_malformed_url_is_refused_by_the_name_of_its_fault() {
        for (text, error) in [
            ("openplatform.gateapi.io", UrlError::Scheme),
            ("ftp://example.org", UrlError::Scheme),
            ("https://user:password@example.org", UrlError::User),
            ("https://example.org/v1", UrlError::Path),
            ("https://example.org//", UrlError::Path),
            ("https://example.org?a", UrlError::Path),
            ("https://example.org#a", UrlError::Path),
            ("https://", UrlError::Host),
            ("https://exa mple.org", UrlError::Host),
            ("https://a..b", UrlError::Host),
            ("https://[::1", UrlError::Host),
            ("https://[localhost]", UrlError::Host),
            ("https://[::1]8080", UrlError::Port),
            ("https://example.org:", UrlError::Port),
            ("https://example.org:+80", UrlError::Port),
            ("https://example.org:0", UrlError::Port),
            ("https://example.org:65536", UrlError::Port),
        ] {
            assert_eq!(UpstreamUrl::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_loopback_url_is_an_address_of_this_machine() {
        for (text, loopback) in [
            ("http://127.8.9.1", true),
            ("http://[::1]:80", true),
            ("http://localhost:1", true),
            ("http://localhost.example.org", false),
            ("http://128.0.0.1", false),
        ] {
            assert_eq!(
                UpstreamUrl::parse(text).unwrap().is_loopback(),
                loopback,
                "{text}"
            );
        }
    }
}
