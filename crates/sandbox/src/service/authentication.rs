//! Authentication: the checks that GatePay makes before it reads the parameters (protocol.md 1).

use std::collections::HashMap;

use gatepay_core::operation::Method;
use gatepay_core::stamp::StampError;
use gatepay_core::{Credential, Operation, Signature, Stamp, StampWindow, header, verify};
use hyper::HeaderMap;
use hyper::header::CONTENT_TYPE;

use crate::wire::failure::ApiFailure;
use crate::wire::headers::single;

/// The documented maximum length of a nonce, in characters (protocol.md 1.5).
const LONGEST_NONCE: usize = 32;

/// The credentials, and the nonces seen.
pub(crate) struct SignatureGate {
    institution: Vec<Credential>,
    nonces: SeenNonces,
}

impl SignatureGate {
    pub(crate) fn new(institution: Vec<Credential>) -> Self {
        Self {
            institution,
            nonces: SeenNonces::default(),
        }
    }

    /// Verifies that the institution signed the request, that its timestamp is fresh, and that its nonce is new.
    pub(crate) fn verify(
        &mut self,
        operation: &Operation,
        method: Method,
        headers: &HeaderMap,
        body: &[u8],
        now: u64,
    ) -> Result<(), ApiFailure> {
        check_media_type(operation, method, headers, body)?;
        let client_id = single(headers, header::CLIENT_ID)?;
        let timestamp = single(headers, header::TIMESTAMP)?;
        let nonce = single(headers, header::NONCE)?;
        let signature = single(headers, header::SIGNATURE)?;

        let credential = self
            .institution
            .iter()
            .find(|credential| credential.client_id.as_str().as_bytes() == client_id)
            .ok_or(ApiFailure::UnknownClient)?;
        let stamp = Stamp::parse(timestamp, nonce).map_err(|error| match error {
            StampError::TimestampNotDigits | StampError::TimestampInSeconds => {
                ApiFailure::Malformed(header::TIMESTAMP)
            }
            StampError::NonceEmpty
            | StampError::NonceTooLong(_)
            | StampError::NonceNotPrintable => ApiFailure::MalformedNonce,
        })?;
        if nonce.len() > LONGEST_NONCE || !nonce.iter().all(u8::is_ascii_alphanumeric) {
            return Err(ApiFailure::MalformedNonce);
        }
        StampWindow::GATEPAY
            .check(stamp.millis(), now)
            .map_err(|_| ApiFailure::StaleTimestamp)?;
        let signature = Signature::parse(signature).map_err(|_| ApiFailure::InvalidSignature)?;
        if !verify(&credential.key, &stamp, body, &signature) {
            return Err(ApiFailure::InvalidSignature);
        }
        self.nonces
            .spend(credential.client_id.as_str(), &stamp, now)
    }
}

/// Checks the media type of the body. A GET or DELETE without a body needs none.
fn check_media_type(
    operation: &Operation,
    method: Method,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), ApiFailure> {
    if matches!(method, Method::Get | Method::Delete) && body.is_empty() {
        return Ok(());
    }
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if media_type
        .trim()
        .eq_ignore_ascii_case(operation.media.as_str())
    {
        Ok(())
    } else {
        Err(ApiFailure::UnsupportedContentType)
    }
}

/// The replay memory: client id and nonce, with the time up to which the request's timestamp stays fresh.
#[derive(Default)]
struct SeenNonces {
    fresh_until: HashMap<(String, String), u64>,
    /// The size at which expired nonces are removed. It keeps the amortized cost of a nonce constant.
    sweep_at: usize,
}

impl SeenNonces {
    fn spend(&mut self, client_id: &str, stamp: &Stamp<'_>, now: u64) -> Result<(), ApiFailure> {
        if self.fresh_until.len() >= self.sweep_at {
            self.fresh_until.retain(|_, until| *until >= now);
            self.sweep_at = (2 * self.fresh_until.len()).max(1024);
        }
        let key = (client_id.to_owned(), stamp.nonce().to_owned());
        let until = stamp.millis().saturating_add(StampWindow::GATEPAY.past_ms);
        if self
            .fresh_until
            .get(&key)
            .is_some_and(|until| *until >= now)
        {
            return Err(ApiFailure::RepeatedNonce);
        }
        self.fresh_until.insert(key, until);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::sign::headers;
    use gatepay_core::{Catalogue, ClientId, SecretKey};
    use hyper::header::{HeaderName, HeaderValue};

    const NOW: u64 = 1_767_225_600_000;
    const BODY: &[u8] = b"{\"merchantTradeNo\":\"56236\"}";

    fn credential(secret: &str) -> Credential {
        let secret = SecretKey::new(secret.to_owned().into()).unwrap();
        Credential::new(ClientId::parse("institution").unwrap(), &secret)
    }

    fn gate() -> SignatureGate {
        SignatureGate::new(vec![credential("secret")])
    }

    /// The headers of a valid request.
    fn signed(timestamp: u64, nonce: &str) -> HeaderMap {
        signed_by(&credential("secret"), timestamp, nonce)
    }

    fn signed_by(credential: &Credential, timestamp: u64, nonce: &str) -> HeaderMap {
        let timestamp = timestamp.to_string();
        let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).unwrap();
        let mut map = HeaderMap::new();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers(credential, &stamp, BODY) {
            map.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = signed(NOW, "nonce1");
        headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        headers
    }

    fn check(gate: &mut SignatureGate, headers: &HeaderMap) -> Result<(), ApiFailure> {
        check_at(gate, headers, NOW)
    }

    fn check_at(gate: &mut SignatureGate, headers: &HeaderMap, now: u64) -> Result<(), ApiFailure> {
        let catalogue = Catalogue::standard();
        let operation = catalogue.named("query_order").unwrap();
        gate.verify(operation, Method::Post, headers, BODY, now)
    }

    fn refusal(headers: &HeaderMap) -> ApiFailure {
        check(&mut gate(), headers).unwrap_err()
    }

    #[test]
    fn a_request_signed_by_the_institution_passes() {
        assert_eq!(check(&mut gate(), &signed(NOW, "nonce1")), Ok(()));
        let utf8 = with("content-type", "Application/JSON; charset=utf-8");
        assert_eq!(check(&mut gate(), &utf8), Ok(()));
    }

    #[test]
    fn another_media_type_is_400007() {
        assert_eq!(
            refusal(&with("content-type", "text/plain")).code(),
            "400007"
        );
        let mut without = signed(NOW, "nonce1");
        without.remove(CONTENT_TYPE);
        assert_eq!(refusal(&without).code(), "400007");
    }

    #[test]
    fn a_header_that_is_absent_or_repeated_is_400001() {
        for name in [
            header::CLIENT_ID,
            header::TIMESTAMP,
            header::NONCE,
            header::SIGNATURE,
        ] {
            let mut absent = signed(NOW, "nonce1");
            let value = absent.remove(name).unwrap();
            assert_eq!(refusal(&absent), ApiFailure::Malformed(name));
            let mut repeated = signed(NOW, "nonce1");
            repeated.append(name, value);
            assert_eq!(refusal(&repeated), ApiFailure::Malformed(name));
        }
        assert_eq!(refusal(&with(header::TIMESTAMP, "now")).code(), "400001");
    }

    #[test]
    fn an_unknown_client_id_is_400004() {
        assert_eq!(refusal(&with(header::CLIENT_ID, "other")).code(), "400004");
    }

    #[test]
    fn a_nonce_of_another_form_is_400020() {
        let long = "n".repeat(33);
        for nonce in ["", "with-dash", "with space", "\u{e9}", &long] {
            assert_eq!(
                refusal(&with(header::NONCE, nonce)),
                ApiFailure::MalformedNonce,
                "{nonce:?}"
            );
        }
    }

    #[test]
    fn a_timestamp_more_than_ten_seconds_off_is_400003() {
        for (timestamp, fresh) in [
            (NOW - 10_000, true),
            (NOW + 10_000, true),
            (NOW - 10_001, false),
            (NOW + 10_001, false),
            (NOW / 1000, false),
        ] {
            let want = if fresh {
                Ok(())
            } else {
                Err(ApiFailure::StaleTimestamp)
            };
            assert_eq!(check(&mut gate(), &signed(timestamp, "nonce1")), want);
        }
    }

    #[test]
    fn a_signature_that_does_not_fit_is_400002() {
        let forged = signed_by(&credential("guess"), NOW, "nonce1");
        for headers in [
            forged,
            with(header::SIGNATURE, "abc"),
            with(header::NONCE, "nonce2"),
        ] {
            let failure = refusal(&headers);
            assert_eq!(
                (failure.code(), failure.label()),
                ("400002", "INVALID_SIGNATURE")
            );
        }
    }

    #[test]
    fn a_nonce_is_good_once_while_its_first_use_is_fresh() {
        let mut gate = gate();
        assert_eq!(check(&mut gate, &signed(NOW, "nonce1")), Ok(()));
        for again in [signed(NOW, "nonce1"), signed(NOW + 1, "nonce1")] {
            assert_eq!(check(&mut gate, &again), Err(ApiFailure::RepeatedNonce));
        }
        let later = NOW + 20_000;
        assert_eq!(check_at(&mut gate, &signed(later, "nonce1"), later), Ok(()));
    }

    #[test]
    fn a_forged_request_spends_no_nonce() {
        let mut gate = gate();
        let forged = signed_by(&credential("guess"), NOW, "nonce1");
        assert_eq!(check(&mut gate, &forged), Err(ApiFailure::InvalidSignature));
        assert_eq!(check(&mut gate, &signed(NOW, "nonce1")), Ok(()));
    }

    #[test]
    fn nonces_no_longer_fresh_are_forgotten() {
        let mut nonces = SeenNonces::default();
        for n in 0..100_000_u64 {
            let (timestamp, nonce) = ((NOW + 100 * n).to_string(), format!("n{n}"));
            let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).unwrap();
            nonces.spend("institution", &stamp, NOW + 100 * n).unwrap();
        }
        assert!(nonces.fresh_until.len() <= 1024);
    }
}
