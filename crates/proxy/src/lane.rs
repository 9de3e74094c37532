//! A tenant's lane: its limiters, its seats and its counters. It outlives every reload.

use std::sync::Arc;

use gatepay_core::Kind;
use gatepay_tenancy::{Limits, Rate};

use crate::clock::Clock;
use crate::limiter::{Limiter, Seats, Spent, Token};
use crate::metrics::TenantMeters;

/// One tenant's room.
pub struct Lane {
    all: Limiter,
    by_kind: [Option<Limiter>; 3],
    /// How many of its requests may be in flight.
    pub seats: Arc<Seats>,
    /// Its counters.
    pub meters: Arc<TenantMeters>,
}

impl Lane {
    /// Full buckets, free seats.
    pub fn new(limits: &Limits, meters: Arc<TenantMeters>, clock: &Clock) -> Self {
        let limiter = |rate: Rate| Limiter::new(rate, clock);
        Self {
            all: limiter(limits.all),
            by_kind: [Kind::Read, Kind::Write, Kind::Money]
                .map(|kind| limits.of_kind(kind).map(limiter)),
            seats: Seats::new(limits.in_flight),
            meters,
        }
    }

    /// Takes one token of every limit that applies, or none and says when all of them will have one.
    pub fn take(&self, kind: Kind) -> Result<Tokens<'_>, Spent> {
        let of_kind = self.by_kind[kind as usize]
            .as_ref()
            .map(Limiter::take)
            .transpose();
        match (self.all.take(), of_kind) {
            (Ok(all), Ok(of_kind)) => Ok(Tokens { all, of_kind }),
            (Err(spent), Ok(_)) | (Ok(_), Err(spent)) => Err(spent),
            (Err(one), Err(other)) => Err(if one.wait < other.wait { other } else { one }),
        }
    }
}

/// What was taken; dropped, it is given back.
pub struct Tokens<'a> {
    all: Token<'a>,
    of_kind: Option<Token<'a>>,
}

impl Tokens<'_> {
    /// The request went ahead.
    pub fn spend(self) {
        self.all.spend();
        if let Some(token) = self.of_kind {
            token.spend();
        }
    }
}
