//! The store's time: its clock without the steps. The SQL functions of `0001_clock.sql` are the same rules.
//!
//! Whatever counts days, waits or ages goes by it: windows of caps, holds, claims, the schedule of deliveries, retention. The
//! clock as it stands judges stamps alone, which callers make by their own clocks.

/// The clock of a store, as its last sign of life left it. Times are milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreClock {
    /// The clock as it stood.
    pub wall_ms: i64,
    /// The store's time then.
    pub steady_ms: i64,
    /// Since when, in the store's time, the two have been more than 10 s apart.
    pub apart_since: Option<i64>,
    /// Whether an instance saw the step that put them apart.
    pub is_witnessed: bool,
    /// Nothing is deleted for its age before this, in the store's time.
    pub keeps_until: i64,
}

/// The knowledge of the instance that gives a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockWitness {
    /// It has given one before.
    Present {
        /// The store's clock then.
        wall_ms: i64,
        /// The store's time then.
        steady_ms: i64,
        /// The time since then by the instance's monotonic clock, in milliseconds.
        silent_ms: i64,
    },
    /// It is new, and other instances may be alive.
    Newcomer,
    /// It is new, and no other instance is known.
    Alone,
}

/// The store's time as instances see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreTime {
    /// The store's time, in milliseconds since 1970.
    pub now_ms: u64,
    /// How far a step has put the store's clock before its time, in milliseconds; 0 while they agree.
    pub apart_ms: i64,
    /// Whether nothing is deleted for its age, since the clock is in doubt.
    pub keeps: bool,
}

/// The greatest difference between the clock and the store's time that is no step: it is made up for by a twentieth of the time
/// that passes.
const APART_MS: i64 = 10_000;
/// The most time that passes by the clock alone, between two signs of life.
const UNTICKED_MS: i64 = 5_000;
/// The shortest interval between two ticks.
const TICK_MS: i64 = 500;
/// The time that instances run with a step that one of them saw before the step is accepted. It is longer than every window,
/// hold and grant.
const ACCEPTED_AFTER_MS: i64 = 90_000_000;
/// The longest step back that is accepted without an operator, and the longest silence after which rows are deleted as usual.
const DAY_MS: i64 = 86_400_000;

impl StoreClock {
    /// A clock that is read for the first time.
    pub fn first(wall_ms: i64) -> Self {
        Self {
            wall_ms,
            steady_ms: wall_ms,
            apart_since: None,
            is_witnessed: false,
            keeps_until: 0,
        }
    }

    /// The store's time.
    pub fn now(&self, wall_ms: i64) -> i64 {
        self.steady_ms + (wall_ms - self.wall_ms).clamp(0, UNTICKED_MS)
    }

    /// The store's time for deleting what is older than some age: 0 while the clock is in doubt, so that nothing is.
    pub fn deleting(&self, wall_ms: i64) -> i64 {
        let now = self.now(wall_ms);
        let is_in_doubt = self.apart_since.is_some() || self.keeps_until > now;
        if is_in_doubt { 0 } else { now }
    }

    /// The time for a view.
    pub fn time(&self, wall_ms: i64) -> StoreTime {
        let apart = self.apart_since.map(|_| self.wall_ms - self.steady_ms);
        StoreTime {
            now_ms: self.now(wall_ms).unsigned_abs(),
            apart_ms: apart.unwrap_or(0),
            keeps: self.deleting(wall_ms) == 0,
        }
    }

    /// The clock after a sign of life. If the store's time is lower than before, the caller makes due what was scheduled by
    /// the old one. `None` if the last sign was just before: then the instance tells the same again with its next one.
    #[must_use]
    pub fn tick(self, wall_ms: i64, witness: ClockWitness) -> Option<Self> {
        let stepped = witness.stepped(wall_ms);
        // A sign that saw a step tells of it also if one that did not, of a new instance, came just before.
        let has_seen_a_step = stepped.is_some_and(|stepped| stepped.abs() > APART_MS);
        let is_early = (self.wall_ms..self.wall_ms + TICK_MS).contains(&wall_ms);
        if is_early && !has_seen_a_step {
            return None;
        }
        let passed = self.passed(wall_ms, witness);
        let mut next = Self {
            wall_ms,
            steady_ms: self.steady_ms + passed,
            ..self
        };
        let mut is_silence = stepped.is_none() && passed > DAY_MS;
        let apart = wall_ms - next.steady_ms;
        if apart.abs() <= APART_MS {
            next.steady_ms += apart.clamp(-passed / 20, passed / 20);
            next.apart_since = None;
            next.is_witnessed = false;
        } else {
            next.is_witnessed |= stepped
                .is_some_and(|stepped| next.apart_since.is_none() || stepped.abs() > APART_MS);
            // The time that a newcomer takes for a silence does not count as time in which instances ran with the step.
            let credit = match witness {
                ClockWitness::Newcomer => passed,
                ClockWitness::Present { .. } | ClockWitness::Alone => 0,
            };
            let since = next
                .apart_since
                .map_or(next.steady_ms, |since| since + credit);
            next.apart_since = Some(since);
            let is_over = next.steady_ms - since
                >= if next.is_witnessed {
                    ACCEPTED_AFTER_MS
                } else {
                    APART_MS
                };
            // The first step back after a long silence shows that the silence was a step.
            let was_none = apart < 0 && next.steady_ms < next.keeps_until;
            if was_none || is_over && apart >= -DAY_MS {
                is_silence = apart > DAY_MS && !next.is_witnessed;
                next.steady_ms = wall_ms;
                next.apart_since = None;
                next.is_witnessed = false;
                if apart < 0 {
                    next.keeps_until = 0;
                }
            }
        }
        if is_silence {
            next.keeps_until = next.steady_ms + ACCEPTED_AFTER_MS;
        }
        Some(next)
    }

    /// How much the store's time advances by a sign of life.
    fn passed(self, wall_ms: i64, witness: ClockWitness) -> i64 {
        let came = (wall_ms - self.wall_ms).max(0);
        match witness {
            ClockWitness::Present {
                steady_ms,
                silent_ms,
                ..
            } => {
                // No more than the instance's monotonic clock counted since its last sign of life, less what others have
                // advanced since.
                let most = steady_ms + silent_ms - self.steady_ms;
                let passed = if wall_ms < self.wall_ms {
                    most
                } else {
                    most.min(came)
                };
                passed.max(0)
            }
            ClockWitness::Newcomer => came.min(APART_MS),
            ClockWitness::Alone => came,
        }
    }
}

impl ClockWitness {
    /// The step of the store's clock that the instance saw.
    fn stepped(self, now_ms: i64) -> Option<i64> {
        match self {
            Self::Present {
                wall_ms, silent_ms, ..
            } => Some(now_ms - wall_ms - silent_ms),
            Self::Newcomer | Self::Alone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START_MS: i64 = 1_767_225_600_000;

    /// Instances with a monotonic clock each, and a store's clock that steps.
    struct World {
        /// The right time.
        now_ms: i64,
        ahead_ms: i64,
        clock: StoreClock,
        /// The last sign of life of each instance: the right time, the store's clock, and the store's time.
        signs: [(i64, i64, i64); 3],
    }

    impl World {
        fn new() -> Self {
            Self {
                now_ms: START_MS,
                ahead_ms: 0,
                clock: StoreClock::first(START_MS),
                signs: [(START_MS, START_MS, START_MS); 3],
            }
        }

        fn wait(&mut self, ms: i64) {
            self.now_ms += ms;
        }

        fn beat(&mut self, instance: usize) {
            let wall_ms = self.now_ms + self.ahead_ms;
            let (at_ms, then_ms, steady_ms) = self.signs[instance];
            let witness = ClockWitness::Present {
                wall_ms: then_ms,
                steady_ms,
                silent_ms: self.now_ms - at_ms,
            };
            if let Some(next) = self.clock.tick(wall_ms, witness) {
                self.clock = next;
                self.signs[instance] = (self.now_ms, wall_ms, next.now(wall_ms));
            }
        }

        /// An instance joins, beside those that are there.
        fn join(&mut self) {
            let wall_ms = self.now_ms + self.ahead_ms;
            let next = self.clock.tick(wall_ms, ClockWitness::Newcomer);
            self.clock = next.unwrap_or(self.clock);
        }

        fn beats(&mut self, seconds: i64) {
            for second in 0..seconds {
                self.wait(1_000);
                self.beat(usize::try_from(second % 3).unwrap());
            }
        }

        fn steady_now(&self) -> i64 {
            self.clock.now(self.now_ms + self.ahead_ms)
        }
    }

    #[test]
    fn a_step_is_accepted_after_25_hours_of_running_with_it() {
        let mut world = World::new();
        world.beats(60);
        world.ahead_ms = 3 * DAY_MS;
        world.beats(24 * 3_600);
        assert!((world.steady_now() - world.now_ms).abs() < 5_000);
        assert_eq!(world.clock.deleting(world.now_ms + world.ahead_ms), 0);
        world.beats(3_700);
        assert!((world.steady_now() - world.now_ms - world.ahead_ms).abs() < 5_000);
        assert_eq!(world.clock.apart_since, None);
    }

    #[test]
    fn a_step_that_a_new_instance_came_upon_first_is_seen_by_those_that_were_there() {
        let mut world = World::new();
        world.beats(60);
        world.ahead_ms = 25 * 3_600_000;
        // Each sign of theirs comes too soon after that of a new one.
        for who in 0..15 {
            world.wait(700);
            world.join();
            world.wait(300);
            world.beat(who % 3);
        }
        world.beats(24 * 3_600);
        let ahead_ms = world.steady_now() - world.now_ms;
        assert!(ahead_ms <= 10_000, "{ahead_ms} ms");
    }

    #[test]
    fn a_small_difference_is_made_up_for_and_a_clock_that_comes_back_is_right_at_once() {
        let mut world = World::new();
        world.ahead_ms = 9_000;
        world.beats(600);
        assert_eq!(world.steady_now(), world.now_ms + 9_000);
        world.ahead_ms = -365 * DAY_MS;
        world.beats(600);
        assert!(world.clock.apart_since.is_some());
        world.ahead_ms = 9_000;
        world.beats(600);
        assert_eq!(world.clock.apart_since, None);
        assert_eq!(world.steady_now(), world.now_ms + 9_000);
    }

    #[test]
    fn the_first_step_back_after_a_long_silence_shows_that_the_silence_was_a_step() {
        let mut world = World::new();
        world.beats(60);
        // The machine starts with a clock that is a year ahead.
        world.ahead_ms = 365 * DAY_MS;
        world.wait(60_000);
        let wall_ms = world.now_ms + world.ahead_ms;
        world.clock = world.clock.tick(wall_ms, ClockWitness::Alone).unwrap();
        world.signs = [(world.now_ms, wall_ms, world.clock.now(wall_ms)); 3];
        world.beats(60);
        assert_eq!(world.clock.deleting(world.now_ms + world.ahead_ms), 0);
        world.ahead_ms = 0;
        world.beats(10);
        assert_eq!(world.steady_now(), world.now_ms);
    }

    proptest! {
        /// For any steps of the clock and any silences, the store's time runs no faster than the right time, but for the
        /// twentieth by which it makes up for small differences, while less than 25 hours pass.
        #[test]
        fn the_stores_time_never_runs_ahead_while_an_instance_is_alive(
            events in prop::collection::vec(
                (prop_oneof![8 => 0_i64..5_000, 1 => 0..3_600_000_i64], 0_usize..3,
                    prop::option::weighted(0.2, prop_oneof![
                        -20_000_i64..20_000, Just(25 * 3_600_000), Just(-25 * 3_600_000), Just(400 * DAY_MS)])),
                1..200,
            ),
        ) {
            let mut world = World::new();
            let (mut passed, mut before) = (0, world.clock.steady_ms);
            for (pause, who, step) in events {
                world.wait(pause);
                passed += pause;
                if passed >= ACCEPTED_AFTER_MS {
                    break;
                }
                if let Some(step) = step {
                    world.ahead_ms = step;
                }
                world.beat(who);
                let ran = world.clock.steady_ms - START_MS;
                prop_assert!(ran <= passed + passed / 20 + 1, "{ran} in {passed}");
                prop_assert!(world.clock.steady_ms >= before, "it went back");
                before = world.clock.steady_ms;
            }
        }

        /// Also beside instances that join, each of which may take up to 10 s of a step for a silence. A step comes once all instances
        /// that are there have given a sign since the step before: a step seen only by an instance that is silent from then on is lost.
        #[test]
        fn new_instances_hide_no_step_from_those_that_were_there(
            events in prop::collection::vec(
                (0_i64..1_000, any::<bool>(), 0_i64..800, 0_usize..3,
                    prop::option::weighted(0.2, prop_oneof![
                        Just(0), Just(25 * 3_600_000), Just(-25 * 3_600_000), Just(400 * DAY_MS)])),
                1..200,
            ),
        ) {
            let mut world = World::new();
            let (mut passed, mut joined, mut before) = (0, 0, world.clock.steady_ms);
            let mut have_signed = [true; 3];
            for (pause, joins, later, who, step) in events {
                world.wait(pause);
                if let Some(step) = step
                    && have_signed == [true; 3]
                {
                    world.ahead_ms = step;
                    have_signed = [false; 3];
                }
                if joins {
                    world.join();
                    joined += APART_MS;
                }
                world.wait(later);
                world.beat(who);
                have_signed[who] |= world.signs[who].0 == world.now_ms;
                passed += pause + later;
                let ran = world.clock.steady_ms - START_MS;
                prop_assert!(ran <= passed + passed / 20 + joined + 1, "{ran} in {passed}");
                prop_assert!(world.clock.steady_ms >= before, "it went back");
                before = world.clock.steady_ms;
            }
        }
    }
}
