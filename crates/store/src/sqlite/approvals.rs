//! Approvals in the file: operators' orders, and the calls that wait for them.

use super::SqliteStore;
use super::approval_rows::{by_id, figures, newest};
use super::file::{StoreFile, committed};
use super::spend_tables::SpendFile;
use crate::caps::approval::{Approval, ApprovalFigures, ApprovalId, ApprovalOrder};
use crate::caps::judge;
use crate::error::StoreError;
use crate::stored_text::StoredText;

impl SqliteStore {
    pub(crate) async fn approve(
        &self,
        id: ApprovalId,
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        let by = by.clone();
        self.run(move |file| file.approve(id, &by, needed)).await
    }

    pub(crate) async fn reject(&self, id: ApprovalId) -> Result<ApprovalOrder, StoreError> {
        self.run(move |file| file.reject(id)).await
    }

    pub(crate) async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
        self.run(move |file| by_id(file.connection(), id)).await
    }

    pub(crate) async fn approvals(&self, most: u32) -> Result<Vec<Approval>, StoreError> {
        self.run(move |file| newest(file.connection(), most)).await
    }

    pub(crate) async fn approval_figures(&self) -> Result<ApprovalFigures, StoreError> {
        self.run(|file| {
            let now_ms = file.now()?;
            figures(file.connection(), now_ms)
        })
        .await
    }
}

impl StoreFile {
    fn approve(
        &mut self,
        id: ApprovalId,
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        let order = judge::approve(&mut SpendFile(&change), &id, (by, needed), now_ms)?;
        committed(change, now_ms)?;
        Ok(order)
    }

    fn reject(&mut self, id: ApprovalId) -> Result<ApprovalOrder, StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        let order = judge::reject(&mut SpendFile(&change), &id, now_ms)?;
        committed(change, now_ms)?;
        Ok(order)
    }
}
