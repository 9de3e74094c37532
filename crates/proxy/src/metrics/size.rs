//! Upper bound of a scrape's size. The bound is counted by rendering the configured series, not estimated, so it covers
//! every metric that is added later.

use gatepay_admission::limit_name::{LimitName, LimitSet};
use gatepay_core::Catalogue;
use gatepay_tenancy::{Registry, settings};

use super::Metrics;
use crate::metrics::credential_series::{self, CredentialSeries};

/// The size of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeSize {
    /// The number of series.
    pub series: usize,
    /// The size in bytes, uncompressed.
    pub bytes: usize,
}

/// The bytes by which a value can grow beyond its first `0`: a number in its longest form.
const LONGEST: usize = 24;

impl ScrapeSize {
    /// The largest scrape under this configuration, independent of the requests sent.
    pub fn bound(
        catalogue: &Catalogue,
        registry: &Registry,
        settings: &settings::MetricsSettings,
    ) -> Self {
        let metrics = Metrics::new(catalogue, settings);
        metrics
            .reloads
            .at_work(&gatepay_tenancy::ConfigHash::default().to_string());
        let mut every = LimitSet::default();
        for limit in LimitName::ALL {
            every.add(limit);
        }
        let parties = registry.parties().zip(registry.own_series(settings));
        let own: Vec<_> = parties.filter(|(_, own)| *own).collect();
        let ids = own.iter().map(|(who, _)| Some(who.party().id.as_str()));
        for id in ids.chain([None]) {
            // This makes the series that otherwise appear with the first event only.
            metrics.tenants.of(id).limits.admitted(true, every);
        }
        let uses = own.iter().flat_map(|(who, _)| {
            let party = who.party();
            party.credentials.iter().map(|dated| CredentialSeries {
                tenant: party.id.as_str(),
                client_id: dated.credential.client_id.as_str(),
                count: 0,
                last_ms: None,
                not_in_force_since_ms: Some(0),
            })
        });
        let now = Self::of(&[metrics.render(), credential_series::render(uses, Some(0))].concat());
        Self {
            series: now.series,
            bytes: now.bytes + now.series * LONGEST,
        }
    }

    /// The size of this scrape.
    pub fn of(text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n');
        Self {
            series: lines
                .filter(|line| !matches!(line, [] | [b'#', ..]))
                .count(),
            bytes: text.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_lines_that_say_something() {
        let text = b"# HELP a b\n# TYPE a counter\na{x=\"y\"} 1\na{x=\"z\"} 2\n\n";
        assert_eq!(ScrapeSize::of(text).series, 2);
    }
}
