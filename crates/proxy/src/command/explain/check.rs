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
            format!("the body changed before it reached the proxy; what arrived is {what}")
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
mod tests {
    use super::*;
    use bytes::Bytes;
    use gatepay_core::{Catalogue, Credential};
    use gatepay_proxy::journey::authenticate;
    use gatepay_tenancy::{DatedCredential, PartyId, Registry, SubAccount, Tenant};
    use http::HeaderMap;

    const NOW: u64 = 1_767_225_600_000;
    const WINDOW: StampWindow = StampWindow {
        past_ms: 300_000,
        future_ms: 10_000,
    };
    const BODY: &[u8] = b"{}";

    fn secret() -> SecretKey {
        SecretKey::new("tenant-secret-0001".to_owned().into()).unwrap()
    }

    fn registry() -> Registry {
        let credential = Credential::new(ClientId::parse("acme").unwrap(), &secret());
        let tenant = Tenant::new(
            PartyId::parse("acme").unwrap(),
            SubAccount::parse("2124538349").unwrap(),
            &Catalogue::standard(),
            vec![DatedCredential::undated(credential)],
        );
        Registry::new(vec![tenant], Vec::new(), &[])
            .map_err(|conflicts| conflicts.len())
            .unwrap()
    }

    /// A valid request, except for the header that `wrong` names.
    fn input(wrong: &str, value: Option<&str>) -> ExplainInput {
        let stamp = Stamp::parse(b"1767225600000", b"k64").unwrap();
        let credential = Credential::new(ClientId::parse("acme").unwrap(), &secret());
        let mut headers = HeaderMap::new();
        for (name, right) in gatepay_core::sign::headers(&credential, &stamp, BODY) {
            let value = if name.ends_with(wrong) {
                value
            } else {
                Some(&*right)
            };
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        ExplainInput {
            line: None,
            headers,
            body: BODY.to_vec(),
            whole: true,
        }
    }

    fn first_wrong(input: &ExplainInput) -> Option<String> {
        let checks = all(input, &secret(), WINDOW, NOW, None);
        checks
            .into_iter()
            .find_map(|check| check.outcome.err())
            .map(|wrong| wrong.to_string())
    }

    fn refusal(input: &ExplainInput) -> Option<String> {
        let registry = registry();
        let body = Bytes::copy_from_slice(&input.body);
        let lines = input.lines();
        let found = authenticate::claimed(&registry, &lines);
        let authentic = authenticate::identify(found, &lines, NOW).and_then(|identified| {
            let caller = identified.in_force()?;
            let mut payload = caller.payload();
            payload.body(&body);
            caller.verify(payload, &body)
        });
        authentic.err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn what_is_wrong_first_is_what_the_proxy_says() {
        let (digits, signature) = ("a".repeat(128), "a".repeat(127));
        for (wrong, value) in [
            ("-none", None),
            ("-clientid", None),
            ("-timestamp", None),
            ("-nonce", None),
            ("-signature", None),
            ("-timestamp", Some("")),
            ("-timestamp", Some("2026-01-01")),
            ("-timestamp", Some("1767225300000")),
            ("-timestamp", Some("1767225299999")),
            ("-timestamp", Some("1767225610001")),
            ("-timestamp", Some("1767225600")),
            ("-nonce", Some("")),
            ("-nonce", Some("k65")),
            ("-nonce", Some(&digits)),
            ("-nonce", Some("a\tb")),
            ("-signature", Some(&digits)),
            ("-signature", Some(&signature)),
            ("-signature", Some("")),
        ] {
            let input = input(wrong, value);
            assert_eq!(first_wrong(&input), refusal(&input), "{wrong} {value:?}");
        }
        let mut twice = input("-none", None);
        twice
            .headers
            .append(headers::NONCE, HeaderValue::from_static("k64"));
        assert_eq!(first_wrong(&twice), refusal(&twice));
        assert_eq!(
            first_wrong(&twice).as_deref(),
            Some("malformed request: x-gatepay-nonce stands more than once")
        );
    }

    #[test]
    fn everything_right_is_seen_as_right() {
        let checks = all(&input("-none", None), &secret(), WINDOW, NOW + 7, None);
        let seen: Vec<_> = checks
            .iter()
            .map(|check| (check.name, check.outcome.as_deref().ok()))
            .collect();
        assert_eq!(
            seen,
            [
                ("headers", Some("all four, each once; client id acme")),
                ("timestamp", Some("1767225600000")),
                ("nonce", Some("k64, length 3")),
                (FORM, Some("128 hexadecimal digits")),
                (
                    FRESHNESS,
                    Some("7 ms behind the clock; at most 300000 ms are accepted")
                ),
                (SIGNATURE, Some("matches, over 2 bytes of body")),
            ]
        );
    }

    #[test]
    fn what_the_proxy_hashed_tells_whether_the_bytes_changed() {
        let stamp = Stamp::parse(b"1767225600000", b"k64").unwrap();
        for (arrived, seen) in [
            (&b"{}"[..], Ok("the proxy received exactly these bytes")),
            (
                b"{}\n",
                Err(
                    "the body changed before it reached the proxy; what arrived is the body with a line feed after it",
                ),
            ),
            (
                b"[]",
                Err("the proxy received other bytes: another body, timestamp or nonce than these"),
            ),
        ] {
            let digest = payload::digest(&stamp, arrived);
            let checks = all(&input("-none", None), &secret(), WINDOW, NOW, Some(&digest));
            let last = checks.into_iter().next_back().unwrap();
            let outcome = last.outcome.map_err(|wrong| wrong.to_string());
            assert_eq!(
                (last.name, outcome.as_deref().map_err(String::as_str)),
                (ARRIVED, seen)
            );
        }
    }
}
