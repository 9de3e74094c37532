//! The push-backs that concern the institution: those of two parties in a short time. One party's account may have a
//! limit of its own at GatePay, and its push-backs are no reason for the others to send less.

/// Two parties that GatePay pushes back within this time, in nanoseconds, are no coincidence.
const WINDOW: u64 = 10_000_000_000;

/// The last push-back, and the last one of another party.
#[derive(Debug, Clone, Default)]
pub(super) struct RecentPushbacks {
    last: Option<PushbackEvent>,
    other: Option<PushbackEvent>,
}

#[derive(Debug, Clone, Copy)]
struct PushbackEvent {
    member: u32,
    at: u64,
}

impl RecentPushbacks {
    /// Notes that GatePay pushed this party back. Returns whether another party was pushed back lately.
    pub(super) fn note(&mut self, member: u32, now: u64) -> bool {
        if self.last.is_none_or(|last| last.member != member) {
            self.other = self.last;
        }
        self.last = Some(PushbackEvent { member, at: now });
        self.other
            .is_some_and(|other| now.saturating_sub(other.at) <= WINDOW)
    }

    /// The party is gone: another one may get its place.
    pub(super) fn forget(&mut self, member: u32) {
        for push in [&mut self.last, &mut self.other] {
            push.take_if(|push| push.member == member);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_parties_count_within_ten_seconds_of_each_other() {
        let mut pushes = RecentPushbacks::default();
        let second = 1_000_000_000;
        assert!(!pushes.note(1, 0));
        assert!(!pushes.note(1, second));
        assert!(pushes.note(2, 11 * second));
        assert!(pushes.note(1, 12 * second));
        assert!(!pushes.note(1, 22 * second));
        assert!(pushes.note(3, 23 * second));
        pushes.forget(1);
        assert!(!pushes.note(3, 24 * second));
    }

    proptest! {
        /// Against the whole history.
        #[test]
        fn a_push_counts_if_and_only_if_another_party_got_one_lately(
            events in prop::collection::vec((0..4_u32, 0..8_000_000_000_u64), 1..60),
        ) {
            let (mut pushes, mut history, mut now) = (RecentPushbacks::default(), Vec::new(), 0);
            for (member, pause) in events {
                now += pause;
                let lately = |(other, at): &(u32, u64)| *other != member && now - at <= WINDOW;
                let expected = history.iter().any(lately);
                prop_assert_eq!(pushes.note(member, now), expected);
                history.push((member, now));
            }
        }
    }
}
