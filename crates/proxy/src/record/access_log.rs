//! Access lines: queued without blocking a request, formatted and written by a thread of their own.
//!
//! Formatting costs more than signing, so it stays off the path. Every worker has a queue of its own, so that none
//! waits for another, and the writer looks by itself every few milliseconds, so that queueing a line wakes nobody. What
//! waits, and its text, are kept few enough to stay in a processor's cache: otherwise they would drive out of it what
//! requests need.

use std::io::Write;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use gatepay_tenancy::settings::{Log, LogFormat};
use prometheus::IntCounter;

use crate::generation::Generation;
use crate::process::thread_index;
use crate::process::timestamp::Rfc3339Cache;
use crate::record::access_line::{AccessLine, LineDetails, TextBuffer};

/// How many queues there are. With more workers than these some share one.
const QUEUES: usize = 16;
/// How many lines may wait in one: a fifth of a second of the fastest worker. With some 250 bytes a line, 65 MiB in all,
/// besides keys and details.
const QUEUE: usize = 16_384;
/// How much memory lines take at most while they wait, besides keys and details: those in the queues, and those of one that
/// are being written.
pub const MOST: usize = (QUEUES + 1) * QUEUE * size_of::<(AccessLine, TextLengths)>();
/// How many lines an empty queue keeps room for.
const KEPT: usize = 1_024;
/// How many bytes of keys and details it does.
const KEPT_TEXT: usize = 64 << 10;
/// How much text is written in one piece, about.
const PIECE: usize = 32 << 10;
/// For how many lines at once what they name is brought near.
const NEAR: usize = 16;
/// How long the end waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the writer looks.
const EVERY: Duration = Duration::from_millis(25);
/// How often it does while many lines come.
const SOON: Duration = Duration::from_millis(5);
/// How many are many, in a second.
const MANY: u128 = 4_000;

/// Where access lines go.
pub struct AccessLog {
    queues: Arc<[LineQueue; QUEUES]>,
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
struct LineQueue(Mutex<WaitingLines>);

/// Lines that wait to be written.
#[derive(Default)]
struct WaitingLines {
    lines: Vec<(AccessLine, TextLengths)>,
    /// Their keys and details, one behind the other.
    texts: String,
    /// What their places are places in, from which line on: it changes with a reload only.
    generations: Vec<(usize, Arc<Generation>)>,
}

/// How long a line's own texts are, if it has them.
#[derive(Clone, Copy)]
struct TextLengths {
    key: Option<u32>,
    detail: Option<u32>,
}

/// What is counted of access lines.
pub struct LogMeters {
    /// Lines that were lost: they came too fast, or nobody took them.
    pub dropped: IntCounter,
    /// Lines of successes that `log.sample_successes` left out.
    pub left_out: IntCounter,
}

impl AccessLog {
    /// Starts the writer.
    pub fn start(
        out: Box<dyn Write + Send>,
        settings: Log,
        meters: LogMeters,
    ) -> std::io::Result<Self> {
        let queues: Arc<[LineQueue; QUEUES]> = Arc::default();
        let (stop, stopped) = mpsc::channel::<()>();
        let (shared, dropped) = (Arc::clone(&queues), meters.dropped.clone());
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                let mut sheet = LineWriter::new(out, settings.format);
                let (mut waiting, mut pause) = (WaitingLines::default(), EVERY);
                loop {
                    // The sender is never used: its end is the signal to write the rest and stop.
                    let last =
                        !matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout));
                    let mut found = 0;
                    for queue in &*shared {
                        // One that is empty keeps its memory, so that few have any, and what has been written a moment
                        // ago is written next.
                        if !queue.swap(&mut waiting) {
                            continue;
                        }
                        found += waiting.lines.len();
                        dropped.inc_by(sheet.write(&waiting));
                        waiting.clear();
                    }
                    if last {
                        return;
                    }
                    let many = found as u128 * 1_000 >= MANY * pause.as_millis();
                    pause = if many { SOON } else { EVERY };
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
    pub fn submit(&self, line: &AccessLine, rest: LineDetails<'_>, routine: bool) {
        // The id is random, so it can draw the lot: who asks for the line again gets the same answer.
        let [.., a, b, c, d] = line.id;
        if routine && u64::from(u32::from_be_bytes([a, b, c, d])) >= self.routine {
            self.left_out.inc();
            return;
        }
        let mut waiting = self.queues[thread_index::number() % QUEUES].lock();
        if waiting.lines.len() < QUEUE {
            waiting.push(line, rest);
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

impl LineQueue {
    /// Exchanges what waits for something empty, unless it is empty itself.
    fn swap(&self, empty: &mut WaitingLines) -> bool {
        let mut waiting = self.lock();
        let any = !waiting.lines.is_empty();
        if any {
            mem::swap(&mut *waiting, empty);
        }
        any
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WaitingLines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingLines {
    fn push(&mut self, line: &AccessLine, rest: LineDetails<'_>) {
        if let Some(of) = rest.generation
            && !matches!(self.generations.last(), Some((_, last)) if Arc::ptr_eq(last, of))
        {
            self.generations.push((self.lines.len(), Arc::clone(of)));
        }
        let lengths = TextLengths {
            key: self.keep(rest.key),
            detail: self.keep(rest.detail),
        };
        self.lines.push((*line, lengths));
    }

    /// Keeps a text behind the others. One of four gigabytes is none.
    fn keep(&mut self, text: Option<&str>) -> Option<u32> {
        let length = u32::try_from(text?.len()).ok()?;
        self.texts.push_str(text?);
        Some(length)
    }

    /// Every line with its rest, in order.
    fn iter(&self) -> impl Iterator<Item = (&AccessLine, LineDetails<'_>)> {
        let mut texts = self.texts.as_str();
        let mut generations = self.generations.iter().peekable();
        let mut generation = None;
        self.lines
            .iter()
            .enumerate()
            .map(move |(at, (line, lengths))| {
                while let Some((_, of)) = generations.next_if(|(from, _)| *from <= at) {
                    generation = Some(of);
                }
                let mut next = |length: Option<u32>| {
                    let (text, others) = texts.split_at(length? as usize);
                    texts = others;
                    Some(text)
                };
                let rest = LineDetails {
                    generation,
                    key: next(lengths.key),
                    detail: next(lengths.detail),
                };
                (line, rest)
            })
    }

    /// Makes it empty, and not larger than it has to be.
    fn clear(&mut self) {
        self.lines.clear();
        self.lines.shrink_to(KEPT);
        self.texts.clear();
        self.texts.shrink_to(KEPT_TEXT);
        self.generations.clear();
    }
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

/// What is written on, a piece at a time.
struct LineWriter {
    out: Box<dyn Write + Send>,
    format: LogFormat,
    text: TextBuffer,
    times: Rfc3339Cache,
}

impl LineWriter {
    fn new(out: Box<dyn Write + Send>, format: LogFormat) -> Self {
        Self {
            out,
            format,
            text: TextBuffer::default(),
            times: Rfc3339Cache::default(),
        }
    }

    /// Writes all that waits, and says how many lines could not be. A closed pipe must not end the proxy; the operator's
    /// collector is what is missing then.
    fn write(&mut self, waiting: &WaitingLines) -> u64 {
        let (mut lost, mut lines) = (0, 0);
        let mut all = waiting.iter();
        loop {
            let some: ArrayVec<_, NEAR> = all.by_ref().take(NEAR).collect();
            if some.is_empty() {
                break;
            }
            for (line, rest) in &some {
                line.prefetch(*rest);
            }
            for (line, rest) in some {
                line.write(rest, self.format, &mut self.times, &mut self.text);
                lines += 1;
                if self.text.as_bytes().len() >= PIECE {
                    lost += self.hand_over(mem::take(&mut lines));
                }
            }
        }
        lost + self.hand_over(lines)
    }

    /// Hands over the text of so many lines, and says how many of them could not be.
    fn hand_over(&mut self, lines: u64) -> u64 {
        if lines == 0 {
            return 0;
        }
        let written = self.out.write_all(self.text.as_bytes());
        let written = written.and_then(|()| self.out.flush());
        self.text.clear(2 * PIECE);
        if written.is_ok() { 0 } else { lines }
    }
}

/// Keeps what happens to every request of an outage from filling the program's log: so many times a second, and no more.
/// The access lines say it for each.
#[derive(Default)]
pub struct LogThrottle(AtomicU64);

impl LogThrottle {
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
    use crate::record::access_line::tests::line;

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
            log.submit(&line(), LineDetails::default(), false);
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
        let seldom = LogThrottle::default();
        for second in [0, 1, 7, 8] {
            let said = (0..1_000).filter(|_| seldom.may(Duration::from_secs(second)));
            assert_eq!(said.count(), 10, "in second {second}");
        }
    }
}
