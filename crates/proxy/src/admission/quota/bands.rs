//! How the burst is cut into bands: who may take which of its last tokens.
//!
//! ```text
//! burst ────────────────  anybody takes
//! lend  ────────────────  … while more than this is left; below it nobody borrows
//! saved ────────────────  below it nobody takes what it saved up: only what its share lets flow in now
//! fresh ────────────────  below it of those only who has not taken of it for a moment: who comes new, finds a token
//! read  ────────────────  below it only write and money calls, out of the reserve
//! act   ────────────────  below it only look-ups of money calls whose outcome is unknown
//! 0
//! ```

/// Tokens that are left to those who rank higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenBands {
    /// To look-ups.
    pub(super) act: u32,
    /// To write and money calls within the reserve.
    pub(super) read: u32,
    /// What is left when the reserve is drawn from here: `read`, with room for that above it.
    top: u32,
    /// To tenants that have hardly taken of what flows in for them.
    pub(super) fresh: u32,
    /// To tenants that take no more than flows in for them.
    pub(super) saved: u32,
    /// To tenants below their share.
    pub(super) lend: u32,
}

/// Millionths, in which the reserve is counted.
pub(super) const WHOLE: u32 = 1_000_000;

impl TokenBands {
    /// Of a burst, with a reserve in millionths of it, at most half.
    ///
    /// With one token more no band begins more than one token higher: as the burst grows back after GatePay pushed
    /// back, nobody has to wait longer than it was told.
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

    /// How many tokens all tenants together may take at once of what flows in for them.
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
