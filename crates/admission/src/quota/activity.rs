//! The members that asked in the last ten seconds, and their total weight: kept up in constant time for each request.

/// How long a member counts as active after it last asked, in whole seconds; up to one more, for seconds are not cut.
pub(super) const ACTIVE: u64 = 10;
/// Enough for the active seconds, the current one, and a round number.
const SLOTS: usize = 16;

/// Weights by the second in which their members were last seen.
#[derive(Default, Clone)]
pub(super) struct MemberActivity {
    second: u64,
    slots: [ActivitySecond; SLOTS],
    all: ActivitySecond,
}

#[derive(Default, Clone, Copy)]
struct ActivitySecond {
    weight: u64,
    members: u32,
}

/// When a member was last seen: the second, plus one; 0 is never. Enough for a century from the zero of the clock.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastSeen(u32);

impl MemberActivity {
    /// Advances the time: forgets the members that were not seen for too long.
    pub(super) fn advance(&mut self, second: u64) {
        if second >= self.second + SLOTS as u64 {
            self.slots = Default::default();
            self.all = ActivitySecond::default();
        } else {
            for second in self.second + 1..=second {
                // The slot of a second that has just left the active range is reused a few seconds later.
                if let Some(old) = second.checked_sub(ACTIVE + 1) {
                    let slot = &mut self.slots[at(old)];
                    self.all.weight -= slot.weight;
                    self.all.members -= slot.members;
                    *slot = ActivitySecond::default();
                }
            }
        }
        self.second = self.second.max(second);
    }

    /// Marks a member as seen now.
    pub(super) fn saw(&mut self, seen: &mut LastSeen, weight: u64) {
        let now = LastSeen(u32::try_from(self.second + 1).unwrap_or(u32::MAX));
        if *seen != now {
            self.forget(*seen, weight);
            *seen = now;
            self.add(now, weight);
        }
    }

    /// Forgets a member that leaves for good, or is about to change its weight.
    pub(super) fn forget(&mut self, seen: LastSeen, weight: u64) {
        if self.counts(seen) {
            let slot = &mut self.slots[at(seen.second())];
            for slot in [slot, &mut self.all] {
                slot.weight -= weight;
                slot.members -= 1;
            }
        }
    }

    /// Undoes [`forget`](Self::forget) at another weight.
    pub(super) fn remember(&mut self, seen: LastSeen, weight: u64) {
        if self.counts(seen) {
            self.add(seen, weight);
        }
    }

    /// Whether a member is active.
    pub(super) fn counts(&self, seen: LastSeen) -> bool {
        seen.0 > 0 && u64::from(seen.0) + ACTIVE > self.second
    }

    /// The total weight of the active members.
    pub(super) fn weight(&self) -> u64 {
        self.all.weight
    }

    /// The number of active members.
    pub(super) fn members(&self) -> u32 {
        self.all.members
    }

    fn add(&mut self, seen: LastSeen, weight: u64) {
        for slot in [&mut self.slots[at(seen.second())], &mut self.all] {
            slot.weight += weight;
            slot.members += 1;
        }
    }
}

impl LastSeen {
    fn second(self) -> u64 {
        u64::from(self.0 - 1)
    }
}

fn at(second: u64) -> usize {
    usize::try_from(second % SLOTS as u64).expect("less than the number of slots")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_party_that_sent_a_request_counts_as_active_for_ten_seconds() {
        let (mut activity, mut seen) = (MemberActivity::default(), LastSeen::default());
        activity.advance(100);
        activity.saw(&mut seen, 5);
        assert_eq!((activity.weight(), activity.members()), (5, 1));
        activity.advance(110);
        assert_eq!(activity.weight(), 5);
        activity.advance(111);
        assert_eq!((activity.weight(), activity.members()), (0, 0));
        assert!(!activity.counts(seen));
    }

    proptest! {
        /// Compares with the plain count over all members.
        #[test]
        fn the_running_sum_of_weights_equals_a_full_count(
            events in prop::collection::vec((0..8_usize, 0..14_u64, 0..4_u8), 1..300),
        ) {
            let mut activity = MemberActivity::default();
            let mut all = [(LastSeen::default(), 1_u64); 8];
            let mut last: [Option<u64>; 8] = [None; 8];
            let mut second = 0;
            for (who, pause, what) in events {
                second += pause;
                activity.advance(second);
                let (seen, weight) = &mut all[who];
                if what == 0 {
                    activity.forget(*seen, *weight);
                    *weight += 3;
                    activity.remember(*seen, *weight);
                } else {
                    activity.saw(seen, *weight);
                    last[who] = Some(second);
                }
                let active = |who: &usize| last[*who].is_some_and(|last| last + ACTIVE >= second);
                let expected: u64 = (0..8).filter(active).map(|who| all[who].1).sum();
                prop_assert_eq!(activity.weight(), expected);
                prop_assert_eq!(activity.members() as usize, (0..8).filter(active).count());
            }
        }
    }
}
