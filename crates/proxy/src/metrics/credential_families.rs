//! Credential families: what is counted of each credential.

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::prom::registrar::Registrar;

/// The metrics that have a series for each credential.
pub(super) struct CredentialFamilies {
    pub(super) uses: IntCounterVec,
    pub(super) last_used: IntGaugeVec,
    pub(super) not_in_force: IntGaugeVec,
}

impl CredentialFamilies {
    pub(super) fn new(make: &Registrar<'_>) -> Self {
        let labels = &["tenant", "client_id"];
        Self {
            uses: make.counters(
                "credential_uses_total",
                "Requests that were verified with a credential.",
                labels,
            ),
            last_used: make.gauge_vec(
                "credential_last_used_timestamp_seconds",
                "Unix time of a credential's last use; 0 if unused since the start.",
                labels,
            ),
            not_in_force: make.gauge_vec(
                "credential_not_in_force_since_timestamp_seconds",
                "Unix time of the first request signed with a credential that is not in force; present for 15 minutes after the last one.",
                labels,
            ),
        }
    }
}
