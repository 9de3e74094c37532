//! Endpoint: the HTTPS client for the URLs that tenants choose, against forged requests to inner networks (SSRF).
//!
//! A tenant's URL must never lead the proxy to an address that the Internet cannot reach. `core` has the rules for URLs
//! and addresses ([`destination`](gatepay_core::destination)). [`checked_addresses`] resolves a name and checks every
//! address before each new connection, and [`client`] connects to exactly these addresses. No redirect is followed.

pub mod checked_addresses;
pub mod client;
mod kept_connections;
#[cfg(test)]
pub(crate) mod tests;
