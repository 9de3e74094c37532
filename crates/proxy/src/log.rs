//! Access lines: queued without blocking a request, formatted and written by a thread of their own.
//!
//! Formatting costs more than signing, so it stays off the path, and the writer looks by itself every few
//! milliseconds, so that queueing a line wakes nobody.

use std::io::Write;
use std::mem;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use serde::Serialize;

use crate::limit::Limits;

/// How many lines may wait. At 700 bytes each this bounds the queue at about 45 MiB.
const QUEUE: usize = 65_536;
/// How long the end waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the writer looks.
const EVERY: Duration = Duration::from_millis(25);

/// Where access lines go.
pub struct AccessLog {
    queue: Arc<Mutex<Vec<Line>>>,
    dropped: IntCounter,
    /// The writer, and what it ends by when it is dropped.
    writer: Mutex<Option<(mpsc::Sender<()>, JoinHandle<()>)>>,
}

/// One request, however it ended. Holds nothing secret: no signature, no body, no path a caller chose.
#[derive(Debug, Serialize)]
pub struct Line {
    /// When its head arrived, RFC 3339.
    #[serde(serialize_with = "rfc3339")]
    pub time: u64,
    /// `X-Request-Id` of the answer.
    pub id: String,
    /// The tenant, once known.
    pub tenant: Option<String>,
    /// The credential it signed with, once verified.
    pub client_id: Option<String>,
    /// The catalogue's name for the call.
    pub operation: Option<String>,
    /// What the call does to the world.
    pub kind: Option<&'static str>,
    /// The idempotency key's value.
    pub key: Option<String>,
    /// How it ended.
    pub outcome: &'static str,
    /// Why the proxy refused it.
    pub refusal: Option<&'static str>,
    /// What the log may know beyond what the caller was told.
    pub detail: Option<String>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// GatePay's code.
    pub code: Option<String>,
    /// Limits that would have refused it, had they been enforced.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub shadow: Limits,
    /// Bytes of the request's body.
    pub bytes_in: usize,
    /// Bytes of the answer's body that were handed over.
    pub bytes_out: u64,
    /// From the head to the end of the answer, in milliseconds.
    pub ms: f64,
    /// Of that, GatePay's part.
    pub upstream_ms: Option<f64>,
    /// How often it was sent or tried to be.
    pub attempts: u32,
    /// What GatePay was seen to have of a call whose answer was lost.
    pub observed: Option<&'static str>,
    /// Where it came from.
    pub peer: String,
    /// Whether the caller was gone before the answer was.
    pub caller_left: bool,
}

impl AccessLog {
    /// Starts the writer.
    pub fn start(mut out: Box<dyn Write + Send>, dropped: IntCounter) -> std::io::Result<Self> {
        let queue = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel::<()>();
        let shared = Arc::clone(&queue);
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                let mut text = Vec::new();
                loop {
                    // The sender is never used: its end is the signal to write the rest and stop.
                    let last =
                        !matches!(stopped.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout));
                    let lines =
                        mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner));
                    write(&lines, &mut text, &mut out);
                    if last {
                        return;
                    }
                }
            })?;
        Ok(Self {
            queue,
            dropped,
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

    /// Queues a line, or counts it as dropped.
    pub fn submit(&self, line: Line) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
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

fn write(lines: &[Line], text: &mut Vec<u8>, out: &mut Box<dyn Write + Send>) {
    text.clear();
    for line in lines {
        // Numbers and strings always serialize into memory.
        let _ = serde_json::to_writer(&mut *text, line);
        text.push(b'\n');
    }
    if !text.is_empty() {
        // A closed pipe must not end the proxy; the operator's collector is what is missing then.
        let _ = out.write_all(text).and_then(|()| out.flush());
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn rfc3339<S: serde::Serializer>(unix_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(*unix_ms).unwrap_or(i64::MAX))
        .unwrap_or_default();
    serializer.collect_str(&format_args!("{time:.3}"))
}
