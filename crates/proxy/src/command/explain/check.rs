//! The proxy's checks of a signed request, in the proxy's order.

use std::fmt;

use gatepay_core::explain::{self, ClaimedRequest};
use gatepay_core::signature::{SIGNATURE_DIGITS, SignatureError};
use gatepay_core::{
    ClientId, SecretKey, Signature, SigningKey, Stamp, StampWindow, payload, verify,
};
use gatepay_proxy::headers::{self, RepeatedHeader};
use gatepay_proxy::refusal::{Refusal, SignatureMismatch, StaleStamp};
use http::{HeaderName, HeaderValue};

use super::input::ExplainInput;

/// One check, with the observation or the fault.
pub(super) struct ExplainCheck {
    pub(super) name: &'static str,
    pub(super) outcome: Result<String, WrongInput>,
}

/// The fault that a check found.
#[derive(Debug)]
pub(super) enum WrongInput {
    /// The refusal that the proxy would answer.
    Refused(Refusal),
    /// A fault that the proxy cannot detect: the bytes changed on the way.
    Changed(String),
}

pub(super) const FORM: &str = "signature form";
pub(super) const FRESHNESS: &str = "freshness";
pub(super) const SIGNATURE: &str = "signature";
pub(super) const ARRIVED: &str = "arrived";

/// Every check that the given input allows; the proxy itself stops at the first fault.
pub(super) fn all(
    input: &ExplainInput,
    secret: &SecretKey,
    window: StampWindow,
    now: u64,
    received: Option<&[u8; 32]>,
) -> Vec<ExplainCheck> {
    let value = |name: HeaderName| input.headers.get(name).map(HeaderValue::as_bytes);
    let (timestamp, nonce) = (value(headers::TIMESTAMP), value(headers::NONCE));
    let claimed = value(headers::SIGNATURE).map(Signature::parse);
    let mut checks = Vec::new();
    if input.whole {
        checks.push(ExplainCheck::of("headers", present(input)));
    }
    let timestamp_form = timestamp.map(timestamp_form);
    checks.extend(timestamp_form.map(|form| ExplainCheck::of("timestamp", form)));
    let nonce_form = nonce.map(nonce_form);
    checks.extend(nonce_form.map(|form| ExplainCheck::of("nonce", form)));
    let signature_form = claimed.as_ref().map(signature_form);
    checks.extend(signature_form.map(|form| ExplainCheck::of(FORM, form)));
    let Some(stamp) = timestamp
        .zip(nonce)
        .and_then(|(timestamp, nonce)| Stamp::parse(timestamp, nonce).ok())
    else {
        return checks;
    };
    checks.push(ExplainCheck::of(FRESHNESS, fresh(&stamp, window, now)));
    let digest = payload::digest(&stamp, &input.body);
    if let Some(Ok(claimed)) = &claimed {
        let body_bytes = input.body.len();
        let matches = verify(&SigningKey::new(secret), &stamp, &input.body, claimed);
        let mismatch = Refusal::SignatureMismatch(SignatureMismatch::Bytes { body_bytes, digest });
        let seen = format!("matches, over {body_bytes} bytes of body");
        let outcome = if matches { Ok(seen) } else { Err(mismatch) };
        checks.push(ExplainCheck::of(SIGNATURE, outcome));
    }
    if let Some(received) = received {
        let outcome = arrived(input, &stamp, received, &digest).map_err(WrongInput::Changed);
        checks.push(ExplainCheck {
            name: ARRIVED,
            outcome,
        });
    }
    checks
}

impl ExplainCheck {
    /// A check of the proxy, which finds a refusal.
    fn of(name: &'static str, outcome: Result<String, Refusal>) -> Self {
        Self {
            name,
            outcome: outcome.map_err(WrongInput::Refused),
        }
    }
}

/// Whether a check was made and found nothing wrong.
pub(super) fn is_right(checks: &[ExplainCheck], name: &str) -> bool {
    checks
        .iter()
        .any(|check| check.name == name && check.outcome.is_ok())
}

/// Whether a check was made and found something wrong.
pub(super) fn is_wrong(checks: &[ExplainCheck], name: &str) -> bool {
    checks
        .iter()
        .any(|check| check.name == name && check.outcome.is_err())
}

/// Checks the form of the signature.
fn signature_form(claimed: &Result<Signature, SignatureError>) -> Result<String, Refusal> {
    match claimed {
        Ok(_) => Ok(format!("{SIGNATURE_DIGITS} hexadecimal digits")),
        Err(error) => Err(Refusal::SignatureMismatch(SignatureMismatch::Form(*error))),
    }
}

/// Checks that each of the four headers is present once, and that the client id is well formed.
fn present(input: &ExplainInput) -> Result<String, Refusal> {
    let repeated = |name: &HeaderName| {
        Refusal::MalformedRequest(format!("{name} stands more than once").into())
    };
    let lines = input.lines();
    let client_id = lines
        .client_id
        .map_err(|RepeatedHeader| repeated(&headers::CLIENT_ID))?
        .ok_or(Refusal::UnknownClient(
            "X-GatePay-Certificate-ClientId is missing",
        ))?;
    for (line, name) in [
        (lines.timestamp, &headers::TIMESTAMP),
        (lines.nonce, &headers::NONCE),
        (lines.signature, &headers::SIGNATURE),
    ] {
        line.map_err(|RepeatedHeader| repeated(name))?
            .ok_or_else(|| Refusal::MalformedRequest(format!("{name} is missing").into()))?;
    }
    let client_id = str::from_utf8(client_id)
        .ok()
        .and_then(|text| ClientId::parse(text).ok());
    let client_id = client_id.ok_or(Refusal::UnknownClient(
        "a client id is 1 to 64 visible ASCII characters",
    ))?;
    Ok(format!("all four, each once; client id {client_id}"))
}

/// Checks the timestamp's form, next to a valid nonce.
fn timestamp_form(timestamp: &[u8]) -> Result<String, Refusal> {
    match Stamp::parse(timestamp, b"n") {
        Ok(stamp) => Ok(stamp.timestamp().to_owned()),
        Err(error) => Err(Refusal::MalformedRequest(error.to_string().into())),
    }
}

/// Checks the nonce's form, next to a valid timestamp.
fn nonce_form(nonce: &[u8]) -> Result<String, Refusal> {
    Stamp::parse(b"0", nonce)
        .map(|stamp| format!("{}, length {}", stamp.nonce(), nonce.len()))
        .map_err(Refusal::MalformedNonce)
}

fn fresh(stamp: &Stamp<'_>, window: StampWindow, now: u64) -> Result<String, Refusal> {
    window
        .check(stamp.millis(), now)
        .map_err(|skew| Refusal::StaleTimestamp(StaleStamp::Skew(skew)))?;
    let distance = stamp.millis().abs_diff(now);
    let (direction, limit) = if stamp.millis() <= now {
        ("behind", window.past_ms)
    } else {
        ("ahead of", window.future_ms)
    };
    Ok(format!(
        "{distance} ms {direction} the clock; at most {limit} ms are accepted"
    ))
}

/// Checks whether the proxy hashed the same bytes.
fn arrived(
    input: &ExplainInput,
    stamp: &Stamp<'_>,
    received: &[u8; 32],
    digest: &[u8; 32],
) -> Result<String, String> {
    if received == digest {
        return Ok("the proxy received exactly these bytes".to_owned());
    }
    let request = ClaimedRequest {
        timestamp: stamp.timestamp(),
        nonce: stamp.nonce(),
        signature: "",
        body: &input.body,
        line: None,
    };
    Err(match explain::arrived(&request, received) {
        Some(what) => {
            format!("the body changed before it reached the proxy; the proxy received {what}")
        }
        None => {
            "the proxy received other bytes: another body, timestamp or nonce than these".to_owned()
        }
    })
}

impl WrongInput {
    /// The slug of the proxy's answer.
    pub(super) fn slug(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.slug()),
            Self::Changed(_) => None,
        }
    }
}

impl fmt::Display for WrongInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => fmt::Display::fmt(refusal, f),
            Self::Changed(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests;
