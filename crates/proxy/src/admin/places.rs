//! Places: the connection slots of the admin listener, their eviction when all are taken, and the time limits of a
//! connection.
//!
//! The purpose of a connection is known only once it has sent a request, so no slot can be reserved for probes. A new
//! connection gets a slot in any case. If all are taken, the listener evicts a connection on which the proxy waits for
//! its peer (for a request, or for the answer to be taken): the longest such wait of the address that has most of
//! them. So a probe always gets a slot, and it needs the slot only for a moment.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// The number of connection slots. Scrapes and probes are few; more connections than this are a fault or an attack.
const CONNECTIONS: usize = 64;
/// The number of read requests worked on at once; further requests queue. Probes need no turn.
const READS: usize = 8;
/// The number of change requests worked on at once. They may be slow and must not delay read requests.
const CHANGES: usize = 4;
/// The time limit from the first byte of a head, or the start of the connection, until the answer is written.
const EXCHANGE: Duration = Duration::from_mins(1);
/// The idle timeout between two exchanges: Prometheus scrapes every minute or more often.
const IDLE: Duration = Duration::from_secs(75);
/// The interval at which a connection's deadline is checked.
const DEADLINE_CHECK: Duration = Duration::from_secs(1);

/// The slots of all admin connections, and the turns of their requests.
pub(super) struct AdminConnections {
    all: Mutex<Vec<Arc<AdminSlot>>>,
    reads: Semaphore,
    changes: Semaphore,
}

/// The slot of one connection, given back when this is dropped.
pub(super) struct AdminSlotGuard {
    connections: Arc<AdminConnections>,
    slot: Arc<AdminSlot>,
}

/// The state of one connection: its peer, its stage and the start of its time limit.
pub(super) struct AdminSlot {
    address: IpAddr,
    now: Mutex<(AdminSlotStage, Instant)>,
    gives_way: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AdminSlotStage {
    /// The last answer is written, and no byte of another request was read.
    Idle,
    /// A request is being read, or waits for its turn.
    Asking,
    /// A request is being worked on.
    Working,
    /// An answer is being written.
    Answering,
}

impl AdminConnections {
    pub(super) fn new() -> Self {
        Self {
            all: Mutex::default(),
            reads: Semaphore::new(READS),
            changes: Semaphore::new(CHANGES),
        }
    }

    /// Takes a slot for a connection from this address. If none is free, another connection is evicted. Returns `None`
    /// if a request of every connection is being worked on.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<AdminSlotGuard> {
        let slot = Arc::new(AdminSlot::of(address));
        let mut all = self.lock();
        if all.len() >= CONNECTIONS {
            let longest = longest_wait(&all)?;
            all.swap_remove(longest).gives_way.notify_one();
        }
        all.push(Arc::clone(&slot));
        drop(all);
        Some(AdminSlotGuard {
            connections: Arc::clone(self),
            slot,
        })
    }

    /// Waits for a turn: read requests share one queue, change requests another. During its turn a connection is not
    /// evicted.
    pub(super) async fn admit<'a>(
        &'a self,
        slot: &'a AdminSlot,
        changes: bool,
    ) -> AdminRequestGuard<'a> {
        let permits = if changes { &self.changes } else { &self.reads };
        let permit = permits.acquire().await.expect("it is never closed");
        slot.lock().0 = AdminSlotStage::Working;
        AdminRequestGuard {
            slot,
            _permit: permit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<AdminSlot>>> {
        self.all.lock()
    }
}

/// The index of the connection to evict: among those that the proxy waits for, the longest wait of the address that has
/// most of them.
fn longest_wait(all: &[Arc<AdminSlot>]) -> Option<usize> {
    let waiting: Vec<_> = all
        .iter()
        .enumerate()
        .filter_map(|(at, slot)| {
            let (stage, since) = *slot.lock();
            (stage != AdminSlotStage::Working).then_some((at, slot.address, since))
        })
        .collect();
    let of = |address| waiting.iter().filter(|(_, of, _)| *of == address).count();
    let most = waiting.iter().map(|(_, address, _)| of(*address)).max()?;
    let longest = waiting
        .iter()
        .filter(|(_, address, _)| of(*address) == most)
        .min_by_key(|(_, _, since)| *since)?;
    Some(longest.0)
}

impl AdminSlotGuard {
    pub(super) fn slot(&self) -> &Arc<AdminSlot> {
        &self.slot
    }
}

impl Drop for AdminSlotGuard {
    fn drop(&mut self) {
        let slot = &self.slot;
        self.connections
            .lock()
            .retain(|other| !Arc::ptr_eq(other, slot));
    }
}

impl AdminSlot {
    /// The slot of a new connection, which is expected to send a request.
    fn of(address: IpAddr) -> Self {
        Self {
            address,
            now: Mutex::new((AdminSlotStage::Asking, Instant::now())),
            gives_way: Notify::new(),
        }
    }

    /// Waits until the connection has to end: its time limit has passed, or it is evicted.
    pub(super) async fn ends(&self) {
        tokio::select! {
            () = self.gives_way.notified() => {}
            () = self.overdue() => {}
        }
    }

    async fn overdue(&self) {
        loop {
            let (stage, since) = *self.lock();
            let deadline = match stage {
                AdminSlotStage::Idle => since + IDLE,
                AdminSlotStage::Asking | AdminSlotStage::Working | AdminSlotStage::Answering => {
                    since + EXCHANGE
                }
            };
            let now = Instant::now();
            if deadline <= now {
                return;
            }
            sleep_until(deadline.min(now + DEADLINE_CHECK)).await;
        }
    }

    /// Notes that bytes of a request have arrived.
    pub(super) fn request_begun(&self) {
        self.enter(AdminSlotStage::Asking);
    }

    /// Notes that the answer is ready to be written.
    pub(super) fn answer_ready(&self) {
        self.lock().0 = AdminSlotStage::Answering;
    }

    /// Enters another stage if the connection was idle.
    fn enter(&self, stage: AdminSlotStage) {
        let mut now = self.lock();
        if now.0 == AdminSlotStage::Idle {
            *now = (stage, Instant::now());
        }
    }

    /// Notes that the answer is written completely.
    fn answer_written(&self) {
        let mut now = self.lock();
        if now.0 == AdminSlotStage::Answering {
            *now = (AdminSlotStage::Idle, Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, (AdminSlotStage, Instant)> {
        self.now.lock()
    }
}

/// The turn of a request that is being worked on.
pub(super) struct AdminRequestGuard<'a> {
    slot: &'a AdminSlot,
    _permit: SemaphorePermit<'a>,
}

impl Drop for AdminRequestGuard<'_> {
    fn drop(&mut self) {
        self.slot.lock().0 = AdminSlotStage::Asking;
    }
}

/// A connection's byte stream, which updates the connection's stage.
pub(super) struct ObservedStream<S> {
    pub(super) stream: S,
    pub(super) slot: Arc<AdminSlot>,
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.slot.request_begun();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ObservedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.slot.enter(AdminSlotStage::Answering);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// hyper flushes once nothing is left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.slot.answer_written();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.slot.enter(AdminSlotStage::Answering);
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_longest_wait_of_the_address_with_most_gives_way() {
        let connections = Arc::new(AdminConnections::new());
        let other = connections.take(address(2)).unwrap();
        let mut guards = Vec::new();
        while connections.lock().len() < CONNECTIONS {
            tokio::time::advance(Duration::from_millis(1)).await;
            guards.push(connections.take(address(1)).unwrap());
        }
        // The first connection has a turn, so the second one has the longest wait.
        let admitted = connections.admit(guards[0].slot(), false).await;
        let new = connections.take(address(3)).unwrap();
        assert_eq!(connections.lock().len(), CONNECTIONS);
        guards[1].slot().gives_way.notified().await;
        let still = |guard: &AdminSlotGuard| {
            let all = connections.lock();
            all.iter().any(|slot| Arc::ptr_eq(slot, &guard.slot))
        };
        assert!(still(&guards[0]) && !still(&guards[1]) && still(&guards[2]));
        assert!(still(&other) && still(&new));
        drop(admitted);
        drop(new);
        assert_eq!(connections.lock().len(), CONNECTIONS - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_connections_does_not_take_the_place_of_another_address() {
        let connections = Arc::new(AdminConnections::new());
        let probe = connections.take(address(2)).unwrap();
        let mut flood = Vec::new();
        for _ in 0..1_000 {
            flood.push(connections.take(address(1)).unwrap());
        }
        let all = connections.lock();
        assert!(all.iter().any(|slot| Arc::ptr_eq(slot, &probe.slot)));
        assert_eq!(all.len(), CONNECTIONS);
    }

    #[tokio::test(start_paused = true)]
    async fn not_all_places_can_be_worked_for() {
        const { assert!(READS + CHANGES < CONNECTIONS) };
        let connections = Arc::new(AdminConnections::new());
        let guards: Vec<_> = (0..CONNECTIONS)
            .map(|_| connections.take(address(1)).unwrap())
            .collect();
        let mut permits = Vec::new();
        for guard in &guards {
            for changes in [false, true] {
                let admit = connections.admit(guard.slot(), changes);
                let admit = tokio::time::timeout(Duration::ZERO, admit).await;
                permits.extend(admit);
            }
        }
        assert_eq!(permits.len(), READS + CHANGES);
        assert!(connections.take(address(1)).is_some());
    }
}
