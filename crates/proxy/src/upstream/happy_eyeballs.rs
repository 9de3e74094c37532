//! Happy Eyeballs (RFC 8305): connects to the first address of a name that answers, without waiting for dead ones.
//!
//! No I/O: the attempt is an argument, so the tests run on a paused clock.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use moka::sync::Cache;
use tokio::time::{Instant, sleep_until};

/// How long the newest attempt may take before the next address is tried beside it (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The shortest such delay that RFC 8305 permits.
const MIN_ATTEMPT_DELAY: Duration = Duration::from_millis(10);
/// The delay for an attempt that has reached its address: TLS takes one or two more round trips.
const HANDSHAKE_DELAY: Duration = Duration::from_millis(1_500);
/// How long a silent address is tried after the others. The next try after that costs one connection a delay.
const SILENT_MEMORY: Duration = Duration::from_mins(5);
/// Maximum number of remembered silent addresses; a name has a few.
const SILENT_ADDRESSES: u64 = 1_024;

/// The addresses that did not answer lately; they are tried last.
pub struct SilentAddresses(Cache<SocketAddr, ()>);

impl Default for SilentAddresses {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(SILENT_ADDRESSES)
                .time_to_live(SILENT_MEMORY)
                .build(),
        )
    }
}

impl SilentAddresses {
    fn contains(&self, address: SocketAddr) -> bool {
        self.0.contains_key(&address)
    }

    fn insert(&self, address: SocketAddr) {
        self.0.insert(address, ());
    }

    fn remove(&self, address: SocketAddr) {
        self.0.invalidate(&address);
    }
}

/// Marks that an attempt has reached its address, so that the next attempt starts later.
#[derive(Default)]
pub struct AddressReached(AtomicBool);

impl AddressReached {
    /// Marks the address as reached; only the handshake remains.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `attempt` for one address after the other until one succeeds. The next begins when the newest fails, or beside
/// it when it takes too long. All begin within half of `limit`, so every address has a chance within it.
///
/// # Errors
/// The last error, once every attempt failed; `None` without addresses.
pub async fn connect<'a, T, E, F>(
    addresses: Vec<SocketAddr>,
    limit: Duration,
    silent: &SilentAddresses,
    reached: &'a [AddressReached],
    mut attempt: impl FnMut(SocketAddr, &'a AddressReached) -> F,
) -> Result<T, Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let delays = DialDelay::new(limit, addresses.len());
    let mut waiting: VecDeque<_> = in_order(addresses, silent)
        .into_iter()
        .zip(reached)
        .collect();
    let mut begun: Vec<DialAttempt<'_>> = Vec::with_capacity(waiting.len());
    let mut running = FuturesUnordered::new();
    let mut last = None;
    loop {
        let next = begun
            .last()
            .map_or_else(Instant::now, |newest| delays.after(newest));
        if next <= Instant::now()
            && let Some((address, reached)) = waiting.pop_front()
        {
            begun.push(DialAttempt {
                address,
                at: Instant::now(),
                reached,
            });
            let attempt = attempt(address, reached);
            running.push(async move { (address, attempt.await) });
            continue;
        }
        tokio::select! {
            ended = running.next() => match ended {
                Some((address, Ok(connection))) => {
                    remember(silent, address, &begun, delays.attempt);
                    return Ok(connection);
                }
                Some((address, Err(error))) => {
                    silent.insert(address);
                    begun.retain(|attempt| attempt.address != address);
                    last = Some(error);
                }
                None => return Err(last),
            },
            () = sleep_until(next), if !waiting.is_empty() => {}
        }
    }
}

/// An attempt under way.
struct DialAttempt<'a> {
    address: SocketAddr,
    at: Instant,
    reached: &'a AddressReached,
}

/// Delays before the next attempt begins beside the newest.
struct DialDelay {
    attempt: Duration,
    handshake: Duration,
}

impl DialDelay {
    /// The usual delays, shortened so that the last address is tried within half of `limit`.
    fn new(limit: Duration, addresses: usize) -> Self {
        let addresses = u32::try_from(addresses.max(1)).unwrap_or(u32::MAX);
        let each = limit / 2 / addresses;
        Self {
            attempt: each.clamp(MIN_ATTEMPT_DELAY, ATTEMPT_DELAY),
            handshake: each.clamp(MIN_ATTEMPT_DELAY, HANDSHAKE_DELAY),
        }
    }

    /// When the next attempt begins beside this one.
    fn after(&self, newest: &DialAttempt<'_>) -> Instant {
        let is_handshake = newest.reached.0.load(Ordering::Relaxed);
        newest.at
            + if is_handshake {
                self.handshake
            } else {
                self.attempt
            }
    }
}

/// An address that another one overtook although it had `delay` more time is silent.
fn remember(silent: &SilentAddresses, won: SocketAddr, begun: &[DialAttempt<'_>], delay: Duration) {
    silent.remove(won);
    let now = Instant::now();
    for attempt in begun {
        if attempt.address != won && now.saturating_duration_since(attempt.at) >= delay {
            silent.insert(attempt.address);
        }
    }
}

/// Both families in turns, each in the resolver's order, which is RFC 6724's; the silent ones behind all others.
fn in_order(addresses: Vec<SocketAddr>, silent: &SilentAddresses) -> Vec<SocketAddr> {
    let (silent, speaking): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| silent.contains(*address));
    let mut order = interleaved(speaking);
    order.extend(interleaved(silent));
    order
}

fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_first_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == is_first_v4);
    let mut order = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests;
