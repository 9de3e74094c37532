//! The bands of the burst: they define access to its last tokens.
//!
//! ```text
//! burst ────────────────  every party takes
//! lend  ────────────────  … while more than this is left; below it no party borrows
//! saved ────────────────  below it no party takes its saved credit: only the present inflow of its share
//! fresh ────────────────  below it only a party that has taken none of that for a moment: a newcomer finds a token
//! read  ────────────────  below it only write and money calls, out of the reserve
//! act   ────────────────  below it only look-ups of money calls whose outcome is unknown
//! 0
//! ```

/// Tokens that are kept for calls of higher rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenBands {
    /// For look-ups.
    pub(super) act: u32,
    /// For write and money calls within the reserve.
    pub(super) read: u32,
    /// The lower end of the bands for tenants: `read`, with room for the reserve above it.
    top: u32,
    /// For tenants that have taken little of their present inflow.
    pub(super) fresh: u32,
    /// For tenants that take at most their present inflow.
    pub(super) saved: u32,
    /// For tenants below their share.
    pub(super) lend: u32,
}

/// The unit in which the reserve is counted: millionths.
pub(super) const WHOLE: u32 = 1_000_000;

impl TokenBands {
    /// The bands of a burst, with a reserve in millionths of it, at most half.
    ///
    /// With one token more no band begins more than one token higher. So while the burst grows back after a push-back,
    /// no party has to wait longer than it was told.
    pub(super) fn of(burst: u32, reserve: u32) -> Self {
        let part = |quarters: u64| {
            let part = u64::from(burst) * u64::from(reserve) * quarters / (4 * u64::from(WHOLE));
            u32::try_from(part).expect("less than the burst")
        };
        // The reserve may be drawn while more than itself is left; then the bands above it are as deep as promised.
        let top = part(7);
        let rest = burst - top;
        let lend = top + rest / 2;
        let saved = (top + rest.div_ceil(4)).min(lend);
        Self {
            act: part(1),
            read: part(4),
            top,
            fresh: (top + rest.div_ceil(8)).min(saved),
            saved,
            lend,
        }
    }

    /// How many tokens of the reserve can be saved up.
    pub(super) fn reserve(self) -> u32 {
        (self.read - self.act).min(self.top - self.read)
    }

    /// How many tokens all tenants together may take at once of their present inflow.
    pub(super) fn smooth(self) -> u32 {
        self.saved - self.top
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_of_what_is_not_reserved_is_kept_from_borrowers() {
        let bands = TokenBands::of(500, 100_000);
        let expected = TokenBands {
            act: 12,
            read: 50,
            top: 87,
            fresh: 139,
            saved: 191,
            lend: 293,
        };
        assert_eq!(bands, expected);
        assert_eq!((bands.reserve(), bands.smooth()), (37, 104));
        let bare = TokenBands::of(500, 0);
        assert_eq!((bare.read, bare.saved, bare.lend), (0, 125, 250));
    }

    proptest! {
        #[test]
        fn bands_lie_in_order_below_the_burst(burst in 1..5_000_u32, reserve in 0..=500_000_u32) {
            let bands = TokenBands::of(burst, reserve);
            let more = TokenBands::of(burst + 1, reserve);
            for (one, other) in [
                (bands.act, more.act), (bands.read, more.read), (bands.fresh, more.fresh),
                (bands.saved, more.saved), (bands.lend, more.lend),
            ] {
                prop_assert!(one <= other && other <= one + 1);
            }
            prop_assert!(bands.act <= bands.read && bands.read <= bands.fresh);
            prop_assert!(bands.fresh <= bands.saved && bands.saved <= bands.lend && bands.lend < burst);
        }
    }
}
