//! Asking: GatePay is asked which tenant has the object of a notification, if only numbers that tenants choose lead to one.
//!
//! It is asked on behalf of the tenants that the ledger names, never of all tenants, and only by look-ups for which a probe
//! has proved that GatePay keeps accounts apart. An answer that one of them has the object proves it, as an answer about a
//! single candidate does: an unclear answer about another one takes nothing from it. If two have it, the proof was wrong.

pub mod inquiries;
pub mod isolation_probe;
pub mod isolation_proof;

use std::sync::Arc;

use gatepay_core::notification::Notification;
use gatepay_core::owner_look_up::{IsolationVerdict, OwnerAnswer, OwnerInquiry};
use gatepay_core::ownership::TenantIncarnation;
use gatepay_store::notifications::isolation::{IsolationFinding, IsolationSubject};
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, TenantAccount};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::asking::inquiries::Inquiries;
use crate::notify::asking::isolation_proof::{AskingState, IsolationProof};
use crate::notify::receive::meters::ReceptionMeters;

/// Gives the GatePay that is asked now, and the credential that signs; `None` while no credential is in force.
pub type SubjectSource = Arc<dyn Fn() -> Option<IsolationSubject> + Send + Sync>;

/// The way to GatePay's answers about owners.
pub struct Asking {
    /// Whether `notifications.ask` is set.
    pub is_set: bool,
    /// The GatePay that is asked.
    pub subject: SubjectSource,
    /// The way to the workers.
    pub inquiries: Inquiries,
    /// The way to the store.
    pub calls: StoreCalls,
    /// The metrics.
    pub meters: ReceptionMeters,
}

/// What GatePay's answers show about a notification's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InquiryOutcome {
    /// Exactly one candidate has the object.
    Owner(TenantIncarnation),
    /// GatePay is not asked about such a notification, or no candidate has its object.
    Unproved,
    /// GatePay gave no clear answer for one of the candidates, and no other one has the object.
    Unclear,
}

impl Asking {
    /// The proof in force; `None` if `notifications.ask` is not set.
    pub async fn proof(&self) -> Result<Option<IsolationProof>, StoreCallError> {
        if !self.is_set {
            return Ok(None);
        }
        let Some(subject) = (self.subject)() else {
            return Ok(None);
        };
        IsolationProof::read(&self.calls, subject).await.map(Some)
    }

    /// Whether GatePay is asked about such a notification.
    pub fn covers(proof: &IsolationProof, notification: &Notification) -> bool {
        let inquiry = OwnerInquiry::about(notification);
        inquiry.is_some_and(|it| proof.covers(it.look_up.operation))
    }

    /// Asks GatePay on behalf of each candidate in turn.
    pub async fn ask(
        &self,
        proof: &IsolationProof,
        notification: &Notification,
        candidates: &[TenantIncarnation],
    ) -> Result<InquiryOutcome, StoreCallError> {
        let inquiry = OwnerInquiry::about(notification);
        let Some(inquiry) = inquiry.filter(|it| proof.covers(it.look_up.operation)) else {
            return Ok(InquiryOutcome::Unproved);
        };
        let (mut found, mut is_unclear) = (None, false);
        for candidate in candidates {
            let client_id = &proof.subject.client_id;
            match self.inquiries.ask(&inquiry, candidate, client_id).await {
                OwnerAnswer::HasNot => {}
                OwnerAnswer::Unclear => is_unclear = true,
                OwnerAnswer::Has if found.is_none() => found = Some(candidate.clone()),
                OwnerAnswer::Has => {
                    self.refute(proof, inquiry.look_up.operation).await?;
                    return Ok(InquiryOutcome::Unproved);
                }
            }
        }
        Ok(match found {
            Some(owner) => InquiryOutcome::Owner(owner),
            None if is_unclear => InquiryOutcome::Unclear,
            None => InquiryOutcome::Unproved,
        })
    }

    /// Keeps in the ledger that the tenant has the notification's object.
    pub async fn remember(
        &self,
        notification: &Notification,
        owner: &TenantIncarnation,
    ) -> Result<(), StoreCallError> {
        let Some(inquiry) = OwnerInquiry::about(notification) else {
            return Ok(());
        };
        let note = LedgerNote {
            key: inquiry.id,
            holder: TenantAccount {
                tenant: owner.tenant.clone(),
                account: owner.account.clone(),
            },
            at_ms: None,
            operation: inquiry.look_up.operation.to_owned(),
            currency: None,
        };
        let noted = self.calls.call(move |store| async move {
            store.note_owners(&[note], LedgerSource::Asked).await
        });
        noted.await.map(drop)
    }

    /// Two accounts have one object: GatePay does not keep accounts apart.
    async fn refute(&self, proof: &IsolationProof, operation: &str) -> Result<(), StoreCallError> {
        tracing::error!(
            operation,
            "GatePay shows one object to two accounts: it is not asked for owners by this look-up any more"
        );
        let finding = IsolationFinding {
            operation: operation.to_owned(),
            verdict: IsolationVerdict::Shared,
            accounts: 2,
        };
        let since_ms = proof.read_ms();
        isolation_proof::note(&self.calls, proof.subject.clone(), vec![finding], since_ms).await
    }

    /// Shows whether GatePay is asked, in the metric, and in the log if that has changed since `told`.
    pub async fn show(&self, told: &mut Option<AskingState>) {
        if !self.is_set {
            return;
        }
        let Ok(proof) = self.proof().await else {
            return;
        };
        let state = proof.map_or(AskingState::NoCredential, |proof| proof.state());
        self.meters.asking.set(state.is_asking().into());
        if told.as_ref() != Some(&state) {
            state.tell();
            *told = Some(state);
        }
    }
}
