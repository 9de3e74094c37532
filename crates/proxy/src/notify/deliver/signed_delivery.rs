//! Signed delivery: the credential that signs a notification for its tenant, and the headers.
//!
//! A tenant verifies a delivery with the code by which it would verify GatePay's own notification: the same headers, the
//! same signed bytes, the tenant's own secret (protocol.md 5.1).

use std::cmp::Reverse;

use gatepay_core::{ClientId, Credential, FreshStamp, sign};
use gatepay_http1::header_block::HeaderBlock;
use gatepay_tenancy::DatedCredential;

/// The headers as GatePay spells them: a tenant's code may compare names with regard to case.
const CLIENT_ID: &str = "X-GatePay-Certificate-ClientId";
const TIMESTAMP: &str = "X-GatePay-Timestamp";
const NONCE: &str = "X-GatePay-Nonce";
const SIGNATURE: &str = "X-GatePay-Signature";
/// The notification's id, the same in each attempt.
const EVENT: &str = "X-Gatepay-Proxy-Event";
/// The number of the attempt, from 1 on.
const ATTEMPT: &str = "X-Gatepay-Proxy-Attempt";
/// When the proxy received the notification, in milliseconds since 1970.
const RECEIVED: &str = "X-Gatepay-Proxy-Received";
/// `true` if the notification contradicts an earlier final status of its object.
const CONFLICT: &str = "X-Gatepay-Proxy-Conflict";
/// The signature by the other credential, while two are in force.
const SIGNATURE_NEXT: &str = "X-Gatepay-Proxy-Signature-Next";

/// The credentials that sign a delivery.
pub struct DeliveryCredentials<'a> {
    /// The one that the tenant most likely verifies with.
    pub signing: &'a Credential,
    /// The newest of the others, during a rotation.
    pub next: Option<&'a Credential>,
}

impl<'a> DeliveryCredentials<'a> {
    /// Chooses among a tenant's credentials, each with the time of its last use by the tenant.
    ///
    /// Of those in force, the `configured` one signs, else the one that the tenant used last, else the one that began
    /// first: the tenant may not have a newer one yet. So a rotation needs no order of steps: deliveries follow when the
    /// tenant's own calls do.
    pub fn choose(
        credentials: impl Iterator<Item = (&'a DatedCredential, Option<u64>)>,
        configured: Option<&ClientId>,
        now_ms: u64,
    ) -> Option<Self> {
        let in_force = credentials.filter(|(dated, _)| dated.valid_at(now_ms));
        let mut in_force: Vec<_> = in_force.collect();
        let precedence = |(dated, last_used): &(&DatedCredential, Option<u64>)| {
            let is_configured = configured == Some(&dated.credential.client_id);
            (Reverse((is_configured, *last_used)), dated.not_before)
        };
        let first = (0..in_force.len()).min_by_key(|at| precedence(&in_force[*at]))?;
        let (signing, _) = in_force.remove(first);
        let others = in_force.into_iter().map(|(dated, _)| dated);
        let next = others.max_by_key(|dated| dated.not_before);
        Some(Self {
            signing: &signing.credential,
            next: next.map(|dated| &dated.credential),
        })
    }
}

/// The facts about a notification that its headers state.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryFacts<'a> {
    /// The notification's id.
    pub event: &'a str,
    /// The number of the attempt, from 1 on.
    pub attempt: u32,
    /// When the proxy received the notification, in milliseconds since 1970.
    pub received_ms: u64,
    /// Whether the notification contradicts an earlier final status.
    pub is_conflict: bool,
}

/// Adds the header lines of one delivery of this body, signed under a fresh stamp.
pub fn write_headers(
    lines: &mut HeaderBlock,
    credentials: &DeliveryCredentials<'_>,
    stamp: &FreshStamp,
    body: &[u8],
    facts: DeliveryFacts<'_>,
) {
    let stamp = stamp.as_stamp();
    let signing = credentials.signing;
    lines.add(CLIENT_ID, signing.client_id.as_str());
    lines.add(TIMESTAMP, stamp.timestamp());
    lines.add(NONCE, stamp.nonce());
    lines.add(SIGNATURE, sign(&signing.key, &stamp, body).to_hex());
    lines.add(EVENT, facts.event);
    lines.add(ATTEMPT, facts.attempt.to_string());
    lines.add(RECEIVED, facts.received_ms.to_string());
    if facts.is_conflict {
        lines.add(CONFLICT, "true");
    }
    if let Some(next) = credentials.next {
        lines.add(SIGNATURE_NEXT, sign(&next.key, &stamp, body).to_hex());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::{SecretKey, Signature, Stamp, verify};
    use zeroize::Zeroizing;

    const NOW: u64 = 1_767_225_600_000;

    fn dated(name: &str, not_before: Option<u64>, not_after: Option<u64>) -> DatedCredential {
        let secret = SecretKey::new(Zeroizing::new(format!("fake-secret-{name}"))).unwrap();
        let credential = Credential::new(ClientId::parse(name).unwrap(), &secret);
        DatedCredential {
            not_before,
            not_after,
            credential,
        }
    }

    /// The names of the chosen credentials, of three: the old, the new and one that has not begun.
    fn chosen(
        used: [Option<u64>; 3],
        configured: Option<&str>,
        now_ms: u64,
    ) -> Option<(String, Option<String>)> {
        let all = [
            dated("old", None, Some(NOW + 1_000)),
            dated("new", Some(NOW - 1_000), None),
            dated("later", Some(NOW + 500), None),
        ];
        let configured = configured.map(|name| ClientId::parse(name).unwrap());
        let all = all.iter().zip(used);
        let chosen = DeliveryCredentials::choose(all, configured.as_ref(), now_ms)?;
        let name = |credential: &Credential| credential.client_id.to_string();
        Some((name(chosen.signing), chosen.next.map(name)))
    }

    #[test]
    fn the_credential_that_the_tenant_used_last_signs_or_else_the_oldest() {
        let pair = |signing: &str, next: &str| Some((signing.to_owned(), Some(next.to_owned())));
        for (used, configured, now, expected) in [
            ([None; 3], None, NOW, pair("old", "new")),
            ([Some(5), None, None], None, NOW, pair("old", "new")),
            ([Some(5), Some(6), None], None, NOW, pair("new", "old")),
            ([Some(6), Some(5), None], None, NOW, pair("old", "new")),
            (
                [Some(5), Some(6), None],
                Some("old"),
                NOW,
                pair("old", "new"),
            ),
            (
                [Some(5), Some(6), None],
                Some("later"),
                NOW,
                pair("new", "old"),
            ),
            ([None; 3], None, NOW + 500, pair("old", "later")),
            // Of two that have been used at the same time, too.
            ([Some(5); 3], None, NOW, pair("old", "new")),
            // The old one is over.
            (
                [Some(9), None, None],
                None,
                NOW + 1_000,
                pair("new", "later"),
            ),
            (
                [Some(9), None, None],
                Some("old"),
                NOW + 1_000,
                pair("new", "later"),
            ),
            ([None; 3], None, NOW - 2_000, Some(("old".to_owned(), None))),
        ] {
            let chosen = chosen(used, configured, now);
            assert_eq!(
                chosen,
                expected,
                "{used:?} {configured:?} {}",
                now - NOW.min(now)
            );
        }
        let over = dated("over", None, Some(NOW));
        let none = DeliveryCredentials::choose([(&over, Some(1))].into_iter(), None, NOW);
        assert!(none.is_none());
    }

    /// The value of a header line.
    fn value<'a>(lines: &'a HeaderBlock, name: &str) -> Option<&'a str> {
        let mut all = lines
            .iter()
            .map(|(name, value)| (str::from_utf8(name).unwrap(), value));
        let found = all.find(|(known, _)| *known == name);
        found.map(|(_, value)| str::from_utf8(value).unwrap())
    }

    #[test]
    fn both_signatures_verify_and_the_headers_have_gatepays_names() {
        let (old, new) = (dated("old", None, None), dated("new", Some(1), None));
        let credentials = DeliveryCredentials {
            signing: &old.credential,
            next: Some(&new.credential),
        };
        let (body, stamp) = (&b"{\"a\": 1}\n"[..], FreshStamp::new(NOW, [7; 32]));
        let facts = DeliveryFacts {
            event: "event",
            attempt: 3,
            received_ms: 5,
            is_conflict: true,
        };
        let mut lines = HeaderBlock::default();
        write_headers(&mut lines, &credentials, &stamp, body, facts);
        for (name, expected) in [
            ("X-GatePay-Certificate-ClientId", "old"),
            ("X-Gatepay-Proxy-Event", "event"),
            ("X-Gatepay-Proxy-Attempt", "3"),
            ("X-Gatepay-Proxy-Received", "5"),
            ("X-Gatepay-Proxy-Conflict", "true"),
        ] {
            assert_eq!(value(&lines, name), Some(expected), "{name}");
        }
        let header = |name| value(&lines, name).unwrap();
        let (timestamp, nonce) = (header("X-GatePay-Timestamp"), header("X-GatePay-Nonce"));
        let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).unwrap();
        for (name, dated) in [
            ("X-GatePay-Signature", &old),
            ("X-Gatepay-Proxy-Signature-Next", &new),
        ] {
            let signature = Signature::parse(header(name).as_bytes()).ok().unwrap();
            assert!(
                verify(&dated.credential.key, &stamp, body, &signature),
                "{name}"
            );
        }
    }
}
