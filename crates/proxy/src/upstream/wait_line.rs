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
mod tests;
