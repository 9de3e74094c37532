//! Early raises of caps.

use super::PostgresStore;
use super::admit::{cell, millis};
use super::approvals::order;
use crate::aside::aside;
use crate::caps::approval::{APPROVAL_MS, ApprovalOrder};
use crate::caps::early_raise::RaiseDigest;
use crate::caps::rule::CapRuleName;
use crate::error::StoreError;
use crate::stored_text::StoredText;

const RAISE: &str =
    "SELECT gatepay.raise_caps_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS result";
const SIGNERS: &str = "SELECT s.changes, s.operator FROM gatepay.cap_raise_signature AS s
    WHERE s.at > $1 ORDER BY s.changes, s.at, s.operator COLLATE \"C\"";

impl PostgresStore {
    pub(crate) async fn raise_caps(
        &self,
        digest: RaiseDigest,
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        let (now_ms, book) = (self.cap_now().await?, self.rule_book().await?);
        let waiting = aside(move || {
            let mut waiting = book.waiting_raises(now_ms).into_iter();
            Ok(waiting.find(|waiting| waiting.digest == digest))
        });
        let Some(waiting) = waiting.await? else {
            return Ok(ApprovalOrder::NotFound);
        };
        let changes = &waiting.changes;
        let names = || changes.iter().map(|change| &change.name);
        let shadows: Vec<bool> = names().map(|name| name.shadow).collect();
        let measures: Vec<i16> = names().map(|name| name.measure.number()).collect();
        let currencies: Vec<&str> = names().map(CapRuleName::currency_text).collect();
        let calls: Vec<String> = names().map(CapRuleName::calls_text).collect();
        let exempts: Vec<String> = names().map(CapRuleName::exempt_text).collect();
        let limits: Vec<String> = changes.iter().map(|it| it.limit.to_string()).collect();
        let raised = changes.iter().map(|it| it.raised.map(|it| it.to_string()));
        let raised: Vec<Option<String>> = raised.collect();
        let removed: Vec<bool> = changes.iter().map(|it| it.is_removed).collect();
        let needed = i32::try_from(needed).unwrap_or(i32::MAX);
        let rows = self
            .control(
                RAISE,
                &[
                    &digest.bytes(),
                    &waiting.scope.as_str(),
                    &by.as_str(),
                    &needed,
                    &shadows,
                    &measures,
                    &currencies,
                    &calls,
                    &exempts,
                    &limits,
                    &raised,
                    &removed,
                ],
            )
            .await?;
        order(&rows)
    }

    /// The operators that have approved changes of caps within a day.
    pub(super) async fn raise_signers(
        &self,
        now_ms: u64,
    ) -> Result<Vec<(RaiseDigest, StoredText)>, StoreError> {
        let since = millis(now_ms.saturating_sub(APPROVAL_MS));
        let unreadable = || StoreError::Unexpected("an approval of a raise".to_owned());
        let rows = self.long_call(SIGNERS, &[&since]).await?;
        let signers = rows.iter().map(|row| {
            let of = RaiseDigest::of_bytes(&cell::<Vec<u8>>(row, "changes")?);
            let by = StoredText::parse(&cell::<String>(row, "operator")?);
            of.zip(by).ok_or_else(unreadable)
        });
        signers.collect()
    }
}
