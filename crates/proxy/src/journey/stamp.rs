//! Stamp: the single use of a request's timestamp and nonce.

use std::time::Duration;

use gatepay_admission::replay::{Replay, StampFingerprint, UnusableStamp};

use crate::journey::authenticate::Caller;
use crate::record::RequestRecord;
use crate::refusal::{Refusal, StaleStamp};

/// The stamp of a request that the replay memory knows to be under way.
pub struct ArrivedStamp {
    fingerprint: StampFingerprint,
    usable: Result<(), UnusableStamp>,
}

impl ArrivedStamp {
    /// Reports the caller's stamp to the replay memory: from here on a refusal of another copy is in doubt.
    pub fn arrive(caller: &Caller<'_>, replay: &Replay, record: &mut RequestRecord) -> Self {
        let (client_id, rule) = (caller.client_id.as_str(), caller.owner.party().replay);
        let fingerprint = replay.fingerprint(client_id, &caller.stamp, rule);
        Self {
            fingerprint,
            usable: record.arrives(fingerprint),
        }
    }

    /// The stamp as the replay memory remembers it.
    pub fn fingerprint(&self) -> StampFingerprint {
        self.fingerprint
    }

    /// Whether the stamp could be used when it arrived. It is checked again when the request is admitted.
    pub fn usable(&self, now_ms: u64) -> Result<(), Refusal> {
        self.usable.map_err(|unusable| refuse(unusable, now_ms))
    }
}

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
