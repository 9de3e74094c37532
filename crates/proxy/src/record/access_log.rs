//! Access log: lines are queued without blocking a request, then formatted and written by a dedicated thread.
//!
//! Formatting costs more than signing, so it stays off the request path. Each worker has its own queue, so workers do
//! not wait for each other. The writer polls the queues every few milliseconds, so queueing a line wakes no thread.
//! Waiting lines and their text are kept small enough for a processor's cache: otherwise they would evict the data that
//! requests need.

use std::io::Write;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use gatepay_tenancy::settings::{LogFormat, LogSettings};
use parking_lot::{Mutex, MutexGuard};
use prometheus::IntCounter;

use crate::generation::Generation;
use crate::process::thread_index;
use crate::process::timestamp::Rfc3339Cache;
use crate::record::access_line::{AccessLine, LineDetails, TextBuffer};

/// The number of queues. With more workers than queues, some workers share a queue.
const QUEUES: usize = 16;
/// The most lines that wait in a queue: a fifth of a second of the fastest worker. At some 250 bytes a line, all queues
/// take 65 MiB, besides keys and details.
const QUEUE: usize = 16_384;
/// The most memory in bytes that waiting lines take, besides keys and details: all queues, and one queue's lines that
/// are being written.
pub const MOST: usize = (QUEUES + 1) * QUEUE * size_of::<(AccessLine, TextLengths)>();
/// The number of lines for which an empty queue keeps memory.
const KEPT: usize = 1_024;
/// The bytes of keys and details for which an empty queue keeps memory.
const KEPT_TEXT: usize = 64 << 10;
/// The size in bytes from which formatted text is written out.
const PIECE: usize = 32 << 10;
/// The number of lines whose names are prefetched together.
const NEAR: usize = 16;
/// How long `finish` waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The writer's polling interval.
const EVERY: Duration = Duration::from_millis(25);
/// The writer's polling interval under load.
const SOON: Duration = Duration::from_millis(5);
/// The lines per second from which the writer polls at the shorter interval.
const MANY: u128 = 4_000;

/// The access log: queues, and the thread that writes them.
pub struct AccessLog {
    queues: Arc<[LineQueue; QUEUES]>,
    /// A routine line is written if its draw, out of 2³², is less than this.
    routine: u64,
    dropped: IntCounter,
    left_out: IntCounter,
    /// The writer's thread, and the sender whose drop ends the thread.
    writer: Mutex<Option<(mpsc::Sender<()>, JoinHandle<()>)>>,
}

/// A queue, aligned to its own cache lines so that workers do not slow each other down.
#[derive(Default)]
#[repr(align(128))]
struct LineQueue(Mutex<WaitingLines>);

/// Lines that wait to be written.
#[derive(Default)]
struct WaitingLines {
    lines: Vec<(AccessLine, TextLengths)>,
    /// The keys and details of the lines, concatenated.
    texts: String,
    /// The generations that the lines' positions refer to, each with its first line. A new generation comes with a
    /// reload only.
    generations: Vec<(usize, Arc<Generation>)>,
}

/// The lengths in bytes of a line's own texts, where present.
#[derive(Clone, Copy)]
struct TextLengths {
    key: Option<u32>,
    detail: Option<u32>,
}

/// Metrics of access lines.
pub struct LogMeters {
    /// Lines that were lost: they came too fast, or the log's reader did not take them.
    pub dropped: IntCounter,
    /// Lines of successes that `log.sample_successes` left out.
    pub left_out: IntCounter,
}

impl AccessLog {
    /// Starts the writer's thread.
    pub fn start(
        out: Box<dyn Write + Send>,
        settings: LogSettings,
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
                    // The sender never sends: its drop is the signal to write the rest and stop.
                    let last =
                        !matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout));
                    let mut found = 0;
                    for queue in &*shared {
                        // An empty queue keeps its own memory, so few queues hold memory, and the buffer written last
                        // is reused next, while it is in the cache.
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

    /// Writes the queued lines and ends the writer. Later lines are lost, so call this last.
    pub fn finish(&self) {
        let writer = self.writer.lock().take();
        if let Some((stop, writer)) = writer {
            drop(stop);
            // The wait for a stalled reader of the log ends here. The lines that the reader did not take are lost.
            let deadline = Instant::now() + PATIENCE;
            while !writer.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Queues a line, or counts it as dropped. Sampling may leave out a `routine` line, an ordinary success.
    pub fn submit(&self, line: &AccessLine, rest: LineDetails<'_>, routine: bool) {
        // The id is random, so its last four bytes are the draw: the same id always gives the same decision.
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
    /// Swaps the waiting lines for empty ones. Gives false, and swaps nothing, if no line waits.
    fn swap(&self, empty: &mut WaitingLines) -> bool {
        let mut waiting = self.lock();
        let any = !waiting.lines.is_empty();
        if any {
            mem::swap(&mut *waiting, empty);
        }
        any
    }

    fn lock(&self) -> MutexGuard<'_, WaitingLines> {
        self.0.lock()
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

    /// Appends a text to the others. A text of 4 GiB or more is left out.
    fn keep(&mut self, text: Option<&str>) -> Option<u32> {
        let length = u32::try_from(text?.len()).ok()?;
        self.texts.push_str(text?);
        Some(length)
    }

    /// Every line with its details, in order.
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

    /// Empties the lines and shrinks their memory to the part that is kept.
    fn clear(&mut self) {
        self.lines.clear();
        self.lines.shrink_to(KEPT);
        self.texts.clear();
        self.texts.shrink_to(KEPT_TEXT);
        self.generations.clear();
    }
}

/// Scales a part between 0 and 1 to 2³².
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 2³², and the fraction does not matter"
)]
fn part_of_all(part: f64) -> u64 {
    (part.clamp(0.0, 1.0) * f64::from(u32::MAX)).ceil() as u64 + u64::from(part >= 1.0)
}

/// Formats lines and writes their text in pieces.
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

    /// Writes all waiting lines, and gives the number of lines that were lost. A closed pipe must not end the proxy:
    /// only the operator's log collector is missing then.
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

    /// Writes the text of this number of lines, and gives the number of lines that were lost.
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

/// Keeps the failures of every request in an outage from filling the program's log: ten messages a second at most. The
/// access log still has a line for each request.
#[derive(Default)]
pub struct LogThrottle(AtomicU64);

impl LogThrottle {
    const A_SECOND: u64 = 10;

    /// Whether another message may be logged in this second.
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

    /// A writer that blocks until the sender of `go` is dropped, and counts lines from then on.
    struct Stalled {
        go: mpsc::Receiver<()>,
        written: Arc<AtomicU64>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // The sender's drop is the signal.
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
    fn unread_access_lines_block_no_request_and_are_counted_as_dropped() {
        let (stall, go) = mpsc::channel();
        let written = Arc::<AtomicU64>::default();
        let counter = |name: &str| IntCounter::new(name, name).unwrap();
        let (dropped, left_out) = (counter("dropped"), counter("left_out"));
        let log = AccessLog::start(
            Box::new(Stalled {
                go,
                written: Arc::clone(&written),
            }),
            LogSettings {
                format: LogFormat::Json,
                sample_successes: 1.0,
            },
            LogMeters {
                dropped: dropped.clone(),
                left_out,
            },
        )
        .unwrap();
        // A full queue is being written, another waits, and the rest finds no room.
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
    fn sampling_of_all_none_and_some_lines_matches_the_configured_part() {
        assert_eq!(part_of_all(0.0), 0);
        assert_eq!(part_of_all(1.0), 1 << 32, "above whatever is drawn");
        let half = part_of_all(0.5);
        assert!(half.abs_diff(1 << 31) <= 1, "{half}");
    }

    #[test]
    fn a_constant_event_is_logged_a_few_times_a_second() {
        let seldom = LogThrottle::default();
        for second in [0, 1, 7, 8] {
            let said = (0..1_000).filter(|_| seldom.may(Duration::from_secs(second)));
            assert_eq!(said.count(), 10, "in second {second}");
        }
    }
}
