//! The configuration of the running process, as its admin listener gives it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use gatepay_proxy::upstream::client;
use gatepay_proxy::upstream::connect::UpstreamConnector;
use gatepay_tenancy::{ConfigOutline, UpstreamUrl};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request};
use zeroize::Zeroizing;

/// The timeout for the answer: an answer about a hundred thousand tenants takes a few seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the admin listener at this address for its configuration; with a token, if the listener requires one.
pub(super) fn outline(address: SocketAddr, token: Option<&Path>) -> Result<ConfigOutline, String> {
    if address.port() == 0 {
        return Err("admin.address has no fixed port; give the address with --admin".to_owned());
    }
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let outline =
        ask(address, token).map_err(|error| format!("the process at {address}: {error}"))?;
    serde_json::from_slice(&outline)
        .map_err(|error| format!("the process at {address} is of another version: {error}"))
}

fn ask(address: SocketAddr, token: Option<&Path>) -> Result<Bytes, String> {
    let url =
        UpstreamUrl::parse(&format!("http://{address}")).map_err(|error| error.to_string())?;
    let upstream = UpstreamConnector::new(url, None, TIMEOUT).map_err(|error| error.to_string())?;
    let mut request = Request::get("/-/registry").header(HOST, address.to_string());
    if let Some(path) = token {
        request = request.header(AUTHORIZATION, bearer(path)?);
    }
    let request = request
        .body(Bytes::new())
        .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answer = runtime
        .block_on(client::send(upstream, request, TIMEOUT))
        .map_err(|error| error.to_string())?;
    if answer.status().as_u16() == 200 {
        return Ok(answer.into_body());
    }
    let message = String::from_utf8_lossy(answer.body());
    Err(format!("{}: {}", answer.status(), message.trim_end()))
}

fn bearer(path: &Path) -> Result<HeaderValue, String> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| format!("{}: {}", path.display(), error.kind()))?;
    let bearer = Zeroizing::new(format!("Bearer {}", text.trim_end_matches(['\r', '\n'])));
    let mut bearer = HeaderValue::from_str(&bearer)
        .map_err(|_| format!("{}: holds no token", path.display()))?;
    bearer.set_sensitive(true);
    Ok(bearer)
}
