//! Approvals over two engines.

use super::Store;
use crate::caps::approval::{Approval, ApprovalFigures, ApprovalId, ApprovalOrder, ApprovalQuery};
use crate::error::StoreError;
use crate::stored_text::StoredText;

impl Store {
    /// How many operators an order needs by what was [declared](Self::declare_caps); one before the first declaration.
    pub async fn approvers_needed(&self) -> Result<u32, StoreError> {
        match self {
            Self::Postgres(store) => store.approvers_needed().await,
            Self::Sqlite(store) => store.approvers_needed().await,
        }
    }

    /// Takes an operator's approval of a call, which the operator was shown with this SHA-256 of its body. Once `needed` different operators have approved it, or as many as the store has
    /// in force if that is more, the call passes once.
    pub async fn approve(
        &self,
        shown: (ApprovalId, &[u8; 32]),
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        match self {
            Self::Postgres(store) => store.approve(shown, by, needed).await,
            Self::Sqlite(store) => store.approve(shown, by, needed).await,
        }
    }

    /// Takes an operator's rejection of a call, which the operator was shown with this SHA-256 of its body.
    pub async fn reject(
        &self,
        shown: (ApprovalId, &[u8; 32]),
    ) -> Result<ApprovalOrder, StoreError> {
        match self {
            Self::Postgres(store) => store.reject(shown).await,
            Self::Sqlite(store) => store.reject(shown).await,
        }
    }

    /// The approval of an id.
    pub async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
        match self {
            Self::Postgres(store) => store.approval(id).await,
            Self::Sqlite(store) => store.approval(id).await,
        }
    }

    /// The approvals that a query asks for, the newest first.
    pub async fn approvals(&self, query: &ApprovalQuery) -> Result<Vec<Approval>, StoreError> {
        match self {
            Self::Postgres(store) => store.approvals(query).await,
            Self::Sqlite(store) => store.approvals(query).await,
        }
    }

    /// The approvals that wait for operators.
    pub async fn approval_figures(&self) -> Result<ApprovalFigures, StoreError> {
        match self {
            Self::Postgres(store) => store.approval_figures().await,
            Self::Sqlite(store) => store.approval_figures().await,
        }
    }
}
