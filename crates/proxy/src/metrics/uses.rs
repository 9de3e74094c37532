//! How often and when last credentials were used. These series are made when they are scraped: what they say is kept elsewhere, and
//! they come and go with their credentials.

use prometheus::{Encoder as _, Registry, TextEncoder};

use super::Metrics;
use crate::generation::Generation;
use crate::registrar::{Registrar, tenant_label};

/// A credential of somebody that has series of its own.
pub(super) struct Used<'a> {
    /// Whose it is.
    pub(super) tenant: &'a str,
    /// Which it is.
    pub(super) client_id: &'a str,
    /// How often it was used.
    pub(super) count: u64,
    /// When it was used last, in milliseconds since 1970.
    pub(super) last_ms: Option<u64>,
}

impl Metrics {
    /// The text Prometheus scrapes, with the credentials of whoever has series of its own.
    pub fn scrape(&self, generation: &Generation, own: &[bool]) -> Vec<u8> {
        let mut text = self.render();
        let credentials = generation.credentials();
        let own = credentials.filter(|(position, ..)| own[*position]);
        text.extend(render(own.map(|(position, dated, used)| Used {
            tenant: generation.registry.at(position).party().id.as_str(),
            client_id: dated.credential.client_id.as_str(),
            count: used.count(),
            last_ms: used.last_ms(),
        })));
        text
    }
}

/// Their series.
pub(super) fn render<'a>(credentials: impl Iterator<Item = Used<'a>>) -> Vec<u8> {
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
    for Used {
        tenant,
        client_id,
        count,
        last_ms,
    } in credentials
    {
        let seconds = i64::try_from(last_ms.unwrap_or(0) / 1_000).unwrap_or(i64::MAX);
        let labels = &[tenant_label(Some(tenant)), client_id];
        uses.with_label_values(labels).inc_by(count);
        last_used.with_label_values(labels).set(seconds);
    }
    let mut text = Vec::new();
    // As in `render` of all the others.
    let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
    text
}
