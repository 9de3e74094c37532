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
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// How an address behaves.
    #[derive(Clone, Copy)]
    enum Behavior {
        /// SYNs are dropped.
        BlackHole,
        /// The connection is refused after this many ms.
        Refuses(u64),
        /// The connection, TLS included, is complete after this many ms.
        Answers(u64),
        /// TCP is connected after this many ms, and TLS never is.
        Stalls(u64),
        /// TCP is connected after this many ms, and TLS after as many more.
        Handshakes(u64),
    }
    use Behavior::{Answers, BlackHole, Handshakes, Refuses, Stalls};

    const LIMIT: Duration = Duration::from_secs(5);

    fn v4(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 443).into()
    }

    fn v6(number: u16) -> SocketAddr {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, number], 443).into()
    }

    async fn behave(behavior: Behavior, reached: &AddressReached) -> Result<(), &'static str> {
        let wait = |ms| tokio::time::sleep(Duration::from_millis(ms));
        match behavior {
            BlackHole => std::future::pending().await,
            Refuses(ms) => {
                wait(ms).await;
                return Err("refused");
            }
            Answers(ms) => wait(ms).await,
            Stalls(ms) => {
                wait(ms).await;
                reached.set();
                std::future::pending::<()>().await;
            }
            Handshakes(ms) => {
                wait(ms).await;
                reached.set();
                wait(ms).await;
            }
        }
        Ok(())
    }

    /// Which address won, which were tried, and when in ms.
    #[derive(Debug, PartialEq)]
    struct Race {
        won: Option<SocketAddr>,
        tried: Vec<(SocketAddr, u128)>,
        took: u128,
    }

    async fn race(silent: &SilentAddresses, name: &[(SocketAddr, Behavior)]) -> Race {
        let begun = Instant::now();
        let tried = RefCell::new(Vec::new());
        let reached: Vec<_> = name.iter().map(|_| AddressReached::default()).collect();
        let addresses = name.iter().map(|(address, _)| *address).collect();
        let raced = connect(addresses, LIMIT, silent, &reached, |address, reached| {
            tried
                .borrow_mut()
                .push((address, begun.elapsed().as_millis()));
            let behavior = name.iter().find(|(other, _)| *other == address).unwrap().1;
            async move { behave(behavior, reached).await.map(|()| address) }
        });
        let won = tokio::time::timeout(LIMIT, raced).await;
        Race {
            won: won.ok().and_then(Result::ok),
            tried: tried.into_inner(),
            took: begun.elapsed().as_millis(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn four_black_holes_cost_one_second_once_and_nothing_afterwards() {
        let silent = SilentAddresses::default();
        let mut name: Vec<_> = (1..5).map(|number| (v4(number), BlackHole)).collect();
        name.push((v4(5), Answers(1)));
        let first = race(&silent, &name).await;
        assert_eq!((first.won, first.took), (Some(v4(5)), 1_001));
        let starts: Vec<_> = first.tried.iter().map(|(_, at)| *at).collect();
        assert_eq!(starts, [0, 250, 500, 750, 1_000]);
        let second = race(&silent, &name).await;
        assert_eq!((second.won, second.took), (Some(v4(5)), 1));
        assert_eq!(second.tried, [(v4(5), 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_address_is_followed_by_the_next_at_once() {
        let silent = SilentAddresses::default();
        let name = [
            (v4(1), Refuses(3)),
            (v4(2), Refuses(0)),
            (v4(3), Answers(0)),
        ];
        let raced = race(&silent, &name).await;
        assert_eq!((raced.won, raced.took), (Some(v4(3)), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_wins_if_it_answers_before_the_others() {
        let silent = SilentAddresses::default();
        let name = [(v4(1), Answers(300)), (v4(2), Answers(200))];
        let raced = race(&silent, &name).await;
        assert_eq!((raced.won, raced.took), (Some(v4(1)), 300));
        let again = race(&silent, &name).await;
        assert_eq!(
            again.tried[0],
            (v4(1), 0),
            "it has answered, so it stays the first"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_has_its_chance_however_many_are_dead() {
        for dead in [1, 4, 10, 50, 200] {
            for behavior in [BlackHole, Stalls(1)] {
                let silent = SilentAddresses::default();
                let mut name: Vec<_> = (0..dead).map(|number| (v6(number), behavior)).collect();
                name.push((v6(999), Answers(1)));
                let raced = race(&silent, &name).await;
                assert_eq!(raced.won, Some(v6(999)), "behind {dead}");
                // A timer is rounded up to its millisecond.
                let most = LIMIT.as_millis() / 2 + u128::from(dead);
                assert!(raced.took <= most, "{} ms behind {dead}", raced.took);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_over_a_long_way_is_not_raced_and_one_that_stalls_is() {
        let silent = SilentAddresses::default();
        let far = [(v4(1), Handshakes(200)), (v4(2), Handshakes(200))];
        let raced = race(&silent, &far).await;
        assert_eq!((raced.won, raced.took), (Some(v4(1)), 400));
        assert_eq!(raced.tried, [(v4(1), 0)]);
        let stalled = [(v4(3), Stalls(1)), (v4(4), Handshakes(1))];
        let raced = race(&silent, &stalled).await;
        assert_eq!((raced.won, raced.took), (Some(v4(4)), 1_252));
        assert_eq!(race(&silent, &stalled).await.took, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_addresses_are_tried_again_when_nothing_else_answers() {
        let silent = SilentAddresses::default();
        let dead = [(v4(1), BlackHole), (v4(2), Answers(1))];
        assert_eq!(race(&silent, &dead).await.won, Some(v4(2)));
        let turned = [(v4(1), Answers(1)), (v4(2), Refuses(0))];
        let raced = race(&silent, &turned).await;
        assert_eq!((raced.won, raced.took), (Some(v4(1)), 1));
        assert_eq!(race(&silent, &turned).await.tried, [(v4(1), 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_address_that_answers_the_last_error_is_told() {
        let silent = SilentAddresses::default();
        let reached = [AddressReached::default(), AddressReached::default()];
        let errors = ["first", "second"];
        let mut number = 0;
        let addresses = vec![v4(1), v4(2)];
        let raced = connect(addresses, LIMIT, &silent, &reached, |_, _| {
            number += 1;
            std::future::ready(Err::<(), _>(errors[number - 1]))
        });
        assert_eq!(raced.await, Err(Some("second")));
        let nothing = connect(vec![], LIMIT, &silent, &reached, |_, _| {
            std::future::ready(Err::<(), ()>(()))
        });
        assert_eq!(nothing.await, Err(None));
    }

    #[test]
    fn families_take_turns_in_the_order_of_the_resolver() {
        let silent = SilentAddresses::default();
        let resolved = vec![v6(1), v6(2), v6(3), v4(1), v4(2)];
        assert_eq!(
            in_order(resolved.clone(), &silent),
            [v6(1), v4(1), v6(2), v4(2), v6(3)]
        );
        silent.insert(v6(1));
        silent.insert(v4(2));
        assert_eq!(
            in_order(resolved, &silent),
            [v6(2), v4(1), v6(3), v6(1), v4(2)]
        );
    }
}
