//! Store calls: how other rooms call the store on the thread that owns its connections.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::spawn_local;

/// A call on the store's thread, with the way back for its answer.
pub(super) type StoreJob = Box<dyn FnOnce(Arc<Store>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The most calls that wait for the thread.
pub(super) const WAITING_CALLS: usize = 256;

/// Calls the store on its thread.
#[derive(Clone)]
pub struct StoreCalls {
    jobs: mpsc::Sender<StoreJob>,
    turns: Arc<ReadTurns>,
}

/// The caller of a call of many reads, which decides where the call waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LongReader {
    /// An operator, or the proxy itself.
    Institution,
    /// The tenant of this id.
    Tenant(String),
}

/// The turns of calls of many reads. One call of the institution and one call of a tenant run at a time. Of each tenant one call
/// at most waits in the common line of the tenants, so that tenants come in turn however many calls each of them makes. The
/// other calls of a tenant wait in its own line, whose length the tenant's `in_flight` bounds.
struct ReadTurns {
    institution: Arc<Semaphore>,
    tenants: Arc<Semaphore>,
    /// The line of each tenant that has calls.
    own: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The turn of one call, until it is dropped.
struct ReadTurn {
    /// The place in the common line. It is given back before the place in the tenant's own line.
    _common: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreCallError {
    /// This instance has not joined the store, or leaves it.
    #[error("this instance has not joined the store")]
    NotJoined,
    /// The store refused the call or did not answer. The call may have been executed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreCalls {
    pub(super) fn new(jobs: mpsc::Sender<StoreJob>) -> Self {
        let turns = Arc::new(ReadTurns::new());
        Self { jobs, turns }
    }

    /// Makes a call of many reads, of which few run at a time, so that signs of life and settlements find their place
    /// between its reads. A caller that stops waiting leaves the line.
    pub async fn call_in_turn<T, F>(
        &self,
        reader: LongReader,
        call: impl FnOnce(Arc<Store>) -> F + Send + 'static,
    ) -> Result<T, StoreCallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let turn = self.turns.take(reader).await;
        let turn = turn.map_err(|_closed| StoreCallError::NotJoined)?;
        self.call(move |store| async move {
            let answer = call(store).await;
            drop(turn);
            answer
        })
        .await
    }

    /// Makes a call and waits for its answer. A call that was handed over runs to its end, whether or not its caller
    /// waits.
    pub async fn call<T, F>(
        &self,
        call: impl FnOnce(Arc<Store>) -> F + Send + 'static,
    ) -> Result<T, StoreCallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: StoreJob = Box::new(move |store| {
            Box::pin(async move {
                let _gone = answer.send(call(store).await);
            })
        });
        let handed_over = self.jobs.send(job).await;
        handed_over.map_err(|_ended| StoreCallError::NotJoined)?;
        let answer = answered
            .await
            .map_err(|_dropped| StoreCallError::NotJoined)?;
        Ok(answer?)
    }
}

impl ReadTurns {
    fn new() -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self {
            institution: one(),
            tenants: one(),
            own: Mutex::default(),
        }
    }

    async fn take(&self, reader: LongReader) -> Result<ReadTurn, AcquireError> {
        let (line, own) = match reader {
            LongReader::Institution => (&self.institution, None),
            LongReader::Tenant(id) => {
                let own = self.own_line(id).acquire_owned().await?;
                (&self.tenants, Some(own))
            }
        };
        let common = Arc::clone(line).acquire_owned().await?;
        Ok(ReadTurn {
            _common: common,
            _own: own,
        })
    }

    /// The line of a tenant. Lines without a call are forgotten: each call and each turn has its line.
    fn own_line(&self, id: String) -> Arc<Semaphore> {
        let mut own = self.own.lock();
        own.retain(|_, line| Arc::strong_count(line) > 1);
        let line = own.entry(id);
        Arc::clone(line.or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

/// Runs the calls, each in a task of its own, once this instance has joined. A call before that is dropped.
pub(super) async fn run(
    has_joined: impl Fn() -> bool,
    store: Arc<Store>,
    mut jobs: mpsc::Receiver<StoreJob>,
) {
    while let Some(job) = jobs.recv().await {
        if has_joined() {
            spawn_local(job(Arc::clone(&store)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    /// Callers that wait for their turn, on one thread. A job that is dropped ends its call without an answer.
    struct Line {
        calls: StoreCalls,
        jobs: mpsc::Receiver<StoreJob>,
        callers: JoinSet<&'static str>,
    }

    impl Line {
        fn new() -> Self {
            let (sender, jobs) = mpsc::channel(WAITING_CALLS);
            Self {
                calls: StoreCalls::new(sender),
                jobs,
                callers: JoinSet::new(),
            }
        }

        /// One more call of a tenant, or of the institution.
        async fn joins(&mut self, name: &'static str) {
            let calls = self.calls.clone();
            let reader = match name {
                "institution" => LongReader::Institution,
                tenant => LongReader::Tenant(tenant.to_owned()),
            };
            self.callers.spawn(async move {
                let read = calls.call_in_turn(reader, |_store| async { Ok(()) });
                let ended = read.await;
                assert!(matches!(ended, Err(StoreCallError::NotJoined)));
                name
            });
            yield_now().await;
        }

        /// The jobs under way at the same time.
        async fn under_way(&mut self) -> Vec<StoreJob> {
            for _ in 0..100 {
                yield_now().await;
            }
            std::iter::from_fn(|| self.jobs.try_recv().ok()).collect()
        }

        /// Ends a job. Returns whose it was.
        async fn end(&mut self, job: StoreJob) -> &'static str {
            drop(job);
            self.callers.join_next().await.unwrap().unwrap()
        }
    }

    #[tokio::test]
    async fn statements_of_one_tenant_hold_up_no_other_tenant_for_more_than_one_of_them() {
        let mut line = Line::new();
        for _ in 0..19 {
            line.joins("acme").await;
        }
        line.joins("globex").await;
        line.joins("initech").await;
        let mut ended = Vec::new();
        let mut most = BTreeMap::new();
        loop {
            let jobs = line.under_way().await;
            *most.entry(jobs.len()).or_insert(0) += 1;
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                ended.push(line.end(job).await);
            }
        }
        assert_eq!(ended[..4], ["acme", "globex", "initech", "acme"]);
        assert_eq!(ended.len(), 21);
        assert_eq!(most, BTreeMap::from([(0, 1), (1, 21)]));
    }

    #[tokio::test]
    async fn statements_of_tenants_hold_up_neither_operators_nor_caps() {
        let mut line = Line::new();
        for _ in 0..19 {
            line.joins("acme").await;
            line.joins("globex").await;
        }
        let statement = line.under_way().await;
        assert_eq!(statement.len(), 1);
        line.joins("institution").await;
        line.joins("institution").await;
        for _ in 0..2 {
            let mut own = line.under_way().await;
            assert_eq!(own.len(), 1);
            assert_eq!(line.end(own.pop().unwrap()).await, "institution");
        }
        for job in statement {
            assert_eq!(line.end(job).await, "acme");
        }
    }

    #[tokio::test]
    async fn a_tenant_without_a_call_has_no_line_and_a_caller_that_leaves_gives_its_turn_to_the_next()
     {
        let mut line = Line::new();
        line.joins("acme").await;
        let first = line.under_way().await;
        line.joins("acme").await;
        line.joins("globex").await;
        line.callers.abort_all();
        while line.callers.join_next().await.is_some() {}
        drop(first);
        line.joins("initech").await;
        let mut next = line.under_way().await;
        assert_eq!(line.end(next.pop().unwrap()).await, "initech");
        line.joins("acme").await;
        let lines = line.calls.turns.own.lock();
        assert_eq!(lines.keys().collect::<Vec<_>>(), ["acme"]);
    }
}
