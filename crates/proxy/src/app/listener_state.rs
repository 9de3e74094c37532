//! Listener state: what the tenant listener knows about its own certificate and about addresses.

use std::sync::Arc;

use gatepay_tenancy::settings::ListenSettings;

use crate::callers::address_limits::AddressLimits;
use crate::callers::auth_throttle::RecentFloods;
use crate::callers::client_address::TrustedProxies;
use crate::metrics::Metrics;
use crate::process::clock::Clock;
use crate::start_error::StartError;
use crate::tls::certificate::{CertificateRenewal, ListenerIdentity};

/// What the tenant listener knows: its certificate, the proxies in front of it and the limits per address.
pub struct ListenerState {
    /// The TLS identity of the tenant listener; without it connections are plain text.
    pub identity: Option<ListenerIdentity>,
    /// The proxies whose statements about client addresses are trusted.
    pub trusted_proxies: TrustedProxies,
    /// The connections and requests of each address.
    pub address_limits: Arc<AddressLimits>,
    /// The addresses that recently had a connection closed for flooding.
    pub recent_floods: RecentFloods,
}

impl ListenerState {
    /// Builds the state; reads the certificate and the key.
    pub fn new(
        listen: &ListenSettings,
        metrics: &Metrics,
        clock: &Clock,
    ) -> Result<Self, StartError> {
        let identity = listen.tls.as_ref().map(ListenerIdentity::read);
        let identity = identity.transpose().map_err(StartError::Tls)?;
        if let Some(identity) = &identity {
            show_expiry(identity, metrics, clock);
        }
        Ok(Self {
            identity,
            trusted_proxies: TrustedProxies::new(&listen.trusted_proxies),
            address_limits: AddressLimits::new(listen),
            recent_floods: RecentFloods::default(),
        })
    }

    /// Reads the listener's certificate and key again. If either is invalid, nothing changes.
    pub fn renew_certificate(
        &self,
        metrics: &Metrics,
        clock: &Clock,
    ) -> Result<CertificateRenewal, String> {
        let Some(identity) = &self.identity else {
            return Ok(CertificateRenewal::Unchanged);
        };
        let renewal = identity.reload()?;
        show_expiry(identity, metrics, clock);
        Ok(renewal)
    }
}

/// Shows the certificate's expiry in the metrics, and warns if the certificate has expired.
fn show_expiry(identity: &ListenerIdentity, metrics: &Metrics, clock: &Clock) {
    let expires = identity.expires();
    let seconds = i64::try_from(expires).unwrap_or(i64::MAX);
    metrics.certificate_expiry.set(seconds);
    if expires <= clock.unix_ms() / 1_000 {
        tracing::warn!(
            expires,
            "the listener's certificate has expired, and callers will refuse it: replace the files"
        );
    }
}
