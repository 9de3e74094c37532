//! Yielding: a long body must not keep a worker from its other connections.
//!
//! At most [`YIELD_AFTER`] bytes of a body are worked on in one go. Work in pieces (hashing, writing, reading) yields
//! to other connections between two pieces. Work on the whole body at once (parsing JSON or a form) runs on another
//! thread. Bodies up to that length need neither, and nearly all are that short.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::resume_unwind;
use std::ptr;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
///
/// Each party has one of them at a time: of several parties that wait for a thread, each waits for one piece of work of each other
/// party, however many bodies a party sends.
#[derive(Clone)]
pub struct OffloadThreads {
    free: Arc<Semaphore>,
    turns: Arc<OffloadTurns>,
}

/// The threads for the work of one party.
#[derive(Clone, Copy)]
pub struct PartyOffload<'t> {
    threads: &'t OffloadThreads,
    party: OffloadParty,
}

/// A party by the address of its limits, which it keeps as long as it exists; 0 is the proxy itself.
type OffloadParty = usize;
/// The turns of the parties that have work, each with the number of pieces of work.
type OffloadTurns = Mutex<HashMap<OffloadParty, (Arc<Semaphore>, usize)>>;

impl Default for OffloadThreads {
    fn default() -> Self {
        Self::with(thread::available_parallelism().map_or(1, usize::from))
    }
}

impl OffloadThreads {
    /// Allows this many threads at once.
    pub fn with(threads: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(threads)),
            turns: Arc::default(),
        }
    }

    /// The threads for work of the party that has these limits.
    pub fn of_party<T>(&self, limits: &T) -> PartyOffload<'_> {
        PartyOffload {
            threads: self,
            party: ptr::from_ref(limits).addr(),
        }
    }

    /// The threads for work of the proxy's own.
    pub fn own(&self) -> PartyOffload<'_> {
        PartyOffload {
            threads: self,
            party: 0,
        }
    }
}

impl PartyOffload<'_> {
    /// Runs `work` on another thread, once the party has its turn and a thread is free. A caller that stops waiting before that
    /// cancels the work. After that the work completes even if the caller stops waiting.
    ///
    /// # Panics
    /// If the work does.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = OffloadTurn::wait(&self.threads.turns, self.party).await;
        let thread = Arc::clone(&self.threads.free).acquire_owned().await;
        let done = spawn_blocking(move || {
            let done = work();
            drop(thread);
            drop(turn);
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

/// A piece of work of a party, which waits for the party's turn or has it.
struct OffloadTurn {
    turns: Arc<OffloadTurns>,
    party: OffloadParty,
    turn: Option<OwnedSemaphorePermit>,
}

impl OffloadTurn {
    async fn wait(turns: &Arc<OffloadTurns>, party: OffloadParty) -> Self {
        let one = {
            let mut turns = turns.lock();
            let (one, work) = turns
                .entry(party)
                .or_insert_with(|| (Arc::new(Semaphore::new(1)), 0));
            *work += 1;
            Arc::clone(one)
        };
        let mut waiting = Self {
            turns: Arc::clone(turns),
            party,
            turn: None,
        };
        waiting.turn = one.acquire_owned().await.ok();
        waiting
    }
}

impl Drop for OffloadTurn {
    fn drop(&mut self) {
        drop(self.turn.take());
        let mut turns = self.turns.lock();
        if let Entry::Occupied(mut party) = turns.entry(self.party) {
            party.get_mut().1 -= 1;
            if party.get().1 == 0 {
                party.remove();
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::pin::pin;
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
                threads.lock().push(thread::current().id());
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let mut all = tokio::task::JoinSet::new();
        for party in 0..50_u8 {
            let (offload, work) = (offload.clone(), work());
            let limits = Box::new(party);
            all.spawn(async move { offload.of_party(&*limits).run(work).await });
        }
        all.join_all().await;
        assert!(most.load(Ordering::SeqCst) <= 2);
        let threads = threads.lock();
        assert_eq!(threads.len(), 50);
        assert!(!threads.contains(&thread::current().id()));
        assert!(offload.turns.lock().is_empty(), "no turn stays");
    }

    #[tokio::test]
    async fn the_long_bodies_of_one_party_hold_up_no_other_party() {
        let offload = OffloadThreads::with(1);
        let (flooding, other) = (1_u8, 2_u8);
        let order = Arc::<Mutex<Vec<u8>>>::default();
        let work = |party: u8| {
            let order = Arc::clone(&order);
            move || order.lock().push(party)
        };
        // All wait before the first begins.
        let busy = Arc::clone(&offload.free).acquire_owned().await.unwrap();
        let mut all: Vec<_> = (0..50)
            .map(|_| Box::pin(offload.of_party(&flooding).run(work(flooding))))
            .collect();
        all.push(Box::pin(offload.of_party(&other).run(work(other))));
        let mut cx = Context::from_waker(Waker::noop());
        for waiting in &mut all {
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
        }
        drop(busy);
        futures_util::future::join_all(all).await;
        let order = order.lock();
        assert_eq!(order.len(), 51);
        let place = order.iter().position(|party| *party == other);
        assert_eq!(place, Some(1), "{order:?}");
        assert!(offload.turns.lock().is_empty(), "no turn stays");
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_leaves_the_line() {
        let offload = OffloadThreads::with(1);
        let party = 1_u8;
        let _busy = Arc::clone(&offload.free).acquire_owned().await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let mut left = Box::pin(offload.of_party(&party).run(|| ()));
            assert!(left.as_mut().poll(&mut cx).is_pending());
        }
        assert!(offload.turns.lock().is_empty());
    }

    #[tokio::test]
    async fn a_panic_in_the_work_is_a_panic_of_the_request() {
        let offload = OffloadThreads::default();
        let panicked =
            tokio::spawn(async move { offload.own().run(|| panic!("on purpose")).await });
        assert!(panicked.await.unwrap_err().is_panic());
    }
}
