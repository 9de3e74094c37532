//! Delivery order: which notification about one object a tenant gets next, and which it does not get.
//!
//! GatePay may send statuses out of order (protocol.md 5.4). A line holds the notifications of one tenant about one
//! object, that is of one kind with one duplicate key (protocol.md 5.2): two transactions that arrive for one order are
//! two lines. Only the head of a line is sent, so that a tenant never gets a status below one that it has.
//!
//! The store keeps the lines; this file decides what a status that arrives does to its line. The tests run every order of
//! statuses through a line in memory.

use crate::notification::StatusRank;
use crate::words::words;

/// The highest status of an object that has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectProgress {
    /// The rank of that status; `None` before any status with a rank.
    pub highest: Option<StatusRank>,
    /// The first final status.
    pub final_status: Option<String>,
    /// Whether final statuses differ.
    pub has_conflict: bool,
}

/// What happens to a notification that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrivalVerdict {
    /// It waits for its delivery. Waiting notifications with a lower rank are superseded.
    Waits,
    /// As [`Waits`](Self::Waits), and it contradicts another final status: it is delivered with a mark, and alerted.
    Conflicts,
    /// It is stored and not sent: a later status has arrived.
    Superseded,
    /// It is stored and not sent: a final status has arrived.
    AfterFinal,
}

words!(ArrivalVerdict {
    Waits = "waits",
    Conflicts = "conflicts",
    Superseded = "superseded",
    AfterFinal = "after_final",
});

impl ObjectProgress {
    /// Takes in the status of a notification that is not a duplicate. A status without a rank always waits.
    pub fn arrive(&mut self, status: &str, rank: Option<StatusRank>) -> ArrivalVerdict {
        let Some(rank) = rank else {
            return ArrivalVerdict::Waits;
        };
        match self.highest {
            Some(highest) if rank < highest && highest.is_final => ArrivalVerdict::AfterFinal,
            Some(highest) if rank < highest => ArrivalVerdict::Superseded,
            _ => {
                self.highest = Some(rank);
                self.take_final(status, rank)
            }
        }
    }

    /// Whether a notification that waits, or is sent again, is not sent anymore.
    pub fn supersedes(&self, rank: Option<StatusRank>) -> bool {
        rank.is_some_and(|rank| self.highest.is_some_and(|highest| rank < highest))
    }

    fn take_final(&mut self, status: &str, rank: StatusRank) -> ArrivalVerdict {
        if !rank.is_final {
            return ArrivalVerdict::Waits;
        }
        let first = self.final_status.get_or_insert_with(|| status.to_owned());
        self.has_conflict |= first != status;
        if self.has_conflict {
            ArrivalVerdict::Conflicts
        } else {
            ArrivalVerdict::Waits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::NotificationKind;
    use proptest::prelude::*;

    /// The state of a notification in its line.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum LineEventState {
        /// The notification is to be delivered.
        Waiting,
        /// The tenant has acknowledged the notification.
        Delivered,
        /// A later status takes its place. The notification stays in the pull API.
        Superseded,
        /// The schedule is used up. An operator or the tenant may have the notification sent again.
        Dead,
    }

    /// The notifications about one object for one tenant, in the order of their arrival, as a store's tables have them:
    /// [`ObjectProgress`] is the object's row, an event's state is a column.
    #[derive(Debug, Clone, Default)]
    struct DeliveryLine {
        progress: ObjectProgress,
        events: Vec<LineEvent>,
        /// The event that an attempt is under way for.
        under_way: Option<u64>,
    }

    #[derive(Debug, Clone)]
    struct LineEvent {
        id: u64,
        rank: Option<StatusRank>,
        state: LineEventState,
    }

    impl DeliveryLine {
        /// Takes in a notification that is not a duplicate. The line is due at once if the notification waits.
        fn arrive(&mut self, id: u64, status: &str, rank: Option<StatusRank>) -> ArrivalVerdict {
            let verdict = self.progress.arrive(status, rank);
            let state = match verdict {
                ArrivalVerdict::Waits | ArrivalVerdict::Conflicts => LineEventState::Waiting,
                ArrivalVerdict::Superseded | ArrivalVerdict::AfterFinal => {
                    LineEventState::Superseded
                }
            };
            self.events.push(LineEvent { id, rank, state });
            for event in &mut self.events {
                if event.state == LineEventState::Waiting && self.progress.supersedes(event.rank) {
                    event.state = LineEventState::Superseded;
                }
            }
            verdict
        }

        /// The event to send next; `None` while an attempt is under way, since the tenant may still act on that attempt.
        ///
        /// All waiting events with a rank have the same rank. They go first, in the order of their arrival: an endpoint that
        /// refuses an unknown status must not hold back a final one.
        fn head(&self) -> Option<u64> {
            if self.under_way.is_some() {
                return None;
            }
            let waiting = || {
                let events = self.events.iter();
                events.filter(|event| event.state == LineEventState::Waiting)
            };
            let ranked = waiting().find(|event| event.rank.is_some());
            ranked.or_else(|| waiting().next()).map(|event| event.id)
        }

        /// Begins an attempt for the head, and returns its event. An attempt under way goes on.
        fn begin(&mut self) -> Option<u64> {
            let head = self.head()?;
            self.under_way = Some(head);
            Some(head)
        }

        /// Ends the attempt: the tenant has acknowledged the event. An event that was superseded meanwhile is delivered.
        fn acknowledged(&mut self) {
            self.end(|_| LineEventState::Delivered);
        }

        /// Ends the attempt without an acknowledgment: the event waits for its next attempt, unless it was superseded.
        fn failed(&mut self) {
            self.end(|state| state);
        }

        /// Ends the last attempt of the schedule without an acknowledgment. The line goes on with the next event.
        fn exhausted(&mut self) {
            self.end(|state| match state {
                LineEventState::Waiting => LineEventState::Dead,
                other => other,
            });
        }

        /// Puts a dead event back in its place, or supersedes it if a later status has arrived. Returns whether the event
        /// waits.
        fn replay(&mut self, id: u64) -> bool {
            let is_dead =
                |event: &&mut LineEvent| event.id == id && event.state == LineEventState::Dead;
            let Some(event) = self.events.iter_mut().find(is_dead) else {
                return false;
            };
            let is_late = self.progress.supersedes(event.rank);
            event.state = if is_late {
                LineEventState::Superseded
            } else {
                LineEventState::Waiting
            };
            !is_late
        }

        /// The state of an event.
        fn state(&self, id: u64) -> Option<LineEventState> {
            let event = self.events.iter().find(|event| event.id == id);
            event.map(|event| event.state)
        }

        fn end(&mut self, next: impl Fn(LineEventState) -> LineEventState) {
            let under_way = self.under_way.take();
            let is_own = |event: &&mut LineEvent| Some(event.id) == under_way;
            if let Some(event) = self.events.iter_mut().find(is_own) {
                event.state = next(event.state);
            }
        }
    }

    /// What happens to a line between two arrivals.
    #[derive(Debug, Clone, Copy)]
    enum Between {
        Nothing,
        /// An attempt begins, and ends after the next arrival or later.
        Begin,
        /// The attempt under way, or a new one, ends with an acknowledgment.
        Acknowledged,
        /// The attempt does not reach the tenant.
        Failed,
        /// The tenant acts on the attempt, and its acknowledgment is lost.
        AcknowledgmentLost,
    }

    use Between::{Acknowledged, AcknowledgmentLost, Begin, Failed, Nothing};

    /// A line, with the events that its tenant has received.
    #[derive(Default)]
    struct Tenant {
        line: DeliveryLine,
        arrived: Vec<(&'static str, Option<StatusRank>, ArrivalVerdict)>,
        received: Vec<usize>,
    }

    impl Tenant {
        fn arrive(&mut self, kind: NotificationKind, status: &'static str) {
            let rank = kind.rank(status);
            let verdict = self.line.arrive(self.arrived.len() as u64, status, rank);
            self.arrived.push((status, rank, verdict));
        }

        fn act(&mut self, between: Between) {
            if matches!(between, Nothing) {
                return;
            }
            self.line.begin();
            let Some(id) = self.line.under_way else {
                return;
            };
            let id = usize::try_from(id).unwrap();
            match between {
                Nothing | Begin => {}
                Acknowledged => {
                    self.received.push(id);
                    self.line.acknowledged();
                }
                Failed => self.line.failed(),
                AcknowledgmentLost => {
                    self.received.push(id);
                    self.line.failed();
                }
            }
        }

        fn rank(&self, event: usize) -> Option<StatusRank> {
            self.arrived[event].1
        }

        /// Delivers all that waits, then checks what the tenant has received.
        fn finish(mut self, what: &dyn std::fmt::Debug) {
            while self.line.under_way.is_some() || self.line.head().is_some() {
                self.act(Acknowledged);
            }
            let ranks: Vec<_> = self
                .received
                .iter()
                .filter_map(|event| self.rank(*event))
                .collect();
            assert!(ranks.is_sorted(), "a status went back: {what:?}");
            let highest = self.arrived.iter().filter_map(|arrived| arrived.1).max();
            assert_eq!(
                ranks.last().copied(),
                highest,
                "the last is the highest: {what:?}"
            );
            for (event, (status, rank, verdict)) in self.arrived.iter().enumerate() {
                let is_received = self.received.contains(&event);
                let must = rank.is_none() || *rank == highest;
                assert!(is_received || !must, "{status} is lost: {what:?}");
                let state = self.line.state(event as u64).unwrap();
                let sent = matches!(verdict, ArrivalVerdict::Waits | ArrivalVerdict::Conflicts);
                assert!(sent || !is_received, "{status} is sent: {what:?}");
                let ended = [LineEventState::Delivered, LineEventState::Superseded];
                assert!(ended.contains(&state), "{status}: {what:?}");
            }
            let finals: Vec<_> = self
                .arrived
                .iter()
                .filter(|arrived| arrived.1.is_some_and(|rank| rank.is_final))
                .collect();
            for (at, arrived) in finals.iter().enumerate() {
                let differs = finals[..at].iter().any(|earlier| earlier.0 != arrived.0);
                let is_marked = arrived.2 == ArrivalVerdict::Conflicts;
                let is_first_again = finals[..=at].iter().all(|one| one.0 == arrived.0);
                assert_eq!(is_marked, differs || !is_first_again, "{what:?}");
            }
        }
    }

    fn permutations(of: &[&'static str]) -> Vec<Vec<&'static str>> {
        let [first, rest @ ..] = of else {
            return vec![Vec::new()];
        };
        let mut all = Vec::new();
        for shorter in permutations(rest) {
            for at in 0..=shorter.len() {
                let mut longer = shorter.clone();
                longer.insert(at, *first);
                all.push(longer);
            }
        }
        all
    }

    /// Every permutation, and every permutation with one status again at every place.
    fn orders(of: &[&'static str]) -> Vec<Vec<&'static str>> {
        let mut orders = permutations(of);
        for order in orders.clone() {
            for status in of {
                for at in 0..=order.len() {
                    let mut longer = order.clone();
                    longer.insert(at, *status);
                    orders.push(longer);
                }
            }
        }
        orders
    }

    /// The `number`-th sequence of what happens between arrivals.
    fn sequence(of: &[Between], length: usize, mut number: usize) -> Vec<Between> {
        let mut sequence = Vec::new();
        for _ in 0..length {
            sequence.push(of[number % of.len()]);
            number /= of.len();
        }
        sequence
    }

    #[test]
    fn every_order_of_every_kinds_statuses_with_repetitions_and_delays_ends_with_the_highest() {
        let mut count = 0_usize;
        let all = [Begin, AcknowledgmentLost, Nothing, Acknowledged, Failed];
        for kind in NotificationKind::ALL {
            let statuses: Vec<_> = kind.statuses().iter().map(|status| status.0).collect();
            for order in orders(&statuses) {
                let between = &all[..[1, 5, 5, 5, 5, 3, 2, 1][order.len()]];
                let length = u32::try_from(order.len()).unwrap();
                for number in 0..between.len().pow(length) {
                    let delays = sequence(between, order.len(), number);
                    let mut tenant = Tenant::default();
                    for (status, delay) in order.iter().zip(&delays) {
                        tenant.arrive(*kind, status);
                        tenant.act(*delay);
                    }
                    tenant.finish(&(kind, &order, &delays));
                    count += 1;
                }
            }
        }
        assert!(count > 500_000, "{count}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn repeated_statuses_in_any_order_with_any_delay_end_with_the_highest(
            kind in prop::sample::select(NotificationKind::ALL),
            steps in prop::collection::vec(
                (any::<prop::sample::Index>(), prop::sample::select(vec![Nothing, Begin, Acknowledged, Failed, AcknowledgmentLost])),
                1..14,
            ),
        ) {
            let mut statuses: Vec<&'static str> = kind.statuses().iter().map(|status| status.0).collect();
            statuses.push("A_STATUS_OF_THE_FUTURE");
            let mut tenant = Tenant::default();
            for (status, between) in &steps {
                tenant.arrive(kind, statuses[status.index(statuses.len())]);
                tenant.act(*between);
            }
            tenant.finish(&(kind, &steps));
        }
    }

    fn line_of_payment(statuses: &[&str]) -> (DeliveryLine, Vec<ArrivalVerdict>) {
        let mut line = DeliveryLine::default();
        let verdicts = (0..)
            .zip(statuses)
            .map(|(id, status)| line.arrive(id, status, NotificationKind::PayAddress.rank(status)));
        let verdicts = verdicts.collect();
        (line, verdicts)
    }

    #[test]
    fn a_final_status_goes_first_and_nothing_goes_back() {
        use ArrivalVerdict::{AfterFinal, Conflicts, Waits};
        let (line, verdicts) = line_of_payment(&[
            "NEW",
            "PAY_BLOCK",
            "PAY_SUCCESS",
            "PAY_BLOCK",
            "PAY_CLOSE",
            "PAY_SUCCESS",
        ]);
        assert_eq!(
            verdicts,
            [Waits, Waits, Waits, AfterFinal, Conflicts, Conflicts]
        );
        let superseded = |id| line.state(id) == Some(LineEventState::Superseded);
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(superseded),
            [false, true, false, true, false, false]
        );
        assert_eq!(line.head(), Some(2));
    }

    #[test]
    fn a_higher_status_waits_for_the_attempt_under_way() {
        let (mut line, _) = line_of_payment(&["PAY_BLOCK"]);
        assert_eq!(line.begin(), Some(0));
        line.arrive(
            1,
            "PAY_SUCCESS",
            NotificationKind::PayAddress.rank("PAY_SUCCESS"),
        );
        assert_eq!((line.head(), line.begin()), (None, None));
        let (mut failed, mut acknowledged) = (line.clone(), line);
        failed.failed();
        acknowledged.acknowledged();
        assert_eq!(failed.state(0), Some(LineEventState::Superseded));
        assert_eq!(acknowledged.state(0), Some(LineEventState::Delivered));
        assert_eq!((failed.head(), acknowledged.head()), (Some(1), Some(1)));
    }

    #[test]
    fn a_dead_event_is_sent_again_unless_a_later_status_has_arrived() {
        let (mut line, _) = line_of_payment(&["PAY_BLOCK"]);
        assert!(!line.replay(0), "it still waits");
        line.begin();
        line.exhausted();
        assert_eq!(
            (line.state(0), line.head()),
            (Some(LineEventState::Dead), None)
        );
        let mut later = line.clone();
        later.arrive(
            1,
            "PAY_CLOSE",
            NotificationKind::PayAddress.rank("PAY_CLOSE"),
        );
        assert!(line.replay(0) && !later.replay(0) && !later.replay(7));
        assert_eq!((line.head(), later.head()), (Some(0), Some(1)));
        assert_eq!(later.state(0), Some(LineEventState::Superseded));
    }
}
