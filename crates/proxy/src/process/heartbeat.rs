//! Heartbeat: detects workers that no longer run their tasks.
//!
//! Each worker counts a beat four times a second, by a timer of its own, so a worker that is busy with one task for too
//! long misses beats. The control thread checks as often and counts the checks without a new beat. Neither reads a
//! clock, so a process that was stopped as a whole, or a machine that slept, does not count as a stalled worker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use prometheus::{IntCounter, IntGauge};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The interval at which a worker beats and the control thread checks.
const EVERY: Duration = Duration::from_millis(250);
/// A worker has stalled after this many checks without a beat, which take a second.
const MISSED: u32 = 4;

/// The heartbeats of all workers.
pub struct WorkerHeartbeats {
    workers: Mutex<Vec<WatchedWorker>>,
    meters: WorkerMeters,
}

/// The heartbeat of one worker.
#[derive(Default)]
pub struct WorkerHeartbeat {
    beats: AtomicU64,
    ended: AtomicBool,
}

/// The metrics of stalled workers.
#[derive(Clone)]
pub struct WorkerMeters {
    /// Workers that have not turned for a second.
    pub stalled: IntGauge,
    /// How often a worker stalled.
    pub stalls: IntCounter,
}

/// The control thread's view of a worker.
struct WatchedWorker {
    heart: Arc<WorkerHeartbeat>,
    seen: u64,
    missed: u32,
}

/// Workers that have not turned for a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StalledWorkers {
    /// The number of stalled workers.
    pub workers: usize,
    /// The number of all workers.
    pub of: usize,
    /// How long the longest stall has lasted.
    pub longest: Duration,
}

impl WorkerHeartbeats {
    /// Creates the heartbeats, without a worker.
    pub fn new(meters: WorkerMeters) -> Self {
        Self {
            workers: Mutex::default(),
            meters,
        }
    }

    /// Adds a worker's heartbeat.
    pub fn add(&self) -> Arc<WorkerHeartbeat> {
        let heart = Arc::<WorkerHeartbeat>::default();
        self.lock().push(WatchedWorker {
            heart: Arc::clone(&heart),
            seen: 0,
            missed: 0,
        });
        heart
    }

    /// Checks the workers repeatedly, for as long as the future is polled.
    pub async fn watch(&self) {
        let mut tick = tick();
        loop {
            tick.tick().await;
            self.look();
        }
    }

    /// Checks once: to be called every quarter of a second.
    fn look(&self) {
        let mut workers = self.lock();
        for (number, worker) in workers.iter_mut().enumerate() {
            let beats = worker.heart.beats.load(Ordering::Relaxed);
            if beats != worker.seen || worker.heart.ended.load(Ordering::Relaxed) {
                worker.seen = beats;
                let missed = std::mem::take(&mut worker.missed);
                if missed >= MISSED {
                    let stalled = EVERY * missed;
                    tracing::warn!(worker = number, ?stalled, "a worker runs again");
                }
                continue;
            }
            worker.missed = worker.missed.saturating_add(1);
            if worker.missed == MISSED {
                self.meters.stalls.inc();
                tracing::error!(
                    worker = number,
                    "a worker has run no other task for a second: its callers wait"
                );
            }
        }
        let stalled = stalled(&workers).map_or(0, |stalled| stalled.workers);
        self.meters
            .stalled
            .set(i64::try_from(stalled).unwrap_or(i64::MAX));
    }

    /// The workers that have stalled, as of the last check.
    pub fn stalled(&self) -> Option<StalledWorkers> {
        stalled(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<WatchedWorker>> {
        self.workers.lock()
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
    /// Beats, for as long as the future is polled.
    pub async fn beat(&self) {
        let mut tick = tick();
        loop {
            tick.tick().await;
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Marks the worker as ended, so that missing beats no longer count.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// A tick every quarter of a second; missed ticks are not made up for.
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

    /// Checks `times` times; the workers in `beating` beat before each check.
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
