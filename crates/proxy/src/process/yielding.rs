//! Yielding: a long body must not keep a worker from its other connections.
//!
//! Of a body at most [`YIELD_AFTER`] bytes are worked on in one go. What takes it piece by piece (hashing, writing, reading)
//! lets other connections have their turn between two pieces; what needs all of it at once (reading JSON or a form) is done
//! on another thread. Bodies that are no longer than that take neither way, and nearly all are.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use tokio::sync::Semaphore;
use tokio::task::{spawn_blocking, yield_now};

/// How many bytes of a body are worked on before others get their turn: hashing a MiB takes about 1.8 ms.
pub const YIELD_AFTER: usize = 64 * 1024;

/// Hands over bytes in pieces of at most [`YIELD_AFTER`], and lets others have their turn between two.
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

/// Bytes that were worked on since others had their turn.
#[derive(Default)]
pub struct SinceYield(usize);

impl SinceYield {
    /// So many more were; lets others have their turn if it is time.
    pub async fn worked_on(&mut self, bytes: usize) {
        self.add(bytes);
        if self.is_time() {
            yield_now().await;
        }
    }

    /// So many more were, for what is polled.
    pub fn add(&mut self, bytes: usize) {
        self.0 += bytes;
    }

    /// Whether it is time that others have their turn. Then it is taken for granted that they get it.
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
    /// As many threads at once.
    pub fn with(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads)))
    }

    /// Does this on another thread, once one is free. If nobody waits for it any more it is done all the same.
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
                // The runtime ends, and with it what waits here.
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

    /// How often a future that waits for nothing but its turn is polled, and what it gives.
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
