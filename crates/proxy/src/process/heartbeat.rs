//! Heartbeat: whether every worker still turns.
//!
//! Each worker counts a beat four times a second, by a timer of its own, so a worker that is busy with one thing for too
//! long misses beats. The control thread looks as often and counts the looks that found no new beat. Neither reads a
//! clock: a process that was stopped as a whole, or a machine that slept, does not look as if a worker were stuck.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often a worker beats, and the control thread looks.
const EVERY: Duration = Duration::from_millis(250);
/// After so many looks without a beat, which are a second, a worker has stalled.
const MISSED: u32 = 4;

/// All workers' heartbeats.
pub struct WorkerHeartbeats {
    workers: Mutex<Vec<WatchedWorker>>,
    meters: WorkerMeters,
}

/// One worker's.
#[derive(Default)]
pub struct WorkerHeartbeat {
    beats: AtomicU64,
    ended: AtomicBool,
}

/// What is counted of workers.
#[derive(Clone)]
pub struct WorkerMeters {
    /// Workers that have not turned for a second.
    pub stalled: IntGauge,
    /// How often one had not.
    pub stalls: IntCounter,
}

/// What the control thread knows of a worker.
struct WatchedWorker {
    heart: Arc<WorkerHeartbeat>,
    seen: u64,
    missed: u32,
}

/// Workers that have not turned for a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StalledWorkers {
    /// How many.
    pub workers: usize,
    /// Of how many.
    pub of: usize,
    /// For how long the first of them has not.
    pub longest: Duration,
}

impl WorkerHeartbeats {
    /// Of no workers yet.
    pub fn new(meters: WorkerMeters) -> Self {
        Self {
            workers: Mutex::default(),
            meters,
        }
    }

    /// One more worker's.
    pub fn add(&self) -> Arc<WorkerHeartbeat> {
        let heart = Arc::<WorkerHeartbeat>::default();
        self.lock().push(WatchedWorker {
            heart: Arc::clone(&heart),
            seen: 0,
            missed: 0,
        });
        heart
    }

    /// Looks again and again, for as long as it is polled.
    pub async fn watch(&self) {
        let mut tick = tick();
        loop {
            tick.tick().await;
            self.look();
        }
    }

    /// Looks once: to be called every quarter of a second.
    fn look(&self) {
        let mut workers = self.lock();
        for (number, worker) in workers.iter_mut().enumerate() {
            let beats = worker.heart.beats.load(Ordering::Relaxed);
            if beats != worker.seen || worker.heart.ended.load(Ordering::Relaxed) {
                worker.seen = beats;
                let missed = std::mem::take(&mut worker.missed);
                if missed >= MISSED {
                    let stalled = EVERY * missed;
                    tracing::warn!(worker = number, ?stalled, "a worker turns again");
                }
                continue;
            }
            worker.missed = worker.missed.saturating_add(1);
            if worker.missed == MISSED {
                self.meters.stalls.inc();
                tracing::error!(
                    worker = number,
                    "a worker has not turned for a second: its callers wait"
                );
            }
        }
        let stalled = stalled(&workers).map_or(0, |stalled| stalled.workers);
        self.meters
            .stalled
            .set(i64::try_from(stalled).unwrap_or(i64::MAX));
    }

    /// Which workers have not turned for a second, as of the last look.
    pub fn stalled(&self) -> Option<StalledWorkers> {
        stalled(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<WatchedWorker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stalled(workers: &[WatchedWorker]) -> Option<StalledWorkers> {
    let missed = workers.iter().map(|worker| worker.missed);
    let missed = missed.filter(|missed| *missed >= MISSED);
    Some(StalledWorkers {
        workers: missed.clone().count(),
        of: workers.len(),
        longest: EVERY * missed.max()?,
    })
}

impl fmt::Display for StalledWorkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            workers,
            of,
            longest,
        } = self;
        let seconds = longest.as_secs();
        write!(
            f,
            "{workers} of {of} workers stalled, the longest for {seconds} s"
        )
    }
}

impl WorkerHeartbeat {
    /// Beats, for as long as it is polled.
    pub async fn beat(&self) {
        let mut tick = tick();
        loop {
            tick.tick().await;
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The worker ends, and beats no more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// A tick every quarter of a second; those that were missed are not made up for.
fn tick() -> Interval {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeats() -> WorkerHeartbeats {
        WorkerHeartbeats::new(WorkerMeters {
            stalled: IntGauge::new("stalled", "stalled").unwrap(),
            stalls: IntCounter::new("stalls", "stalls").unwrap(),
        })
    }

    /// Looks so often; these beat before each look.
    fn looks(all: &WorkerHeartbeats, times: u32, beating: &[&WorkerHeartbeat]) {
        for _ in 0..times {
            for heart in beating {
                heart.beats.fetch_add(1, Ordering::Relaxed);
            }
            all.look();
        }
    }

    #[test]
    fn a_worker_that_misses_beats_for_a_second_has_stalled_until_it_beats_again() {
        let all = heartbeats();
        let (one, other) = (all.add(), all.add());
        looks(&all, 10, &[&one, &other]);
        looks(&all, 3, &[&one]);
        assert_eq!(all.stalled(), None);
        looks(&all, 1, &[&one]);
        let stalled = all.stalled().unwrap();
        assert_eq!((stalled.workers, stalled.of), (1, 2));
        assert_eq!(stalled.longest, Duration::from_secs(1));
        looks(&all, 8, &[&one]);
        let told = "1 of 2 workers stalled, the longest for 3 s";
        assert_eq!(all.stalled().unwrap().to_string(), told);
        assert_eq!((all.meters.stalled.get(), all.meters.stalls.get()), (1, 1));
        looks(&all, 1, &[&other]);
        assert_eq!((all.stalled(), all.meters.stalled.get()), (None, 0));
        looks(&all, 4, &[]);
        assert_eq!(all.stalled().unwrap().workers, 2);
        assert_eq!((all.meters.stalled.get(), all.meters.stalls.get()), (2, 3));
    }

    #[test]
    fn a_worker_that_ended_has_not_stalled_but_one_that_never_began_has() {
        let all = heartbeats();
        let (ended, _never) = (all.add(), all.add());
        looks(&all, 1, &[&ended]);
        ended.end();
        looks(&all, 10, &[]);
        assert_eq!(all.stalled().unwrap().workers, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_turns_beats_as_often_as_it_is_looked_at() {
        let all = heartbeats();
        let heart = all.add();
        let both = async { tokio::join!(heart.beat(), all.watch()) };
        assert!(
            tokio::time::timeout(Duration::from_mins(1), both)
                .await
                .is_err()
        );
        assert_eq!(all.stalled(), None);
        assert!(heart.beats.load(Ordering::Relaxed) >= 240);
        let alone = tokio::time::timeout(Duration::from_secs(5), all.watch());
        assert!(alone.await.is_err());
        assert!(all.stalled().is_some(), "nothing beat meanwhile");
    }
}
