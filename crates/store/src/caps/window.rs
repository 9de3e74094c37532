//! Window: the slices of time over which spends are summed, and the slices that a rule's window covers.
//!
//! The oldest slice of a window counts whole, so a window is never shorter than its name says, and at most a 96th longer.

use super::rule::CapMeasure;

/// The length of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SliceGrain {
    /// A 96th of an hour.
    Hour,
    /// A 96th of 24 hours. Midnights of every time zone in use are multiples of it.
    Day,
}

/// The slices of a window that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapWindow {
    /// The length of the slices.
    pub grain: SliceGrain,
    /// The first slice.
    pub first: u64,
    /// How long a slice is in the window after it ended, in milliseconds; `None` if the window ends at a midnight.
    pub length_ms: Option<u64>,
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// The shortest day of a time zone: when clocks are put forward by an hour.
pub(super) const SHORTEST_DAY_MS: u64 = 23 * HOUR_MS;
/// The longest day of a time zone: when clocks are put back by an hour. It is used if no midnight is known.
const LONGEST_DAY_MS: u64 = 25 * HOUR_MS;

impl SliceGrain {
    /// Both grains; the place is the number in tables.
    pub const ALL: [Self; 2] = [Self::Hour, Self::Day];

    /// The length of a slice, in milliseconds.
    pub fn slice_ms(self) -> u64 {
        match self {
            Self::Hour => HOUR_MS / 96,
            Self::Day => DAY_MS / 96,
        }
    }

    /// The slice of a time.
    pub fn slice(self, ms: u64) -> u64 {
        ms / self.slice_ms()
    }

    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Hour => 0,
            Self::Day => 1,
        }
    }

    /// Slices before this one are forgotten. They are in no window any more, nor would they be if the clock were put back by
    /// a day.
    pub fn oldest_kept(self, now_ms: u64) -> u64 {
        let kept = match self {
            Self::Hour => 26 * HOUR_MS,
            Self::Day => 4 * DAY_MS,
        };
        self.slice(now_ms.saturating_sub(kept))
    }
}

impl CapWindow {
    /// The window of a measure; `None` for one that looks at a single call.
    pub fn of(measure: CapMeasure, now_ms: u64, midnights: &[u64]) -> Option<Self> {
        let rolling = |grain: SliceGrain, length_ms: u64| Self {
            grain,
            first: grain.slice(now_ms.saturating_sub(length_ms)),
            length_ms: Some(length_ms),
        };
        match measure {
            CapMeasure::PerCall | CapMeasure::ApproveAbove | CapMeasure::NoCap => None,
            CapMeasure::PerHour | CapMeasure::CountPerHour => {
                Some(rolling(SliceGrain::Hour, HOUR_MS))
            }
            CapMeasure::Per24Hours => Some(rolling(SliceGrain::Day, DAY_MS)),
            CapMeasure::PerDay => {
                let past = midnights.iter().filter(|it| **it <= now_ms).max();
                let began = past.map_or_else(|| now_ms.saturating_sub(LONGEST_DAY_MS), |it| *it);
                Some(Self {
                    grain: SliceGrain::Day,
                    first: SliceGrain::Day.slice(began),
                    length_ms: None,
                })
            }
        }
    }

    /// The first slice of this grain that the window of any measure covers.
    pub fn first_of_any(grain: SliceGrain, now_ms: u64, midnights: &[u64]) -> u64 {
        let windows = CapMeasure::ALL.into_iter();
        let windows = windows.filter_map(|measure| Self::of(measure, now_ms, midnights));
        let firsts = windows.filter(|window| window.grain == grain);
        firsts.map(|window| window.first).min().unwrap_or_default()
    }

    /// Whether the window covers a time up to now.
    pub fn covers(&self, ms: u64) -> bool {
        self.grain.slice(ms) >= self.first
    }

    /// The earliest time at which something leaves the window, if its oldest sum is that of slice `oldest`.
    pub fn frees_ms(&self, oldest: Option<u64>, now_ms: u64, midnights: &[u64]) -> Option<u64> {
        match self.length_ms {
            Some(length_ms) => oldest.map(|it| (it + 1) * self.grain.slice_ms() + length_ms),
            None => midnights.iter().copied().filter(|it| *it > now_ms).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolling_window_covers_its_whole_length_and_at_most_a_slice_more() {
        for now_ms in (1_767_225_600_000..).step_by(12_345).take(2_000) {
            for (measure, length_ms) in [
                (CapMeasure::PerHour, HOUR_MS),
                (CapMeasure::Per24Hours, DAY_MS),
            ] {
                let window = CapWindow::of(measure, now_ms, &[]).unwrap();
                let slice_ms = window.grain.slice_ms();
                assert!(window.covers(now_ms - length_ms));
                assert!(!window.covers(now_ms - length_ms - slice_ms));
                let oldest = window.grain.slice(now_ms - length_ms);
                let frees_ms = window.frees_ms(Some(oldest), now_ms, &[]).unwrap();
                let later = CapWindow::of(measure, frees_ms, &[]).unwrap();
                let before = CapWindow::of(measure, frees_ms - 1, &[]).unwrap();
                assert!(before.first <= oldest && later.first > oldest);
            }
        }
    }

    #[test]
    fn a_clock_that_is_put_back_by_a_day_finds_every_slice_of_every_window() {
        for now_ms in (1_767_225_600_000..).step_by(12_345).take(2_000) {
            for measure in CapMeasure::ALL {
                // Of a day that no midnight is known of too.
                if let Some(window) = CapWindow::of(measure, now_ms, &[]) {
                    assert!(window.grain.oldest_kept(now_ms + DAY_MS) <= window.first);
                }
            }
        }
    }

    #[test]
    fn a_day_begins_at_the_last_midnight_and_does_not_end_after_the_last_known_one() {
        let midnights = [1_000 * DAY_MS, 1_001 * DAY_MS, 1_002 * DAY_MS];
        let first = |now_ms| {
            CapWindow::of(CapMeasure::PerDay, now_ms, &midnights)
                .unwrap()
                .first
        };
        assert_eq!(first(1_001 * DAY_MS - 1), 1_000 * 96);
        assert_eq!(first(1_001 * DAY_MS), 1_001 * 96);
        assert_eq!(first(1_009 * DAY_MS), 1_002 * 96);
        assert_eq!(
            first(999 * DAY_MS),
            999 * 96 - 100,
            "no midnight is known: 25 hours"
        );
    }
}
