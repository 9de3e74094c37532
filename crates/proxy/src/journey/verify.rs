//! Verify: reads the body and proves that the caller signed it.

use std::pin::pin;

use bytes::Bytes;
use gatepay_core::Operation;
use gatepay_tenancy::settings::ListenSettings;

use crate::callers::auth_throttle::AuthThrottle;
use crate::callers::body_memory::BodyReservation;
use crate::callers::client_address::ClientAddress;
use crate::headers::AtMostOnce;
use crate::journey::authenticate::{self, Caller};
use crate::journey::ingress::{self, BodyTime, RequestBody, StopReason, unless_gone};
use crate::journey::route::Routed;
use crate::journey::stamp::ClaimedCall;
use crate::process::yielding::{YIELD_AFTER, in_pieces};
use crate::record::RequestRecord;
use crate::record::access_line::RequestPhase;
use crate::refusal::Refusal;

/// A request that its caller has signed, with exactly this body. [`receive`] alone makes one.
pub struct Verified<'g> {
    claim: &'g ClaimedCall<'g>,
    body: Bytes,
}

impl<'g> Verified<'g> {
    /// The call, which is proved now.
    pub fn claim(&self) -> &'g ClaimedCall<'g> {
        self.claim
    }

    /// The operation, and the generation that judges the request.
    pub fn routed(&self) -> Routed<'g> {
        self.claim.routed()
    }

    /// The proved caller.
    pub fn caller(&self) -> &'g Caller<'g> {
        self.claim.caller()
    }

    /// The body that the caller signed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Moves the body out, for the request to GatePay.
    pub(super) fn take_body(&mut self) -> Bytes {
        std::mem::take(&mut self.body)
    }
}

/// A body that is still to be read.
pub struct Upload<'b, B> {
    /// The connection or stream that the body comes from.
    pub body: &'b mut B,
    /// The memory reserved for the request.
    pub reserved: BodyReservation,
    /// The size of the head in bytes.
    pub head_bytes: usize,
    /// The `Content-Type`.
    pub content_type: AtMostOnce<'b>,
}

/// The bounds within which a body is read and its signature is verified.
pub struct UploadBounds<'a> {
    /// The limits of a body in size and time.
    listen: &'a ListenSettings,
    /// The turns of addresses that keep failing authentication.
    auth_throttle: &'a AuthThrottle,
    /// The address of the caller.
    origin: ClientAddress,
}

impl<'a> UploadBounds<'a> {
    /// The bounds for a caller at this address.
    pub fn new(
        listen: &'a ListenSettings,
        auth_throttle: &'a AuthThrottle,
        origin: ClientAddress,
    ) -> Self {
        Self {
            listen,
            auth_throttle,
            origin,
        }
    }
}

/// Reads the body and verifies the caller's signature over it. An unverified body is never used.
pub async fn receive<'g>(
    claim: &'g ClaimedCall<'g>,
    upload: &mut Upload<'_, impl RequestBody>,
    bounds: &UploadBounds<'_>,
    record: &mut RequestRecord,
) -> Result<Verified<'g>, StopReason> {
    let (operation, caller) = (claim.routed().operation(), claim.caller());
    if !upload.body.is_end_stream() {
        let announced = upload.body.size_hint().lower();
        let begun = upload.reserved.begin(upload.head_bytes, announced);
        begun.map_err(Refusal::from)?;
        ingress::media_type(upload.content_type, operation.media)?;
    }
    let body = read(operation, caller, upload, bounds, record).await?;
    record.verified(caller.position, caller.credential_index);
    upload.reserved.authenticated();
    Ok(Verified { claim, body })
}

/// Refuses a credential that is not in force. The body is read and verified within the same bounds as any other body,
/// only to name the party to the institution: the answer does not depend on the verification.
pub async fn recognize(
    routed: Routed<'_>,
    caller: &Caller<'_>,
    upload: &mut Upload<'_, impl RequestBody>,
    bounds: &UploadBounds<'_>,
    record: &mut RequestRecord,
) -> StopReason {
    let announced = upload.body.size_hint().lower();
    let (head, reserved) = (upload.head_bytes, &mut upload.reserved);
    if upload.body.is_end_stream() || reserved.begin(head, announced).is_ok() {
        match read(routed.operation(), caller, upload, bounds, record).await {
            Ok(_) => record.not_in_force(caller.position, caller.credential_index),
            Err(StopReason::Refused(_)) => {}
            Err(StopReason::Gone) => return StopReason::Gone,
        }
    }
    authenticate::not_in_force().into()
}

/// Reads a body, hashes each piece as it arrives, and compares the signature.
async fn read(
    operation: &Operation,
    caller: &Caller<'_>,
    upload: &mut Upload<'_, impl RequestBody>,
    bounds: &UploadBounds<'_>,
    record: &mut RequestRecord,
) -> Result<Bytes, StopReason> {
    let throttle = bounds.auth_throttle;
    let failing = bounds.origin.attributable();
    let failing = failing.filter(|address| throttle.is_failing(*address));
    let mut payload = caller.payload();
    let mut body = Bytes::new();
    if !upload.body.is_end_stream() {
        let limit = operation.body_limit.unwrap_or(bounds.listen.body_limit);
        let piece = |piece: &[u8]| {
            if failing.is_none() {
                payload.body(piece);
            }
        };
        let time = BodyTime {
            whole: bounds.listen.body_timeout,
            bytes_per_second: bounds.listen.body_bytes_per_second,
        };
        let read = ingress::body(upload.body, limit, &time, &mut upload.reserved, piece);
        let read = record.receives(pin!(read)).await;
        body = read.unwrap_or(Err(Refusal::Overloaded(GIVES_WAY)))?;
        record.body(body.len());
    }
    let _turn = if let Some(address) = failing {
        // Waits only now, so that a slow body does not hold up other callers at the same address.
        let turn = pin!(throttle.permit(address));
        let turn = unless_gone(upload.body, turn);
        let turn = record.wait_in(RequestPhase::Body, pin!(turn)).await?;
        in_pieces(&body, |piece| payload.body(piece)).await;
        Some(turn)
    } else {
        None
    };
    if body.len() <= YIELD_AFTER {
        caller.verify(payload, &body)?;
    } else {
        Box::pin(caller.verify_in_pieces(payload, &body)).await?;
    }
    Ok(body)
}

/// The refusal text for a body that arrives too slowly to keep its connection slot.
const GIVES_WAY: &str = "all connections are in use and this body comes slowly; send the same bytes again after Retry-After";
