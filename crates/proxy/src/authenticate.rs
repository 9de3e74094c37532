//! Authenticate: whose request is this, and is every signed byte theirs?

use std::sync::Arc;

use bytes::Bytes;
use gatepay_core::stamp::StampError;
use gatepay_core::{Payload, Signature, Stamp, payload};
use gatepay_tenancy::{DatedCredential, Registry, Tenant};
use http::{HeaderMap, HeaderName};

use crate::headers;
use crate::refusal::{Mismatch, Refusal, Stale};

/// Somebody who claims to be a tenant; nothing is proved yet but that the claim is well formed and fresh.
pub struct Caller<'a> {
    /// Whom the client id belongs to.
    pub tenant: &'a Arc<Tenant>,
    /// The credential it names.
    pub credential: &'a DatedCredential,
    /// The stamp it claims to have signed.
    pub stamp: Stamp<'a>,
    signature: Signature,
}

/// Reads the four headers and finds whom they name. Costs no hashing, so an unknown client is cheap to refuse.
pub fn identify<'a>(
    registry: &'a Registry,
    headers: &'a HeaderMap,
    now_ms: u64,
) -> Result<Caller<'a>, Refusal> {
    let client_id = match headers::single(headers, &headers::CLIENT_ID) {
        Err(headers::Repeated) => return Err(repeated(&headers::CLIENT_ID)),
        Ok(None) => {
            return Err(Refusal::UnknownClient(
                "X-GatePay-Certificate-ClientId is missing",
            ));
        }
        Ok(Some(value)) => value,
    };
    let timestamp = required(headers, &headers::TIMESTAMP)?;
    let nonce = required(headers, &headers::NONCE)?;
    let signature = required(headers, &headers::SIGNATURE)?;

    let (tenant, credential) = client_id
        .to_str()
        .ok()
        .and_then(|id| registry.find(id))
        .ok_or(Refusal::UnknownClient("no tenant has this client id"))?;
    if !credential.valid_at(now_ms) {
        return Err(Refusal::UnknownClient(
            "this client id is not valid yet, or no longer",
        ));
    }
    let stamp = Stamp::parse(timestamp, nonce).map_err(|error| match error {
        StampError::TimestampNotDigits => Refusal::MalformedRequest(error.to_string().into()),
        _ => Refusal::MalformedNonce(error),
    })?;
    let signature = Signature::parse(signature)
        .map_err(|error| Refusal::SignatureMismatch(Mismatch::Form(error)))?;
    tenant
        .window
        .check(stamp.millis(), now_ms)
        .map_err(|skew| Refusal::StaleTimestamp(Stale::Skew(skew)))?;
    Ok(Caller {
        tenant,
        credential,
        stamp,
        signature,
    })
}

impl Caller<'_> {
    /// A MAC that has taken the stamp and waits for the body.
    pub fn payload(&self) -> Payload {
        Payload::begin(&self.credential.credential.key, &self.stamp)
    }

    /// Proves the claim: the MAC over what arrived is the signature that was sent.
    pub fn verify(&self, payload: Payload, body: &Bytes) -> Result<(), Refusal> {
        if payload.verify(&self.signature) {
            return Ok(());
        }
        let digest = payload::digest(&self.stamp, body);
        Err(Refusal::SignatureMismatch(Mismatch::Bytes {
            body_bytes: body.len(),
            digest,
        }))
    }
}

fn required<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a [u8], Refusal> {
    match headers::single(headers, name) {
        Ok(Some(value)) => Ok(value.as_bytes()),
        Ok(None) => Err(Refusal::MalformedRequest(
            format!("{name} is missing").into(),
        )),
        Err(headers::Repeated) => Err(repeated(name)),
    }
}

fn repeated(name: &HeaderName) -> Refusal {
    Refusal::MalformedRequest(format!("{name} stands more than once").into())
}
