//! Credential series: how often and when last credentials were used. These series are made at each scrape, from counts
//! that the generation keeps, and come and go with their credentials.

use prometheus::{Encoder as _, Registry, TextEncoder};

use super::Metrics;
use super::credential_families::CredentialFamilies;
use crate::generation::Generation;
use crate::generation::credential_usage::CredentialUsage;
use crate::prom::registrar::{OTHER, Registrar, tenant_label};

/// A credential of a party that has its own series.
pub(super) struct CredentialSeries<'a> {
    /// The id of the tenant or operator.
    pub(super) tenant: &'a str,
    /// The credential's client id.
    pub(super) client_id: &'a str,
    /// The number of requests verified with the credential.
    pub(super) count: u64,
    /// When the credential was used last, in milliseconds since 1970.
    pub(super) last_ms: Option<u64>,
    /// Since when the credential signs requests although it is not in force, in milliseconds since 1970, if so.
    pub(super) not_in_force_since_ms: Option<u64>,
}

impl Metrics {
    /// The text that Prometheus scrapes, including the credentials of parties with their own series.
    pub fn scrape(&self, generation: &Generation, own: &[bool], now_ms: u64) -> Vec<u8> {
        let mut text = self.render();
        let since =
            |dated: &_, used: &CredentialUsage| Some(used.not_in_force(dated, now_ms)?.since_ms);
        let others = generation.credentials();
        let others = others.filter(|(position, ..)| !own[*position]);
        let others = others
            .filter_map(|(_, dated, used)| since(dated, used))
            .min();
        let credentials = generation.credentials();
        let own = credentials.filter(|(position, ..)| own[*position]);
        let own = own.map(|(position, dated, used)| CredentialSeries {
            tenant: generation.registry.at(position).party().id.as_str(),
            client_id: dated.credential.client_id.as_str(),
            count: used.count(),
            last_ms: used.last_ms(),
            not_in_force_since_ms: since(dated, used),
        });
        text.extend(render(own, others));
        text
    }
}

/// Renders the series of these credentials.
///
/// `others_since_ms` is for parties without their own series: since when a credential of theirs signs requests although
/// it is not in force, in milliseconds since 1970, if any does.
pub(super) fn render<'a>(
    credentials: impl Iterator<Item = CredentialSeries<'a>>,
    others_since_ms: Option<u64>,
) -> Vec<u8> {
    let registry = Registry::new();
    let CredentialFamilies {
        uses,
        last_used,
        not_in_force,
    } = CredentialFamilies::new(&Registrar::new(&registry));
    let seconds = |ms: u64| i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    if let Some(since) = others_since_ms {
        let labels = &[tenant_label(None), OTHER];
        not_in_force.with_label_values(labels).set(seconds(since));
    }
    for CredentialSeries {
        tenant,
        client_id,
        count,
        last_ms,
        not_in_force_since_ms,
    } in credentials
    {
        let labels = &[tenant_label(Some(tenant)), client_id];
        uses.with_label_values(labels).inc_by(count);
        last_used
            .with_label_values(labels)
            .set(seconds(last_ms.unwrap_or(0)));
        if let Some(since) = not_in_force_since_ms {
            not_in_force.with_label_values(labels).set(seconds(since));
        }
    }
    let mut text = Vec::new();
    // Writing to memory does not fail, and the families are well formed, as in `Metrics::render`.
    let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
    text
}
