//! Approvals in the file: operators' orders, and the calls that wait for them.

use rusqlite::Transaction;

use super::SqliteStore;
use super::approval_rows::{approver_rule, by_id, figures, list, wait_for, write_approver_rule};
use super::file::{StoreFile, committed};
use super::spend_tables::SpendFile;
use crate::caps::approval::{Approval, ApprovalFigures, ApprovalId, ApprovalOrder, ApprovalQuery};
use crate::caps::approver_rule::ApproverRule;
use crate::caps::judge;
use crate::error::StoreError;
use crate::stored_text::StoredText;

impl SqliteStore {
    pub(crate) async fn approve(
        &self,
        (id, digest): (ApprovalId, &[u8; 32]),
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        let (by, digest) = (by.clone(), *digest);
        self.run(move |file| file.approve((id, &digest), &by, needed))
            .await
    }

    pub(crate) async fn reject(
        &self,
        (id, digest): (ApprovalId, &[u8; 32]),
    ) -> Result<ApprovalOrder, StoreError> {
        let digest = *digest;
        self.run(move |file| file.reject((id, &digest))).await
    }

    pub(crate) async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
        self.run(move |file| by_id(file.connection(), id)).await
    }

    pub(crate) async fn approvals(
        &self,
        query: &ApprovalQuery,
    ) -> Result<Vec<Approval>, StoreError> {
        let query = query.clone();
        self.run(move |file| {
            let now_ms = file.now()?;
            list(file.connection(), &query, now_ms)
        })
        .await
    }

    pub(crate) async fn approvers_needed(&self) -> Result<u32, StoreError> {
        self.run(|file| {
            let now_ms = file.now()?;
            let rule = approver_rule(file.connection())?;
            Ok(ApproverRule::needed(rule, now_ms))
        })
        .await
    }

    pub(crate) async fn approval_figures(&self) -> Result<ApprovalFigures, StoreError> {
        self.run(|file| {
            let now_ms = file.now()?;
            figures(file.connection(), now_ms)
        })
        .await
    }
}

/// Takes over how many operators the configuration asks for.
pub(super) fn take_approvers(
    change: &Transaction<'_>,
    declared: (u32, u64),
    now_ms: u64,
) -> Result<(), StoreError> {
    let before = approver_rule(change)?;
    let rule = ApproverRule::declared(before, declared, now_ms);
    write_approver_rule(change, &rule)?;
    let needed = ApproverRule::needed(Some(rule), now_ms);
    if needed > ApproverRule::needed(before, now_ms) {
        wait_for(change, needed)?;
    }
    Ok(())
}

impl StoreFile {
    fn approve(
        &mut self,
        (id, digest): (ApprovalId, &[u8; 32]),
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        let in_force = ApproverRule::needed(approver_rule(&change)?, now_ms);
        let needed = needed.max(in_force as usize);
        let order = judge::approve(&mut SpendFile(&change), (&id, digest), (by, needed), now_ms)?;
        committed(change, now_ms)?;
        Ok(order)
    }

    fn reject(
        &mut self,
        (id, digest): (ApprovalId, &[u8; 32]),
    ) -> Result<ApprovalOrder, StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        let order = judge::reject(&mut SpendFile(&change), (&id, digest), now_ms)?;
        committed(change, now_ms)?;
        Ok(order)
    }
}
