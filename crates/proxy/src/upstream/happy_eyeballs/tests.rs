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
