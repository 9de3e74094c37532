//! Pseudo-random numbers that are the same in every run.

use bytes::Bytes;
use gatepay_sandbox::{ApiFailure, InjectedFault};

/// The sequence of splitmix64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `most`.
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let at = self.below(all.len() as u64);
        all[usize::try_from(at).expect("it is small")]
    }

    /// A fault of a call that moves money, by a die of so many sides. From the eighth on the answer breaks off.
    pub(crate) fn fault_of_money(&mut self, sides: u64) -> InjectedFault {
        match self.below(sides) {
            0 => InjectedFault::ResetBeforeReading,
            1 => InjectedFault::ResetBeforeExecuting,
            2 => InjectedFault::ResetAfterExecuting,
            3 => InjectedFault::Truncated,
            4 => InjectedFault::Garbage(Bytes::from_static(b"no answer")),
            5 => InjectedFault::Failure(ApiFailure::PayoutBalance),
            6 => InjectedFault::Status {
                status: 502,
                body: Bytes::from_static(b"bad gateway"),
            },
            _ => InjectedFault::ResetMidAnswer {
                after_bytes: usize::try_from(self.below(400)).unwrap(),
            },
        }
    }
}
