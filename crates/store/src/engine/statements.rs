//! Statements over two engines.

use super::Store;
use crate::error::StoreError;
use crate::statement::account_book::BookedCall;
use crate::statement::daily_statement::{DailyStatement, DayCount, KeyGroups, StatementSum};
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

/// GatePay's word on the object under a key, for statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSettlement {
    /// The tenant or operator.
    pub party: StoredText,
    /// The sub-account.
    pub account: StoredText,
    /// The operations that make such objects.
    pub operations: Vec<&'static str>,
    /// The key.
    pub key: StoredText,
    /// Whether the object has finally failed; otherwise GatePay has it.
    pub has_failed: bool,
    /// A time at which GatePay had already decided. Calls that were admitted later are not covered.
    pub decided_ms: u64,
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
    /// Those admitted within the time.
    Admitted,
    /// Those of which something was learned within the time, and that may correct an earlier day.
    Learned,
}

/// Where a page begins: after the call with this time and stamp.
pub(crate) type PagePlace = (u64, Fingerprint);

/// A page of calls, with all calls under the keys of these.
pub(crate) struct CallPage {
    pub(crate) calls: Vec<BookedCall>,
    pub(crate) groups: KeyGroups,
    /// Where the next one begins; `None` after the last.
    pub(crate) next: Option<PagePlace>,
}

/// The most calls of a page.
pub(crate) const PAGE_CALLS: u32 = 2_000;
/// How long after its end a day is still open: admissions of its last moment may be under way.
pub const CLOSING_MS: u64 = 60_000;

impl Store {
    /// The statement of a day; `None` if the store has no such day. A large day takes several reads; what is learned between
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
        for reading in [CallReading::Admitted, CallReading::Learned] {
            let mut place = None;
            loop {
                let page = match self {
                    Self::Postgres(store) => store.call_page(subject, &day, reading, place).await?,
                    Self::Sqlite(store) => store.call_page(subject, &day, reading, place).await?,
                };
                match reading {
                    CallReading::Admitted => sum.count(&page.calls, &page.groups),
                    CallReading::Learned => sum.correct(&page.calls, &page.groups),
                }
                place = page.next;
                if place.is_none() {
                    break;
                }
            }
        }
        Ok(Some(sum.statement))
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

    /// Takes over GatePay's word on the object under a key. An earlier result of a call stays.
    pub async fn settle_usage(&self, settled: &UsageSettlement) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.settle_usage(settled).await,
            Self::Sqlite(store) => store.settle_usage(settled).await,
        }
    }

    /// Forgets booked calls that are older than 400 days, some at a time.
    pub async fn age_usage(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.age_usage().await,
            Self::Sqlite(store) => store.age_usage().await,
        }
    }
}
