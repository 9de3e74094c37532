//! The rules by which a stamp is judged, and the ring of slots that remembers stamps. The SQL functions say the same.

use crate::admission::{AdmissionRow, AdmissionVerdict, HaltScope};
use gatepay_core::Kind;

/// The number of slots. A slot holds one slice of time, and is used again eight slices later.
pub const SLOTS: u64 = 8;
/// The shortest slice, in milliseconds of stamps.
pub const SHORTEST_SLICE_MS: u64 = 60_000;

/// One slot of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSlot {
    /// The slice of time that it holds. Stamps of older slices are forgotten.
    pub slice: u64,
    /// Whether stamps may be recorded in it. If not, it is still to be emptied.
    pub filling: bool,
}

/// All slots, by number.
pub type SlotRing = [RingSlot; 8];

/// A ring that has never held a stamp.
pub const UNUSED_RING: SlotRing = [RingSlot {
    slice: 0,
    filling: true,
}; 8];

/// The rules for a stamp, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct StampRules {
    /// The store's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// How far a stamp may lie ahead, in milliseconds.
    pub future_ms: u64,
    /// Stamps up to here are refused.
    pub guarded_until: u64,
    /// The length of a slice, in milliseconds.
    pub slice_ms: u64,
    /// Whether the store is a restored file, and no operator has accepted it.
    pub restored: bool,
    /// Whether writes without a body are refused.
    pub bodyless: bool,
}

impl StampRules {
    /// The slot of a stamp, and its slice.
    pub fn place(&self, stamp_ms: u64) -> (usize, u64) {
        let slice = stamp_ms / self.slice_ms;
        let slot = usize::try_from(slice % SLOTS).expect("a slot's number is small");
        (slot, slice)
    }

    /// The latest stamp that can be admitted now.
    pub fn latest(&self) -> u64 {
        self.now_ms.saturating_add(self.future_ms)
    }

    /// Opens the slices of stamps that can be admitted. If two slices of a batch share a slot, the newer one gets it.
    pub fn open(&self, slots: &mut [RingSlot], stamps: impl Iterator<Item = u64>) {
        for stamp in stamps.filter(|stamp| (self.guarded_until + 1..=self.latest()).contains(stamp))
        {
            let (slot, slice) = self.place(stamp);
            if slots[slot].slice <= slice {
                slots[slot] = RingSlot {
                    slice,
                    filling: true,
                };
            }
        }
    }

    /// Why a stamp that is not recorded is refused; `None` if it may be recorded. Stamps that cannot be looked up
    /// completely or recorded come first: the stamp of a halted write is [spent](spends).
    pub fn refusal<'a>(
        &self,
        row: &AdmissionRow,
        slots: &[RingSlot],
        halts: impl Iterator<Item = &'a HaltScope>,
    ) -> Option<AdmissionVerdict> {
        let (slot, slice) = self.place(row.stamp_ms);
        if slots[slot].slice > slice {
            return Some(AdmissionVerdict::Forgotten);
        }
        if row.stamp_ms <= self.guarded_until {
            let wait_ms = self.guarded_until - row.stamp_ms + 1;
            return Some(AdmissionVerdict::Guarded { wait_ms });
        }
        let ahead_ms = row.stamp_ms.saturating_sub(self.latest());
        if ahead_ms > 0 {
            return Some(AdmissionVerdict::Premature { ahead_ms });
        }
        if self.restored && row.kind == Kind::Money {
            return Some(AdmissionVerdict::Restored);
        }
        // The engines name the first scope by its text.
        let covering = halts.filter(|scope| scope.covers(row.kind, row.module, row.party.as_str()));
        if let Some(scope) = covering.min_by_key(ToString::to_string) {
            return Some(AdmissionVerdict::Halted(scope.clone()));
        }
        let is_bodyless_write = !row.has_body && row.kind != Kind::Read;
        (self.bodyless && is_bodyless_write).then_some(AdmissionVerdict::Bodyless)
    }

    /// The slot that is needed next is taken out of use, half a slice ahead of time.
    pub fn turn(&self, slots: &mut [RingSlot]) {
        let (slot, slice) = self.place(self.latest() + self.slice_ms / 2);
        if slots[slot].slice < slice {
            slots[slot] = RingSlot {
                slice,
                filling: false,
            };
        }
    }
}

/// Whether a stamp is recorded although it is refused: that of a halted write, so that no copy of it is admitted once the
/// halt has ended.
pub fn spends(refusal: &AdmissionVerdict, kind: Kind) -> bool {
    matches!(refusal, AdmissionVerdict::Halted(_)) && kind != Kind::Read
}

/// The length of a slice for a window: seven of eight slots cover it, with half a slice to prepare the eighth.
pub fn slice_ms(past_ms: u64, guard_ms: u64) -> u64 {
    let wanted = past_ms.saturating_add(guard_ms).div_ceil(6_500) * 1_000;
    wanted.max(SHORTEST_SLICE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_covered_while_the_next_slot_is_prepared() {
        for past_ms in [1, 300_000, 345_678, 3_600_000] {
            let (future_ms, guard_ms) = (10_000, 11_000);
            let slice_ms = slice_ms(past_ms, guard_ms);
            for now_ms in (1_767_225_600_000..).step_by(7_919).take(500) {
                let rules = StampRules {
                    now_ms,
                    future_ms,
                    guarded_until: 0,
                    slice_ms,
                    restored: false,
                    bodyless: false,
                };
                let mut slots = [RingSlot {
                    slice: 0,
                    filling: true,
                }; 8];
                rules.turn(&mut slots);
                let oldest = now_ms - past_ms - 1_000;
                let (slot, slice) = rules.place(oldest);
                assert!(
                    slots[slot].slice <= slice,
                    "past_ms {past_ms}, now {now_ms}"
                );
            }
        }
    }
}
