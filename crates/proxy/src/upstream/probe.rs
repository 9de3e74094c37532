//! Probe: reads that the proxy sends on its own account.
//!
//! They find out whether GatePay answers while calls fail, whether it has recovered, its clock's time, and whether it
//! accepts a credential.

use std::time::Duration;

use bytes::Bytes;
use gatepay_admission::quota::OwnCallPurpose;
use gatepay_core::Kind;
use gatepay_core::envelope::AnswerVerdict;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::upstream::exchange::{AnswerBody, CallFailure, UpstreamAnswer};
use crate::upstream::forward::{self, UpstreamCall};

/// Interval at which the need for a probe is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Timeout of one probe.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether GatePay accepts the credential that signs `attempt`: its answer must report success.
pub async fn prove(
    call: UpstreamCall<'_>,
    attempt: impl FnMut(&mut Vec<u8>) -> Bytes,
) -> Result<(), String> {
    if call.quota.take_for(OwnCallPurpose::Probe).is_err() {
        return Err("the institution's quota is spent".to_owned());
    }
    match forward::send(&call, Kind::Read, Instant::now(), TIMEOUT, attempt).await {
        Ok(UpstreamAnswer {
            body: AnswerBody::Whole(_, judgement),
            head,
        }) => match (judgement.verdict, judgement.code) {
            (AnswerVerdict::Success, _) => Ok(()),
            (_, Some(code)) => Err(format!("GatePay answered {}", code.as_str())),
            (_, None) => Err(format!("GatePay answered HTTP {}", head.status.as_u16())),
        },
        Ok(_) => Err("GatePay's answer is too long to be one".to_owned()),
        Err(CallFailure::NotSent(detail) | CallFailure::NoPlace(detail)) => {
            Err(format!("GatePay was not reached: {detail}"))
        }
        Err(CallFailure::Unavailable(_)) => Err("GatePay has been failing".to_owned()),
        Err(CallFailure::Stopped(_)) => Err("it was stopped".to_owned()),
        Err(CallFailure::Lost { what, .. }) => Err(what.to_owned()),
    }
}

/// Sends a probe whenever the breaker wants one, or GatePay's time is followed and unknown.
///
/// `ask` returns the maker of a signed read that concerns no party, if there is such a read.
pub async fn watch<A>(call: UpstreamCall<'_>, ask: impl Fn() -> Option<A>)
where
    A: FnMut(&mut Vec<u8>) -> Bytes,
{
    let mut tick = interval(CHECK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = call.breaker.wanted() => {}
        }
        if !call.breaker.wants_read() && !call.clock.is_unknown() {
            continue;
        }
        let Some(attempt) = ask() else {
            call.breaker.despair();
            continue;
        };
        if call.quota.take_for(OwnCallPurpose::Probe).is_ok() {
            call.breaker.asked();
            // `forward` reports the outcome to the breaker and the clock.
            let _ = forward::send(&call, Kind::Read, Instant::now(), TIMEOUT, attempt).await;
        }
    }
}
