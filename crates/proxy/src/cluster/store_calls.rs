//! Store calls: how other rooms call the store on the thread that owns its connections.

use std::pin::Pin;
use std::sync::Arc;

use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_local;

/// A call on the store's thread, with the way back for its answer.
pub(super) type StoreJob = Box<dyn FnOnce(Arc<Store>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The most calls that wait for the thread.
pub(super) const WAITING_CALLS: usize = 256;

/// Calls the store on its thread.
#[derive(Clone)]
pub struct StoreCalls {
    jobs: mpsc::Sender<StoreJob>,
    /// The turn of a call of many reads.
    turn: Arc<Semaphore>,
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
        let turn = Arc::new(Semaphore::new(1));
        Self { jobs, turn }
    }

    /// Makes a call of many reads, of which one runs at a time, so that signs of life and settlements find their place
    /// between its reads.
    pub async fn call_in_turn<T, F>(
        &self,
        call: impl FnOnce(Arc<Store>) -> F + Send + 'static,
    ) -> Result<T, StoreCallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let turn = Arc::clone(&self.turn).acquire_owned().await;
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
