//! Money caps in the file: rules, settlements, and what is still unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::approval_rows::approver_rule;
use super::approvals::take_approvers;
use super::file::{StoreFile, committed, to_sql};
use super::spend_tables::{self, SpendFile, name, unreadable, write_book};
use super::{SqliteStore, usage_tables};
use crate::aside::aside;
use crate::caps::approval::{APPROVAL_KEPT_MS, APPROVAL_MS, ApprovalOrder};
use crate::caps::approver_rule::ApproverRule;
use crate::caps::early_raise::{PendingRaise, RaiseDigest};
use crate::caps::judge;
use crate::caps::report::{CapFacts, NeededSums, signed_raises};
use crate::caps::rule::{CapDeclaration, CapScope, CappedCalls};
use crate::caps::rule_book::RuleBook;
use crate::caps::spend::{
    ALIVE_MS, KEPT_MS, LOST_REPORT_MS, NO_KEY, SettledAttempt, SettledObject, UNKNOWN_AFTER_MS,
    UnknownSpend,
};
use crate::caps::window::SliceGrain;
use crate::error::StoreError;
use crate::stored_text::StoredText;

/// The sums that a report reads before calls are admitted again.
const SUMS_AT_ONCE: usize = 64;

impl SqliteStore {
    pub(crate) async fn declare_caps(
        &self,
        declaration: &CapDeclaration,
        number: i64,
    ) -> Result<bool, StoreError> {
        let declaration = declaration.clone();
        self.run(move |file| file.declare_caps(&declaration, number))
            .await
    }

    pub(crate) async fn raise_caps(
        &self,
        digest: RaiseDigest,
        by: &StoredText,
        needed: usize,
    ) -> Result<ApprovalOrder, StoreError> {
        let by = by.clone();
        self.run(move |file| file.raise_caps(digest, (&by, needed)))
            .await
    }

    pub(crate) async fn settle_attempts(
        &self,
        settled: &[SettledAttempt],
    ) -> Result<(), StoreError> {
        let settled = settled.to_vec();
        self.run(move |file| file.settle_attempts(&settled)).await
    }

    pub(crate) async fn settle_object(&self, object: &SettledObject) -> Result<bool, StoreError> {
        let object = object.clone();
        self.run(move |file| file.settle_object(&object)).await
    }

    pub(crate) async fn capped_calls(&self) -> Result<Vec<CappedCalls>, StoreError> {
        self.run(StoreFile::capped_calls).await
    }

    pub(crate) async fn capped_calls_of(
        &self,
        account: &StoredText,
    ) -> Result<Vec<CappedCalls>, StoreError> {
        let scope = CapScope::of_account(account);
        self.run(move |file| {
            let now_ms = file.now()?;
            Ok(file.rules_of_caps()?.capped_calls_of(&scope, now_ms))
        })
        .await
    }

    pub(crate) async fn waiting_raises(
        &self,
    ) -> Result<Vec<(PendingRaise, Vec<StoredText>)>, StoreError> {
        let (now_ms, book, signers) = self.run(StoreFile::rules_and_signers).await?;
        aside(move || Ok(signed_raises(&book, &signers, now_ms))).await
    }

    /// Reads in small parts, between which calls are admitted.
    pub(crate) async fn cap_facts(&self, of: Option<StoredText>) -> Result<CapFacts, StoreError> {
        let (now_ms, book, signers) = self.run(StoreFile::rules_and_signers).await?;
        let work = move || {
            let needed = NeededSums::of(&book, of.as_ref(), now_ms);
            Ok((needed, RuleBook::clone(&book)))
        };
        let (needed, book) = aside(work).await?;
        let from_ms = needed.from_ms();
        let NeededSums {
            named,
            others,
            first,
        } = needed;
        let mut meters = BTreeMap::new();
        let mut named = named.into_iter().peekable();
        while named.peek().is_some() {
            let part: Vec<_> = named.by_ref().take(SUMS_AT_ONCE).collect();
            let read = move |file: &mut StoreFile| {
                let sums = part
                    .iter()
                    .map(|it| spend_tables::named_sums(file.connection(), it, first));
                sums.collect::<Result<Vec<_>, _>>()
            };
            meters.extend(self.run(read).await?.into_iter().flatten());
        }
        for other in others {
            let read = move |file: &mut StoreFile| {
                spend_tables::other_sums(file.connection(), &other, first)
            };
            meters.extend(self.run(read).await?);
        }
        let open = self
            .run(move |file| spend_tables::open_spends(file.connection(), from_ms))
            .await?;
        Ok(CapFacts {
            now_ms,
            book,
            meters,
            open,
            signers,
        })
    }

    pub(crate) async fn age_spends(&self) -> Result<(), StoreError> {
        self.run(StoreFile::age_spends).await
    }

    pub(crate) async fn unknown_spends(&self, most: u32) -> Result<Vec<UnknownSpend>, StoreError> {
        self.run(move |file| unknown_spends(file.connection(), most))
            .await
    }
}

impl StoreFile {
    fn declare_caps(
        &mut self,
        declaration: &CapDeclaration,
        number: i64,
    ) -> Result<bool, StoreError> {
        if number <= self.declared.caps {
            return Ok(false);
        }
        let now_ms = self.now()?;
        let (change, known) = self.begin_with_rules()?;
        let mut book = RuleBook::clone(&known);
        book.declare(declaration, now_ms);
        if book != *known {
            write_book(&change, &book)?;
            forget_signatures(&change, &book, now_ms)?;
        }
        if !known.sums_over_all() && book.sums_over_all() {
            SpendFile(&change).sum_over_all()?;
        }
        let approvers = (declaration.approvers, declaration.raise_after_ms);
        take_approvers(&change, approvers, now_ms)?;
        let written = committed(change, now_ms);
        self.forget_rules();
        written?;
        self.declared.caps = number;
        Ok(true)
    }

    fn raise_caps(
        &mut self,
        digest: RaiseDigest,
        (by, needed): (&StoredText, usize),
    ) -> Result<ApprovalOrder, StoreError> {
        let now_ms = self.now()?;
        let (change, known) = self.begin_with_rules()?;
        let mut book = RuleBook::clone(&known);
        let mut waiting = book.waiting_raises(now_ms).into_iter();
        let Some(waiting) = waiting.find(|waiting| waiting.digest == digest) else {
            return Ok(ApprovalOrder::NotFound);
        };
        change.execute(
            "DELETE FROM cap_raise_signature WHERE at <= ?1",
            [to_sql(now_ms.saturating_sub(APPROVAL_MS))],
        )?;
        change.execute(
            "INSERT OR IGNORE INTO cap_raise_signature VALUES (?1, ?2, ?3)",
            params![digest.bytes(), by.as_str(), to_sql(now_ms)],
        )?;
        let in_force = ApproverRule::needed(approver_rule(&change)?, now_ms);
        let needed = needed.max(in_force as usize);
        let own = signers(&change, now_ms)?;
        if own.iter().filter(|(of, _)| *of == digest).count() >= needed {
            book.raise_at_once(&waiting.scope, now_ms);
            write_book(&change, &book)?;
            forget_signatures(&change, &book, now_ms)?;
        }
        let written = committed(change, now_ms);
        self.forget_rules();
        written.map(|_contact| ApprovalOrder::Taken)
    }

    fn settle_attempts(&mut self, settled: &[SettledAttempt]) -> Result<(), StoreError> {
        let now_ms = self.now()?;
        let (change, book) = self.begin_with_rules()?;
        judge::settle_attempts(&mut SpendFile(&change), &book, settled)?;
        usage_tables::settle_usage(&change, now_ms, settled)?;
        committed(change, now_ms)?;
        Ok(())
    }

    fn settle_object(&mut self, object: &SettledObject) -> Result<bool, StoreError> {
        let now_ms = self.now()?;
        let (change, book) = self.begin_with_rules()?;
        let is_released = judge::settle_object(&mut SpendFile(&change), &book, object)?;
        committed(change, now_ms)?;
        Ok(is_released)
    }

    fn capped_calls(&mut self) -> Result<Vec<CappedCalls>, StoreError> {
        let now_ms = self.now()?;
        Ok(self.rules_of_caps()?.capped_calls(now_ms))
    }

    #[expect(clippy::type_complexity, reason = "one caller takes it apart")]
    fn rules_and_signers(
        &mut self,
    ) -> Result<(u64, Arc<RuleBook>, Vec<(RaiseDigest, StoredText)>), StoreError> {
        let now_ms = self.now()?;
        let book = self.rules_of_caps()?;
        let signers = signers(self.connection(), now_ms)?;
        Ok((now_ms, book, signers))
    }

    fn age_spends(&mut self) -> Result<(), StoreError> {
        let (now_ms, deleting_ms) = (self.now()?, self.deleting()?);
        let change = self.begin()?;
        let before = |ms: u64| to_sql(now_ms.saturating_sub(ms));
        let forgotten_before = |ms: u64| to_sql(deleting_ms.saturating_sub(ms));
        change.execute(
            "UPDATE spend_attempt SET unknown = 1 WHERE NOT unknown AND (at < ?1 OR at < ?2
                AND NOT EXISTS (SELECT 1 FROM instance WHERE id = spend_attempt.instance AND steady > ?3))",
            params![
                before(LOST_REPORT_MS),
                before(UNKNOWN_AFTER_MS),
                before(ALIVE_MS)
            ],
        )?;
        for grain in SliceGrain::ALL {
            let forgotten = params![grain.number(), to_sql(grain.oldest_kept(deleting_ms))];
            change.execute(
                "DELETE FROM meter WHERE grain = ?1 AND slice < ?2",
                forgotten,
            )?;
        }
        for forgotten in [
            "DELETE FROM spend_attempt WHERE at < ?1",
            "DELETE FROM spend WHERE at < ?1",
            "DELETE FROM spend_failure WHERE at < ?1",
        ] {
            change.execute(forgotten, [forgotten_before(KEPT_MS)])?;
        }
        for forgotten in [
            "DELETE FROM approval_signature WHERE approval IN (SELECT id FROM approval WHERE until < ?1)",
            "DELETE FROM approval WHERE until < ?1",
        ] {
            change.execute(forgotten, [forgotten_before(APPROVAL_KEPT_MS)])?;
        }
        committed(change, now_ms)?;
        Ok(())
    }
}

/// Forgets the signatures for changes that no longer wait, so that they do not count if the same changes come back.
fn forget_signatures(
    connection: &Connection,
    book: &RuleBook,
    now_ms: u64,
) -> Result<(), StoreError> {
    let signers = signers(connection, now_ms)?;
    if signers.is_empty() {
        return Ok(());
    }
    let waiting: BTreeSet<RaiseDigest> = book
        .waiting_raises(now_ms)
        .iter()
        .map(|waiting| waiting.digest)
        .collect();
    for (digest, _) in signers {
        if !waiting.contains(&digest) {
            let forget = "DELETE FROM cap_raise_signature WHERE changes = ?1";
            connection.execute(forget, [digest.bytes()])?;
        }
    }
    Ok(())
}

/// The operators that have approved changes of caps within a day.
fn signers(
    connection: &Connection,
    now_ms: u64,
) -> Result<Vec<(RaiseDigest, StoredText)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT changes, operator FROM cap_raise_signature WHERE at > ?1 ORDER BY changes, at, operator",
    )?;
    let mut rows = statement.query([to_sql(now_ms.saturating_sub(APPROVAL_MS))])?;
    let mut signers = Vec::new();
    while let Some(row) = rows.next()? {
        let of = RaiseDigest::of_bytes(&row.get::<_, Vec<u8>>(0)?).ok_or_else(unreadable)?;
        let by = StoredText::parse(&row.get::<_, String>(1)?).ok_or_else(unreadable)?;
        signers.push((of, by));
    }
    Ok(signers)
}

fn unknown_spends(connection: &Connection, most: u32) -> Result<Vec<UnknownSpend>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT since, party, account, counted_as, key FROM (
            SELECT min(at) AS since, party, account, counted_as, key,
                row_number() OVER (PARTITION BY party ORDER BY min(at) DESC, key) AS place
            FROM spend_attempt WHERE unknown GROUP BY party, account, counted_as, key
        ) ORDER BY place, since DESC, party LIMIT ?1",
    )?;
    let rows = statement.query_map([most], |row| {
        let since: i64 = row.get(0)?;
        Ok((since, name(row, 1)?))
    })?;
    let spends = rows.map(|row| {
        let (since, name) = row?;
        let text = |text: &str| StoredText::parse(text).ok_or_else(unreadable);
        Ok(UnknownSpend {
            since_ms: since.unsigned_abs(),
            party: text(&name.party)?,
            account: text(&name.account)?,
            counted_as: name.counted_as,
            key: if name.key.starts_with(NO_KEY) {
                None
            } else {
                Some(text(&name.key)?)
            },
        })
    });
    spends.collect()
}
