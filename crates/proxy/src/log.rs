//! Access lines: queued without blocking a request, formatted and written by a thread of their own.
//!
//! Formatting costs more than signing, so it stays off the path. Every worker has a queue of its own, so that none
//! waits for another, and the writer looks by itself every few milliseconds, so that queueing a line wakes nobody.

use std::cell::Cell;
use std::io::Write;
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gatepay_tenancy::settings::{Log, LogFormat};
use prometheus::IntCounter;

use crate::line::{Line, Times};

/// How many queues there are. With more workers than these some share one.
const QUEUES: usize = 16;
/// How many lines may wait in one: a fifth of a second of the fastest worker. With some 500 bytes a line, 130 MiB in all.
const QUEUE: usize = 16_384;
/// How many lines an empty queue keeps room for.
const KEPT: usize = 2_048;
/// How long the end waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the writer looks.
const EVERY: Duration = Duration::from_millis(25);

/// Where access lines go.
pub struct AccessLog {
    queues: Arc<[Queue; QUEUES]>,
    /// Routine lines are written if they draw less than this, of 2³².
    routine: u64,
    dropped: IntCounter,
    left_out: IntCounter,
    /// The writer, and what it ends by when it is dropped.
    writer: Mutex<Option<(mpsc::Sender<()>, JoinHandle<()>)>>,
}

/// On cache lines of its own, so that workers do not slow each other down.
#[derive(Default)]
#[repr(align(128))]
struct Queue(Mutex<Vec<Line>>);

/// What is counted of access lines.
pub struct LogMeters {
    /// Lines that were lost: they came too fast, or nobody took them.
    pub dropped: IntCounter,
    /// Lines of successes that `log.sample_successes` left out.
    pub left_out: IntCounter,
}

thread_local! {
    /// This thread's queue.
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Which queue the next thread gets.
static NEXT: AtomicUsize = AtomicUsize::new(0);

impl AccessLog {
    /// Starts the writer.
    pub fn start(
        mut out: Box<dyn Write + Send>,
        settings: Log,
        meters: LogMeters,
    ) -> std::io::Result<Self> {
        let queues: Arc<[Queue; QUEUES]> = Arc::default();
        let (stop, stopped) = mpsc::channel::<()>();
        let (shared, dropped) = (Arc::clone(&queues), meters.dropped.clone());
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                let (mut lines, mut text) = (Vec::new(), Vec::new());
                loop {
                    // The sender is never used: its end is the signal to write the rest and stop.
                    let last =
                        !matches!(stopped.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout));
                    for queue in &*shared {
                        mem::swap(&mut *queue.lock(), &mut lines);
                        if !write(&lines, settings.format, &mut text, &mut out) {
                            dropped.inc_by(lines.len() as u64);
                        }
                        // Given back empty in exchange for the next queue's, so that none has to grow anew.
                        lines.clear();
                        lines.shrink_to(KEPT);
                        text.shrink_to(1 << 20);
                    }
                    if last {
                        return;
                    }
                }
            })?;
        Ok(Self {
            queues,
            routine: part_of_all(settings.sample_successes),
            dropped: meters.dropped,
            left_out: meters.left_out,
            writer: Mutex::new(Some((stop, writer))),
        })
    }

    /// Writes what is queued and ends the writer. Lines that come later are lost, so this is for the very end.
    pub fn finish(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((stop, writer)) = writer {
            drop(stop);
            // A reader that has stalled is waited for no longer than this; what it did not take is lost.
            let deadline = Instant::now() + PATIENCE;
            while !writer.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Queues a line, or counts it as dropped. One that is `routine`, a success like any other, may be left out.
    pub fn submit(&self, line: Line, routine: bool) {
        // The id is random, so it can draw the lot: who asks for the line again gets the same answer.
        let [.., a, b, c, d] = line.id;
        if routine && u64::from(u32::from_be_bytes([a, b, c, d])) >= self.routine {
            self.left_out.inc();
            return;
        }
        let mut queue = self.queues[mine()].lock();
        if queue.len() < QUEUE {
            queue.push(line);
        } else {
            self.dropped.inc();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mine() -> usize {
    MINE.get().unwrap_or_else(|| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % QUEUES;
        MINE.set(Some(next));
        next
    })
}

/// A part between 0 and 1, of 2³².
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 2³², and the fraction does not matter"
)]
fn part_of_all(part: f64) -> u64 {
    (part.clamp(0.0, 1.0) * f64::from(u32::MAX)).ceil() as u64 + u64::from(part >= 1.0)
}

/// Whether it could be. A closed pipe must not end the proxy; the operator's collector is what is missing then.
fn write(
    lines: &[Line],
    format: LogFormat,
    text: &mut Vec<u8>,
    out: &mut Box<dyn Write + Send>,
) -> bool {
    text.clear();
    let mut times = Times::default();
    for line in lines {
        line.write(format, &mut times, text);
    }
    text.is_empty() || out.write_all(text).and_then(|()| out.flush()).is_ok()
}

/// Keeps what happens to every request of an outage from filling the program's log: so many times a second, and no more.
/// The access lines say it for each.
#[derive(Default)]
pub struct Seldom(AtomicU64);

impl Seldom {
    const A_SECOND: u64 = 10;

    /// Whether it may be said once more in this second.
    pub fn may(&self, now: Duration) -> bool {
        let second = now.as_secs() << 8;
        let said = |before: u64| {
            let count = if before >> 8 == second >> 8 {
                before & 0xff
            } else {
                0
            };
            (count < Self::A_SECOND).then_some(second | (count + 1))
        };
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, said)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::tests::line;

    /// Takes nothing until `go` is dropped, and counts lines then.
    struct Stalled {
        go: mpsc::Receiver<()>,
        written: Arc<AtomicU64>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // Its end is the signal.
            let _ = self.go.recv();
            let lines = memchr::memchr_iter(b'\n', bytes).count() as u64;
            self.written.fetch_add(lines, Ordering::Relaxed);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_takes_hold_up_nobody_and_are_counted() {
        let (stall, go) = mpsc::channel();
        let written = Arc::<AtomicU64>::default();
        let counter = |name: &str| IntCounter::new(name, name).unwrap();
        let (dropped, left_out) = (counter("dropped"), counter("left_out"));
        let log = AccessLog::start(
            Box::new(Stalled {
                go,
                written: Arc::clone(&written),
            }),
            Log {
                format: LogFormat::Json,
                sample_successes: 1.0,
            },
            LogMeters {
                dropped: dropped.clone(),
                left_out,
            },
        )
        .unwrap();
        // One queue full is being written, another waits, the rest has no place.
        let all = 3 * QUEUE as u64;
        for _ in 0..all {
            log.submit(line(), false);
        }
        assert!(dropped.get() >= QUEUE as u64, "{}", dropped.get());
        drop(stall);
        let began = Instant::now();
        while written.load(Ordering::Relaxed) + dropped.get() < all {
            assert!(began.elapsed() < Duration::from_secs(20), "it goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
        log.finish();
        assert_eq!(written.load(Ordering::Relaxed) + dropped.get(), all);
    }

    #[test]
    fn all_none_and_some_are_drawn_as_often_as_they_are_asked_for() {
        assert_eq!(part_of_all(0.0), 0);
        assert_eq!(part_of_all(1.0), 1 << 32, "above whatever is drawn");
        let half = part_of_all(0.5);
        assert!(half.abs_diff(1 << 31) <= 1, "{half}");
    }

    #[test]
    fn what_happens_all_the_time_is_said_a_few_times_a_second() {
        let seldom = Seldom::default();
        for second in [0, 1, 7, 8] {
            let said = (0..1_000).filter(|_| seldom.may(Duration::from_secs(second)));
            assert_eq!(said.count(), 10, "in second {second}");
        }
    }
}
