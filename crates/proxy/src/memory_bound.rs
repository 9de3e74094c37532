//! Bound: how much memory the process holds at most, from the limits that are configured.
//!
//! Each part is what our own limits allow, all of it used at once; the allocator's rounding and what it keeps for later
//! are in `BASE`. `check` prints it, and `benches/exhaustion` holds the process to it.

use gatepay_tenancy::Registry;
use gatepay_tenancy::settings::Settings;

use crate::admission::replay;
use crate::admission::replay_capacity::replay_capacity;
use crate::callers::body_memory::BODIES;
use crate::http1::request_parser::HEAD_LIMIT;
use crate::listener::http1;
use crate::listener::http2::{STREAMS, WINDOW};
use crate::record::access_log;
use crate::upstream::forward::{WHOLE, WHOLE_OF_A_CHANGE};

// Measured, by `tests/bound.rs`, which fails if one of them is less than what is taken.
/// The program itself, with its threads, metrics, scrapes, and the list of addresses that keep failing: 33 to 56 MB of its
/// own, by how many threads scraped at once, and what is resident of its binary.
pub const PROGRAM: usize = 96 << 20;
/// The program, and access lines that nobody takes.
const BASE: usize = PROGRAM + access_log::MOST;
/// A tenant or operator: its files as they were read, limiters, and series, also while a reload reads all of them again:
/// 40 KB.
pub const PARTY: usize = 64 << 10;
/// What rustls holds of either direction before it is taken: 110 KB of a handshake whose message does not end.
pub const TLS: usize = 128 << 10;
/// A request besides its head, until it is at GatePay and again until its answer is taken: 6 to 9 KB.
pub const REQUEST: usize = 10 << 10;
/// A stream of HTTP/2 that was refused, until the peer has been told and for as long as the library remembers it: 1.2 to 1.5
/// KB.
pub const STREAM: usize = 2 << 10;
/// A connection's own state: an idle one has 10 KB over HTTP/1; over HTTP/2 the library's first buffers come on top.
pub const CONNECTION: usize = 40 << 10;
/// A call's answer, those to changes whole, those to reads up to a length, and the connection to GatePay.
pub const ANSWER: usize = if WHOLE_OF_A_CHANGE > WHOLE {
    WHOLE_OF_A_CHANGE
} else {
    WHOLE
} + TLS
    + CONNECTION;

/// What is resident in the usual course, with some hundred connections, besides stamps and series: the program, its
/// threads, its tenants as they were read, and what the allocator keeps. `end_to_end memory` holds the process to it.
pub const USUAL: usize = 40 << 20;
/// A stamp that is remembered, with its part of the table that it is in.
pub const STAMP: usize = 64;
/// A series, and its part of a scrape.
pub const SERIES: usize = 1 << 10;

/// The parts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBound {
    /// One connection, with everything that waits in it.
    pub connection: usize,
    /// All connections.
    pub connections: usize,
    /// All requests, with their heads.
    pub requests: usize,
    /// Requests at GatePay at the same time.
    pub calls: usize,
    /// Their answers, and connections to GatePay.
    pub answers: usize,
    /// Heads and bodies of requests.
    pub bodies: usize,
    /// Stamps that are remembered.
    pub stamps: usize,
    /// The memory they take.
    pub replay: usize,
    /// The program itself, with its threads and queues.
    pub base: usize,
    /// Tenants and operators.
    pub parties: usize,
    /// All together.
    pub all: usize,
}

impl MemoryBound {
    /// Of a process with these settings and parties.
    pub fn of(settings: &Settings, registry: &Registry) -> Self {
        // HTTP/1.1 has a buffer for a head where HTTP/2 has a window and streams.
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
        let parts = [
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
            base: BASE,
            parties,
            all: parts.into_iter().fold(0, usize::saturating_add),
        }
    }
}

impl MemoryBound {
    /// What the process may be given: the kernel counts buffers of sockets to it as well, and page tables.
    pub fn limit(&self) -> usize {
        self.all.saturating_add(self.all / 8)
    }
}

/// How many calls can be under way: as all parties have seats, or as the institution's quota lets through while one
/// lasts.
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
