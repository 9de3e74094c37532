//! Thread: `statements`, which takes the counts of this process to the store each second.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_store::statement::usage_flush::{DayBounds, UsageFlush};
use gatepay_tenancy::caps::CapTimeZone;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::cluster::usage_tally::UsageTally;
use crate::generation::Generation;
use crate::process::clock::Clock;
use crate::statements::meters::StatementMeters;

/// The interval of flushes: what a process that is killed loses at most, while the store answers.
const FLUSH: Duration = Duration::from_secs(1);
/// The number of flushes between two times at which booked calls that are too old are forgotten.
const FLUSHES_OF_AGING: u64 = 60;
/// How long a process that ended without its last counts is shown, in milliseconds.
const LOST_WITHIN_MS: u64 = 86_400_000;
/// The days that a flush tells: between the zones furthest east and west are 26 hours, so that the date after the last one of
/// the store may be the second after today's.
const DAYS: u32 = 3;
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
    /// The metrics.
    pub meters: StatementMeters,
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
        let days = days(inputs);
        if !days.is_empty() {
            until_taken(inputs, &inputs.usage.take(days, true)).await;
        }
    })
    .await;
}

/// A flush that the store has not taken for certain stays in `waiting`, and goes to the store again under its number.
async fn keep_flushing(inputs: &StatementInputs, waiting: &mut Option<UsageFlush>) {
    let mut was_away = false;
    let mut taken = inputs.clock.elapsed();
    for number in 1_u64.. {
        sleep(FLUSH).await;
        if waiting.is_none() {
            let days = days(inputs);
            *waiting = (!days.is_empty()).then(|| inputs.usage.take(days, false));
        }
        let Some(flush) = waiting else {
            continue;
        };
        match take(inputs, flush).await {
            Ok(()) => {
                *waiting = None;
                was_away = false;
                taken = inputs.clock.elapsed();
                inputs.meters.waiting(Duration::ZERO);
            }
            Err(error) => {
                // The day may have ended meanwhile.
                flush.days = days(inputs);
                if !was_away && !matches!(error, StoreCallError::NotJoined) {
                    tracing::warn!(%error, "the store takes no counts for statements; they wait");
                }
                was_away = true;
                let now = inputs.clock.elapsed();
                inputs.meters.waiting(now.saturating_sub(taken));
            }
        }
        if number % FLUSHES_OF_AGING == 0 {
            let aged = inputs.calls.call(|store| async move {
                store.age_usage().await?;
                store.usage_losses(LOST_WITHIN_MS).await
            });
            // After an error the next call takes the rest.
            if let Ok(lost) = aged.await {
                inputs.meters.lost(lost);
            }
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

/// The present day by the store's clock and the days after it, in the configured time zone; empty if the zone's rules do not
/// reach so far.
fn days(inputs: &StatementInputs) -> Vec<DayBounds> {
    let now_ms = inputs.clock.unix_ms();
    let now_ms = now_ms.saturating_add_signed((inputs.offset_ms)());
    days_of(&(inputs.in_force)().caps.time_zone, now_ms)
}

fn days_of(zone: &CapTimeZone, now_ms: u64) -> Vec<DayBounds> {
    let midnights = zone.midnights(now_ms, DAYS);
    let days = midnights.windows(2).filter_map(|bounds| {
        Some(DayBounds {
            date: zone.date(bounds[0])?,
            begins_ms: bounds[0],
            ends_ms: bounds[1],
        })
    });
    days.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_of_a_flush_are_today_and_those_that_a_zone_further_west_has_yet_to_reach() {
        let new_york = CapTimeZone::parse("America/New_York").unwrap();
        // 2026-11-28T00:30:00Z is still the 27th there.
        let days = days_of(&new_york, 1_795_825_800_000);
        let dates: Vec<&str> = days.iter().map(|day| day.date.as_str()).collect();
        assert_eq!(dates, ["2026-11-27", "2026-11-28", "2026-11-29"]);
        assert!(
            days.windows(2)
                .all(|days| days[0].ends_ms == days[1].begins_ms)
        );
        assert!(days[0].begins_ms <= 1_795_825_800_000);
    }
}
