//! Money caps: rules, settlements, and what is still unknown.

use gatepay_core::notification::StatedAmount;

use super::PostgresStore;
use super::admit::{cell, millis};
use crate::admission::StoredText;
use crate::aside::aside;
use crate::caps::rule::{CapDeclaration, CapRuleName, CapScope, CappedCalls};
use crate::caps::spend::{AttemptResult, NO_KEY, SettledAttempt, SettledObject, UnknownSpend};
use crate::error::StoreError;

const DECLARE: &str =
    "SELECT gatepay.declare_caps_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS taken";
const STAND: &str = "SELECT gatepay.caps_stand_v1($1, $2) AS stand";
const SETTLE_ATTEMPTS: &str = "SELECT gatepay.settle_attempts_v1($1, $2)";
const SETTLE_OBJECT: &str =
    "SELECT gatepay.settle_object_v1($1, $2, $3, $4, $5, $6, $7, $8) AS released";
const CAPPED: &str = "SELECT * FROM gatepay.capped_calls_v1()";
const CAPPED_OF: &str = "SELECT * FROM gatepay.capped_calls_of_v1($1)";
const AGE: &str = "SELECT gatepay.age_spends_v1()";
/// The newest of each party first, then the second newest of each.
const UNKNOWN: &str = "SELECT u.party, u.account, u.counted_as, u.key, u.since
    FROM (
        SELECT a.party, a.account, a.counted_as, a.key, min(a.at) AS since,
            row_number() OVER (PARTITION BY a.party ORDER BY min(a.at) DESC, a.key COLLATE \"C\") AS place
        FROM gatepay.spend_attempt AS a WHERE a.unknown
        GROUP BY a.party, a.account, a.counted_as, a.key
    ) AS u
    ORDER BY u.place, u.since DESC, u.party COLLATE \"C\" LIMIT $1";

impl PostgresStore {
    pub(crate) async fn declare_caps(
        &self,
        declaration: &CapDeclaration,
        number: i64,
    ) -> Result<bool, StoreError> {
        let rules = declaration.by_name();
        let shadows: Vec<bool> = rules.keys().map(|name| name.shadow).collect();
        let scopes: Vec<&str> = rules.keys().map(|name| name.scope.as_str()).collect();
        let measures: Vec<i16> = rules.keys().map(|name| name.measure.number()).collect();
        let currencies: Vec<&str> = rules.keys().map(|name| name.currency_text()).collect();
        let calls: Vec<String> = rules.keys().map(|name| name.calls_text()).collect();
        let exempts: Vec<String> = rules.keys().map(|name| name.exempt_text()).collect();
        let limits: Vec<String> = rules.values().map(ToString::to_string).collect();
        let midnights = declaration.midnights.iter().copied().map(millis);
        let midnights: Vec<i64> = midnights.collect();
        let raise_ms = millis(declaration.raise_after_ms);
        let approvers = i32::try_from(declaration.approvers).unwrap_or(i32::MAX);
        let rows = self
            .long_call(
                DECLARE,
                &[
                    &self.instance(),
                    &number,
                    &shadows,
                    &scopes,
                    &measures,
                    &currencies,
                    &calls,
                    &exempts,
                    &limits,
                    &midnights,
                    &raise_ms,
                    &approvers,
                ],
            )
            .await?;
        only(&rows, "taken")
    }

    pub(crate) async fn caps_stand(&self, number: i64) -> Result<bool, StoreError> {
        let rows = self.control(STAND, &[&self.instance(), &number]).await?;
        only(&rows, "stand")
    }

    pub(crate) async fn settle_attempts(
        &self,
        settled: &[SettledAttempt],
    ) -> Result<(), StoreError> {
        let prints: Vec<&[u8]> = settled.iter().map(|it| it.stamp.as_slice()).collect();
        let results = settled.iter().map(|it| match it.result {
            AttemptResult::NotExecuted => 0,
            AttemptResult::Executed => 1,
            AttemptResult::Unknown => 2,
            AttemptResult::Found => 3,
        });
        let results: Vec<i16> = results.collect();
        self.control(SETTLE_ATTEMPTS, &[&prints, &results]).await?;
        Ok(())
    }

    pub(crate) async fn settle_object(&self, object: &SettledObject) -> Result<bool, StoreError> {
        let (currencies, amounts) = stated(&object.amounts);
        let rows = self
            .control(
                SETTLE_OBJECT,
                &[
                    &object.party.as_str(),
                    &object.account.as_str(),
                    &object.counted_as,
                    &object.key.as_str(),
                    &object.stands,
                    &millis(object.decided_ms),
                    &currencies,
                    &amounts,
                ],
            )
            .await?;
        only(&rows, "released")
    }

    pub(crate) async fn capped_calls(&self) -> Result<Vec<CappedCalls>, StoreError> {
        let rows = self.long_call(CAPPED, &[]).await?;
        aside(move || rows.iter().map(capped).collect()).await
    }

    /// Not on the connection of declarations and reports: a money call waits for it.
    pub(crate) async fn capped_calls_of(
        &self,
        account: &StoredText,
    ) -> Result<Vec<CappedCalls>, StoreError> {
        let rows = self.control(CAPPED_OF, &[&account.as_str()]).await?;
        rows.iter().map(capped).collect()
    }

    pub(crate) async fn age_spends(&self) -> Result<(), StoreError> {
        self.long_call(AGE, &[]).await?;
        Ok(())
    }

    pub(crate) async fn unknown_spends(&self, most: u32) -> Result<Vec<UnknownSpend>, StoreError> {
        let rows = self.long_call(UNKNOWN, &[&i64::from(most)]).await?;
        let spends = rows.iter().map(|row| {
            let text = |name| {
                let text: String = cell(row, name)?;
                StoredText::parse(&text)
                    .ok_or_else(|| StoreError::Unexpected(format!("{name} of a spend")))
            };
            let key = text("key")?;
            Ok(UnknownSpend {
                since_ms: cell::<i64>(row, "since")?.unsigned_abs(),
                party: text("party")?,
                account: text("account")?,
                counted_as: cell(row, "counted_as")?,
                key: (!key.as_str().starts_with(NO_KEY)).then_some(key),
            })
        });
        spends.collect()
    }
}

fn capped(row: &tokio_postgres::Row) -> Result<CappedCalls, StoreError> {
    let (scope, calls): (String, String) = (cell(row, "o_scope")?, cell(row, "o_calls")?);
    let scope = CapScope::of(&scope);
    Ok(CappedCalls {
        shadow: cell(row, "o_shadow")?,
        scope: scope.ok_or_else(|| StoreError::Unexpected("scope of a cap".to_owned()))?,
        calls: CapRuleName::calls_of(&calls),
    })
}

/// The currencies of stated amounts, of which an empty one is any, and the amounts.
pub(super) fn stated(amounts: &[StatedAmount]) -> (Vec<String>, Vec<String>) {
    let currency = |it: &StatedAmount| it.currency.as_ref().map_or("", |it| it.as_str()).to_owned();
    let amounts = amounts.iter();
    amounts
        .map(|it| (currency(it), it.amount.to_string()))
        .unzip()
}

/// The answer of a function that has one.
pub(super) fn only(rows: &[tokio_postgres::Row], column: &str) -> Result<bool, StoreError> {
    match rows {
        [row] => cell(row, column),
        _ => Err(StoreError::Unexpected(format!("{} rows", rows.len()))),
    }
}
