use super::*;
use gatepay_tenancy::PartyId;
use proptest::prelude::*;
use std::cell::Cell;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;

/// A breaker and its parties, in a time that only a test moves.
struct World {
    breaker: Breaker,
    parties: Vec<PartyBreaker>,
    now: Duration,
    /// Money calls that were sent.
    sent: u32,
    /// How often the institution's breaker opened.
    opened: Cell<u32>,
}

impl World {
    fn new(failures: u32, ratio: f64, parties: usize) -> Self {
        let era = BreakerEra::default();
        let party = |number| {
            let id = PartyId::parse(&format!("party-{number}")).unwrap();
            PartyBreaker::new(id, era.clone())
        };
        Self {
            parties: (0..parties).map(party).collect(),
            breaker: Breaker::new(settings::BreakerSettings { failures, ratio }, era),
            now: Duration::ZERO,
            sent: 0,
            opened: Cell::new(0),
        }
    }

    fn passes(&self, party: usize, kind: Kind) -> bool {
        let sender = AttemptOwner::Party(&self.parties[party]);
        self.breaker.pass(sender, kind, || self.now).is_ok()
    }

    fn fail(&self, party: usize) {
        self.failed(AttemptOwner::Party(&self.parties[party]));
    }

    fn failed(&self, owner: AttemptOwner<'_>) {
        let effects = self.breaker.failed(owner, self.now);
        let opened = u32::from(effects.opened.is_some());
        self.opened.set(self.opened.get() + opened);
    }

    fn answer(&self, party: usize) {
        let owner = AttemptOwner::Party(&self.parties[party]);
        self.breaker.answered(owner, BreakerPass::Free, || self.now);
    }

    fn claims_probe(&self) -> bool {
        let pass = self
            .breaker
            .pass(AttemptOwner::Own, Kind::Read, || self.now);
        pass == Ok(BreakerPass::Probe)
    }

    fn own_answer(&self, pass: BreakerPass) -> Option<BreakerClosed> {
        self.breaker.answered(AttemptOwner::Own, pass, || self.now)
    }

    /// Sends a money call, if it may be sent; it gets no answer.
    fn lose(&mut self, party: usize) {
        if self.passes(party, Kind::Money) {
            self.sent += 1;
            self.fail(party);
        }
    }

    /// Sends a read of the proxy's own, if one is wanted.
    fn probe(&self, is_answered: bool) {
        if !self.breaker.wants_read(self.now) {
            return;
        }
        self.breaker.asked(self.now);
        let pass = if self.breaker.is_open() {
            assert!(self.claims_probe());
            BreakerPass::Probe
        } else {
            BreakerPass::Free
        };
        if is_answered {
            self.own_answer(pass);
        } else {
            self.failed(AttemptOwner::Own);
        }
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
    }
}

#[test]
fn a_thousand_parties_lose_only_the_calls_that_open_the_breaker() {
    for failures in [2, 3, 10, 100] {
        for own_reads in [None, Some(false), Some(true)] {
            let mut world = World::new(failures, 0.0, 1_000);
            for party in 0..1_000 {
                world.lose(party);
                if let Some(is_answered) = own_reads {
                    world.probe(is_answered);
                }
                if world.breaker.is_open() {
                    break;
                }
            }
            assert_eq!(world.sent, failures, "own reads: {own_reads:?}");
        }
    }
}

#[test]
fn two_failing_parties_open_the_breaker_and_one_alone_opens_its_own() {
    let mut world = World::new(10, 0.5, 2);
    for _ in 0..100 {
        world.lose(0);
        world.probe(true);
    }
    assert_eq!(world.sent, 10);
    assert!(world.parties[0].is_open() && !world.breaker.is_open());
    assert!(world.passes(1, Kind::Money));
    let mut world = World::new(10, 0.5, 2);
    for call in 0..10 {
        world.lose(call % 2);
    }
    assert!(world.breaker.is_open());
    assert_eq!(world.opened.get(), 1);
    assert!((0..2).all(|party| !world.passes(party, Kind::Read)));
}

#[test]
fn one_partys_failures_open_the_breaker_if_the_proxys_own_read_fails_too() {
    let mut world = World::new(10, 0.5, 2);
    for failure in 1..=10 {
        assert!(!world.breaker.is_open());
        assert_eq!(
            world.breaker.wants_read(world.now),
            failure == 6,
            "{failure}"
        );
        world.lose(0);
        if failure == 6 {
            world.probe(false);
        }
    }
    assert!(world.breaker.is_open() && world.sent == 10);
    // The result is the same if the read fails.
    let mut world = World::new(10, 0.5, 2);
    (0..50).for_each(|_| world.lose(0));
    assert!(!world.breaker.is_open() && world.sent == 10);
    world.probe(false);
    assert!(world.breaker.is_open());
}

#[test]
fn two_parties_that_conspire_cannot_outvote_another_one_and_the_proxy() {
    let mut world = World::new(10, 0.5, 3);
    for _ in 0..10_000 {
        for party in [0, 1] {
            world.fail(party);
        }
        world.probe(true);
        assert!(world.passes(2, Kind::Money) || world.breaker.is_open());
        world.answer(2);
        for party in [0, 1] {
            world.answer(party);
        }
        world.later(Duration::from_millis(20));
    }
    assert_eq!(world.opened.get(), 0);
}

#[test]
fn an_own_read_is_asked_at_half_of_the_failures_and_not_more_often_than_twice_a_second() {
    let mut world = World::new(10, 0.5, 2);
    let mut asked = 0;
    for _ in 0..1_000 {
        world.fail(0);
        world.answer(0);
        asked += u32::from(world.breaker.wants_read(world.now));
        world.probe(true);
        world.later(Duration::from_millis(10));
    }
    // The attempts of ten seconds.
    assert_eq!(asked, 20);
}

#[test]
fn an_open_breaker_admits_only_the_proxys_own_read() {
    let mut world = World::new(2, 0.0, 3);
    world.fail(0);
    world.fail(1);
    assert!(world.breaker.is_open());
    assert!(
        !world.breaker.wants_read(world.now),
        "it has only just opened"
    );
    for kind in [Kind::Read, Kind::Write, Kind::Money] {
        assert_eq!(
            world
                .breaker
                .pass(AttemptOwner::Party(&world.parties[2]), kind, || world.now),
            Err(BreakerOpen::Institution)
        );
        assert_eq!(
            world
                .breaker
                .pass(AttemptOwner::LookUp(&world.parties[2]), kind, || world.now),
            Err(BreakerOpen::Institution)
        );
    }
    world.later(EVERY);
    assert!(world.breaker.wants_read(world.now));
    assert!(world.claims_probe() && !world.claims_probe());
    world.later(EVERY);
    assert!(world.claims_probe(), "though the one before did not end");
    world.answer(0);
    assert_eq!(world.own_answer(BreakerPass::Free), None);
    assert!(world.breaker.is_open(), "what was sent before it opened");
    let closed = BreakerClosed::Institution { after: 2 * EVERY };
    assert_eq!(world.own_answer(BreakerPass::Probe), Some(closed));
    assert!((0..3).all(|party| world.passes(party, Kind::Money)));
    assert!(!world.breaker.is_open() && world.opened.get() == 1);
}

#[test]
fn a_partys_own_breaker_is_half_open_once_gatepay_was_found_well() {
    let mut world = World::new(10, 0.0, 1);
    (0..20).for_each(|_| world.lose(0));
    world.probe(false);
    assert!(world.breaker.is_open());
    world.later(EVERY);
    world.probe(true);
    assert!(!world.breaker.is_open() && !world.parties[0].is_open());
    world.lose(0);
    assert_eq!(world.sent, 11);
    assert!(world.parties[0].is_open(), "one more failure is enough");
    assert!(!world.passes(0, Kind::Read));
    world.later(EVERY);
    assert!(world.passes(0, Kind::Read) && !world.passes(0, Kind::Read));
    world.answer(0);
    assert!(!world.parties[0].is_open() && world.passes(0, Kind::Money));
    (0..9).for_each(|_| world.fail(0));
    assert!(!world.parties[0].is_open(), "an answer forgives all of it");
}

#[test]
fn a_party_that_only_moves_money_tries_one_call_every_ten_seconds() {
    let mut world = World::new(10, 0.0, 2);
    (0..10).for_each(|_| world.lose(0));
    for _ in 0..600 {
        world.later(Duration::from_millis(100));
        world.lose(0);
    }
    assert_eq!(world.sent, 10 + 6);
    assert!(!world.breaker.is_open());
}

#[test]
fn without_a_read_of_the_proxys_own_two_parties_open_the_breaker_and_time_closes_it() {
    let mut world = World::new(10, 0.0, 1_000);
    (0..5_000).for_each(|_| world.lose(0));
    assert!(!world.breaker.is_open() && world.parties[0].is_open());
    (1..1_000).for_each(|party| world.lose(party));
    assert!(world.breaker.is_open());
    let before = world.sent;
    assert_eq!(world.breaker.despair(world.now + WINDOW), None);
    assert!(world.breaker.is_open());
    world.later(WINDOW + EVERY);
    assert!(world.breaker.despair(world.now).is_some());
    assert!(!world.breaker.is_open());
    (1..1_000).for_each(|party| world.lose(party));
    assert!(world.breaker.is_open());
    assert_eq!(world.sent - before, 2, "it is wary");
}

#[test]
fn a_failing_part_of_the_parties_opens_the_breaker_and_a_failing_part_of_one_partys_calls_its_own()
{
    // No party fails twice in a row.
    let half = |world: &World, party| {
        world.fail(party);
        world.answer(party);
    };
    let world = World::new(0, 0.5, 2);
    for call in 0..10 {
        assert!(!world.breaker.is_open());
        half(&world, call % 2);
    }
    world.fail(0);
    assert!(world.breaker.is_open() && !world.parties[0].is_open());
    let world = World::new(0, 0.5, 20);
    for call in 0..9 {
        half(&world, 0);
        world.answer(1 + call);
    }
    assert!(!world.parties[0].is_open(), "18 attempts have no ratio");
    half(&world, 0);
    world.fail(0);
    assert!(world.parties[0].is_open() && !world.breaker.is_open());
}

#[test]
fn old_attempts_do_not_hide_new_failures() {
    let mut world = World::new(0, 0.5, 2);
    world.fail(0);
    for call in 0..1_000 {
        world.answer(call % 2);
    }
    world.later(WINDOW + EVERY);
    for call in 0..20 {
        assert!(!world.breaker.is_open());
        world.fail(call % 2);
    }
    assert!(world.breaker.is_open());
}

#[test]
fn a_breaker_without_limits_never_opens() {
    let world = World::new(0, 0.0, 3);
    for call in 0..3_000 {
        world.fail(call % 3);
        world.probe(false);
    }
    assert!(!world.breaker.is_open() && !world.parties[0].is_open());
}

#[test]
fn parallel_calls_lose_only_those_under_way_when_the_breaker_opens() {
    const THREADS: usize = 8;
    let world = World::new(10, 0.5, 1_000);
    let (sent, start) = (AtomicUsize::new(0), Barrier::new(THREADS));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (breaker, parties) = (&world.breaker, &world.parties);
            let (sent, start) = (&sent, &start);
            scope.spawn(move || {
                start.wait();
                for party in (thread..1_000).step_by(THREADS) {
                    let sender = AttemptOwner::Party(&parties[party]);
                    if breaker.pass(sender, Kind::Money, || Duration::ZERO).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                        let _ = breaker.failed(sender, Duration::ZERO);
                    }
                }
            });
        }
    });
    assert!(world.breaker.is_open());
    let sent = sent.into_inner();
    assert!((10..10 + THREADS).contains(&sent), "{sent}");
}

/// An event in the life of a breaker.
#[derive(Debug, Clone, Copy)]
enum Event {
    Fail(usize),
    Answer(usize),
    Probe,
    Pause(u64),
}

fn event(parties: usize) -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..parties).prop_map(Event::Fail),
        3 => (0..parties).prop_map(Event::Answer),
        1 => Just(Event::Probe),
        1 => (0..6_000_u64).prop_map(Event::Pause),
    ]
}

impl World {
    fn meet(&mut self, event: Event, own_is_answered: bool) {
        match event {
            // A test sends only the attempts that the breaker lets through.
            Event::Fail(party) => self.lose(party),
            Event::Answer(party) => {
                if self.passes(party, Kind::Read) {
                    self.answer(party);
                }
            }
            Event::Probe => self.probe(own_is_answered),
            Event::Pause(ms) => self.later(Duration::from_millis(ms)),
        }
    }
}

proptest! {
    /// For one party's calls of any results and order: while the others' and the proxy's own are answered, the breaker
    /// stays closed, and no other party's call is held back.
    #[test]
    fn one_failing_party_never_opens_the_shared_breaker(
        failures in 0..12_u32, ratio in prop::sample::select(vec![0.0, 0.1, 0.5]),
        events in prop::collection::vec(event(4), 1..400),
    ) {
        let mut world = World::new(failures, ratio, 4);
        for event in events {
            let event = match event {
                Event::Fail(party) if party > 1 => Event::Answer(party),
                Event::Fail(_) => Event::Fail(0),
                event => event,
            };
            world.meet(event, true);
            prop_assert!(!world.breaker.is_open());
            for party in 1..4 {
                prop_assert!(!world.parties[party].is_open());
                prop_assert!(world.passes(party, Kind::Money));
            }
        }
    }

    /// For any history: once neither calls nor the proxy's own reads are answered any more, a few calls in any order
    /// are lost, and then no call is sent.
    #[test]
    fn an_outage_after_any_traffic_costs_few_calls(
        failures in 1..12_u32, ratio in prop::sample::select(vec![0.0, 0.5]),
        before in prop::collection::vec(event(30), 0..300),
        during in prop::collection::vec(0..30_usize, 200..201),
        reads in any::<bool>(),
    ) {
        let mut world = World::new(failures, ratio, 30);
        for event in before {
            world.meet(event, true);
        }
        world.later(EVERY);
        world.probe(true);
        prop_assume!(!world.breaker.is_open());
        let before = world.sent;
        for party in during {
            world.lose(party);
            if reads {
                world.probe(false);
            }
        }
        let kept_back = world.parties.iter().all(PartyBreaker::is_open);
        prop_assert!(world.breaker.is_open() || kept_back);
        prop_assert!(world.sent - before <= failures + 2, "{} calls", world.sent - before);
    }

    /// Two parties that get no answer open it, if no other party was answered since.
    #[test]
    fn two_parties_whose_calls_time_out_open_the_breaker(
        failures in 2..12_u32, parties in prop::collection::vec(0..2_usize, 0..200),
    ) {
        let mut world = World::new(failures, 0.0, 2);
        for party in parties {
            world.lose(party);
            let lost = [0, 1].map(|party: usize| world.parties[party].streak().failures);
            let both = lost.iter().all(|lost| *lost > 0);
            prop_assert_eq!(world.breaker.is_open(), both && lost.iter().sum::<u32>() >= failures);
            if world.breaker.is_open() {
                break;
            }
        }
    }
}
