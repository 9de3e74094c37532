//! A request's journey, top to bottom. This file holds the order of the steps; its submodules hold the steps.
//!
//! A request is [`Routed`](route::Routed), then a [`ClaimedCall`], [`Verified`](verify::Verified),
//! [`Judged`](judge::Judged), [`Composed`](sign::Composed) and [`Admitted`]. Each state can be made only from the state before it, so that no step
//! can be left out.

pub mod admit;
pub mod answer;
pub mod arrival;
pub mod authenticate;
pub mod callback;
pub mod ingress;
pub mod intent;
pub mod judge;
pub mod lost_call;
pub mod own_answer;
pub mod refuse;
pub mod relay;
pub mod route;
pub mod shared_limits;
pub mod sign;
pub mod stamp;
pub mod store_verdict;
pub mod verify;

use std::pin::pin;
use std::sync::Arc;

use gatepay_core::Kind;
use gatepay_core::own_operation::OwnOperation;
use gatepay_http1::request_head::RequestHead;

use crate::callers::activity::ActiveRequest;
use crate::callers::address_limits::ConnectionPeer;
use crate::callers::body_memory::BodyReservation;
use crate::callers::client_address::ClientAddress;
use crate::headers::KnownHeaders;
use crate::journey::admit::{AdmissionGate, Admitted};
use crate::journey::answer::RelayableAnswer;
use crate::journey::arrival::Arrival;
use crate::journey::authenticate::IdentifiedCaller;
use crate::journey::ingress::{RequestBody, StopReason, unless_gone};
use crate::journey::judge::{BodyRules, CallerClaims};
use crate::journey::lost_call::LookUpMeans;
use crate::journey::refuse::refuse;
use crate::journey::relay::Reply;
use crate::journey::sign::{OutboundRules, SignedAttempts};
use crate::journey::stamp::ClaimedCall;
use crate::journey::verify::{Upload, UploadBounds};
use crate::process::drain::{DrainPhase, EntryGuard, RunningGuard};
use crate::record::RequestRecord;
use crate::record::access_line::RequestPhase;
use crate::record::refused_head::RefusedHead;
use crate::refusal::{CallOutcome, Refusal};
use crate::upstream::forward::{self, CallOwner, UpstreamCall};
use crate::worker::Worker;

/// Answers a request, whatever its outcome, unless the caller has left.
pub async fn handle<B: RequestBody>(
    worker: &Arc<Worker>,
    peer: &ConnectionPeer,
    busy: ActiveRequest,
    entering: EntryGuard,
    head: &RequestHead<'_>,
    body: &mut B,
) -> Option<Reply> {
    let app = &worker.app;
    let trusted_proxies = &app.listener.trusted_proxies;
    let Arrival {
        origin,
        lines,
        mut record,
    } = Arrival::begin(head, peer, busy, trusted_proxies, &app.telemetry);
    let reserved = app.admission.body_memory.hold(peer.unauthenticated_bytes());
    let entered = enter(worker, origin, reserved, (head, &lines), body, &mut record).await;
    drop(entering);
    let mut reply = match entered {
        Err(StopReason::Gone) => return None,
        Err(StopReason::Refused(refusal)) => {
            if refusal.is_failed_authentication()
                && let Some(address) = origin.attributable()
            {
                app.admission.auth_throttle.failed(address);
            }
            record.is_refused_unidentified(&RefusedHead::of_lines(head.lines()));
            refuse(record, refusal, app.settings.refusal_status)
        }
        Ok(admitted) if admitted.kind() == Kind::Read => {
            let leaving = pin!(leave(worker, admitted, record));
            unless_gone(body, leaving).await.ok()?
        }
        Ok(admitted) => {
            // From here on the call runs in its own task: a caller that leaves does not stop a call already under way.
            let running = RunningGuard::begin(&app.lifecycle.drain);
            let worker = Arc::clone(worker);
            let detached = tokio::spawn(async move {
                let reply = leave(&worker, admitted, record).await;
                drop(running);
                reply
            });
            match unless_gone(body, pin!(detached)).await.ok()? {
                Ok(reply) => reply,
                // The record was written while the task unwound. The connection is aborted: the caller reads no answer.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    };
    if app.lifecycle.drain.phase() >= DrainPhase::Leaving {
        reply.close();
    }
    Some(reply)
}

/// Takes a request from its head to its permit.
async fn enter(
    worker: &Worker,
    origin: ClientAddress,
    reserved: BodyReservation,
    (head, lines): (&RequestHead<'_>, &KnownHeaders<'_>),
    body: &mut impl RequestBody,
    record: &mut RequestRecord,
) -> Result<Box<Admitted>, StopReason> {
    let (app, admission) = (&worker.app, &worker.app.admission);
    let generation = app.generation.load_full();

    let target = ingress::target(head, lines)?;
    let claimed = authenticate::claimed(&generation.registry, lines);
    if let Some(claimed) = &claimed {
        generation.prefetch(claimed);
    }
    let routed = route::operation(&generation, &target, claimed.map(|claimed| claimed.owner))?;
    record.operation(routed.position(), &generation, routed.is_by_operator());

    let mut upload = Upload {
        body,
        reserved,
        head_bytes: target.bytes,
        content_type: lines.content_type,
    };
    let bounds = UploadBounds::new(&app.settings.listen, &admission.auth_throttle, origin);
    let caller = match authenticate::identify(claimed, lines, record.began_unix_ms())? {
        IdentifiedCaller::InForce(caller) => caller,
        IdentifiedCaller::NotInForce(caller) => {
            let recognized = verify::recognize(routed, &caller, &mut upload, &bounds, record);
            return Err(Box::pin(recognized).await);
        }
    };
    let claim = ClaimedCall::arrive(routed, caller, &admission.replay, record);
    let verified = verify::receive(&claim, &mut upload, &bounds, record).await?;

    let claims = CallerClaims::new(origin.address, lines);
    let rules = BodyRules::of(&app.settings, app.journal.is_some(), app.caps.as_deref());
    let judged = judge::judge(verified, claims, rules, &admission.offload, record).await?;

    let rules = OutboundRules::of(&app.settings, &app.upstream.host, &admission.offload);
    let translation = sign::translate(&judged, &rules).await?;
    let composed = sign::compose(judged, translation, (head, lines), &rules, record)?;

    let stamp = claim.covered(&admission.watermark, record).await?;
    let gate = AdmissionGate {
        in_force: &app.generation.load(),
        journal: app.journal.as_ref(),
        replay: &admission.replay,
        cluster: app.cluster.as_ref(),
        caps: app.caps.as_deref(),
        clock: &app.clock,
        address: origin.address,
    };
    Ok(shared_limits::admit(composed, (&claim, &stamp), upload.reserved, &gate, record).await?)
}

/// Takes a call from its permit to its answer.
async fn leave(
    worker: &Worker,
    mut admitted: Box<Admitted>,
    mut record: Box<RequestRecord>,
) -> Reply {
    let settings = &worker.app.settings;
    match call(worker, &mut admitted, &mut record).await {
        Ok(RelayableAnswer::Whole(head, body)) => {
            relay::whole(head, body, record, Some(admitted.into_permit()))
        }
        Ok(RelayableAnswer::Long(head, long)) => {
            let stall = settings.upstream.deadline;
            relay::long(head, long, stall, record, admitted.into_permit())
        }
        Err(refusal) => {
            admitted.is_refused(&refusal);
            refuse(record, refusal, settings.refusal_status)
        }
    }
}

/// Makes an admitted call: journal, sign, forward, judge the answer.
async fn call(
    worker: &Worker,
    admitted: &mut Admitted,
    record: &mut RequestRecord,
) -> Result<RelayableAnswer, Refusal> {
    let (app, upstream) = (&worker.app, &worker.app.upstream);
    callback::exchange(admitted, app.notifications.as_deref()).await?;
    intent::write_if_any(app.journal.as_ref(), admitted.take_intent(), record).await?;
    if let Some(own) = OwnOperation::of(admitted.operation()) {
        let stores = (app.cluster.as_ref(), app.notifications.as_deref());
        return Box::pin(own_answer::answer(own, stores, admitted, record)).await;
    }
    let Some(signing) = upstream.credential_rotation.signing(admitted.institution()) else {
        record.detail("no institution credential is valid at this time".to_owned());
        return Err(Refusal::Internal(CallOutcome::NotExecuted));
    };
    let now = app.clock.instant(record.enter_phase(RequestPhase::Connect));
    admitted.commit();
    let call = UpstreamCall {
        gzip: admitted.outbound().accepts_gzip(),
        ..worker.upstream_call(CallOwner::Party(admitted.tenant_limits()))
    };
    let attempts = SignedAttempts {
        outbound: admitted.outbound(),
        credential: signing.credential(),
        clock: &upstream.clock,
        record,
        halts: store_verdict::send_check((app.cluster.as_ref(), &app.local_halts), admitted),
    };
    let limit = app.settings.upstream.deadline;
    let sent = forward::send(&call, admitted.kind(), now, limit, attempts).await;
    record.enter_phase(RequestPhase::Own);
    let means = LookUpMeans {
        upstream: worker.upstream_call(CallOwner::Proxy),
        credential: signing.credential(),
        within: app.settings.upstream.resolve,
        drain: (&app.lifecycle.drain, app.settings.drain.deadline),
        ledger: app.notifications.as_ref().map(|it| &it.ledger),
        caps: app.caps.as_deref(),
    };
    answer::judge(sent, admitted, &means, app.settings.refusal_status, record).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::http2::stream::Http2Stream;
    use crate::memory_bound::REQUEST;

    #[test]
    fn a_request_that_waits_is_small() {
        fn size<A, B, C, D, E, F, G>(_: impl Fn(A, B, C, D, E, F) -> G) -> usize {
            size_of::<G>()
        }
        // The HTTP/2 library's memory per stream comes on top, and so does the head, which is counted separately.
        let size = size(handle::<Http2Stream>);
        assert!(size <= REQUEST * 2 / 5, "{size} bytes");
    }
}
