//! Gate: which requests may use more of the admin listener than probes and metrics.
//!
//! With `admin.token` or an `[[admin.operator]]`, a request has to present one of those tokens. Without any token, it
//! has to come to a loopback listener under a loopback name. A page in a browser on this machine can send a request
//! here, because the page points at this address or because its own name was made to resolve here (DNS rebinding).
//! Such a request names that page's host or its origin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepay_core::{SecretKey, SigningKey};
use gatepay_tenancy::PartyId;
use gatepay_tenancy::settings::AdminSettings;
use http::header::{self, HeaderMap};
use http::{Method, Request, Version};
use zeroize::Zeroizing;

/// The access check of the admin listener.
pub(super) struct AdminGate {
    /// Whether the listening socket is bound to a loopback address.
    pub(super) is_local: bool,
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdminDenial {
    /// The request has more than one Host, or none though HTTP/1.1 requires it.
    Malformed,
    /// Only probes and metrics are answered on this address.
    Address,
    /// The request is for a host name that is not a loopback name.
    Name,
    /// A browser sends the request for a page of another site.
    Browser,
    /// The token is missing or wrong.
    Token,
    /// The token of a page request is missing or wrong: a browser can ask its user for it.
    PageToken,
}

impl AdminGate {
    /// The operator name under which a request may read and act, or why the request is denied.
    pub(super) fn admits<B>(
        &self,
        request: &Request<B>,
        admin: &AdminSettings,
    ) -> Result<PartyId, AdminDenial> {
        let name = named(request)?;
        if !has_tokens(admin) {
            return match self.denies_without_token(request, name) {
                Some(denied) => Err(denied),
                None => Ok(reserved(AdminSettings::LOOPBACK)),
            };
        }
        if is_foreign(request.headers(), name) {
            return Err(AdminDenial::Browser);
        }
        presenter(request, admin).ok_or(AdminDenial::Token)
    }

    fn denies_without_token<B>(
        &self,
        request: &Request<B>,
        name: Option<&str>,
    ) -> Option<AdminDenial> {
        if !self.is_local {
            return Some(AdminDenial::Address);
        }
        if !name.is_some_and(is_loopback_name) {
            return Some(AdminDenial::Name);
        }
        // No operator's tool sends these headers. Among browser pages only the proxy's own page may ask, and only read.
        let headers = request.headers();
        let browser =
            headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
        let own_page = is_look(request.method())
            && !headers.contains_key(header::ORIGIN)
            && !is_foreign(headers, name);
        (browser && !own_page).then_some(AdminDenial::Browser)
    }

    /// Why a request may not have the status page. The page holds no figures, so links from other sites may open it.
    pub(super) fn denies_page<B>(
        &self,
        request: &Request<B>,
        admin: &AdminSettings,
    ) -> Option<AdminDenial> {
        let name = match named(request) {
            Ok(name) => name,
            Err(denied) => return Some(denied),
        };
        let local = self.is_local && name.is_some_and(is_loopback_name);
        if local || presenter(request, admin).is_some() {
            return None;
        }
        Some(if has_tokens(admin) {
            AdminDenial::PageToken
        } else if self.is_local {
            AdminDenial::Name
        } else {
            AdminDenial::Address
        })
    }
}

/// Whether a request with this method only reads.
pub(super) fn is_look(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The host name of a request (RFC 9112, 3.2 and 3.3): from its target, else from its Host, which HTTP/1.1 requires.
pub(super) fn named<B>(request: &Request<B>) -> Result<Option<&str>, AdminDenial> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() || host.is_none() && request.version() > Version::HTTP_10 {
        return Err(AdminDenial::Malformed);
    }
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.as_str()));
    }
    let host = host.map(|host| host.to_str().map_err(|_| AdminDenial::Malformed));
    host.transpose()
}

/// Whether a host name, with or without a port, is exactly `localhost` or a loopback address.
fn is_loopback_name(name: &str) -> bool {
    let (host, port) = match name.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => {
                let loopback = host.parse().is_ok_and(|address: Ipv6Addr| {
                    IpAddr::V6(address).to_canonical().is_loopback()
                });
                return loopback && is_port(port);
            }
            None => return false,
        },
        None => name.find(':').map_or((name, ""), |at| name.split_at(at)),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .parse()
            .is_ok_and(|address: Ipv4Addr| address.is_loopback());
    loopback && is_port(port)
}

/// Whether the text is empty, or a colon and a port.
fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':');
    text.is_empty()
        || digits.is_some_and(|digits| {
            digits.bytes().all(|byte| byte.is_ascii_digit())
                && (digits.is_empty() || digits.parse::<u16>().is_ok())
        })
}

/// Whether a browser sends the request for a page of another site; `name` is the host name of the request.
fn is_foreign(headers: &HeaderMap, name: Option<&str>) -> bool {
    let elsewhere = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| site != "same-origin" && site != "none");
    let own = |origin: &header::HeaderValue| {
        let origin = origin.to_str().ok()?;
        let (_, host) = origin.split_once("://")?;
        Some(host.eq_ignore_ascii_case(name?))
    };
    let origins = headers.get_all(header::ORIGIN);
    elsewhere || origins.iter().any(|origin| own(origin) != Some(true))
}

/// Whether any token is configured.
fn has_tokens(admin: &AdminSettings) -> bool {
    admin.token.is_some() || !admin.operators.is_empty()
}

/// A reserved name, which no operator can have.
fn reserved(name: &str) -> PartyId {
    PartyId::parse(name).expect("reserved names are names")
}

/// The name of the operator with the presented token.
///
/// The presented token is compared with every configured token in constant time, so that the duration reveals neither
/// a partial match nor the owner.
fn presenter<B>(request: &Request<B>, admin: &AdminSettings) -> Option<PartyId> {
    let presented = presented(request)?;
    let shared = admin.token.iter();
    let shared = shared.map(|token| (token, reserved(AdminSettings::SHARED_TOKEN)));
    let named = admin.operators.iter();
    let named = named.map(|operator| (&operator.token, operator.name.clone()));
    let mut found = None;
    for (token, name) in shared.chain(named) {
        if presented.same_secret(token) {
            found = Some(name);
        }
    }
    found
}

/// The presented token: as `Bearer`, or on reads also as the password of `Basic`, for which browsers can prompt.
fn presented<B>(request: &Request<B>) -> Option<SigningKey> {
    let mut lines = request.headers().get_all(header::AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let (scheme, presented) = line.to_str().ok()?.split_once(' ')?;
    let presented = if scheme.eq_ignore_ascii_case("bearer") {
        Zeroizing::new(presented.to_owned())
    } else if scheme.eq_ignore_ascii_case("basic") && is_look(request.method()) {
        password(presented)?
    } else {
        return None;
    };
    Some(SigningKey::new(&SecretKey::new(presented).ok()?))
}

/// The password of `Basic`; the user name is ignored.
fn password(encoded: &str) -> Option<Zeroizing<String>> {
    let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
    let (_, password) = str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Zeroizing::new(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_loopback_and_no_others() {
        for name in [
            "localhost",
            "LocalHost:9090",
            "localhost.",
            "localhost.:1",
            "localhost:",
            "127.0.0.1",
            "127.0.0.1:9090",
            "127.255.3.4:65535",
            "127.0.0.1.",
            "[::1]",
            "[::1]:9090",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback_name(name), "{name}");
        }
        for name in [
            "",
            ":9090",
            ".",
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "localhost..",
            "localhost:65536",
            "localhost:9090x",
            "localhost:-1",
            "localhost:+1",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost, evil.example",
            "localhost:80:80",
            "127.0.0.1.evil.example",
            "127.0.0.1:80@evil.example",
            "0.0.0.0",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "128.0.0.1",
            "10.0.0.7:9090",
            "::1",
            "[::1",
            "[::1]evil.example",
            "[::]",
            "[fe80::1]",
            "[127.0.0.1]",
            "[::ffff:10.0.0.1]",
            " localhost",
        ] {
            assert!(!is_loopback_name(name), "{name}");
        }
    }

    #[test]
    fn a_page_is_our_own_if_it_came_from_the_name_it_asks() {
        let foreign = |lines: &[(&'static str, &str)], name| {
            let mut headers = HeaderMap::new();
            for (line, value) in lines {
                headers.append(*line, value.parse().unwrap());
            }
            is_foreign(&headers, Some(name))
        };
        let name = "127.0.0.1:9090";
        assert!(!foreign(&[], name));
        assert!(!foreign(&[("origin", "http://127.0.0.1:9090")], name));
        assert!(!foreign(&[("sec-fetch-site", "same-origin")], name));
        assert!(!foreign(&[("sec-fetch-site", "none")], name));
        for origin in [
            "http://127.0.0.1:8000",
            "http://127.0.0.1",
            "http://localhost:9090",
            "https://evil.example",
            "null",
            "",
        ] {
            assert!(foreign(&[("origin", origin)], name), "{origin}");
        }
        for site in ["same-site", "cross-site", "null", ""] {
            assert!(foreign(&[("sec-fetch-site", site)], name), "{site}");
        }
        let both = [("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")];
        assert!(foreign(&both, name));
    }
}
