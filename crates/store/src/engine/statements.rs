//! Statements over two engines.

use std::collections::BTreeMap;

use super::Store;
use crate::caps::spend::SettledObject;
use crate::error::StoreError;
use crate::statement::account_book::{BookedCall, UnknownCall};
use crate::statement::daily_statement::{
    DailyStatement, DayCount, HeadsByKey, HeadsOfDay, KeyName, StatementSum,
};
use crate::statement::usage_flush::{DayBounds, UsageFlush};
use crate::stored_text::{Fingerprint, StoredText};

/// Whose statement, and of which day.
#[derive(Debug, Clone)]
pub struct StatementSubject {
    /// The tenant or operator.
    pub party: StoredText,
    /// The sub-account; an operator's calls are made for any.
    pub account: Option<StoredText>,
    /// The date of the day: `2026-11-27`.
    pub date: String,
}

/// GatePay's word on the object under a key, for caps and for statements: the same evidence for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectWord {
    /// The word. Caps take it over with [`Store::settle_object`].
    pub object: SettledObject,
    /// The operations that make such objects. They make no other difference to a failure than those that have booked calls
    /// under the key: if there are two, GatePay may have told about either.
    pub operations: Vec<String>,
    /// Whether the object has no other amounts than those of the word.
    pub is_whole: bool,
}

/// The figures of a day besides its calls.
pub(crate) struct DayFigures {
    pub(crate) now_ms: u64,
    pub(crate) days: Vec<DayBounds>,
    pub(crate) counts: Vec<DayCount>,
    pub(crate) peak: Option<(u64, u64)>,
    pub(crate) losses_ms: Vec<u64>,
}

/// Which calls of a subject are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallReading {
    /// Calls that were admitted within the time.
    Admitted,
    /// Calls whose first result was learned within the time.
    Learned,
    /// Calls whose own end was learned within the time, after the first result.
    OwnEnd,
    /// Calls whose failure was learned within the time.
    Failed,
}

/// Where a page begins: after the call with this time of its reading and this stamp.
pub(crate) type PagePlace = (u64, Fingerprint);

/// Which calls under a key are read: those admitted before a time, after a stamp, and how many at most.
pub(crate) type MemberPlace = (u64, Vec<u8>, u32);

/// A page of calls.
pub(crate) struct CallPage {
    pub(crate) calls: Vec<BookedCall>,
    /// Where the next one begins; `None` after the last.
    pub(crate) next: Option<PagePlace>,
}

impl CallReading {
    /// The readings of news about calls.
    const NEWS: [Self; 3] = [Self::Learned, Self::OwnEnd, Self::Failed];

    fn time_of(self, call: &BookedCall) -> Option<u64> {
        match self {
            Self::Admitted => Some(call.at_ms),
            Self::Learned => call.learned.map(|(_, ms)| ms),
            Self::OwnEnd => call.own_end.map(|(_, ms)| ms),
            Self::Failed => call.failure.map(|failure| failure.learned_ms),
        }
    }

    /// The page that these calls are.
    pub(crate) fn page(self, calls: Vec<BookedCall>) -> CallPage {
        let is_full = calls.len() == PAGE_CALLS as usize;
        let last = calls.last().filter(|_| is_full);
        let next = last.and_then(|call| self.time_of(call).zip(Some(call.stamp)));
        CallPage { calls, next }
    }
}

/// The most calls of a page: with the heads of as many keys, one read stays far below the time that a busy store has for it.
pub(crate) const PAGE_CALLS: u32 = 200;
/// The most calls under each key that are read for many keys at once.
const FEW_MEMBERS: u32 = 20;
/// How long after its end a day is still open: admissions of its last moment may be under way.
pub const CLOSING_MS: u64 = 60_000;

impl Store {
    /// The statement of a day; `None` if the store has no such day. A large day takes many reads; what is learned between
    /// them may be in it.
    pub async fn statement(
        &self,
        subject: &StatementSubject,
    ) -> Result<Option<DailyStatement>, StoreError> {
        let figures = match self {
            Self::Postgres(store) => store.day_figures(subject).await,
            Self::Sqlite(store) => store.day_figures(subject).await,
        }?;
        let day = figures.days.iter().find(|day| day.date == subject.date);
        let Some(day) = day.cloned() else {
            return Ok(None);
        };
        let mut sum = StatementSum::begin(day.clone(), figures.now_ms, figures.days);
        sum.statement.counts = figures.counts;
        sum.statement.peak = figures.peak;
        sum.statement.losses_ms = figures.losses_ms;
        let mut place = None;
        loop {
            let page = self
                .page((subject, &day), CallReading::Admitted, place)
                .await?;
            let names = KeyName::all(&page.calls);
            let heads = self.heads(&subject.party, &names, day.ends_ms).await?;
            sum.count(&page.calls, &heads);
            place = page.next;
            if place.is_none() {
                break;
            }
        }
        for reading in CallReading::NEWS {
            self.correct((subject, &day), reading, &mut sum).await?;
        }
        Ok(Some(sum.statement))
    }

    /// Adds what the day's news change about earlier days.
    async fn correct(
        &self,
        (subject, day): (&StatementSubject, &DayBounds),
        reading: CallReading,
        sum: &mut StatementSum,
    ) -> Result<(), StoreError> {
        let mut place = None;
        loop {
            let page = self.page((subject, day), reading, place).await?;
            let names = KeyName::all(&page.calls);
            let heads = HeadsOfDay {
                before: self.heads(&subject.party, &names, day.begins_ms).await?,
                now: self.heads(&subject.party, &names, day.ends_ms).await?,
            };
            sum.correct(&page.calls, &heads);
            self.correct_keys((subject, day), &heads.changed_by(&page.calls), &heads, sum)
                .await?;
            place = page.next;
            if place.is_none() {
                return Ok(());
            }
        }
    }

    /// The same for all calls of earlier days under keys with new heads. Hardly a key has any.
    async fn correct_keys(
        &self,
        (subject, day): (&StatementSubject, &DayBounds),
        changed: &[KeyName],
        heads: &HeadsOfDay,
        sum: &mut StatementSum,
    ) -> Result<(), StoreError> {
        if changed.is_empty() {
            return Ok(());
        }
        let before = (&subject.party, day.begins_ms);
        let first = self.members(before, changed, None, FEW_MEMBERS).await?;
        sum.correct(&first, heads);
        let mut last_of: BTreeMap<KeyName, (u32, Fingerprint)> = BTreeMap::new();
        for call in &first {
            if let Some(name) = KeyName::of(call) {
                let last = last_of.entry(name).or_insert((0, call.stamp));
                *last = (last.0 + 1, call.stamp);
            }
        }
        for (name, (number, last)) in last_of {
            let mut after = (number == FEW_MEMBERS).then_some(last);
            while after.is_some() {
                let name = std::slice::from_ref(&name);
                let more = self.members(before, name, after, PAGE_CALLS).await?;
                sum.correct(&more, heads);
                let is_full = more.len() == PAGE_CALLS as usize;
                after = more.last().filter(|_| is_full).map(|call| call.stamp);
            }
        }
        Ok(())
    }

    async fn members(
        &self,
        (party, before_ms): (&StoredText, u64),
        names: &[KeyName],
        after: Option<Fingerprint>,
        most: u32,
    ) -> Result<Vec<BookedCall>, StoreError> {
        let after = after.map_or_else(Vec::new, |stamp| stamp.to_vec());
        let place = (before_ms, after, most);
        match self {
            Self::Postgres(store) => store.key_members(party, names, place).await,
            Self::Sqlite(store) => store.key_members(party, names, place).await,
        }
    }

    async fn page(
        &self,
        (subject, day): (&StatementSubject, &DayBounds),
        reading: CallReading,
        place: Option<PagePlace>,
    ) -> Result<CallPage, StoreError> {
        match self {
            Self::Postgres(store) => store.call_page(subject, day, reading, place).await,
            Self::Sqlite(store) => store.call_page(subject, day, reading, place).await,
        }
    }

    async fn heads(
        &self,
        party: &StoredText,
        names: &BTreeMap<KeyName, bool>,
        before_ms: u64,
    ) -> Result<HeadsByKey, StoreError> {
        match self {
            _ if names.is_empty() => Ok(HeadsByKey::new()),
            Self::Postgres(store) => store.key_heads(party, names, before_ms).await,
            Self::Sqlite(store) => store.key_heads(party, names, before_ms).await,
        }
    }

    /// The days of which there are statements, the oldest first.
    pub async fn statement_days(&self) -> Result<Vec<DayBounds>, StoreError> {
        match self {
            Self::Postgres(store) => store.statement_days().await,
            Self::Sqlite(store) => store.statement_days().await,
        }
    }

    /// Adds counts to the day. Repeating it changes nothing.
    pub async fn flush_usage(&self, flush: &UsageFlush) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.flush_usage(flush).await,
            Self::Sqlite(store) => store.flush_usage(flush).await,
        }
    }

    /// Takes over GatePay's word on the object under a key. An earlier result of a call stays, and a failure counts once. Where
    /// all calls under the key are one, an object that stands with stated amounts is that of the call which asked for them.
    /// Returns whether a call stays unknown because it asked for others, and none is known that asked for these.
    pub async fn settle_usage(&self, word: &ObjectWord) -> Result<bool, StoreError> {
        match self {
            Self::Postgres(store) => store.settle_usage(word).await,
            Self::Sqlite(store) => store.settle_usage(word).await,
        }
    }

    /// Booked calls to these operations that GatePay may have executed or not, and that have a key, of each party in turn the
    /// newest first, at most so many: those that GatePay never finds hide no other's. Those of the last minute are left out:
    /// their instance may still know their end.
    pub async fn unknown_calls(
        &self,
        operations: &[&str],
        most: u32,
    ) -> Result<Vec<UnknownCall>, StoreError> {
        match self {
            Self::Postgres(store) => store.unknown_calls(operations, most).await,
            Self::Sqlite(store) => store.unknown_calls(operations, most).await,
        }
    }

    /// Forgets booked calls that are older than 400 days, some at a time.
    pub async fn age_usage(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.age_usage().await,
            Self::Sqlite(store) => store.age_usage().await,
        }
    }

    /// How many processes have ended within a time, in milliseconds, without their last counts.
    pub async fn usage_losses(&self, within_ms: u64) -> Result<u64, StoreError> {
        match self {
            Self::Postgres(store) => store.usage_losses(within_ms).await,
            Self::Sqlite(store) => store.usage_losses(within_ms).await,
        }
    }
}
