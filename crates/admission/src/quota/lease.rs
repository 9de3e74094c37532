//! The part of the institution's rate that flows in here, where several instances share the rate.

use std::time::Duration;

use super::bands::WHOLE;
use crate::limiter::nanos;

/// A part of the institution's rate, lent to this instance for a time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RatePart {
    /// The part, in requests per second.
    pub per_second: f64,
    /// The part of the burst, in requests.
    pub burst: f64,
    /// The rate in force over all instances, in requests per second.
    pub whole: f64,
    /// The weight of all members that are active at any instance.
    pub weight: f64,
    /// The places that other instances hold.
    pub seated_elsewhere: u32,
    /// Until then calls take tokens and tokens flow in: another instance may have the part from then on.
    pub usable_until: Duration,
    /// Then the tokens end too.
    pub ends: Duration,
}

/// A part as the quota counts with it, in units and nanoseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct LeasedInflow {
    pub(super) part: RatePart,
    /// Millionths of a token per second.
    inflow: u64,
    /// The most units that can be saved up.
    pub(super) burst: i64,
    /// The units that could have been saved up by now, had no call taken any. A burst that has just grown is not expected to
    /// be full: calls are not refused for the sake of tokens that were never there.
    pub(super) span: i64,
}

/// One token in units: a rate in tokens per second is then a rate in units per nanosecond.
pub(super) const TOKEN: i64 = 1_000_000_000;
/// How fine a member's weight is counted, since a member may have a part of its weight at each instance.
pub(super) const WEIGHT_UNIT: u32 = 1_000;
/// When a call that finds nothing lent may try again, in nanoseconds: the next exchange with the store comes as soon.
const UNLENT_WAIT: u64 = 50_000_000;
/// The longest wait that is told, in nanoseconds: the part changes several times a second.
const LONGEST_WAIT: u64 = 1_000_000_000;

impl LeasedInflow {
    /// When the tokens end.
    pub(super) fn ends(&self) -> u64 {
        nanos(self.part.ends)
    }

    fn usable_until(&self) -> u64 {
        nanos(self.part.usable_until)
    }

    /// Applies the rate after push-backs at this instance at once, before the store lends less. Returns whether the inflow
    /// changed.
    pub(super) fn slow_down(&mut self, per_second: u32) -> bool {
        let before = (self.inflow, self.burst);
        let slower = match self.part.whole {
            whole if whole > 0.0 => (f64::from(per_second) / whole).min(1.0),
            _ => 1.0,
        };
        let burst = (self.part.burst * slower).max(self.part.burst.min(1.0));
        self.inflow = floor(self.part.per_second * slower * f64::from(WHOLE));
        self.burst = i64::try_from(floor(burst * TOKEN_UNITS)).unwrap_or(i64::MAX);
        self.span = self.span.min(self.burst);
        before != (self.inflow, self.burst)
    }

    /// The rate in force over all instances, in requests per second; `None` before the first part.
    pub(super) fn whole(&self) -> Option<u32> {
        let whole = u32::try_from(floor(self.part.whole)).unwrap_or(u32::MAX);
        (self.part.whole > 0.0).then_some(whole.max(1))
    }

    /// The weight of all active members over all instances, by which their shares of the places are counted.
    pub(super) fn weight(&self) -> u64 {
        floor(self.part.weight * f64::from(WEIGHT_UNIT))
    }

    /// The tokens that could have been saved up by now, and at least one.
    pub(super) fn span_tokens(&self) -> u32 {
        u32::try_from(self.span / TOKEN).unwrap_or(u32::MAX).max(1)
    }

    /// Notes an inflow. Returns whether tokens that could be there have become more.
    pub(super) fn widen(&mut self, flow: u128) -> bool {
        let before = self.span_tokens();
        let flow = i64::try_from(flow).unwrap_or(i64::MAX);
        self.span = self.span.saturating_add(flow).min(self.burst);
        self.span_tokens() != before
    }

    /// The inflow in requests per second.
    pub(super) fn per_second(&self) -> f64 {
        let inflow = u32::try_from(self.inflow / u64::from(WHOLE)).unwrap_or(u32::MAX);
        f64::from(inflow)
    }

    /// The units that flow in from one time to another.
    pub(super) fn flow(&self, from: u64, to: u64) -> u128 {
        self.flow_over(to.min(self.usable_until()).saturating_sub(from))
    }

    /// The units that flow in over a time.
    pub(super) fn flow_over(&self, time: u64) -> u128 {
        u128::from(self.inflow) * u128::from(time) / u128::from(WHOLE)
    }

    /// Nanoseconds until `lacking` units have flowed in, if more than none are lacking.
    pub(super) fn wait_for(&self, lacking: i64, now: u64) -> u64 {
        let unlent = if now < self.usable_until() {
            0
        } else {
            UNLENT_WAIT
        };
        match u64::try_from(lacking) {
            Ok(lacking @ 1..) => self.time_of_part(lacking.into(), WHOLE).max(unlent),
            _ => unlent,
        }
    }

    /// The time, in nanoseconds, in which a part of the inflow, in millionths, brings a number of units.
    pub(super) fn time_of_part(&self, units: u128, part: u32) -> u64 {
        let whole = u128::from(WHOLE) * u128::from(WHOLE);
        let time = units
            .saturating_mul(whole)
            .div_ceil((u128::from(self.inflow) * u128::from(part)).max(1));
        if units == 0 {
            0
        } else if self.inflow == 0 {
            UNLENT_WAIT
        } else {
            u64::try_from(time).map_or(LONGEST_WAIT, |time| time.clamp(1, LONGEST_WAIT))
        }
    }
}

/// [`TOKEN`] in floating point.
const TOKEN_UNITS: f64 = 1e9;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a negative figure becomes 0, and a huge one the largest number"
)]
fn floor(figure: f64) -> u64 {
    figure as u64
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use gatepay_core::Kind;
    use gatepay_tenancy::settings::QuotaSettings;

    use super::*;
    use crate::quota::{OwnCallPurpose, Quota, QuotaShare};

    #[test]
    fn look_ups_alone_take_saved_tokens_until_a_lease_without_an_answer_ends() {
        let at = Duration::from_millis;
        let quota = Quota::leased(&QuotaSettings::default(), at(0));
        let part = RatePart {
            per_second: 500.0,
            burst: 500.0,
            whole: 500.0,
            weight: 1.0,
            seated_elsewhere: 0,
            usable_until: at(2_000),
            ends: at(2_000),
        };
        quota.lend(part, at(0));
        let takes = |purpose, ms| quota.take_for(purpose, at(ms)).is_ok();
        assert!(takes(OwnCallPurpose::Repeat, 1_000));
        // An exchange without an answer.
        let part = RatePart {
            usable_until: at(1_100),
            ..part
        };
        quota.lend(part, at(1_000));
        assert!(!takes(OwnCallPurpose::Repeat, 1_200));
        assert!(takes(OwnCallPurpose::LookUp, 1_200));
        assert!(!takes(OwnCallPurpose::LookUp, 2_000));
    }

    /// Ten places of which two are kept for payments: the share of the one member here.
    fn ten_places(weight: f64, seated_elsewhere: u32) -> QuotaShare {
        let settings = QuotaSettings {
            in_flight: NonZeroU32::new(10),
            reserve: 0.2,
            ..QuotaSettings::default()
        };
        let at = Duration::from_millis;
        let quota = Quota::leased(&settings, at(0));
        let part = RatePart {
            per_second: 500.0,
            burst: 500.0,
            whole: 500.0,
            weight,
            seated_elsewhere,
            usable_until: at(60_000),
            ends: at(60_000),
        };
        quota.lend(part, at(0));
        QuotaShare::new(&quota, NonZeroU32::MIN)
    }

    #[test]
    fn the_last_places_over_all_instances_are_kept_for_payments() {
        let at = Duration::from_secs(1);
        for (elsewhere, reads, payments) in [(0, 8, 2), (5, 3, 2), (8, 0, 2), (9, 0, 1), (10, 0, 0)]
        {
            let share = ten_places(1.0, elsewhere);
            let takes = |kind| {
                (0..20)
                    .filter(|_| share.take_part(kind, 1.0, at).is_ok())
                    .count()
            };
            assert_eq!(
                (takes(Kind::Read), takes(Kind::Money)),
                (reads, payments),
                "{elsewhere}"
            );
        }
    }

    #[test]
    fn a_members_share_of_the_places_counts_the_weight_of_all_instances() {
        let at = Duration::from_secs(1);
        // Of ten members at other instances it knows nothing but their weight: its own share is one place, and beyond
        // its share a member leaves a quarter free.
        for (weight, reads) in [(1.0, 8), (10.0, 6)] {
            let share = ten_places(weight, 0);
            let takes = (0..20).filter(|_| share.take_part(Kind::Read, 1.0, at).is_ok());
            assert_eq!(takes.count(), reads, "{weight}");
        }
    }
}
