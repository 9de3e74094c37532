//! Thread: `statements`, which takes the counts of this process to the store each second.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_store::statement::usage_flush::{DayBounds, UsageFlush};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::cluster::usage_tally::UsageTally;
use crate::generation::Generation;
use crate::process::clock::Clock;

/// The interval of flushes: what a process that is killed loses at most, while the store answers.
const FLUSH: Duration = Duration::from_secs(1);
/// So many flushes, and booked calls that are too old are forgotten.
const FLUSHES_OF_AGING: u64 = 60;
/// How long the last flush may take.
const FINISH: Duration = Duration::from_secs(1);

/// The parts of the process that the thread uses.
pub struct StatementInputs {
    /// The counts.
    pub usage: Arc<UsageTally>,
    /// The store.
    pub calls: StoreCalls,
    /// The configuration in force.
    pub in_force: Box<dyn Fn() -> Arc<Generation> + Send + Sync>,
    /// The process's clock.
    pub clock: Clock,
    /// The store's clock less this machine's, in milliseconds.
    pub offset_ms: Box<dyn Fn() -> i64 + Send + Sync>,
}

/// Starts the thread. It ends after [`UsageTally::end`], once the last counts are in the store.
pub fn start(inputs: StatementInputs) -> std::io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new().name("statements".into());
    thread.spawn(move || {
        runtime.block_on(run(&inputs));
        runtime.shutdown_background();
    })
}

async fn run(inputs: &StatementInputs) {
    let mut waiting = None;
    tokio::select! {
        () = keep_flushing(inputs, &mut waiting) => {}
        () = inputs.usage.until_end() => {}
    }
    let _late = timeout(FINISH, async {
        if let Some(flush) = waiting {
            until_taken(inputs, &flush).await;
        }
        if let Some(day) = today(inputs) {
            until_taken(inputs, &inputs.usage.take(day, true)).await;
        }
    })
    .await;
}

/// A flush that the store has not taken for certain stays in `waiting`, and goes to the store again under its number.
async fn keep_flushing(inputs: &StatementInputs, waiting: &mut Option<UsageFlush>) {
    let mut was_away = false;
    for number in 1_u64.. {
        sleep(FLUSH).await;
        if waiting.is_none() {
            *waiting = today(inputs).map(|day| inputs.usage.take(day, false));
        }
        let Some(flush) = waiting else {
            continue;
        };
        match take(inputs, flush).await {
            Ok(()) => {
                *waiting = None;
                was_away = false;
            }
            Err(error) => {
                // The day may have ended meanwhile.
                if let Some(day) = today(inputs) {
                    flush.day = day;
                }
                if !was_away && !matches!(error, StoreCallError::NotJoined) {
                    tracing::warn!(%error, "the store takes no counts for statements; they wait");
                }
                was_away = true;
            }
        }
        if number % FLUSHES_OF_AGING == 0 {
            let aged = inputs
                .calls
                .call(|store| async move { store.age_usage().await });
            // The next call takes the rest.
            let _next = aged.await;
        }
    }
}

async fn until_taken(inputs: &StatementInputs, flush: &UsageFlush) {
    while take(inputs, flush).await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
}

async fn take(inputs: &StatementInputs, flush: &UsageFlush) -> Result<(), StoreCallError> {
    let flush = flush.clone();
    let flushed = inputs
        .calls
        .call(move |store| async move { store.flush_usage(&flush).await });
    flushed.await
}

/// The day of now by the store's clock, in the configured time zone.
fn today(inputs: &StatementInputs) -> Option<DayBounds> {
    let now_ms = inputs.clock.unix_ms();
    let now_ms = now_ms.saturating_add_signed((inputs.offset_ms)());
    let generation = (inputs.in_force)();
    let zone = &generation.caps.time_zone;
    let midnights = zone.midnights(now_ms, 1);
    let (begins_ms, ends_ms) = (*midnights.first()?, *midnights.get(1)?);
    Some(DayBounds {
        date: zone.date(now_ms)?,
        begins_ms,
        ends_ms,
    })
}
