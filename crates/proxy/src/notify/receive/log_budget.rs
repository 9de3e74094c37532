//! Log budget: one log line in a while for what strangers can cause as often as they like.

use std::time::Duration;

use parking_lot::Mutex;

/// The shortest time between two lines.
const EVERY: Duration = Duration::from_secs(10);

/// Decides which of many like lines are written.
#[derive(Default)]
pub(super) struct LogBudget(Mutex<BudgetState>);

#[derive(Default)]
struct BudgetState {
    /// The time of the process's clock from which on the next line is written.
    next: Duration,
    left_out: u64,
}

impl LogBudget {
    /// Asks for a line at a time of the process's clock. Returns the number of lines that were left out since the last
    /// one, or `None` if this one is left out too.
    pub(super) fn line(&self, now: Duration) -> Option<u64> {
        let mut state = self.0.lock();
        if now < state.next {
            state.left_out += 1;
            return None;
        }
        state.next = now + EVERY;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_says_how_many_were_left_out() {
        let budget = LogBudget::default();
        let at = |millis| budget.line(Duration::from_millis(millis));
        assert_eq!(at(0), Some(0));
        assert_eq!([at(1), at(5_000), at(9_999)], [None, None, None]);
        assert_eq!(at(10_000), Some(3));
        assert_eq!(at(10_001), None);
        assert_eq!(at(60_000), Some(1));
        assert_eq!(at(90_000), Some(0));
    }
}
