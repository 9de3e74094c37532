//! `admit_v1`: a batch as parameters, and its answer as verdicts.

use std::time::Duration;

use gatepay_core::Kind;
use tokio::sync::MutexGuard;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::PostgresStore;
use super::cap_breach::{approval_demand, breach};
use super::session::PgSession;
use crate::admission::{
    AdmissionBatch, AdmissionReply, AdmissionRow, AdmissionVerdict, Fingerprint, HaltScope,
    StoredText,
};
use crate::caps::rule::ShadowBreach;
use crate::error::StoreError;
use crate::identity::{StoreContact, StoreIdentity};
use crate::statement::account_book::CallUsage;
use crate::stored_text::ToldText;

const ADMIT: &str = "SELECT * FROM gatepay.admit_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
    $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36)";

/// How long an admission line is idle before it is probed.
const IDLE: Duration = Duration::from_secs(2);

impl PostgresStore {
    /// Decides a batch in one transaction. Two batches may be under way at once.
    ///
    /// After an error, or if the call is dropped, it is unknown whether the stamps were recorded; nothing may be sent
    /// for them. The same rows must not be asked about again: they would be their own replay.
    pub async fn admit(&self, batch: &AdmissionBatch) -> Result<AdmissionReply, StoreError> {
        if batch.is_empty() {
            return Err(StoreError::Unexpected("an empty batch".to_owned()));
        }
        let reply = self.within_timeout(self.admit_on_a_line(batch)).await?;
        let (reply, contact) = reply;
        self.remember(contact, reply.new_guard);
        Ok(reply)
    }

    /// Whether the server answers, on a connection that admits.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.within_timeout(async {
            let mut line = self.free_line().await;
            let mut session = match line.take() {
                Some(session) => session,
                None => self.connector.connect().await?,
            };
            session.query("SELECT 1", &[]).await?;
            *line = Some(session);
            Ok(())
        })
        .await
    }

    /// Asks on each admission line that was idle for a while. A line that does not answer is closed, so that the next batch
    /// connects anew and does not fail.
    pub(super) async fn probe_idle_lines(&self) {
        for line in &self.admitting {
            let is_idle = |session: &mut PgSession| session.idle() >= IDLE;
            // The line is free meanwhile: a batch that comes connects anew.
            let idle = match line.try_lock() {
                Ok(mut line) => line.take_if(is_idle),
                Err(_) => None,
            };
            let Some(mut session) = idle else {
                continue;
            };
            let answered = self.within_timeout(async { session.query("SELECT 1", &[]).await });
            if answered.await.is_ok()
                && let Ok(mut line) = line.try_lock()
            {
                line.get_or_insert(session);
            }
        }
    }

    async fn free_line(&self) -> MutexGuard<'_, Option<PgSession>> {
        let [first, second] = &self.admitting;
        match (first.try_lock(), second.try_lock()) {
            (Ok(line), _) | (Err(_), Ok(line)) => line,
            (Err(_), Err(_)) => first.lock().await,
        }
    }

    async fn admit_on_a_line(
        &self,
        batch: &AdmissionBatch,
    ) -> Result<(AdmissionReply, StoreContact), StoreError> {
        let mut line = self.free_line().await;
        let mut session = match line.take() {
            Some(session) => session,
            None => self.connector.connect().await?,
        };
        let answer = self.ask(&mut session, batch).await?;
        *line = Some(session);
        Ok(answer)
    }

    async fn ask(
        &self,
        session: &mut PgSession,
        batch: &AdmissionBatch,
    ) -> Result<(AdmissionReply, StoreContact), StoreError> {
        let known = KnownContact::from(self.contact());
        let [future_ms, guard_ms] = [self.terms.future_ms, self.terms.guard_ms()].map(millis);
        let lossless = self.lossless();
        let columns = BatchColumns::from(batch.rows());
        let mut parameters: Vec<&(dyn ToSql + Sync)> = known.parameters().to_vec();
        parameters.extend([&future_ms as &(dyn ToSql + Sync), &guard_ms, &lossless]);
        parameters.extend(columns.parameters());
        let rows = session.query(ADMIT, &parameters).await?;
        let [row] = &rows[..] else {
            return Err(StoreError::Unexpected(format!("{} rows", rows.len())));
        };
        read(row, batch.rows())
    }
}

/// The last contact, as the functions take it.
pub(super) struct KnownContact {
    system_id: Option<i64>,
    timeline: Option<i64>,
    wal: Option<i64>,
    at: Option<i64>,
    print: Option<Vec<u8>>,
    stamp: Option<i64>,
    id: Option<i64>,
    seen: Option<i64>,
}

impl From<Option<StoreContact>> for KnownContact {
    fn from(contact: Option<StoreContact>) -> Self {
        Self {
            system_id: contact.map(|it| it.identity.system_id),
            timeline: contact.map(|it| it.identity.timeline),
            wal: contact.map(|it| it.position),
            at: contact.map(|it| it.at_ms),
            print: contact.and_then(|it| it.stamp).map(|it| it.0.to_vec()),
            stamp: contact.and_then(|it| it.stamp).map(|it| it.1),
            id: contact.and_then(|it| it.sign_of_life).map(|it| it.0),
            seen: contact.and_then(|it| it.sign_of_life).map(|it| it.1),
        }
    }
}

impl KnownContact {
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 8] {
        let Self {
            system_id,
            timeline,
            wal,
            at,
            print,
            stamp,
            id,
            seen,
        } = self;
        [system_id, timeline, wal, at, print, stamp, id, seen]
    }
}

/// A batch by columns. Numbers of rows count from 1, as SQL's arrays do.
#[derive(Default)]
struct BatchColumns<'a> {
    prints: Vec<&'a [u8]>,
    nonces: Vec<Option<&'a [u8]>>,
    stamps: Vec<i64>,
    parties: Vec<&'a str>,
    accounts: Vec<&'a str>,
    kinds: Vec<i16>,
    modules: Vec<&'a str>,
    operations: Vec<&'a str>,
    bodies: Vec<bool>,
    intent_rows: Vec<i32>,
    intent_kinds: Vec<&'a str>,
    intent_keys: Vec<&'a str>,
    intent_currencies: Vec<Option<&'a str>>,
    /// The names and keys of spends by row; empty if no row spends.
    spend_names: Vec<Option<&'a str>>,
    spend_keys: Vec<Option<&'a str>>,
    spend_rows: Vec<i32>,
    spend_currencies: Vec<Option<&'a str>>,
    spend_amounts: Vec<String>,
    /// By amount, the order whose currency it has; empty if each has its own.
    spend_orders: Vec<Option<&'a str>>,
    /// The usage for statements, by row; empty if no row changes anything.
    usage_keys: Vec<Option<&'a str>>,
    usage_once: Vec<bool>,
    usage_parts: Vec<Option<String>>,
    /// The subjects of approvals, by row; empty if no call has one.
    approval_digests: Vec<Option<&'a [u8]>>,
    approval_amounts: Vec<Option<&'a str>>,
    approval_targets: Vec<Option<&'a str>>,
}

impl<'a> From<&'a [AdmissionRow]> for BatchColumns<'a> {
    fn from(rows: &'a [AdmissionRow]) -> Self {
        let mut columns = Self::default();
        for (number, row) in (1..).zip(rows) {
            columns.prints.push(&row.stamp);
            columns
                .nonces
                .push(row.nonce.as_ref().map(<[u8; 16]>::as_slice));
            columns.stamps.push(millis(row.stamp_ms));
            columns.parties.push(row.party.as_str());
            columns.accounts.push(row.account.as_str());
            columns.kinds.push(kind(row.kind));
            columns.modules.push(row.module);
            columns.operations.push(&row.operation);
            columns.bodies.push(row.has_body);
            for intent in &row.intents {
                columns.intent_rows.push(number);
                columns.intent_kinds.push(intent.key_kind);
                columns.intent_keys.push(intent.key.as_str());
                columns
                    .intent_currencies
                    .push(intent.currency.as_ref().map(StoredText::as_str));
            }
        }
        if rows.iter().any(|row| row.spend.is_some()) {
            columns.spends(rows);
        }
        if rows.iter().any(|row| row.usage.is_some()) {
            columns.usage(rows);
        }
        columns
    }
}

impl<'a> BatchColumns<'a> {
    fn approvals(&mut self, rows: &'a [AdmissionRow]) {
        for row in rows {
            let spend = row.spend.as_deref();
            let subject = spend.and_then(|spend| spend.approval.as_ref());
            let digest = subject.map(|subject| &subject.body_sha256[..]);
            self.approval_digests.push(digest);
            let text = |text: &'a ToldText| text.as_str();
            self.approval_amounts
                .push(subject.map(|subject| text(&subject.amounts)));
            self.approval_targets
                .push(subject.map(|subject| text(&subject.targets)));
        }
    }

    fn spends(&mut self, rows: &'a [AdmissionRow]) {
        let tells = |row: &AdmissionRow| row.spend.as_ref().is_some_and(|it| it.approval.is_some());
        if rows.iter().any(tells) {
            self.approvals(rows);
        }
        for (number, row) in (1..).zip(rows) {
            let spend = row.spend.as_deref();
            self.spend_names.push(spend.map(|spend| spend.counted_as));
            let key = spend.and_then(|spend| spend.key.as_ref());
            self.spend_keys.push(key.map(StoredText::as_str));
            for part in spend.iter().flat_map(|spend| &spend.parts) {
                self.spend_rows.push(number);
                self.spend_currencies.push(Some(part.currency.as_str()));
                self.spend_amounts.push(part.amount.to_string());
            }
            for part in spend.iter().filter_map(|spend| spend.of_order.as_ref()) {
                self.spend_orders.resize(self.spend_rows.len(), None);
                self.spend_orders.push(Some(part.order.as_str()));
                self.spend_rows.push(number);
                self.spend_currencies.push(None);
                self.spend_amounts.push(part.amount.to_string());
            }
        }
        if !self.spend_orders.is_empty() {
            self.spend_orders.resize(self.spend_rows.len(), None);
        }
    }

    fn usage(&mut self, rows: &'a [AdmissionRow]) {
        for row in rows {
            let usage = row.usage.as_deref();
            let key = usage.and_then(|usage| usage.key.as_ref());
            self.usage_keys.push(key.map(StoredText::as_str));
            self.usage_once
                .push(usage.is_some_and(|usage| usage.is_once));
            self.usage_parts.push(usage.map(CallUsage::parts_text));
        }
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 25] {
        [
            &self.prints,
            &self.nonces,
            &self.stamps,
            &self.parties,
            &self.accounts,
            &self.kinds,
            &self.modules,
            &self.operations,
            &self.bodies,
            &self.intent_rows,
            &self.intent_kinds,
            &self.intent_keys,
            &self.intent_currencies,
            &self.spend_names,
            &self.spend_keys,
            &self.spend_rows,
            &self.spend_currencies,
            &self.spend_amounts,
            &self.spend_orders,
            &self.usage_keys,
            &self.usage_once,
            &self.usage_parts,
            &self.approval_digests,
            &self.approval_amounts,
            &self.approval_targets,
        ]
    }
}

/// A time for a `bigint`. No clock of the next million years is beyond it.
pub(super) fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 4)
}

fn kind(kind: Kind) -> i16 {
    match kind {
        Kind::Read => 0,
        Kind::Write => 1,
        Kind::Money => 2,
    }
}

fn read(row: &Row, asked: &[AdmissionRow]) -> Result<(AdmissionReply, StoreContact), StoreError> {
    let verdicts: Vec<i16> = cell(row, "verdicts")?;
    let details: Vec<i64> = cell(row, "details")?;
    let scopes: Vec<Option<String>> = cell(row, "scopes")?;
    if [verdicts.len(), details.len(), scopes.len()] != [asked.len(); 3] {
        return Err(StoreError::Unexpected("verdicts are missing".to_owned()));
    }
    let shadows: Option<Vec<Option<String>>> = cell(row, "shadows")?;
    let shadows = shadows.iter().flatten().enumerate();
    let shadows = shadows.filter_map(|(row, told)| Some((row, told.as_deref()?)));
    let shadows = shadows.map(|(row, told)| {
        let breach = breach(told, None)?;
        Ok(ShadowBreach { row, breach })
    });
    let shadows = shadows.collect::<Result<_, StoreError>>()?;
    let verdicts = verdicts.iter().zip(&details).zip(&scopes);
    let verdicts = verdicts
        .zip(asked)
        .map(|(((verdict, detail), scope), row)| {
            one(*verdict, *detail, scope.as_deref(), &row.stamp)
        });
    let verdicts = verdicts.collect::<Result<Vec<_>, _>>()?;
    let (mut contact, guarded_until, new_guard) = contact(row)?;
    let admitted = asked
        .iter()
        .zip(&verdicts)
        .filter(|(_, it)| **it == AdmissionVerdict::Admitted);
    // The newest one is remembered longest.
    let newest = admitted.map(|(row, _)| row).max_by_key(|row| row.stamp_ms);
    contact.stamp = newest.map(|row| (row.stamp, millis(row.stamp_ms)));
    let reply = AdmissionReply {
        verdicts,
        now_ms: contact.at_ms.unsigned_abs(),
        guarded_until,
        new_guard,
        shadows,
    };
    Ok((reply, contact))
}

/// The columns about the store itself, which every function returns.
pub(super) fn contact(row: &Row) -> Result<(StoreContact, u64, bool), StoreError> {
    let contact = StoreContact {
        identity: StoreIdentity {
            system_id: cell(row, "o_system_id")?,
            timeline: cell(row, "o_timeline")?,
        },
        position: cell(row, "o_wal")?,
        at_ms: cell(row, "o_at")?,
        stamp: None,
        sign_of_life: None,
    };
    let guarded: i64 = cell(row, "o_guarded")?;
    Ok((contact, guarded.unsigned_abs(), cell(row, "o_renewed")?))
}

fn one(
    verdict: i16,
    detail: i64,
    scope: Option<&str>,
    stamp: &Fingerprint,
) -> Result<AdmissionVerdict, StoreError> {
    let detail = detail.unsigned_abs();
    Ok(match verdict {
        0 => AdmissionVerdict::Admitted,
        1 => AdmissionVerdict::Replayed {
            admitted_ms: detail,
        },
        2 => AdmissionVerdict::NonceReplayed {
            admitted_ms: detail,
        },
        3 => AdmissionVerdict::Forgotten,
        4 => AdmissionVerdict::Guarded { wait_ms: detail },
        6 => {
            let scope = scope.map_or(HaltScope::All, HaltScope::parse);
            AdmissionVerdict::Halted(scope)
        }
        7 => AdmissionVerdict::Premature { ahead_ms: detail },
        8 => {
            let frees_ms = (detail > 0).then_some(detail);
            let breach = breach(scope.unwrap_or_default(), frees_ms)?;
            AdmissionVerdict::CapExceeded(Box::new(breach))
        }
        9 => AdmissionVerdict::Bodyless,
        10 => {
            let demand = approval_demand(scope.unwrap_or_default(), stamp)?;
            AdmissionVerdict::ApprovalRequired(Box::new(demand))
        }
        11 => AdmissionVerdict::UnknownCurrency,
        other => return Err(StoreError::Unexpected(format!("verdict {other}"))),
    })
}

/// A column of a row; an error if it has another type or is null.
pub(super) fn cell<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    name: &str,
) -> Result<T, StoreError> {
    let unexpected =
        |error: tokio_postgres::Error| StoreError::Unexpected(super::session::chain(&error));
    row.try_get(name).map_err(unexpected)
}
