//! Yielding: a long body must not keep a worker from its other connections.
//!
//! At most [`YIELD_AFTER`] bytes of a body are worked on in one go. Work in pieces (hashing, writing, reading) yields
//! to other connections between two pieces. Work on the whole body at once (parsing JSON or a form) runs on another
//! thread. Bodies up to that length need neither, and nearly all are that short.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use tokio::sync::Semaphore;
use tokio::task::{spawn_blocking, yield_now};

/// How many bytes of a body are worked on before the task yields: hashing a MiB takes about 1.8 ms.
pub const YIELD_AFTER: usize = 64 * 1024;

/// Passes bytes to `take` in pieces of at most [`YIELD_AFTER`], and yields between two pieces.
pub async fn in_pieces(bytes: &[u8], mut take: impl FnMut(&[u8])) {
    let mut pieces = bytes.chunks(YIELD_AFTER);
    if let Some(first) = pieces.next() {
        take(first);
    }
    for piece in pieces {
        yield_now().await;
        take(piece);
    }
}

/// The count of bytes that were worked on since the task last yielded.
#[derive(Default)]
pub struct SinceYield(usize);

impl SinceYield {
    /// Counts `bytes` more; yields if a yield is due.
    pub async fn worked_on(&mut self, bytes: usize) {
        self.add(bytes);
        if self.is_time() {
            yield_now().await;
        }
    }

    /// Counts `bytes` more, for work that is polled.
    pub fn add(&mut self, bytes: usize) {
        self.0 += bytes;
    }

    /// Whether a yield is due. If so, the count restarts, because the caller then yields.
    pub fn is_time(&mut self) -> bool {
        let is_time = self.0 >= YIELD_AFTER;
        if is_time {
            self.0 = 0;
        }
        is_time
    }
}

/// Threads for work on long bodies, as many at once as there are cores.
#[derive(Clone)]
pub struct OffloadThreads(Arc<Semaphore>);

impl Default for OffloadThreads {
    fn default() -> Self {
        Self::with(thread::available_parallelism().map_or(1, usize::from))
    }
}

impl OffloadThreads {
    /// Allows this many threads at once.
    pub fn with(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads)))
    }

    /// Runs `work` on another thread, once a permit is free. A caller that stops waiting before it has the permit
    /// cancels the work. After that the work completes even if the caller stops waiting.
    ///
    /// # Panics
    /// If the work does.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let done = spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        match done.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is shutting down, which also ends this task.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    /// Polls a future that only yields, to its end. Returns the number of polls and the output.
    pub(crate) fn polls<T>(future: impl Future<Output = T>) -> (usize, T) {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        for polls in 1..1_000_000 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return (polls, output);
            }
        }
        panic!("it waits for something else");
    }

    #[test]
    fn a_long_body_is_taken_in_pieces_and_a_short_one_at_once() {
        for (bytes, wanted) in [
            (0, 1),
            (1, 1),
            (YIELD_AFTER, 1),
            (YIELD_AFTER + 1, 2),
            (16 * YIELD_AFTER, 16),
        ] {
            let (body, mut taken) = (vec![7; bytes], Vec::new());
            let mut most = 0;
            let (polls, ()) = polls(in_pieces(&body, |piece| {
                most = most.max(piece.len());
                taken.extend_from_slice(piece);
            }));
            assert_eq!((polls, taken == body), (wanted, true), "{bytes} bytes");
            assert!(most <= YIELD_AFTER);
        }
    }

    #[tokio::test]
    async fn no_more_is_worked_on_at_once_than_there_are_threads_for_and_none_of_it_here() {
        let offload = OffloadThreads::with(2);
        let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let threads = Arc::<Mutex<Vec<_>>>::default();
        let work = || {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            let threads = Arc::clone(&threads);
            move || {
                let running = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(running, Ordering::SeqCst);
                threads.lock().unwrap().push(thread::current().id());
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (offload, work) = (offload.clone(), work());
            all.spawn(async move { offload.run(work).await });
        }
        all.join_all().await;
        assert!(most.load(Ordering::SeqCst) <= 2);
        let threads = threads.lock().unwrap();
        assert_eq!(threads.len(), 50);
        assert!(!threads.contains(&thread::current().id()));
    }

    #[tokio::test]
    async fn a_panic_in_the_work_is_a_panic_of_the_request() {
        let offload = OffloadThreads::default();
        let panicked = tokio::spawn(async move { offload.run(|| panic!("on purpose")).await });
        assert!(panicked.await.unwrap_err().is_panic());
    }
}
