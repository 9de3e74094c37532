//! How often and when last credentials were used. These series are made when they are scraped: what they say is kept elsewhere, and
//! they come and go with their credentials.

use prometheus::{Encoder as _, Registry, TextEncoder};

use super::Metrics;
use crate::generation::Generation;
use crate::generation::credential_usage::CredentialUsage;
use crate::prom::registrar::{OTHER, Registrar, tenant_label};

/// A credential of somebody that has series of its own.
pub(super) struct CredentialSeries<'a> {
    /// Whose it is.
    pub(super) tenant: &'a str,
    /// Which it is.
    pub(super) client_id: &'a str,
    /// How often it was used.
    pub(super) count: u64,
    /// When it was used last, in milliseconds since 1970.
    pub(super) last_ms: Option<u64>,
    /// Since when it signs requests though it is not in force, in milliseconds since 1970, if it does.
    pub(super) not_in_force_since_ms: Option<u64>,
}

impl Metrics {
    /// The text Prometheus scrapes, with the credentials of whoever has series of its own.
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

/// Their series.
///
/// `others_since_ms` is since when credentials of parties without series of their own sign requests though they are not in
/// force, if some do.
pub(super) fn render<'a>(
    credentials: impl Iterator<Item = CredentialSeries<'a>>,
    others_since_ms: Option<u64>,
) -> Vec<u8> {
    let registry = Registry::new();
    let make = Registrar(&registry);
    let labels = &["tenant", "client_id"];
    let uses = make.counters(
        "credential_uses_total",
        "Requests that were verified with a credential.",
        labels,
    );
    let last_used = make.gauge_vec(
        "credential_last_used_timestamp_seconds",
        "When a credential was used last; 0 if it was not since the start.",
        labels,
    );
    let not_in_force = make.gauge_vec(
        "credential_not_in_force_since_timestamp_seconds",
        "Since when a credential signs requests though it is not in force; there while it did so in the last 15 minutes.",
        labels,
    );
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
    // As in `render` of all the others.
    let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
    text
}
