//! Approvals over two engines.

use super::Store;
use crate::caps::approval::{Approval, ApprovalFigures, ApprovalId, ApprovalOrder};
use crate::error::StoreError;
use crate::stored_text::StoredText;

impl Store {
    /// Takes an operator's approval of a call. Once `needed` different operators have approved it, the call passes once.
    pub async fn approve(
        &self,
        id: ApprovalId,
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        match self {
            Self::Postgres(store) => store.approve(id, by, needed).await,
            Self::Sqlite(store) => store.approve(id, by, needed).await,
        }
    }

    /// Takes an operator's rejection of a call.
    pub async fn reject(&self, id: ApprovalId) -> Result<ApprovalOrder, StoreError> {
        match self {
            Self::Postgres(store) => store.reject(id).await,
            Self::Sqlite(store) => store.reject(id).await,
        }
    }

    /// The approval of an id.
    pub async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
        match self {
            Self::Postgres(store) => store.approval(id).await,
            Self::Sqlite(store) => store.approval(id).await,
        }
    }

    /// The newest approvals in any state, at most so many, the newest first.
    pub async fn approvals(&self, most: u32) -> Result<Vec<Approval>, StoreError> {
        match self {
            Self::Postgres(store) => store.approvals(most).await,
            Self::Sqlite(store) => store.approvals(most).await,
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
