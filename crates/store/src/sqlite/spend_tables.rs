//! The tables of money caps in the file, over which [`judge`](crate::caps::judge) decides.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::ledger_key::LedgerKeyKind;
use gatepay_core::money::CurrencyCode;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::approval_rows;
use crate::admission::{AdmissionRow, AdmissionVerdict};
use crate::caps::approval::{Approval, ApprovalId, ApprovalKey};
use crate::caps::judge::{
    self, CountedSpend, MeterCell, MeterSum, OpenAttempt, SpendJudgement, SpendName, SpendTables,
    SpendingCall,
};
use crate::caps::report::{MOST_OTHER_SUMS, OpenSpend};
use crate::caps::rule::{CapBreach, CapMeasure, CapRuleName, CapScope};
use crate::caps::rule_book::{RaiseDelay, RuleBook, RuleState};
use crate::caps::spend::OrderSpend;
use crate::caps::window::{CapWindow, SliceGrain};
use crate::error::StoreError;
use crate::stored_text::{Fingerprint, StoredText};

/// Reserves what an admitted row spends. Returns the breach of a shadow rule, or the verdict on one without room.
pub(super) fn reserve(
    change: &Transaction<'_>,
    book: &RuleBook,
    now_ms: u64,
    row: &AdmissionRow,
) -> Result<Result<Option<CapBreach>, AdmissionVerdict>, StoreError> {
    let Some(demand) = &row.spend else {
        return Ok(Ok(None));
    };
    let asking = "SELECT id FROM instance LIMIT 1";
    let instance: Option<i64> = change.query_row(asking, [], |row| row.get(0)).optional()?;
    let call = SpendingCall {
        stamp: &row.stamp,
        party: &row.party,
        account: &row.account,
        demand,
        instance: instance.unwrap_or_default(),
    };
    let judgement = judge::reserve(&mut SpendFile(change), book, now_ms, call)?;
    Ok(match judgement {
        SpendJudgement::Reserved(shadow) => Ok(shadow),
        SpendJudgement::Exceeded(breach) => Err(AdmissionVerdict::CapExceeded(Box::new(breach))),
        SpendJudgement::NeedsApproval(demand) => {
            Err(AdmissionVerdict::ApprovalRequired(Box::new(demand)))
        }
        SpendJudgement::UnknownCurrency => Err(AdmissionVerdict::UnknownCurrency),
    })
}

/// The row of a call; that of a refund with the currency of its order, if the ledger knows it.
pub(super) fn priced<'r>(
    change: &Transaction<'_>,
    row: &'r AdmissionRow,
) -> Result<Cow<'r, AdmissionRow>, StoreError> {
    let of_order = row.spend.as_ref().and_then(|spend| spend.of_order.as_ref());
    let Some(OrderSpend { order, .. }) = of_order else {
        return Ok(Cow::Borrowed(row));
    };
    let known = order_currency(change, order.as_str(), row)?;
    Ok(match known.as_deref().and_then(CurrencyCode::parse) {
        None => Cow::Borrowed(row),
        Some(currency) => {
            let mut row = row.clone();
            row.price(currency);
            Cow::Owned(row)
        }
    })
}

/// The currency of an order, as the ledger has it for the party and sub-account of this row.
fn order_currency(
    change: &Transaction<'_>,
    order: &str,
    row: &AdmissionRow,
) -> Result<Option<String>, StoreError> {
    let mut known = change.prepare_cached(
        "SELECT currency FROM owner
        WHERE kind = ?1 AND key = ?2 AND tenant = ?3 AND account = ?4 AND currency <> '?'",
    )?;
    let kind = LedgerKeyKind::PrepayId.as_str();
    let of = [kind, order, row.party.as_str(), row.account.as_str()];
    let known = known.query_row(of, |row| row.get(0));
    Ok(known.optional()?)
}

pub(super) fn rule_book(connection: &Connection) -> Result<RuleBook, StoreError> {
    let mut book = RuleBook::default();
    let mut rules = connection.prepare_cached(
        "SELECT shadow, scope, measure, currency, calls, exempt, amount, ends, raised, raised_from FROM cap_rule",
    )?;
    let mut rows = rules.query([])?;
    while let Some(row) = rows.next()? {
        let (scope, currency): (String, String) = (row.get(1)?, row.get(3)?);
        let calls: String = row.get(4)?;
        let rule = CapRuleName {
            shadow: row.get(0)?,
            scope: CapScope::of(&scope).ok_or_else(unreadable)?,
            measure: CapMeasure::of(row.get(2)?).ok_or_else(unreadable)?,
            currency: CapRuleName::currency_of(&currency),
            calls: CapRuleName::calls_of(&calls),
            exempt: CapRuleName::exempt_of(&row.get::<_, String>(5)?),
        };
        let raised: Option<String> = row.get(8)?;
        let raised = raised.map(|raised| amount(&raised)).transpose()?;
        let state = RuleState {
            limit: amount(&row.get::<_, String>(6)?)?,
            ends_ms: row.get::<_, Option<i64>>(7)?.map(i64::unsigned_abs),
            raise: raised.zip(row.get::<_, Option<i64>>(9)?.map(i64::unsigned_abs)),
        };
        book.rules.insert(rule, state);
    }
    let mut midnights = connection.prepare_cached("SELECT ms FROM cap_midnight ORDER BY ms")?;
    let midnights = midnights.query_map([], |row| row.get::<_, i64>(0))?;
    for midnight in midnights {
        book.midnights.push(midnight?.unsigned_abs());
    }
    let delay = connection.query_row(
        "SELECT ms, shorter, shorter_from FROM cap_delay",
        [],
        |row| {
            let number = |at: usize| {
                Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(i64::unsigned_abs))
            };
            Ok(RaiseDelay {
                ms: row.get::<_, i64>(0)?.unsigned_abs(),
                shorter: number(1)?.zip(number(2)?),
            })
        },
    );
    book.delay = delay.optional()?;
    Ok(book)
}

pub(super) fn write_book(change: &Transaction<'_>, book: &RuleBook) -> Result<(), StoreError> {
    change
        .execute_batch("DELETE FROM cap_rule; DELETE FROM cap_midnight; DELETE FROM cap_delay")?;
    if let Some(RaiseDelay { ms, shorter }) = book.delay {
        let (shorter, from_ms) = shorter.unzip();
        let values = params![to_sql(ms), shorter.map(to_sql), from_ms.map(to_sql)];
        change.execute("INSERT INTO cap_delay VALUES (1, ?1, ?2, ?3)", values)?;
    }
    for (rule, state) in &book.rules {
        let (raised, from_ms) = state.raise.unzip();
        change.execute(
            "INSERT INTO cap_rule VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                rule.shadow,
                rule.scope.as_str(),
                rule.measure.number(),
                rule.currency_text(),
                rule.calls_text(),
                rule.exempt_text(),
                state.limit.to_string(),
                state.ends_ms.map(to_sql),
                raised.map(|raised| raised.to_string()),
                from_ms.map(to_sql)
            ],
        )?;
    }
    for midnight in BTreeSet::from_iter(&book.midnights) {
        change.execute("INSERT INTO cap_midnight VALUES (?1)", [to_sql(*midnight)])?;
    }
    Ok(())
}

/// The sums of the slices that windows cover, of a currency that caps name.
pub(super) fn named_sums(
    connection: &Connection,
    (scope, call, currency): &(CapScope, String, CurrencyCode),
    first: [u64; 2],
) -> Result<Vec<(MeterCell, MeterSum)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT currency, slice, units, calls FROM meter
        WHERE scope = ?1 AND counted_as = ?2 AND currency = ?3 AND grain = ?4 AND slice >= ?5",
    )?;
    let mut sums = Vec::new();
    for (grain, first) in SliceGrain::ALL.into_iter().zip(first) {
        let (grain_number, currency) = (grain.number(), currency.as_str());
        let from = (scope.as_str(), call, currency, grain_number, to_sql(first));
        let mut rows = statement.query(from)?;
        while let Some(row) = rows.next()? {
            sums.push(meter(row, (scope, call, grain))?);
        }
    }
    Ok(sums)
}

/// The sums of the slices that windows cover, of currencies that callers have named: a limited number, of whole currencies.
pub(super) fn other_sums(
    connection: &Connection,
    (scope, call): &(CapScope, String),
    first: [u64; 2],
) -> Result<Vec<(MeterCell, MeterSum)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT currency, slice, units, calls FROM meter
        WHERE scope = ?1 AND counted_as = ?2 AND grain = ?3 AND slice >= ?4 AND calls > 0 ORDER BY currency",
    )?;
    let mut sums = Vec::new();
    for (grain, first) in SliceGrain::ALL.into_iter().zip(first) {
        let from = (scope.as_str(), call, grain.number(), to_sql(first));
        let (mut rows, mut read) = (statement.query(from)?, 0);
        while let Some(row) = rows.next()? {
            let (cell, sum) = meter(row, (scope, call, grain))?;
            let is_same = |(last, _): &(MeterCell, MeterSum)| last.currency == cell.currency;
            if read >= MOST_OTHER_SUMS && !sums.last().is_some_and(is_same) {
                break;
            }
            read += 1;
            sums.push((cell, sum));
        }
    }
    Ok(sums)
}

fn meter(
    row: &Row<'_>,
    (scope, call, grain): (&CapScope, &str, SliceGrain),
) -> Result<(MeterCell, MeterSum), StoreError> {
    let currency: String = row.get(0)?;
    let cell = MeterCell {
        scope: scope.clone(),
        counted_as: call.to_owned(),
        currency: CurrencyCode::parse(&currency).ok_or_else(unreadable)?,
        grain,
        slice: row.get::<_, i64>(1)?.unsigned_abs(),
    };
    let sum = MeterSum {
        units: number(&row.get::<_, String>(2)?)?,
        calls: row.get::<_, i64>(3)?.unsigned_abs(),
        oldest: None,
    };
    Ok((cell, sum))
}

/// The spends since a time with an attempt whose end is not known.
pub(super) fn open_spends(
    connection: &Connection,
    from_ms: u64,
) -> Result<Vec<OpenSpend>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT s.account, s.counted_as, s.currency, s.amount, s.at, a.unknown
        FROM (
            SELECT party, account, counted_as, key, min(unknown) AS unknown FROM spend_attempt
            GROUP BY party, account, counted_as, key
        ) AS a
        JOIN spend AS s USING (party, account, counted_as, key) WHERE s.at >= ?1",
    )?;
    let mut rows = statement.query([to_sql(from_ms)])?;
    let mut open = Vec::new();
    while let Some(row) = rows.next()? {
        let currency: String = row.get(2)?;
        open.push(OpenSpend {
            account: StoredText::parse(&row.get::<_, String>(0)?).ok_or_else(unreadable)?,
            counted_as: row.get(1)?,
            currency: CurrencyCode::parse(&currency).ok_or_else(unreadable)?,
            amount: amount(&row.get::<_, String>(3)?)?,
            at_ms: row.get::<_, i64>(4)?.unsigned_abs(),
            is_unknown: row.get(5)?,
        });
    }
    Ok(open)
}

/// The tables, in one transaction.
pub(super) struct SpendFile<'a>(pub(super) &'a Transaction<'a>);

const ATTEMPT: &str =
    "SELECT print, at, instance, unknown, party, account, counted_as, key FROM spend_attempt";

impl SpendFile<'_> {
    pub(super) fn sum_over_all(&self) -> Result<(), StoreError> {
        self.0.execute("DELETE FROM meter WHERE scope = ''", [])?;
        let mut cells = self
            .0
            .prepare("SELECT counted_as, currency, grain, slice, units, calls FROM meter")?;
        let cells = cells.query_map([], |row| {
            let counted_as: String = row.get(0)?;
            let currency: String = row.get(1)?;
            let place: (i64, i64) = (row.get(2)?, row.get(3)?);
            let held: (String, i64) = (row.get(4)?, row.get(5)?);
            Ok(((counted_as, currency, place), held))
        })?;
        let mut sums = BTreeMap::new();
        for cell in cells {
            let (place, (units, calls)) = cell?;
            let sum: &mut (u128, i64) = sums.entry(place).or_default();
            *sum = (sum.0.saturating_add(number(&units)?), sum.1 + calls);
        }
        for ((counted_as, currency, (grain, slice)), (units, calls)) in sums {
            self.0.execute(
                "INSERT INTO meter VALUES ('', ?1, ?2, ?3, ?4, ?5, ?6)",
                params![counted_as, currency, grain, slice, units.to_string(), calls],
            )?;
        }
        Ok(())
    }

    fn held(&self, cell: &MeterCell) -> Result<Option<(u128, i64)>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT units, calls FROM meter
            WHERE scope = ?1 AND counted_as = ?2 AND currency = ?3 AND grain = ?4 AND slice = ?5",
        )?;
        let held = statement
            .query_row(place(cell), |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()?;
        held.map(|(units, calls)| Ok((number(&units)?, calls)))
            .transpose()
    }

    fn drop_cell(&self, cell: &MeterCell) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "DELETE FROM meter
            WHERE scope = ?1 AND counted_as = ?2 AND currency = ?3 AND grain = ?4 AND slice = ?5",
        )?;
        statement.execute(place(cell))?;
        Ok(())
    }

    fn hold(&self, cell: &MeterCell, units: u128, calls: i64) -> Result<(), StoreError> {
        let mut statement = self
            .0
            .prepare_cached("INSERT OR REPLACE INTO meter VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        let (scope, counted_as, currency, grain, slice) = place(cell);
        let values = params![
            scope,
            counted_as,
            currency,
            grain,
            slice,
            units.to_string(),
            calls
        ];
        statement.execute(values)?;
        Ok(())
    }
}

impl SpendTables for SpendFile<'_> {
    type Error = StoreError;

    fn spend(
        &self,
        name: &SpendName,
        currency: &CurrencyCode,
    ) -> Result<Option<CountedSpend>, StoreError> {
        let mut spends = self.spends(name)?.into_iter();
        Ok(spends.find_map(|(of, spend)| (of == *currency).then_some(spend)))
    }

    fn spends(&self, name: &SpendName) -> Result<Vec<(CurrencyCode, CountedSpend)>, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT currency, amount, at, executed FROM spend
            WHERE party = ?1 AND account = ?2 AND counted_as = ?3 AND key = ?4 ORDER BY currency",
        )?;
        let mut rows = statement.query(key(name))?;
        let mut spends = Vec::new();
        while let Some(row) = rows.next()? {
            let currency: String = row.get(0)?;
            let spend = CountedSpend {
                amount: amount(&row.get::<_, String>(1)?)?,
                at_ms: row.get::<_, i64>(2)?.unsigned_abs(),
                executed_ms: row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs),
            };
            spends.push((
                CurrencyCode::parse(&currency).ok_or_else(unreadable)?,
                spend,
            ));
        }
        Ok(spends)
    }

    fn put_spend(
        &mut self,
        name: &SpendName,
        currency: &CurrencyCode,
        spend: CountedSpend,
    ) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT OR REPLACE INTO spend VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let (party, account, counted_as, key) = key(name);
        statement.execute(params![
            party,
            account,
            counted_as,
            key,
            currency.as_str(),
            spend.amount.to_string(),
            to_sql(spend.at_ms),
            spend.executed_ms.map(to_sql)
        ])?;
        Ok(())
    }

    fn remove_spend(&mut self, name: &SpendName) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "DELETE FROM spend WHERE party = ?1 AND account = ?2 AND counted_as = ?3 AND key = ?4",
        )?;
        statement.execute(key(name))?;
        Ok(())
    }

    fn put_attempt(&mut self, attempt: &OpenAttempt) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(
            "INSERT OR REPLACE INTO spend_attempt VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let (party, account, counted_as, key) = key(&attempt.name);
        statement.execute(params![
            attempt.stamp,
            party,
            account,
            counted_as,
            key,
            to_sql(attempt.at_ms),
            attempt.instance,
            attempt.unknown
        ])?;
        Ok(())
    }

    fn attempt(&self, stamp: &Fingerprint) -> Result<Option<OpenAttempt>, StoreError> {
        let mut statement = self
            .0
            .prepare_cached(&format!("{ATTEMPT} WHERE print = ?1"))?;
        Ok(statement.query_row([stamp], open_attempt).optional()?)
    }

    fn attempts(&self, name: &SpendName) -> Result<Vec<OpenAttempt>, StoreError> {
        let mut statement = self.0.prepare_cached(&format!(
            "{ATTEMPT} WHERE party = ?1 AND account = ?2 AND counted_as = ?3 AND key = ?4"
        ))?;
        let attempts = statement.query_map(key(name), open_attempt)?;
        Ok(attempts.collect::<Result<_, _>>()?)
    }

    fn has_failed(&self, name: &SpendName) -> Result<bool, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT 1 FROM spend_failure WHERE party = ?1 AND account = ?2 AND counted_as = ?3 AND key = ?4",
        )?;
        Ok(statement.exists(key(name))?)
    }

    fn note_failure(&mut self, name: &SpendName, decided_ms: u64) -> Result<(), StoreError> {
        let (party, account, counted_as, key) = key(name);
        let mut statement = self
            .0
            .prepare_cached("INSERT OR REPLACE INTO spend_failure VALUES (?1, ?2, ?3, ?4, ?5)")?;
        statement.execute(params![party, account, counted_as, key, to_sql(decided_ms)])?;
        Ok(())
    }

    fn remove_attempt(&mut self, stamp: &Fingerprint) -> Result<(), StoreError> {
        let mut statement = self
            .0
            .prepare_cached("DELETE FROM spend_attempt WHERE print = ?1")?;
        statement.execute([stamp])?;
        Ok(())
    }

    fn count(&mut self, cell: &MeterCell, amount: ExactAmount) -> Result<(), StoreError> {
        let (units, calls) = self.held(cell)?.unwrap_or_default();
        self.hold(cell, units.saturating_add(amount.units()), calls + 1)
    }

    fn uncount(&mut self, cell: &MeterCell, amount: ExactAmount) -> Result<(), StoreError> {
        match self.held(cell)? {
            // Nothing counts there any more. A caller may name any currency, and reports read every row.
            Some((units, calls)) if calls <= 1 && units <= amount.units() => self.drop_cell(cell),
            Some((units, calls)) => {
                let units = units.saturating_sub(amount.units());
                self.hold(cell, units, (calls - 1).max(0))
            }
            None => Ok(()),
        }
    }

    fn sum(
        &self,
        scope: &CapScope,
        calls: &BTreeSet<String>,
        currency: &CurrencyCode,
        window: &CapWindow,
    ) -> Result<MeterSum, StoreError> {
        let mut statement = self.0.prepare_cached(
            "SELECT slice, units, calls FROM meter
            WHERE scope = ?1 AND counted_as = ?2 AND currency = ?3 AND grain = ?4 AND slice >= ?5",
        )?;
        let mut total = MeterSum::default();
        for counted_as in calls {
            let from = (
                scope.as_str(),
                counted_as,
                currency.as_str(),
                window.grain.number(),
                to_sql(window.first),
            );
            let mut rows = statement.query(from)?;
            while let Some(row) = rows.next()? {
                let (slice, calls): (i64, i64) = (row.get(0)?, row.get(2)?);
                let units = number(&row.get::<_, String>(1)?)?;
                total.add(slice.unsigned_abs(), units, calls.unsigned_abs());
            }
        }
        Ok(total)
    }

    fn approval_of(&self, of: &ApprovalKey, now_ms: u64) -> Result<Option<Approval>, StoreError> {
        approval_rows::of_call(self.0, of, now_ms)
    }

    fn approvals_waiting(&self, party: &StoredText, now_ms: u64) -> Result<u64, StoreError> {
        approval_rows::waiting(self.0, party, now_ms)
    }

    fn approval(&self, id: &ApprovalId) -> Result<Option<Approval>, StoreError> {
        approval_rows::by_id(self.0, *id)
    }

    fn put_approval(&mut self, approval: &Approval) -> Result<(), StoreError> {
        approval_rows::write(self.0, approval)
    }
}

fn key(name: &SpendName) -> (&str, &str, &str, &str) {
    (&name.party, &name.account, &name.counted_as, &name.key)
}

fn place(cell: &MeterCell) -> (&str, &str, &str, i64, i64) {
    (
        cell.scope.as_str(),
        &cell.counted_as,
        cell.currency.as_str(),
        cell.grain.number(),
        to_sql(cell.slice),
    )
}

/// The four columns of a key, from one on.
pub(super) fn name(row: &Row<'_>, first: usize) -> rusqlite::Result<SpendName> {
    Ok(SpendName {
        party: row.get(first)?,
        account: row.get(first + 1)?,
        counted_as: row.get(first + 2)?,
        key: row.get(first + 3)?,
    })
}

fn open_attempt(row: &Row<'_>) -> rusqlite::Result<OpenAttempt> {
    Ok(OpenAttempt {
        stamp: row.get(0)?,
        at_ms: row.get::<_, i64>(1)?.unsigned_abs(),
        instance: row.get(2)?,
        unknown: row.get(3)?,
        name: name(row, 4)?,
    })
}

fn amount(text: &str) -> Result<ExactAmount, StoreError> {
    ExactAmount::parse(text).map_err(|_| unreadable())
}

fn number(text: &str) -> Result<u128, StoreError> {
    text.parse().map_err(|_| unreadable())
}

pub(super) fn unreadable() -> StoreError {
    StoreError::Unexpected("a row of caps in the file".to_owned())
}

/// A number for a column. No clock of the next million years is beyond it.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
