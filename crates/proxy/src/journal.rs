//! Audit journal: the caller and the outcome of every write and money call, so that both can be shown in a year.
//!
//! Every such call has a record *before*, which is on the disk before anything is sent, and a record *after*, which
//! delays no request. Records are chained with a keyed hash ([`gatepay_core::chain`]), so that altering, removing or
//! reordering records shows. A single thread writes: records that arrive during a sync gather for the next (group
//! commit).

mod begin;
pub mod entry;
pub mod find;
pub mod folder;
pub mod head;
pub mod meters;
mod place;
pub mod show;
pub mod verify;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepay_core::{ClientId, SigningKey, Stamp};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::process::clock::Clock;
use crate::process::shutdown::comes_true;
use entry::{
    ApprovalAct, CallIntent, CallResult, CallSettlement, JournalEntry, JournaledAttempt,
    NotificationAct, RuleRefusal, SuspensionAct, TimedEntry,
};
use folder::JournalFolder;
use head::{ChainHead, HeadFolder};
use meters::{FileRotation, JournalMeters};
use writer::JournalWriter;

/// How long a record that no caller awaits may be queued before it is written.
const LAZY: Duration = Duration::from_millis(200);
/// The number of calls that must share a sync for the next sync to wait for as many.
const MANY: usize = 4;
/// The longest such wait: little beside GatePay's own time. If the last sync took less, the wait is as long as that
/// sync.
const GATHER: Duration = Duration::from_micros(500);

/// The journal of write and money calls.
pub struct Journal {
    shared: Arc<JournalShared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// The record *before* could not be written: the call must not be sent.
#[derive(Debug)]
pub struct JournalUnavailable;

/// A call that was written down and may be sent. Its `Drop` submits the record *after*, with the facts known by then.
pub struct PendingCall {
    shared: Arc<JournalShared>,
    after: Option<CallResult>,
}

/// Writes down calls that a notification has settled.
#[derive(Clone)]
pub struct SettlementJournal(Arc<JournalShared>);

impl SettlementJournal {
    /// Writes a settlement down without awaiting the disk.
    pub fn settled(&self, settlement: CallSettlement) {
        self.0.submit(JournalEntry::Settled(settlement), None);
    }
}

struct JournalShared {
    queue: Mutex<JournalQueue>,
    wake: Condvar,
    available: AtomicBool,
    /// The head that was logged last.
    told_head: Mutex<Option<ChainHead>>,
    clock: Clock,
}

#[derive(Default)]
struct JournalQueue {
    entries: Vec<TimedEntry>,
    /// The callers that await the sync of these entries.
    waiting: Vec<oneshot::Sender<()>>,
    /// Whether the writer sleeps and has to be woken. Waking it for every call would cost a system call each.
    asleep: bool,
    ending: bool,
}

impl Journal {
    /// Begins a run in `folder`. Its first record is on the disk when this returns, and its head is kept in `heads`.
    pub fn start(
        folder: impl JournalFolder + Send + 'static,
        heads: Option<&HeadFolder>,
        key: SigningKey,
        rotation: FileRotation,
        clock: &Clock,
        meters: &JournalMeters,
    ) -> io::Result<Self> {
        let mut writer =
            JournalWriter::begin(folder, heads, key, rotation, clock.clone(), meters.clone())?;
        meters.available.set(1);
        let shared = Arc::new(JournalShared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            available: AtomicBool::new(true),
            told_head: Mutex::default(),
            clock: clock.clone(),
        });
        let thread = std::thread::Builder::new().name("journal".into()).spawn({
            let shared = Arc::clone(&shared);
            move || write(&shared, &mut writer)
        })?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Whether the journal can be written, as far as known. Asked before a call takes permits that it would have to
    /// return.
    pub fn is_available(&self) -> bool {
        self.shared.available.load(Ordering::Acquire)
    }

    /// The chain's head that was logged last, a minute ago at most if the journal has grown since.
    pub fn told_head(&self) -> Option<ChainHead> {
        *self.shared.told_head.lock()
    }

    /// Writes the record *before* of a call, and returns once the record is on the disk.
    pub async fn before(&self, before: CallIntent) -> Result<PendingCall, JournalUnavailable> {
        if !self.is_available() {
            return Err(JournalUnavailable);
        }
        let after = CallResult::of(&before);
        let (done, synced) = oneshot::channel();
        self.shared.submit(JournalEntry::Before(before), Some(done));
        // The writer drops the sender unused if the record could not be written.
        synced.await.map_err(|_| JournalUnavailable)?;
        Ok(PendingCall {
            shared: Arc::clone(&self.shared),
            after: Some(after),
        })
    }

    /// Writes down that another configuration is in force: its hash, and the changes in words.
    pub fn configuration(&self, hash: String, changes: Vec<String>) {
        self.shared
            .submit(JournalEntry::Configuration { hash, changes }, None);
    }

    /// Writes down a suspension act of an operator, and returns once the record is on the disk. If writing fails, the
    /// record of an act that was done already is written as soon as the journal can be written again.
    pub async fn suspension(&self, act: SuspensionAct) -> Result<(), JournalUnavailable> {
        self.act(JournalEntry::Suspension(act)).await
    }

    /// Writes down an order about notifications, and returns once the record is on the disk.
    pub async fn notification(&self, act: NotificationAct) -> Result<(), JournalUnavailable> {
        self.act(JournalEntry::Notification(act)).await
    }

    /// Writes down an order about an approval, and returns once the record is on the disk.
    pub async fn approval(&self, act: ApprovalAct) -> Result<(), JournalUnavailable> {
        self.act(JournalEntry::Approval(act)).await
    }

    /// Journals a change of an approval, without awaiting the disk.
    pub fn note_approval(&self, act: ApprovalAct) {
        self.shared.submit(JournalEntry::Approval(act), None);
    }

    async fn act(&self, entry: JournalEntry) -> Result<(), JournalUnavailable> {
        if !self.is_available() && entry.comes_first() {
            return Err(JournalUnavailable);
        }
        let (done, synced) = oneshot::channel();
        self.shared.submit(entry, Some(done));
        synced.await.map_err(|_| JournalUnavailable)
    }

    /// Writes down a suspension act without awaiting the disk.
    pub fn note_suspension(&self, act: SuspensionAct) {
        self.shared.submit(JournalEntry::Suspension(act), None);
    }

    /// Writes down an order about notifications without awaiting the disk.
    pub fn note_notification(&self, act: NotificationAct) {
        self.shared.submit(JournalEntry::Notification(act), None);
    }

    /// Writes down that a rule refused a call, without awaiting the disk. It is left out while the journal cannot be written:
    /// the access line has it.
    pub fn note_refusal(&self, refusal: RuleRefusal) {
        if self.is_available() {
            self.shared.submit(JournalEntry::Refused(refusal), None);
        }
    }

    /// The way of settled calls to the journal.
    pub fn settlements(&self) -> SettlementJournal {
        SettlementJournal(Arc::clone(&self.shared))
    }

    /// Writes the queued records and the record that the run ended in order.
    pub fn finish(&self) {
        self.end_unless(|| false);
    }

    /// Does the same unless it becomes `overdue` first. Gives whether the writer finished.
    pub fn end_unless(&self, overdue: impl FnMut() -> bool) -> bool {
        let mut writer = self.writer.lock();
        let Some(thread) = writer.take() else {
            return true;
        };
        self.shared.lock().ending = true;
        self.shared.wake.notify_one();
        if !comes_true(|| thread.is_finished(), overdue) {
            tracing::error!("the audit journal was not closed: the disk does not answer");
            return false;
        }
        if thread.join().is_err() {
            tracing::error!("the audit journal's thread panicked");
        }
        true
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.finish();
    }
}

impl PendingCall {
    /// An upstream attempt is made under a stamp of the proxy's.
    pub fn attempt(&mut self, client_id: &ClientId, stamp: &Stamp<'_>) {
        if let Some(after) = &mut self.after {
            after.attempts.push(JournaledAttempt {
                client_id: client_id.to_string(),
                timestamp: stamp.timestamp().to_owned(),
                nonce: stamp.nonce().to_owned(),
            });
        }
    }

    /// GatePay answered. The journal's thread takes GatePay's ids from `body`.
    pub fn answered(&mut self, status: u16, code: Option<&str>, body: &Bytes) {
        if let Some(after) = &mut self.after {
            after.status = Some(status);
            after.code = code.map(str::to_owned);
            after.answer = body.clone();
        }
    }

    /// Sets the outcome that a look-up observed at GatePay after the answer was lost.
    pub fn observed(&mut self, observed: &'static str) {
        if let Some(after) = &mut self.after {
            after.observed = Some(observed);
        }
    }

    /// Sets the call's outcome, which is `unknown` until then.
    pub fn outcome(&mut self, outcome: &'static str) {
        if let Some(after) = &mut self.after {
            after.outcome = outcome;
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if let Some(after) = self.after.take() {
            self.shared.submit(JournalEntry::After(after), None);
        }
    }
}

impl JournalShared {
    fn lock(&self) -> MutexGuard<'_, JournalQueue> {
        self.queue.lock()
    }

    fn submit(&self, entry: JournalEntry, done: Option<oneshot::Sender<()>>) {
        let unix_ms = self.clock.unix_ms();
        let mut queue = self.lock();
        queue.entries.push(TimedEntry { unix_ms, entry });
        let wake = done.is_some() && std::mem::take(&mut queue.asleep);
        queue.waiting.extend(done);
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Takes the queued records: at once if a caller awaits them, else after `LAZY`. If `many` calls shared the last
    /// sync, the first few wait for the others, up to `moment` and `GATHER`: callers that were answered together call
    /// again almost together.
    fn gathered(&self, many: usize, moment: Duration) -> JournalQueue {
        let mut queue = self.lock();
        queue.asleep = true;
        let nothing_waits = |queue: &mut JournalQueue| queue.waiting.is_empty() && !queue.ending;
        self.wake.wait_while_for(&mut queue, nothing_waits, LAZY);
        queue.asleep = false;
        if many >= MANY && (1..many).contains(&queue.waiting.len()) && !queue.ending {
            drop(queue);
            std::thread::sleep(moment.min(GATHER));
            queue = self.lock();
        }
        let ending = queue.ending;
        JournalQueue {
            ending,
            ..std::mem::take(&mut queue)
        }
    }
}

/// The journal's thread.
fn write(shared: &JournalShared, writer: &mut JournalWriter<impl JournalFolder>) {
    // Records that must still be written after a failure: every call that was sent has a record *after*.
    let mut kept: Vec<TimedEntry> = Vec::new();
    let (mut many, mut took) = (0, Duration::ZERO);
    loop {
        let JournalQueue {
            entries,
            waiting,
            ending,
            ..
        } = shared.gathered(many, took);
        kept.extend(entries);
        let was_available = shared.available.load(Ordering::Acquire);
        let began = Instant::now();
        let committed = writer.commit(&kept);
        (many, took) = (waiting.len(), began.elapsed());
        match committed {
            Ok(()) => {
                kept.clear();
                for done in waiting {
                    // Sending fails if the caller left meanwhile, which is no fault of the journal.
                    let _ = done.send(());
                }
                if !was_available {
                    tracing::info!("the audit journal can be written again");
                }
                shared.available.store(true, Ordering::Release);
                writer.meters().available.set(1);
            }
            Err(error) => {
                // Calls that await their record are refused and never sent, so their records are dropped.
                kept.retain(|timed| !timed.entry.comes_first());
                shared.available.store(false, Ordering::Release);
                writer.meters().available.set(0);
                if was_available {
                    tracing::error!(%error, "the audit journal cannot be written: write and money calls are refused, reads go on");
                }
                drop(waiting);
            }
        }
        if let Some(head) = writer.tell_head() {
            *shared.told_head.lock() = Some(head);
        }
        if ending {
            if let Err(error) = writer.end() {
                tracing::error!(%error, unwritten = kept.len(), "the audit journal was not closed: the last records are lost");
            }
            return;
        }
    }
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod head_tests;
#[cfg(test)]
mod tests;
