//! The names of the limits: the same in the access line and the metrics.

use gatepay_core::Kind;

/// A limit that a request can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitName {
    /// The party's own rate.
    Rate,
    /// The party's own rate of reads.
    Read,
    /// The party's own rate of writes.
    Write,
    /// The party's own rate of money calls.
    Money,
    /// The party's own calls in flight.
    InFlight,
    /// The institution's rate, or the party's share of it.
    Institution,
    /// The institution's calls in flight, or the party's share of them.
    InstitutionInFlight,
}

impl LimitName {
    /// Every limit, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Rate,
        Self::Read,
        Self::Write,
        Self::Money,
        Self::InFlight,
        Self::Institution,
        Self::InstitutionInFlight,
    ];

    /// The party's own rate of one kind of calls.
    pub fn of_kind(kind: Kind) -> Self {
        match kind {
            Kind::Read => Self::Read,
            Kind::Write => Self::Write,
            Kind::Money => Self::Money,
        }
    }

    /// The name in the access line and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Read => "read",
            Self::Write => "write",
            Self::Money => "money",
            Self::InFlight => "in_flight",
            Self::Institution => "institution",
            Self::InstitutionInFlight => "institution_in_flight",
        }
    }
}

/// A set of limits: those in shadow mode that would have refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitSet(u8);

impl LimitSet {
    /// Adds a limit.
    pub fn add(&mut self, limit: LimitName) {
        self.0 |= 1 << limit as u8;
    }

    /// Whether the set has no limit.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// The limits in the set.
    pub fn iter(self) -> impl Iterator<Item = LimitName> {
        let has = move |limit: &LimitName| self.0 & (1 << *limit as u8) != 0;
        LimitName::ALL.into_iter().filter(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_names_what_was_added_to_it() {
        let mut set = LimitSet::default();
        assert!(set.is_empty());
        for limit in [LimitName::Money, LimitName::Rate, LimitName::Money] {
            set.add(limit);
        }
        let names: Vec<_> = set.iter().map(LimitName::as_str).collect();
        assert_eq!(names, ["rate", "money"]);
    }
}
