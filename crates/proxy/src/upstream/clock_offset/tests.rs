use super::*;
use prometheus::{Gauge, IntCounter, IntGauge};
use proptest::prelude::*;

const T0: u64 = 1_767_225_600_000;

fn guardian(clock: &Clock, follow: bool) -> UpstreamClock {
    let counter = |name: &str| IntCounter::new(name, name).unwrap();
    let meters = ClockMeters {
        offset: Gauge::new("offset", "offset").unwrap(),
        agreeing: IntGauge::new("agreeing", "agreeing").unwrap(),
        faults: [counter("stepped"), counter("frozen")],
    };
    let window = StampWindow {
        past_ms: 300_000,
        future_ms: 10_000,
    };
    UpstreamClock::new(clock.clone(), follow, window, meters)
}

/// Samples an answer of a GatePay that is `ahead_ms` ahead, received after `took`.
fn hear(guardian: &UpstreamClock, clock: &Clock, ahead_ms: i64, took: Duration) {
    let sent = clock.elapsed();
    let gatepays = i64::try_from(clock.unix_ms()).unwrap() + ahead_ms;
    let date = Timestamp::from_second(gatepays.div_euclid(1_000)).unwrap();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&date)
        .unwrap();
    clock.advance(took);
    guardian.observe(sent, Some(date.as_bytes()));
}

fn stamped(guardian: &UpstreamClock) -> i64 {
    i64::try_from(guardian.stamp().as_stamp().millis()).unwrap()
}

proptest! {
    /// Property: correct answers bound the offset. The first finds it to half a second, and later ones closely.
    #[test]
    fn the_offset_is_found(
        ahead_ms in -40_000_i64..40_000,
        answers in prop::collection::vec((0..5_000_u64, 0..300_u64), 2..40),
    ) {
        let clock = Clock::manual(T0);
        let guardian = guardian(&clock, true);
        for (pause, took) in &answers {
            clock.advance(Duration::from_millis(*pause));
            hear(&guardian, &clock, ahead_ms, Duration::from_millis(*took));
        }
        let found = guardian.offset_ms().unwrap();
        prop_assert!((found - ahead_ms).abs() <= 1_300, "{found} for {ahead_ms}");
        let error = stamped(&guardian) - i64::try_from(clock.unix_ms()).unwrap() - ahead_ms;
        prop_assert!(error.abs() <= 1_300, "stamps are off by {error}");
    }
}

#[test]
fn one_odd_answer_is_outvoted() {
    let clock = Clock::manual(T0 + 137);
    let guardian = guardian(&clock, true);
    for at in 0..10 {
        let odd = if at == 4 { 3_600_000 } else { 0 };
        hear(&guardian, &clock, 8_000 + odd, Duration::from_millis(40));
        clock.advance(Duration::from_millis(1_170));
        if at >= 1 {
            let off = guardian.offset_ms().unwrap() - 8_000;
            assert!(off.abs() < 1_000, "{at}: {off}");
        }
    }
    assert_eq!(guardian.meters.agreeing.get(), 9);
}

#[test]
fn a_gatepay_that_moves_is_believed_once_most_answers_say_so() {
    let clock = Clock::manual(T0);
    let guardian = guardian(&clock, true);
    for ahead_ms in [0, 30_000] {
        for _ in 0..REMEMBERED {
            hear(&guardian, &clock, ahead_ms, Duration::from_millis(20));
            clock.advance(Duration::from_millis(1_037));
        }
        assert!((guardian.offset_ms().unwrap() - ahead_ms).abs() < 200);
    }
}

#[test]
fn only_a_following_clock_is_corrected_and_only_when_answers_agree() {
    let clock = Clock::manual(T0);
    let (local, follows) = (guardian(&clock, false), guardian(&clock, true));
    for guardian in [&local, &follows] {
        hear(guardian, &clock, 30_000, Duration::ZERO);
        assert_eq!(
            stamped(guardian),
            i64::try_from(T0).unwrap(),
            "one says nothing"
        );
        hear(guardian, &clock, 30_000, Duration::ZERO);
    }
    assert_eq!(stamped(&local), i64::try_from(T0).unwrap());
    assert!(stamped(&follows) >= i64::try_from(T0).unwrap() + 30_000);
    assert!(!follows.is_unknown() && !local.is_unknown());
}

#[test]
fn the_clock_warning_comes_at_half_of_the_tolerated_offset() {
    let clock = Clock::manual(T0);
    for (follow, offset_ms, state) in [
        (false, 4_999, ClockHealth::InSync),
        (false, -5_000, ClockHealth::Skewed),
        (false, 9_999, ClockHealth::Skewed),
        (false, 10_000, ClockHealth::BeyondTolerance),
        (true, 10_000, ClockHealth::Skewed),
        (true, 10_001, ClockHealth::BeyondTolerance),
        (true, -30_000, ClockHealth::BeyondTolerance),
    ] {
        assert_eq!(
            guardian(&clock, follow).state(offset_ms),
            state,
            "{offset_ms}"
        );
    }
}

#[test]
fn a_clock_that_steps_or_stands_still_is_noticed() {
    let at = |wall: u64, passed: u64| (T0 + wall, Duration::from_millis(passed));
    for (after, found) in [
        (at(1_000, 1_000), None),
        (at(1_400, 1_000), None),
        (at(31_000, 1_000), Some(ClockFault::Stepped(30_000))),
        (at(1, 1_000), Some(ClockFault::Stepped(-999))),
        (at(0, 1_000), Some(ClockFault::Frozen)),
        (at(0, 10), None),
    ] {
        assert_eq!(fault(at(0, 0), after), found, "{after:?}");
    }
    assert_eq!(
        fault(at(5_000, 0), at(1_000, 1_000)),
        Some(ClockFault::Stepped(-5_000))
    );
}

#[test]
fn an_answer_without_a_valid_date_does_not_change_the_offset() {
    let clock = Clock::manual(T0);
    let guardian = guardian(&clock, true);
    for date in ["", "yesterday", "Thu, 99 Jan 2026 00:00:00 GMT"] {
        guardian.observe(clock.elapsed(), Some(date.as_bytes()));
    }
    guardian.observe(clock.elapsed(), None);
    assert_eq!(guardian.offset_ms(), None);
    assert!(guardian.is_unknown());
}
