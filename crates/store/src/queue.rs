//! Batches of single requests: the requests that came while the last batch was under way are the next one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::admission::{
    AdmissionBatch, AdmissionReply, AdmissionRow, AdmissionVerdict, BatchRefusal,
};
use crate::breaker::StoreBreaker;
use crate::caps::rule::CapBreach;
use crate::caps::spend::{AttemptResult, SettledAttempt};
use crate::engine::Store;
use crate::error::StoreError;
use crate::stored_text::Fingerprint;

/// The entrance of a queue before a store. Any thread may ask; [`AdmissionRunner::run`] answers.
#[derive(Clone)]
pub struct AdmissionQueue {
    sender: mpsc::Sender<WaitingRow>,
    health: watch::Receiver<StoreHealth>,
}

/// The other end of the queue, for the thread that talks to the store.
pub struct AdmissionRunner {
    receiver: mpsc::Receiver<WaitingRow>,
    health: watch::Sender<StoreHealth>,
    breaker: StoreBreaker,
    waiting: VecDeque<WaitingRow>,
    began: Instant,
    observer: Option<BatchObserver>,
    /// Stamps of admitted requests whose callers have gone.
    unsent: mpsc::UnboundedReceiver<Fingerprint>,
    unsent_sender: mpsc::UnboundedSender<Fingerprint>,
}

/// A function that is told of each batch once it has ended.
pub type BatchObserver = Box<dyn FnMut(BatchFacts) + Send>;

/// The pause after the store did not take the end of a request.
const RETRY: Duration = Duration::from_millis(500);

/// One batch that the store was asked for.
#[derive(Debug, Clone, Copy)]
pub struct BatchFacts {
    /// Number of rows.
    pub rows: u32,
    /// The time from asking to the committed answer or the error.
    pub took: Duration,
}

/// How the store answered lately.
#[derive(Debug, Clone, Default)]
pub struct StoreHealth {
    /// Since when the store has not answered, if the last call got no answer. A refused statement is an answer.
    pub away_since: Option<Instant>,
    /// Why the last call failed, until one succeeds.
    pub error: Option<Arc<StoreError>>,
    /// Stamps up to here are refused, in milliseconds since 1970.
    pub guarded_until: u64,
}

/// A store's answer about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedRow {
    /// The decision.
    pub verdict: AdmissionVerdict,
    /// The first shadow cap that would have refused the admitted request.
    pub shadow: Option<CapBreach>,
}

/// A store's answer on its way to the caller.
struct Answer {
    judged: Result<JudgedRow, Arc<StoreError>>,
    /// The stamp of an admitted request that spends.
    unheard: Option<UnheardStamp>,
}

/// The stamp of an admitted request, until its caller has the answer. If the caller has gone, the request is never sent, and
/// what it reserved comes free.
struct UnheardStamp {
    stamp: Option<Fingerprint>,
    unsent: mpsc::UnboundedSender<Fingerprint>,
}

struct VerdictSender {
    sender: oneshot::Sender<Answer>,
    /// The stamp, if the request spends.
    spends: Option<Fingerprint>,
}

struct WaitingRow {
    row: AdmissionRow,
    answer: VerdictSender,
}

/// The answer to a batch, with the requests that wait for it.
struct AnsweredBatch {
    answers: Vec<VerdictSender>,
    reply: Result<AdmissionReply, StoreError>,
    took: Duration,
}

/// An event that the runner waits for.
enum QueueEvent {
    Arrived(Option<WaitingRow>),
    Answered(AnsweredBatch),
    Probed(Result<(), StoreError>),
    Unsent(Fingerprint),
}

impl Drop for UnheardStamp {
    fn drop(&mut self) {
        if let Some(stamp) = self.stamp.take() {
            // After the runner has ended, the store counts the call as one of unknown outcome.
            let _ended = self.unsent.send(stamp);
        }
    }
}

impl VerdictSender {
    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn refuse(self, error: &Arc<StoreError>) {
        let answer = Answer {
            judged: Err(Arc::clone(error)),
            unheard: None,
        };
        let _gone = self.sender.send(answer);
    }

    fn answer(self, judged: JudgedRow, unsent: &mpsc::UnboundedSender<Fingerprint>) {
        let is_admitted = judged.verdict == AdmissionVerdict::Admitted;
        let spent = self.spends.filter(|_| is_admitted);
        let unheard = spent.map(|stamp| UnheardStamp {
            stamp: Some(stamp),
            unsent: unsent.clone(),
        });
        let judged = Ok(judged);
        let _gone = self.sender.send(Answer { judged, unheard });
    }
}

impl AdmissionQueue {
    /// A queue for `capacity` waiting requests. Instances with different seeds do not probe a store that is away in step.
    pub fn new(capacity: usize, seed: u64) -> (Self, AdmissionRunner) {
        let (sender, receiver) = mpsc::channel(capacity);
        let (health, watched) = watch::channel(StoreHealth::default());
        let (unsent_sender, unsent) = mpsc::unbounded_channel();
        let runner = AdmissionRunner {
            receiver,
            health,
            breaker: StoreBreaker::new(seed),
            waiting: VecDeque::new(),
            began: Instant::now(),
            observer: None,
            unsent,
            unsent_sender,
        };
        let queue = Self {
            sender,
            health: watched,
        };
        (queue, runner)
    }

    /// The store's verdict on a request. An error means that nothing may be sent, and that the stamp may be recorded.
    ///
    /// If the call is dropped, its request may be admitted all the same, unless it still waits for a batch.
    pub async fn admit(&self, row: AdmissionRow) -> Result<AdmissionVerdict, Arc<StoreError>> {
        self.judge(row).await.map(|judged| judged.verdict)
    }

    /// Like [`admit`](Self::admit), with the shadow caps that would have refused the request.
    pub async fn judge(&self, row: AdmissionRow) -> Result<JudgedRow, Arc<StoreError>> {
        let (sender, answered) = oneshot::channel();
        let full = || Arc::new(StoreError::QueueFull);
        let answer = VerdictSender {
            sender,
            spends: (row.spend.is_some() || row.usage.is_some()).then_some(row.stamp),
        };
        let waiting = WaitingRow { row, answer };
        self.sender.try_send(waiting).map_err(|_| full())?;
        let Answer { judged, unheard } = answered.await.map_err(|_| full())?;
        if let Some(mut heard) = unheard {
            heard.stamp = None;
        }
        judged
    }

    /// How the store answered lately; changes can be waited for.
    pub fn health(&self) -> watch::Receiver<StoreHealth> {
        self.health.clone()
    }
}

impl AdmissionRunner {
    /// Tells a function of each batch.
    #[must_use]
    pub fn observed_by(mut self, observer: BatchObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Takes requests to the store until every [`AdmissionQueue`] is dropped and all are answered.
    pub async fn run(mut self, store: Arc<Store>) {
        let mut under_way: FuturesUnordered<BoxFuture<'static, AnsweredBatch>> =
            FuturesUnordered::new();
        let mut probes: FuturesUnordered<BoxFuture<'static, Result<(), StoreError>>> =
            FuturesUnordered::new();
        let mut settling: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut open = true;
        while open || !self.waiting.is_empty() || !under_way.is_empty() {
            while under_way.len() < store.lines() && !self.waiting.is_empty() {
                let (batch, answers) = self.next_batch();
                if batch.is_empty() {
                    break;
                }
                under_way.push(Box::pin(ask(Arc::clone(&store), batch, answers)));
            }
            if let Some(pause) = self.breaker.wait(self.began.elapsed())
                && probes.is_empty()
            {
                probes.push(Box::pin(probe_after(Arc::clone(&store), pause)));
            }
            let room = self.waiting.len() < self.receiver.max_capacity();
            let event = tokio::select! {
                biased;
                Some(answered) = under_way.next() => QueueEvent::Answered(answered),
                arrived = self.receiver.recv(), if open && room => QueueEvent::Arrived(arrived),
                Some(probed) = probes.next() => QueueEvent::Probed(probed),
                Some(stamp) = self.unsent.recv() => QueueEvent::Unsent(stamp),
                Some(()) = settling.next() => continue,
            };
            match event {
                QueueEvent::Arrived(Some(row)) => self.arrived(row),
                QueueEvent::Arrived(None) => open = false,
                QueueEvent::Answered(answered) => self.answered(answered),
                QueueEvent::Probed(probed) => self.heard(probed.err().map(Arc::new)),
                QueueEvent::Unsent(stamp) => {
                    settling.push(Box::pin(settle_unsent(Arc::clone(&store), stamp)));
                }
            }
        }
    }

    /// Queues a request, and all that came with it; refuses it while the breaker is open.
    fn arrived(&mut self, first: WaitingRow) {
        let mut next = Some(first);
        while let Some(waiting) = next {
            match self.breaker.wait(self.began.elapsed()) {
                None => self.waiting.push_back(waiting),
                Some(wait) => {
                    let open = StoreError::BreakerOpen(wait.as_millis());
                    waiting.answer.refuse(&Arc::new(open));
                }
            }
            next = self.receiver.try_recv().ok();
        }
    }

    /// The next batch, of the requests that wait longest. A copy of one in the batch waits for the next. A request is left
    /// out if its caller has gone, so that its stamp stays unspent; the batch is empty if no request is left.
    fn next_batch(&mut self) -> (AdmissionBatch, Vec<VerdictSender>) {
        let mut batch = AdmissionBatch::default();
        let mut answers = Vec::new();
        let mut later = VecDeque::new();
        while let Some(WaitingRow { row, answer }) = self.waiting.pop_front() {
            if answer.is_closed() {
                continue;
            }
            match batch.push(row) {
                Ok(()) => answers.push(answer),
                Err(BatchRefusal::Duplicate(row)) => {
                    later.push_back(WaitingRow { row: *row, answer });
                }
                Err(BatchRefusal::Full(row)) => {
                    later.push_back(WaitingRow { row: *row, answer });
                    break;
                }
            }
        }
        later.append(&mut self.waiting);
        self.waiting = later;
        (batch, answers)
    }

    fn answered(&mut self, answered: AnsweredBatch) {
        let AnsweredBatch {
            answers,
            reply,
            took,
        } = answered;
        let rows = u32::try_from(answers.len()).unwrap_or(u32::MAX);
        if let Some(observer) = &mut self.observer {
            observer(BatchFacts { rows, took });
        }
        match reply {
            Ok(reply) => {
                self.health.send_if_modified(|health| {
                    let before = health.guarded_until;
                    health.guarded_until = reply.guarded_until;
                    before != reply.guarded_until
                });
                self.heard(None);
                let mut shadows = reply.shadows.into_iter().peekable();
                for (at, (answer, verdict)) in answers.into_iter().zip(reply.verdicts).enumerate() {
                    let shadow = shadows.next_if(|shadow| shadow.row == at);
                    let shadow = shadow.map(|shadow| shadow.breach);
                    answer.answer(JudgedRow { verdict, shadow }, &self.unsent_sender);
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                self.heard(Some(Arc::clone(&error)));
                for answer in answers {
                    answer.refuse(&error);
                }
            }
        }
    }

    /// A call or a probe has ended. If it failed, the waiting requests are refused at once. Watchers of the health wake up
    /// for a failure and for the first success after it, not for each batch.
    fn heard(&mut self, error: Option<Arc<StoreError>>) {
        let is_away = match &error {
            None => {
                self.breaker.succeeded();
                false
            }
            // The server answers, and refused this statement.
            Some(error) if matches!(**error, StoreError::Refused { .. }) => false,
            Some(error) => {
                self.breaker.failed(self.began.elapsed());
                for waiting in self.waiting.drain(..) {
                    waiting.answer.refuse(error);
                }
                true
            }
        };
        self.health.send_if_modified(|health| {
            let is_well = error.is_none() && health.error.is_none();
            let since = health.away_since.unwrap_or_else(Instant::now);
            health.away_since = is_away.then_some(since);
            health.error = error;
            !is_well
        });
    }
}

async fn ask(
    store: Arc<Store>,
    batch: AdmissionBatch,
    answers: Vec<VerdictSender>,
) -> AnsweredBatch {
    let asked = Instant::now();
    let reply = store.admit(&batch).await;
    AnsweredBatch {
        answers,
        reply,
        took: asked.elapsed(),
    }
}

/// Gives back what a request reserved that is never sent: its caller has gone, and its stamp is spent.
async fn settle_unsent(store: Arc<Store>, stamp: Fingerprint) {
    let settled = [SettledAttempt {
        stamp,
        result: AttemptResult::NotExecuted,
    }];
    while store.settle_attempts(&settled).await.is_err() {
        sleep(RETRY).await;
    }
}

/// Asks the store after a pause.
async fn probe_after(store: Arc<Store>, pause: Duration) -> Result<(), StoreError> {
    sleep(pause).await;
    store.probe().await
}
