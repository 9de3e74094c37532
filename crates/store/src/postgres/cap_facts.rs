//! The tables of money caps, as a report reads them.

use std::collections::BTreeMap;

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::PostgresStore;
use super::admit::cell;
use crate::aside::aside;
use crate::caps::early_raise::PendingRaise;
use crate::caps::judge::{MeterCell, MeterSum};
use crate::caps::report::{CapFacts, MOST_OTHER_SUMS, NeededSums, OpenSpend, signed_raises};
use crate::caps::rule::{CapMeasure, CapRuleName, CapScope};
use crate::caps::rule_book::{RaiseDelay, RuleBook, RuleState};
use crate::caps::window::SliceGrain;
use crate::error::StoreError;
use crate::stored_text::StoredText;

const NOW: &str = "SELECT gatepay.cap_now_v1() AS now";
const RULES: &str =
    "SELECT shadow, scope, measure, currency, calls, exempt, amount::text AS amount, ends,
    raised::text AS raised, raised_from FROM gatepay.cap_rule";
const MIDNIGHTS: &str = "SELECT ms FROM gatepay.cap_midnight ORDER BY ms";
const DELAY: &str = "SELECT ms, shorter, shorter_from FROM gatepay.cap_delay";
/// Sums of currencies that rules name, each from the index: a tenant may have spent in any others.
const NAMED: &str =
    "SELECT m.scope, m.counted_as, m.currency, m.grain, m.slice, m.amount::text AS amount, m.calls
    FROM unnest($1::text[], $2::text[], $3::text[]) AS n(scope, counted_as, currency)
    CROSS JOIN (VALUES (0::smallint, $4::bigint), (1::smallint, $5::bigint)) AS g(grain, first)
    CROSS JOIN LATERAL (
        SELECT * FROM gatepay.meter AS s
        WHERE s.scope = n.scope AND s.counted_as = n.counted_as AND s.currency = n.currency AND s.grain = g.grain
            AND s.slice >= g.first
        ORDER BY s.slice
    ) AS m";
/// Sums for rules for every other currency: a limited number, of whole currencies.
const OTHERS: &str =
    "SELECT m.scope, m.counted_as, m.currency, m.grain, m.slice, m.amount::text AS amount, m.calls
    FROM unnest($1::text[], $2::text[]) AS n(scope, counted_as)
    CROSS JOIN (VALUES (0::smallint, $3::bigint), (1::smallint, $4::bigint)) AS g(grain, first)
    CROSS JOIN LATERAL (
        SELECT * FROM gatepay.meter AS s
        WHERE s.scope = n.scope AND s.counted_as = n.counted_as AND s.grain = g.grain AND s.slice >= g.first
            AND s.calls > 0
        ORDER BY s.currency FETCH FIRST ($5::bigint) ROWS WITH TIES
    ) AS m";
const OPEN: &str =
    "SELECT s.account, s.counted_as, s.currency, s.amount::text AS amount, s.at, a.unknown
    FROM (
        SELECT party, account, counted_as, key, bool_and(unknown) AS unknown FROM gatepay.spend_attempt
        WHERE $2::text = '' OR account = $2 GROUP BY party, account, counted_as, key
    ) AS a
    JOIN gatepay.spend AS s USING (party, account, counted_as, key)
    WHERE s.at >= $1";

impl PostgresStore {
    pub(crate) async fn cap_facts(&self, of: Option<StoredText>) -> Result<CapFacts, StoreError> {
        let now_ms = self.cap_now().await?;
        let book = self.rule_book().await?;
        let account = of.clone();
        let (needed, book) =
            aside(move || Ok((NeededSums::of(&book, account.as_ref(), now_ms), book))).await?;
        let meters = self.meters(&needed).await?;
        // Calls for every sub-account count in caps over all.
        let sums_over_all = book.sums_over_all();
        let account = of.as_ref().filter(|_| !sums_over_all);
        let account = account.map_or("", StoredText::as_str);
        let from = needed.from_ms().cast_signed();
        let open = self.long_call(OPEN, &[&from, &account]).await?;
        Ok(CapFacts {
            now_ms,
            book,
            meters,
            open: aside(move || open.iter().map(open_spend).collect()).await?,
            signers: self.raise_signers(now_ms).await?,
        })
    }

    async fn meters(
        &self,
        needed: &NeededSums,
    ) -> Result<BTreeMap<MeterCell, MeterSum>, StoreError> {
        let NeededSums {
            named,
            others,
            first,
        } = needed;
        let [hours, days] = first.map(u64::cast_signed);
        let scopes: Vec<&str> = named.iter().map(|(scope, ..)| scope.as_str()).collect();
        let calls: Vec<&str> = named.iter().map(|(_, call, _)| call.as_str()).collect();
        let currencies: Vec<&str> = named.iter().map(|(.., of)| of.as_str()).collect();
        let asked: [&(dyn ToSql + Sync); 5] = [&scopes, &calls, &currencies, &hours, &days];
        let named = self.long_call(NAMED, &asked).await?;
        let scopes: Vec<&str> = others.iter().map(|(scope, _)| scope.as_str()).collect();
        let calls: Vec<&str> = others.iter().map(|(_, call)| call.as_str()).collect();
        let most = i64::from(MOST_OTHER_SUMS);
        let asked: [&(dyn ToSql + Sync); 5] = [&scopes, &calls, &hours, &days, &most];
        let others = self.long_call(OTHERS, &asked).await?;
        aside(move || named.iter().chain(&others).map(meter).collect()).await
    }

    /// The changes of caps that wait, with the operators that have approved them.
    pub(crate) async fn waiting_raises(
        &self,
    ) -> Result<Vec<(PendingRaise, Vec<StoredText>)>, StoreError> {
        let now_ms = self.cap_now().await?;
        let book = self.rule_book().await?;
        let signers = self.raise_signers(now_ms).await?;
        aside(move || Ok(signed_raises(&book, &signers, now_ms))).await
    }

    /// The time by which caps are judged.
    pub(super) async fn cap_now(&self) -> Result<u64, StoreError> {
        let now = self.long_call(NOW, &[]).await?;
        whole(now.first().ok_or_else(unreadable)?, "now")
    }

    pub(super) async fn rule_book(&self) -> Result<RuleBook, StoreError> {
        let rules = self.long_call(RULES, &[]).await?;
        let midnights = self.long_call(MIDNIGHTS, &[]).await?;
        let delay = self.long_call(DELAY, &[]).await?;
        let midnights = midnights.iter().map(|row| whole(row, "ms"));
        let delay = delay.first().map(|row| {
            let shorter = time(row, "shorter")?.zip(time(row, "shorter_from")?);
            let ms = whole(row, "ms")?;
            Ok::<_, StoreError>(RaiseDelay { ms, shorter })
        });
        Ok(RuleBook {
            rules: aside(move || rules.iter().map(rule).collect()).await?,
            midnights: midnights.collect::<Result<_, _>>()?,
            delay: delay.transpose()?,
        })
    }
}

fn rule(row: &Row) -> Result<(CapRuleName, RuleState), StoreError> {
    let (scope, currency): (String, String) = (cell(row, "scope")?, cell(row, "currency")?);
    let (measure, calls): (i16, String) = (cell(row, "measure")?, cell(row, "calls")?);
    let name = CapRuleName {
        shadow: cell(row, "shadow")?,
        scope: CapScope::of(&scope).ok_or_else(unreadable)?,
        measure: CapMeasure::of(measure.into()).ok_or_else(unreadable)?,
        currency: CapRuleName::currency_of(&currency),
        calls: CapRuleName::calls_of(&calls),
        exempt: CapRuleName::exempt_of(&cell::<String>(row, "exempt")?),
    };
    let raised: Option<String> = cell(row, "raised")?;
    let raised = raised.map(|raised| amount(&raised)).transpose()?;
    let state = RuleState {
        limit: amount(&cell::<String>(row, "amount")?)?,
        ends_ms: time(row, "ends")?,
        raise: raised.zip(time(row, "raised_from")?),
    };
    Ok((name, state))
}

fn meter(row: &Row) -> Result<(MeterCell, MeterSum), StoreError> {
    let (scope, currency): (String, String) = (cell(row, "scope")?, cell(row, "currency")?);
    let grain: i16 = cell(row, "grain")?;
    let grain = usize::try_from(grain).ok();
    let place = MeterCell {
        scope: CapScope::of(&scope).ok_or_else(unreadable)?,
        counted_as: cell(row, "counted_as")?,
        currency: CurrencyCode::parse(&currency).ok_or_else(unreadable)?,
        grain: *grain
            .and_then(|it| SliceGrain::ALL.get(it))
            .ok_or_else(unreadable)?,
        slice: whole(row, "slice")?,
    };
    let sum: String = cell(row, "amount")?;
    let sum = MeterSum {
        // A sum may be more than any amount.
        units: ExactAmount::parse(&sum).map_or(u128::MAX, ExactAmount::units),
        calls: whole(row, "calls")?,
        oldest: None,
    };
    Ok((place, sum))
}

fn open_spend(row: &Row) -> Result<OpenSpend, StoreError> {
    let currency: String = cell(row, "currency")?;
    Ok(OpenSpend {
        account: StoredText::parse(&cell::<String>(row, "account")?).ok_or_else(unreadable)?,
        counted_as: cell(row, "counted_as")?,
        currency: CurrencyCode::parse(&currency).ok_or_else(unreadable)?,
        amount: amount(&cell::<String>(row, "amount")?)?,
        at_ms: whole(row, "at")?,
        is_unknown: cell(row, "unknown")?,
    })
}

fn amount(text: &str) -> Result<ExactAmount, StoreError> {
    ExactAmount::parse(text).map_err(|_| unreadable())
}

/// A number that is not negative.
fn whole(row: &Row, column: &str) -> Result<u64, StoreError> {
    Ok(cell::<i64>(row, column)?.unsigned_abs())
}

fn time(row: &Row, column: &str) -> Result<Option<u64>, StoreError> {
    Ok(cell::<Option<i64>>(row, column)?.map(i64::unsigned_abs))
}

fn unreadable() -> StoreError {
    StoreError::Unexpected("a row of caps".to_owned())
}
