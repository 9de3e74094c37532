//! Wait line: calls that wait for a connection to GatePay: money first, then writes, then reads, each party in turn.
//!
//! Within one class each call of a party is one round behind the party's previous call (start-time fair queueing), so
//! that a hundred calls of one party delay another party's first call by one. Reads wait behind money and writes, but
//! get one of `PASSED` + 1 grants in a row.

use std::collections::{BTreeMap, HashMap};

use gatepay_core::Kind;
use tokio::sync::oneshot::{self, Receiver, Sender};

/// How often a class is passed over by better classes before its turn comes.
const PASSED: u32 = 7;

/// Precedence class of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinePrecedence {
    /// A money call.
    Money,
    /// A write, a read of the proxy's own, or a look-up of a lost call.
    Write,
    /// A party's read.
    Read,
}

/// A call's claim on a connection.
#[derive(Debug, Clone, Copy)]
pub struct LineClaim {
    /// Precedence class of the call.
    pub precedence: LinePrecedence,
    /// Unique number of the party that makes the call; 0 for the proxy itself.
    pub party: usize,
}

impl LineClaim {
    /// A call of the proxy's own.
    pub const OWN: Self = Self {
        precedence: LinePrecedence::Write,
        party: 0,
    };

    /// A party's call of this kind.
    pub fn of_party(party: usize, kind: Kind) -> Self {
        let precedence = match kind {
            Kind::Money => LinePrecedence::Money,
            Kind::Write => LinePrecedence::Write,
            Kind::Read => LinePrecedence::Read,
        };
        Self { precedence, party }
    }

    /// A party's look-up: a read with the precedence of a write.
    pub fn urgent(party: usize) -> Self {
        let precedence = LinePrecedence::Write;
        Self { precedence, party }
    }

    /// Whether the call is a party's read.
    pub fn is_read(self) -> bool {
        self.precedence == LinePrecedence::Read
    }
}

/// Calls that wait for a `T`.
pub struct WaitLine<T> {
    classes: [CallClass<T>; 3],
    arrivals: u64,
}

/// Position of a call in the line.
#[derive(Debug, Clone, Copy)]
pub struct LinePosition {
    class: usize,
    round: u64,
    arrival: u64,
}

struct CallClass<T> {
    /// Waiting calls, by round, then by arrival.
    waiting: BTreeMap<(u64, u64), WaitingCall<T>>,
    /// For each party with calls in line: the round of its last call, and its number of calls.
    parties: HashMap<usize, (u64, usize)>,
    /// The round that was served last.
    served: u64,
    /// How often better classes were served since this class was.
    passed: u32,
}

struct WaitingCall<T> {
    party: usize,
    sender: Sender<T>,
}

impl<T> Default for WaitLine<T> {
    fn default() -> Self {
        Self {
            classes: Default::default(),
            arrivals: 0,
        }
    }
}

impl<T> Default for CallClass<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            parties: HashMap::new(),
            served: 0,
            passed: 0,
        }
    }
}

impl<T> WaitLine<T> {
    /// Adds a call to the line; returns its position and the receiver of its grant.
    pub fn join(&mut self, claim: LineClaim) -> (LinePosition, Receiver<T>) {
        let LineClaim { precedence, party } = claim;
        let (sender, receiver) = oneshot::channel();
        self.arrivals += 1;
        let class = &mut self.classes[precedence as usize];
        let position = LinePosition {
            class: precedence as usize,
            round: class.next_round(party),
            arrival: self.arrivals,
        };
        let waiting = WaitingCall { party, sender };
        class
            .waiting
            .insert((position.round, position.arrival), waiting);
        (position, receiver)
    }

    /// Removes a call that stopped waiting.
    pub fn leave(&mut self, position: LinePosition) {
        let class = &mut self.classes[position.class];
        if let Some(removed) = class.waiting.remove(&(position.round, position.arrival)) {
            class.left(removed.party);
        }
    }

    /// Removes and returns the next call, with whether it is a party's read. Reads are passed over unless `reads` is
    /// set.
    pub fn next(&mut self, reads: bool) -> Option<(Sender<T>, bool)> {
        const READ: usize = LinePrecedence::Read as usize;
        let may_go = |(at, class): &(usize, &CallClass<T>)| {
            !class.waiting.is_empty() && (*at != READ || reads)
        };
        let classes = self.classes.iter().enumerate();
        let mut ready = classes.filter(may_go).map(|(at, class)| (at, class.passed));
        let (first, _) = ready.next()?;
        let overdue = ready.rfind(|(_, passed)| *passed >= PASSED);
        let served_class = overdue.map_or(first, |(at, _)| at);
        for (at, class) in self.classes.iter_mut().enumerate() {
            if at > served_class && !class.waiting.is_empty() && (at != READ || reads) {
                class.passed += 1;
            }
        }
        let sender = self.classes[served_class].serve()?;
        Some((sender, served_class == READ))
    }
}

impl<T> CallClass<T> {
    /// The round in which the next call of a party is served.
    fn next_round(&mut self, party: usize) -> u64 {
        let (round, calls) = self.parties.entry(party).or_insert((self.served, 0));
        *round += 1;
        *calls += 1;
        *round
    }

    fn serve(&mut self) -> Option<Sender<T>> {
        let ((round, _), next) = self.waiting.pop_first()?;
        self.served = round;
        self.passed = 0;
        self.left(next.party);
        Some(next.sender)
    }

    fn left(&mut self, party: usize) {
        if let Some((_, calls)) = self.parties.get_mut(&party) {
            *calls -= 1;
            if *calls == 0 {
                self.parties.remove(&party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Calls in line, each with a name.
    #[derive(Default)]
    struct Line {
        line: WaitLine<()>,
        receivers: Vec<(&'static str, LinePosition, Receiver<()>)>,
    }

    impl Line {
        fn join(&mut self, name: &'static str, kind: Kind, party: usize) {
            let (position, receiver) = self.line.join(LineClaim::of_party(party, kind));
            self.receivers.push((name, position, receiver));
        }

        /// Serves the next call and returns its name.
        fn serve(&mut self, reads: bool) -> Option<&'static str> {
            let (sender, is_read) = self.line.next(reads)?;
            sender.send(()).unwrap();
            let mut all = self.receivers.iter_mut();
            let at = all.position(|(_, _, receiver)| receiver.try_recv().is_ok());
            let (name, position, _) = self.receivers.remove(at.unwrap());
            assert_eq!(is_read, position.class == LinePrecedence::Read as usize);
            Some(name)
        }

        fn serve_all(&mut self) -> Vec<&'static str> {
            std::iter::from_fn(|| self.serve(true)).collect()
        }
    }

    #[test]
    fn money_is_served_before_writes_and_writes_before_reads() {
        let mut line = Line::default();
        for _ in 0..2 {
            line.join("read", Kind::Read, 1);
            line.join("write", Kind::Write, 1);
            line.join("money", Kind::Money, 1);
        }
        let served = line.serve_all();
        assert_eq!(served, ["money", "money", "write", "write", "read", "read"]);
    }

    #[test]
    fn a_class_that_was_passed_over_seven_times_is_next() {
        let mut line = Line::default();
        line.join("read", Kind::Read, 1);
        line.join("write", Kind::Write, 1);
        for _ in 0..30 {
            line.join("money", Kind::Money, 1);
        }
        let served = line.serve_all();
        let place = |name| served.iter().position(|served| *served == name);
        assert_eq!(served.len(), 32);
        // Both are overdue after seven; the read goes first, since it would wait longest.
        assert_eq!((place("read"), place("write")), (Some(7), Some(8)));
    }

    #[test]
    fn a_read_is_passed_over_while_reads_may_not_go_and_loses_no_turn_by_it() {
        let mut line = Line::default();
        line.join("read", Kind::Read, 1);
        assert_eq!(line.serve(false), None);
        for _ in 0..20 {
            line.join("money", Kind::Money, 1);
            assert_eq!(line.serve(false), Some("money"));
        }
        line.join("money", Kind::Money, 1);
        assert_eq!(line.serve(true), Some("money"), "nothing was saved up");
        assert_eq!(line.serve(true), Some("read"));
    }

    #[test]
    fn the_first_call_of_a_party_is_behind_one_of_another_partys_however_many_that_has() {
        let mut line = Line::default();
        for _ in 0..100 {
            line.join("many", Kind::Read, 1);
        }
        for _ in 0..3 {
            line.join("few", Kind::Read, 2);
        }
        let served: Vec<_> = (0..6).filter_map(|_| line.serve(true)).collect();
        assert_eq!(served, ["many", "few", "many", "few", "many", "few"]);
        // The same holds for a call that joins later.
        line.join("few", Kind::Read, 2);
        assert_eq!(
            (line.serve(true), line.serve(true)),
            (Some("many"), Some("few"))
        );
    }

    #[test]
    fn what_left_the_line_is_not_served_and_not_remembered() {
        let mut line = Line::default();
        for _ in 0..5 {
            line.join("gone", Kind::Read, 1);
        }
        line.join("stays", Kind::Read, 2);
        for (name, position, _) in &line.receivers {
            if *name == "gone" {
                line.line.leave(*position);
                // Leaving twice is harmless: the call may have been served meanwhile.
                line.line.leave(*position);
            }
        }
        assert_eq!(line.serve_all(), ["stays"]);
        let classes = &line.line.classes;
        assert!(classes.iter().all(|class| class.parties.is_empty()));
    }

    proptest! {
        /// Each call that stays is served once, and calls of one party and kind in their order.
        #[test]
        fn each_call_is_served_once(steps in proptest::collection::vec((0_usize..3, 0_usize..4, 0_u8..4), 0..200)) {
            let kinds = [Kind::Money, Kind::Write, Kind::Read];
            let mut line = WaitLine::<()>::default();
            let mut waiting: Vec<(usize, LinePosition, Receiver<()>)> = Vec::new();
            for (kind, party, step) in steps {
                match step {
                    0 => {
                        let next = line.next(true);
                        prop_assert_eq!(next.is_some(), !waiting.is_empty());
                        if let Some((sender, _)) = next {
                            sender.send(()).unwrap();
                            let served: Vec<_> = waiting
                                .iter_mut()
                                .enumerate()
                                .filter_map(|(at, (_, _, receiver)): (_, &mut (_, _, Receiver<()>))| {
                                    receiver.try_recv().ok().map(|()| at)
                                })
                                .collect();
                            prop_assert_eq!(served.len(), 1);
                            let (of, position, _) = waiting.remove(served[0]);
                            let earlier = waiting.iter().find(|(other, at, _)| {
                                *other == of && at.class == position.class && at.arrival < position.arrival
                            });
                            prop_assert!(earlier.is_none());
                        }
                    }
                    1 if !waiting.is_empty() => {
                        let (_, position, _) = waiting.remove(party % waiting.len());
                        line.leave(position);
                    }
                    _ => {
                        let (position, receiver) = line.join(LineClaim::of_party(party, kinds[kind]));
                        waiting.push((party, position, receiver));
                    }
                }
            }
        }
    }
}
