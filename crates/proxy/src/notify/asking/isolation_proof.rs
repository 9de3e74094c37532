//! Isolation proof: the look-ups by which GatePay may be asked for owners, as probes have proved them.

use std::time::Duration;

use gatepay_core::owner_look_up::IsolationVerdict;
use gatepay_store::notifications::isolation::{
    IsolationFinding, IsolationRecord, IsolationSubject, KeptFinding,
};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};

/// How long a proof counts. GatePay may change its ways without notice, and a probe costs a few reads.
pub const PROOF_LASTS: Duration = Duration::from_hours(30 * 24);

/// What the store knows of GatePay's isolation, for one credential.
pub struct IsolationProof {
    /// The GatePay and the credential.
    pub subject: IsolationSubject,
    record: IsolationRecord,
}

/// Whether GatePay is asked for owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskingState {
    /// It is asked by these operations, separated by commas.
    Asking(String),
    /// There is no proof.
    NoProof,
    /// A proof is older than [`PROOF_LASTS`], and no other counts.
    Old,
    /// The newest probes have found that GatePay does not keep accounts apart, or have found nothing out.
    Refuted,
    /// No credential of the institution is in force.
    NoCredential,
}

impl IsolationProof {
    /// Reads what the newest probes have found out.
    pub async fn read(
        calls: &StoreCalls,
        subject: IsolationSubject,
    ) -> Result<Self, StoreCallError> {
        let asked = subject.clone();
        let record = calls.call(move |store| async move { store.isolation(&asked).await });
        Ok(Self {
            record: record.await?,
            subject,
        })
    }

    /// Whether GatePay may be asked by this look-up.
    pub fn covers(&self, look_up: &str) -> bool {
        self.proved().any(|operation| operation == look_up)
    }

    /// When it was read, by the store's clock.
    pub const fn read_ms(&self) -> u64 {
        self.record.now_ms
    }

    /// The newest finding about each look-up.
    pub fn findings(&self) -> &[KeptFinding] {
        &self.record.findings
    }

    /// Whether GatePay is asked at all.
    pub fn state(&self) -> AskingState {
        let proved: Vec<&str> = self.proved().collect();
        let mut verdicts = self.record.findings.iter().map(|it| it.finding.verdict);
        if !proved.is_empty() {
            AskingState::Asking(proved.join(", "))
        } else if verdicts.any(|verdict| verdict == IsolationVerdict::Apart) {
            AskingState::Old
        } else if self.record.findings.is_empty() {
            AskingState::NoProof
        } else {
            AskingState::Refuted
        }
    }

    fn proved(&self) -> impl Iterator<Item = &str> {
        let lasts = u64::try_from(PROOF_LASTS.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.record.now_ms;
        let counts = move |at_ms: u64| now_ms < at_ms.saturating_add(lasts);
        let findings = self.record.findings.iter();
        let proofs = findings
            .filter(move |it| it.finding.verdict == IsolationVerdict::Apart && counts(it.at_ms));
        proofs.map(|it| &*it.finding.operation)
    }
}

impl AskingState {
    /// Whether GatePay is asked.
    pub fn is_asking(&self) -> bool {
        matches!(self, Self::Asking(_))
    }

    /// Tells it in the log.
    pub fn tell(&self) {
        let why = match self {
            Self::Asking(operations) => {
                tracing::info!(
                    operations,
                    "GatePay is asked for the owners of notifications"
                );
                return;
            }
            Self::NoProof => "GatePay's isolation is not proved for this upstream and credential",
            Self::Old => "the proof of GatePay's isolation is older than 30 days",
            Self::Refuted => "the newest probe has not proved that GatePay keeps accounts apart",
            Self::NoCredential => "no credential of the institution is in force",
        };
        tracing::warn!(
            why,
            "notifications.ask has no effect: notifications without a certain owner stay in quarantine; run `gatepay-proxy probe isolation`"
        );
    }
}

/// Keeps the findings of a probe in the store that began at `since_ms`, by the store's clock.
pub async fn note(
    calls: &StoreCalls,
    subject: IsolationSubject,
    findings: Vec<IsolationFinding>,
    since_ms: u64,
) -> Result<(), StoreCallError> {
    let noted = calls.call(move |store| async move {
        store.note_isolation(&subject, &findings, since_ms).await
    });
    noted.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::owner_look_up::OwnerLookUp;

    const NOW_MS: u64 = 1_767_225_600_000;
    const DAY_MS: u64 = 24 * 3_600_000;

    fn proof(findings: &[(&str, IsolationVerdict, u64)]) -> IsolationProof {
        let findings = findings
            .iter()
            .map(|(operation, verdict, days)| KeptFinding {
                finding: IsolationFinding {
                    operation: (*operation).to_owned(),
                    verdict: *verdict,
                    accounts: 2,
                },
                at_ms: NOW_MS - days * DAY_MS,
            });
        IsolationProof {
            subject: IsolationSubject {
                upstream: "gatepay.example".to_owned(),
                client_id: "institution".to_owned(),
            },
            record: IsolationRecord {
                findings: findings.collect(),
                now_ms: NOW_MS,
            },
        }
    }

    #[test]
    fn gatepay_is_asked_by_look_ups_that_were_proved_within_thirty_days() {
        use IsolationVerdict::{Apart, Inconclusive, Shared};
        let asking = |operations: &str| AskingState::Asking(operations.to_owned());
        for (findings, expected) in [
            (&[][..], AskingState::NoProof),
            (&[("query_order", Apart, 29)], asking("query_order")),
            (&[("query_order", Apart, 30)], AskingState::Old),
            (&[("query_order", Shared, 0)], AskingState::Refuted),
            (&[("query_order", Inconclusive, 0)], AskingState::Refuted),
            (
                &[("otc_order_detail", Apart, 0), ("query_order", Shared, 0)],
                asking("otc_order_detail"),
            ),
        ] {
            assert_eq!(proof(findings).state(), expected, "{findings:?}");
        }
        let orders = proof(&[("query_order", Apart, 0)]);
        let covered = OwnerLookUp::ALL
            .iter()
            .filter(|it| orders.covers(it.operation));
        let covered: Vec<&str> = covered.map(|it| it.operation).collect();
        assert_eq!(covered, ["query_order"]);
    }
}
