//! Approver rule: the number of operators for an order that one alone may not give. A larger number holds at once; a smaller
//! one is a raise of what one person can do, and holds late, as raised caps do.

use super::rule_book::RaiseDelay;

/// The number in force, and its future. The store keeps it, so that neither a restart nor another instance shortens the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApproverRule {
    /// The number of operators.
    pub number: u32,
    /// A smaller number, and from when on it holds, in milliseconds since 1970 by the store's clock.
    pub fewer: Option<(u32, u64)>,
    /// The delay of a smaller number.
    pub delay: RaiseDelay,
}

impl ApproverRule {
    /// The rule after a declaration of a number and a delay. Without one before, nothing is protected by it.
    pub(crate) fn declared(
        before: Option<Self>,
        (number, raise_after_ms): (u32, u64),
        now_ms: u64,
    ) -> Self {
        let known = Self::needed(before, now_ms);
        let delay = before.filter(|_| known > 1).map(|it| it.delay);
        let delay = RaiseDelay::after(delay, raise_after_ms, now_ms);
        if number >= known {
            return Self {
                number,
                fewer: None,
                delay,
            };
        }
        let under_way = before.and_then(|it| it.fewer);
        let under_way = under_way.filter(|(fewer, from_ms)| *fewer <= number && *from_ms > now_ms);
        let from_ms = under_way.map_or(now_ms.saturating_add(delay.ms), |(_, from_ms)| from_ms);
        Self {
            number: known,
            fewer: Some((number, from_ms)),
            delay,
        }
    }

    /// The number that holds; one before the first declaration.
    pub(crate) fn needed(rule: Option<Self>, now_ms: u64) -> u32 {
        let Some(rule) = rule else { return 1 };
        let fewer = rule.fewer.filter(|(_, from_ms)| *from_ms <= now_ms);
        fewer.map_or(rule.number, |(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn declared(before: ApproverRule, number: u32, delay_ms: u64, now_ms: u64) -> ApproverRule {
        ApproverRule::declared(Some(before), (number, delay_ms), now_ms)
    }

    #[test]
    fn fewer_operators_hold_late_and_more_at_once() {
        let two = ApproverRule::declared(None, (2, DAY_MS), 0);
        assert_eq!(ApproverRule::needed(Some(two), 0), 2);
        let one = declared(two, 1, DAY_MS, 1_000);
        for (now_ms, needed) in [(1_000, 2), (1_000 + DAY_MS - 1, 2), (1_000 + DAY_MS, 1)] {
            assert_eq!(ApproverRule::needed(Some(one), now_ms), needed, "{now_ms}");
        }
        let again = declared(one, 1, DAY_MS, 5_000);
        assert_eq!(again, one, "a restart begins no new wait");
        let back = declared(again, 2, DAY_MS, 6_000);
        assert_eq!(ApproverRule::needed(Some(back), 9 * DAY_MS), 2);
    }

    #[test]
    fn a_shorter_delay_makes_no_fewer_operators_sooner() {
        let two = ApproverRule::declared(None, (2, DAY_MS), 0);
        let shorter = declared(two, 2, 0, 1_000);
        let one = declared(shorter, 1, 0, 2_000);
        assert_eq!(ApproverRule::needed(Some(one), DAY_MS), 2);
        assert_eq!(ApproverRule::needed(Some(one), 2_000 + DAY_MS), 1);
        let later = declared(shorter, 1, 0, 1_000 + DAY_MS);
        assert_eq!(ApproverRule::needed(Some(later), 1_000 + DAY_MS), 1);
    }

    #[test]
    fn from_one_operator_nothing_is_to_be_protected() {
        let one = ApproverRule::declared(None, (1, DAY_MS), 0);
        let shorter = declared(one, 1, 0, 1_000);
        assert_eq!((shorter.delay.ms, shorter.fewer), (0, None));
    }
}
