//! Stamp: the single use of a request's timestamp and nonce.

use std::time::Duration;

use gatepay_admission::replay::{Replay, StampFingerprint, UnusableStamp};

use crate::journey::authenticate::Caller;
use crate::journey::route::Routed;
use crate::process::watermark::StampWatermark;
use crate::record::RequestRecord;
use crate::refusal::{Refusal, StaleStamp};

/// A call that an identified caller claims to make, with a stamp that the replay memory knows to be under way. Nothing is
/// proved. The states after it refer to it, so that moving them from step to step costs little.
pub struct ClaimedCall<'g> {
    routed: Routed<'g>,
    caller: Caller<'g>,
    fingerprint: StampFingerprint,
    usable: Result<(), UnusableStamp>,
}

impl<'g> ClaimedCall<'g> {
    /// Reports the caller's stamp to the replay memory: from here on a refusal of another copy is in doubt.
    pub fn arrive(
        routed: Routed<'g>,
        caller: Caller<'g>,
        replay: &Replay,
        record: &mut RequestRecord,
    ) -> Self {
        record.claimed(caller.position);
        let (client_id, rule) = (caller.client_id.as_str(), caller.owner.party().replay);
        let fingerprint = replay.fingerprint(client_id, &caller.stamp, rule);
        Self {
            routed,
            fingerprint,
            usable: record.arrives(fingerprint),
            caller,
        }
    }

    /// The operation, and the generation that judges the request.
    pub fn routed(&self) -> Routed<'g> {
        self.routed
    }

    /// The caller, by its own words.
    pub fn caller(&self) -> &Caller<'g> {
        &self.caller
    }

    /// Whether the stamp could be used when it arrived. It is checked again when the call is admitted.
    pub fn usable(&self, now_ms: u64) -> Result<(), Refusal> {
        self.usable.map_err(|unusable| refuse(unusable, now_ms))
    }

    /// The stamp, once the watermark on disk covers it.
    pub async fn covered(
        &self,
        watermark: &StampWatermark,
        record: &mut RequestRecord,
    ) -> Result<CoveredStamp, Refusal> {
        if watermark.covers(self.caller.stamp.millis()).await {
            return Ok(CoveredStamp(self.fingerprint));
        }
        record.detail("the state folder cannot be written".to_owned());
        Err(Refusal::Overloaded(UNMARKED))
    }
}

/// A stamp that may be recorded as used: the next process will know that it may have been.
pub struct CoveredStamp(StampFingerprint);

impl CoveredStamp {
    /// The stamp as the replay memory remembers it.
    pub fn fingerprint(&self) -> StampFingerprint {
        self.0
    }
}

/// The refusal text while admissions cannot be stored for the next process.
const UNMARKED: &str =
    "admissions cannot be recorded at present; send the same bytes again after Retry-After";

/// The refusal for a stamp that cannot be used.
pub fn refuse(unusable: UnusableStamp, now_ms: u64) -> Refusal {
    match unusable {
        UnusableStamp::Seen { admitted_ms } => Refusal::Replayed {
            what: "this timestamp and nonce were",
            admitted_ms_ago: now_ms.saturating_sub(admitted_ms),
        },
        UnusableStamp::NonceSeen { admitted_ms } => Refusal::Replayed {
            what: "this nonce was used with another timestamp, which was",
            admitted_ms_ago: now_ms.saturating_sub(admitted_ms),
        },
        UnusableStamp::Guarded { wait_ms } => Refusal::Starting {
            retry: Duration::from_millis(wait_ms),
        },
        UnusableStamp::Forgotten { horizon_ms } if horizon_ms > now_ms => Refusal::Starting {
            retry: Duration::from_millis(horizon_ms - now_ms + 1),
        },
        UnusableStamp::Forgotten { .. } => Refusal::StaleTimestamp(StaleStamp::Forgotten),
        UnusableStamp::HandedOver => Refusal::Overloaded(
            "this process is ending; send the same bytes again after Retry-After",
        ),
        UnusableStamp::Full => Refusal::Overloaded(
            "the replay memory is full; send the same bytes again after Retry-After",
        ),
    }
}
