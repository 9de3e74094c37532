//! Memory bound: how much memory the process holds at most under the configured limits.
//!
//! Each part is the amount that our own limits allow, with all limits reached at once. `BASE` includes the allocator's
//! rounding and its retained memory. `check` prints the bound, and `benches/exhaustion` enforces it.

use gatepay_admission::replay;
use gatepay_admission::replay_capacity::replay_capacity;
use gatepay_http1::request_parser::HEAD_LIMIT;
use gatepay_tenancy::Registry;
use gatepay_tenancy::settings::Settings;

use crate::callers::body_memory::BODIES;
use crate::listener::http1;
use crate::listener::http2::{STREAMS, WINDOW};
use crate::notify::ledger;
use crate::notify::receive::{listener, notification_exchange as exchange};
use crate::record::access_log;
use crate::upstream::forward::{WHOLE, WHOLE_OF_A_CHANGE};

// Measured by `tests/bound.rs`, which fails if a constant is less than the measured use.
/// The program itself, with its threads, metrics, scrapes, and the list of addresses that keep failing authentication:
/// 33 to 56 MB of heap, depending on how many threads scraped at once, and the resident part of its binary.
pub const PROGRAM: usize = 96 << 20;
/// The program, and the access lines that wait for a stalled reader.
const BASE: usize = PROGRAM + access_log::MOST;
/// A tenant or operator: 40 KB for its files as they were read, its limiters and its series, also while a reload reads
/// all files again.
pub const PARTY: usize = 64 << 10;
/// The bytes that rustls buffers in either direction: 110 KB for a handshake whose message does not end.
pub const TLS: usize = 128 << 10;
/// A request without its head, until it reaches GatePay and again until its answer is read: 6 to 9 KB.
pub const REQUEST: usize = 10 << 10;
/// A refused HTTP/2 stream, until the peer has been told and for as long as the library remembers the stream: 1.2 to
/// 1.5 KB.
pub const STREAM: usize = 2 << 10;
/// The state of a connection: an idle one takes 10 KB over HTTP/1; HTTP/2 adds the library's first buffers.
pub const CONNECTION: usize = 40 << 10;
/// The answer of a call and the connection to GatePay: answers to changes are held whole, answers to reads up to a
/// length.
pub const ANSWER: usize = if WHOLE_OF_A_CHANGE > WHOLE {
    WHOLE_OF_A_CHANGE
} else {
    WHOLE
} + TLS
    + CONNECTION;

/// The memory that is resident in usual operation, with some hundred connections, besides stamps and series: the
/// program, its threads, its tenants as they were read, and the allocator's retained memory. `end_to_end memory`
/// enforces it.
pub const USUAL: usize = 40 << 20;
/// A remembered stamp, with its share of the replay table.
pub const STAMP: usize = 64;
/// A metric series, with its share of a scrape.
pub const SERIES: usize = 1 << 10;

/// The parts of the memory bound, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBound {
    /// One connection, with all its buffers.
    pub connection: usize,
    /// All connections.
    pub connections: usize,
    /// All requests, with their heads.
    pub requests: usize,
    /// How many requests are at GatePay at the same time.
    pub calls: usize,
    /// The answers of those calls, and the connections to GatePay.
    pub answers: usize,
    /// Heads and bodies of requests.
    pub bodies: usize,
    /// How many stamps are remembered.
    pub stamps: usize,
    /// The memory of those stamps.
    pub replay: usize,
    /// Notifications that are being received, and ids that wait for the ledger; 0 without notifications.
    pub notifications: usize,
    /// The program itself, with its threads and queues.
    pub base: usize,
    /// Tenants and operators.
    pub parties: usize,
    /// The sum of all parts.
    pub all: usize,
}

impl MemoryBound {
    /// The bound of a process with these settings and parties.
    pub fn of(settings: &Settings, registry: &Registry) -> Self {
        // An HTTP/1.1 connection has a buffer for a head where an HTTP/2 connection has a window and streams.
        let http2 = WINDOW as usize + STREAMS as usize * STREAM;
        let tls = settings.listen.tls.as_ref().map_or(0, |_| TLS);
        let connection = CONNECTION + tls + http2.max(http1::BUFFERS);
        let connections = settings
            .listen
            .max_connections
            .get()
            .saturating_mul(connection);
        let requests = settings.listen.max_requests.get();
        let calls = calls(settings, registry).min(requests);
        let requests = requests.saturating_mul(REQUEST + HEAD_LIMIT);
        let answers = calls.saturating_mul(ANSWER);
        let stamps = replay_capacity(settings, &settings.upstream.quota, registry);
        let replay = replay::bytes(settings.window, stamps);
        let parties = registry.parties().count().saturating_mul(PARTY);
        let notifications = notifications(settings);
        let parts = [
            notifications,
            connections,
            requests,
            answers,
            BODIES,
            replay,
            parties,
            BASE,
        ];
        Self {
            connection,
            connections,
            requests,
            calls,
            answers,
            bodies: BODIES,
            stamps,
            replay,
            notifications,
            base: BASE,
            parties,
            all: parts.into_iter().fold(0, usize::saturating_add),
        }
    }
}

impl MemoryBound {
    /// The memory limit to give to the process: the kernel also counts socket buffers and page tables.
    pub fn limit(&self) -> usize {
        self.all.saturating_add(self.all / 8)
    }
}

/// The memory of the listener for notifications. A body is held as it arrived, as read, and as the store takes it, twice
/// if the store refuses its batch.
fn notifications(settings: &Settings) -> usize {
    const COPIES: usize = 4;
    let Some(notifications) = &settings.notifications else {
        return 0;
    };
    let tls = notifications.tls.as_ref().map_or(0, |_| TLS);
    let connections = listener::CONNECTIONS * (CONNECTION + listener::HEAD + tls);
    let bodies = exchange::BODY_BYTES * COPIES;
    connections + bodies + ledger::WAITING * NOTE
}

/// A note that waits for the ledger: a key of 256 bytes at most, a party, an account and an operation.
const NOTE: usize = 1 << 10;

/// How many calls can be in flight: the sum of the in-flight limits of all parties, or the number that the
/// institution's rate limit admits within the duration of one call, whichever is less.
fn calls(settings: &Settings, registry: &Registry) -> usize {
    let seats = registry
        .parties()
        .map(|who| u64::from(who.party().limits.in_flight.get()));
    let seats = seats.fold(0, u64::saturating_add);
    let quota = settings.upstream.quota.rate;
    let lasts =
        settings.upstream.deadline + settings.upstream.resolve + settings.listen.answer_timeout * 2;
    let quota = u64::from(quota.burst.get())
        .saturating_add(u64::from(quota.per_second.get()).saturating_mul(lasts.as_secs() + 1));
    usize::try_from(seats.min(quota)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_holds_at_most_what_its_buffers_do() {
        assert!(WINDOW as usize + STREAMS as usize * STREAM > http1::BUFFERS);
    }
}
