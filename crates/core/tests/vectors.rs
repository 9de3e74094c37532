//! Test vectors: every entry of `docs/gatepay/test-vectors.json`, compared stage by stage, so that a failure shows
//! which half of the rule is wrong.

use gatepay_core::signature::{SIGNATURE_DIGITS, SignatureError};
use gatepay_core::stamp::StampError;
use gatepay_core::{SecretKey, Signature, SigningKey, Stamp, payload, sign, verify};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    published: Vec<Published>,
    computed: Vec<Computed>,
    must_be_refused: Vec<Refused>,
}

/// A vector that GatePay, or a client for GatePay, published. Some are illustrations, without key and body.
#[derive(Deserialize)]
struct Published {
    id: String,
    key: Option<String>,
    timestamp: String,
    nonce: String,
    body: Option<String>,
    claimed_signature: Option<String>,
    holds: Option<bool>,
    recomputed_sha512: Option<String>,
    recomputed_sha256: Option<String>,
}

/// A vector that an independent implementation computed.
#[derive(Deserialize)]
struct Computed {
    id: String,
    key: String,
    timestamp: String,
    nonce: String,
    body: Option<String>,
    body_base64: Option<String>,
    body_rule: Option<String>,
    body_length: usize,
    message_sha256: String,
    signature: String,
    wrong_if_decoded: Option<String>,
    wrong_if_equals_sign_dropped: Option<String>,
}

/// A vector that a wrong implementation would send or accept.
#[derive(Deserialize)]
struct Refused {
    id: String,
    key: String,
    timestamp: String,
    nonce: String,
    body: String,
    signature: String,
}

#[test]
fn published_vectors_verify_or_are_refused_as_stated() {
    let entries = file().published;
    assert_eq!(entries.len(), 10);
    let (mut recomputed, mut illustrations) = (0, 0);
    for entry in &entries {
        let id = &entry.id;
        let stamp = stamp(id, &entry.timestamp, &entry.nonce);
        if let (Some(secret), Some(body)) = (&entry.key, &entry.body) {
            let key = key(secret);
            let signature = sign(&key, &stamp, body.as_bytes()).to_string();
            assert_eq!(
                Some(&signature),
                entry.recomputed_sha512.as_ref(),
                "{id}: signature"
            );
            if let Some(claimed) = &entry.claimed_signature {
                let verifies = Signature::parse(claimed.as_bytes())
                    .is_ok_and(|claimed| verify(&key, &stamp, body.as_bytes(), &claimed));
                assert_eq!(Some(verifies), entry.holds, "{id}: verify");
            }
            recomputed += 1;
        } else {
            let claimed = entry.claimed_signature.as_deref().unwrap_or_default();
            let error = Signature::parse(claimed.as_bytes()).err();
            let want = match id.as_str() {
                "pub-08-header-sample-truncated" => Some(SignatureError::Length(64)),
                _ => None,
            };
            assert_eq!(error, want, "{id}: signature");
            illustrations += 1;
        }
        if let Some(sha256) = &entry.recomputed_sha256 {
            refused_by_length(id, sha256, 64);
        }
    }
    assert_eq!((recomputed, illustrations), (6, 4));
}

#[test]
fn computed_vectors_are_signed_alike() {
    let entries = file().computed;
    assert_eq!(entries.len(), 17);
    for entry in &entries {
        let id = &entry.id;
        let stamp = stamp(id, &entry.timestamp, &entry.nonce);
        let body = entry.body();
        assert_eq!(body.len(), entry.body_length, "{id}: body");
        assert_eq!(
            hex::encode(payload::digest(&stamp, &body)),
            entry.message_sha256,
            "{id}: payload"
        );
        let key = key(&entry.key);
        assert_eq!(
            sign(&key, &stamp, &body).to_string(),
            entry.signature,
            "{id}: signature"
        );
        assert!(
            verify(&key, &stamp, &body, &parsed(id, &entry.signature)),
            "{id}: verify"
        );
    }
}

#[test]
fn a_secret_read_in_another_way_signs_otherwise() {
    let entries = file().computed;
    let mut wrong = 0;
    for entry in &entries {
        let id = &entry.id;
        let stamp = stamp(id, &entry.timestamp, &entry.nonce);
        let ways = [&entry.wrong_if_decoded, &entry.wrong_if_equals_sign_dropped];
        for signature in ways.into_iter().flatten() {
            let claimed = parsed(id, signature);
            assert!(
                !verify(&key(&entry.key), &stamp, &entry.body(), &claimed),
                "{id}: {signature}"
            );
            wrong += 1;
        }
        if let Some(dropped) = &entry.wrong_if_equals_sign_dropped {
            let other = key(entry.key.trim_end_matches('='));
            let signature = sign(&other, &stamp, &entry.body()).to_string();
            assert_eq!(&signature, dropped, "{id}: it is what the wrong key signs");
        }
    }
    assert_eq!(wrong, 2);
}

#[test]
fn negative_vectors_are_refused_for_their_stated_reason() {
    let entries = file().must_be_refused;
    assert_eq!(entries.len(), 6);
    for entry in &entries {
        let id = entry.id.as_str();
        match id {
            "n01-sha256" => refused_by_length(id, &entry.signature, 64),
            "n03-base64" => refused_by_length(id, &entry.signature, 88),
            "n06-shifted-border" => refused_before_the_border_moves(entry),
            _ => {
                let stamp = stamp(id, &entry.timestamp, &entry.nonce);
                let claimed = parsed(id, &entry.signature);
                assert!(
                    !verify(&key(&entry.key), &stamp, entry.body.as_bytes(), &claimed),
                    "{id}: verify"
                );
            }
        }
    }
}

/// The MAC is right for another nonce and body with the same bytes, so only the form of the nonce reveals the fault.
fn refused_before_the_border_moves(entry: &Refused) {
    let id = &entry.id;
    let error = Stamp::parse(entry.timestamp.as_bytes(), entry.nonce.as_bytes()).err();
    assert_eq!(error, Some(StampError::NonceNotPrintable), "{id}: stamp");

    let (nonce, rest) = entry.nonce.split_once('\n').expect("a LF in the nonce");
    let stamp = stamp(id, &entry.timestamp, nonce);
    let body = format!("{rest}\n{}", entry.body);
    let claimed = parsed(id, &entry.signature);
    assert!(
        verify(&key(&entry.key), &stamp, body.as_bytes(), &claimed),
        "{id}: verify"
    );
}

fn refused_by_length(id: &str, signature: &str, length: usize) {
    assert_eq!(
        Signature::parse(signature.as_bytes()).err(),
        Some(SignatureError::Length(length)),
        "{id}: signature"
    );
}

fn file() -> File {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/gatepay/test-vectors.json"
    );
    let text = std::fs::read_to_string(path).expect("the vectors are in docs/");
    serde_json::from_str(&text).expect("the vectors have this form")
}

fn key(secret: &str) -> SigningKey {
    // One key has a character outside ASCII, which `secret_text = "any"` permits.
    let secret = SecretKey::of_any_text(secret.to_owned().into());
    SigningKey::new(&secret.expect("a vector's key is a secret"))
}

fn stamp<'a>(id: &str, timestamp: &'a str, nonce: &'a str) -> Stamp<'a> {
    let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes())
        .unwrap_or_else(|error| unreachable!("{id}: stamp: {error}"));
    assert_eq!(
        (stamp.timestamp(), stamp.nonce()),
        (timestamp, nonce),
        "{id}: stamp"
    );
    assert_eq!(Ok(stamp.millis()), timestamp.parse(), "{id}: stamp");
    stamp
}

fn parsed(id: &str, signature: &str) -> Signature {
    assert_eq!(signature.len(), SIGNATURE_DIGITS, "{id}: signature");
    Signature::parse(signature.as_bytes())
        .unwrap_or_else(|error| unreachable!("{id}: signature: {error}"))
}

impl Computed {
    fn body(&self) -> Vec<u8> {
        match (&self.body, &self.body_base64, &self.body_rule) {
            (Some(text), None, None) => text.clone().into_bytes(),
            (None, Some(text), None) => base64(text),
            // The only rule that is stated in words: eight bytes, 1,048,566 times `a`, two bytes.
            (None, None, Some(rule)) => {
                assert!(rule.contains("1048566 times the byte 0x61"), "{rule}");
                format!(r#"{{"pad":"{}"}}"#, "a".repeat(1_048_566)).into_bytes()
            }
            _ => unreachable!("{}: the body is given in one way", self.id),
        }
    }
}

/// Decodes padded base64 (RFC 4648, 4): four digits make three bytes, and each `=` removes a byte.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte: &u8| DIGITS.iter().position(|digit| digit == byte).unwrap_or(0);
    let mut bytes: Vec<u8> = text
        .as_bytes()
        .chunks(4)
        .map(|four| four.iter().fold(0, |bits, byte| bits << 6 | digit(byte)))
        .flat_map(|bits| [bits >> 16, bits >> 8, bits].map(|bits| bits.to_le_bytes()[0]))
        .collect();
    bytes.truncate(bytes.len() - text.bytes().filter(|byte| *byte == b'=').count());
    bytes
}
