//! Upstream state: what calls to GatePay use.

use std::sync::Arc;

use gatepay_admission::breaker::BreakerEra;
use gatepay_tenancy::settings::{ClockSource, Settings};
use http::HeaderValue;

use crate::metrics::Metrics;
use crate::process::clock::Clock;
use crate::start_error::StartError;
use crate::tls::config;
use crate::upstream::breaker::UpstreamBreaker;
use crate::upstream::clock_offset::UpstreamClock;
use crate::upstream::connect::UpstreamConnector;
use crate::upstream::credential_rotation::CredentialRotation;

/// What calls to GatePay use: the connector, GatePay's clock and name, the signing credential and the circuit breaker.
pub struct UpstreamState {
    /// The connector to GatePay.
    pub connector: Arc<UpstreamConnector>,
    /// GatePay's name in `Host`.
    pub host: HeaderValue,
    /// The clock of GatePay, measured against our own.
    pub clock: UpstreamClock,
    /// The choice of the institution's credential that signs.
    pub credential_rotation: CredentialRotation,
    /// The circuit breaker for GatePay.
    pub breaker: UpstreamBreaker,
}

impl UpstreamState {
    /// Builds the state. The credentials of the egress proxy are moved out of the settings.
    pub fn new(
        settings: &mut Settings,
        era: BreakerEra,
        metrics: &Metrics,
        clock: &Clock,
    ) -> Result<Self, StartError> {
        let connector = connector(settings)?;
        let host = HeaderValue::try_from(connector.authority());
        let follows = settings.clock == ClockSource::Follow;
        let (window, meters) = (settings.window, metrics.clock.clone());
        let (institution, signer) = (&settings.institution, metrics.signer.clone());
        let breaker = metrics.upstream.breaker.clone();
        Ok(Self {
            connector: Arc::new(connector),
            host: host.map_err(|error| StartError::Upstream(error.to_string()))?,
            clock: UpstreamClock::new(clock.clone(), follows, window, meters),
            credential_rotation: CredentialRotation::new(institution, clock.clone(), signer),
            breaker: UpstreamBreaker::new(settings.upstream.breaker, era, breaker),
        })
    }
}

/// The connector to GatePay that the settings describe.
fn connector(settings: &mut Settings) -> Result<UpstreamConnector, StartError> {
    let to = &settings.upstream;
    let tls = to.url.tls.then(|| config::client(to.ca.as_deref()));
    let tls = tls.transpose().map_err(StartError::Upstream)?;
    let connector = UpstreamConnector::new(to.url.clone(), tls, to.connect_timeout)
        .map_err(|error| StartError::Upstream(error.to_string()))?;
    Ok(match settings.egress.take() {
        Some(egress) => connector.by_way_of(egress),
        None => connector,
    })
}
