//! Signed delivery: the credential that signs a notification for its tenant, and the headers.
//!
//! A tenant verifies a delivery with the code by which it would verify GatePay's own notification: the same headers, the
//! same signed bytes, the tenant's own secret (protocol.md 5.1).

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
    /// last. So a rotation needs no order of steps: deliveries follow when the tenant's own calls do.
    pub fn choose(
        credentials: impl Iterator<Item = (&'a DatedCredential, Option<u64>)>,
        configured: Option<&ClientId>,
        now_ms: u64,
    ) -> Option<Self> {
        let in_force = credentials.filter(|(dated, _)| dated.valid_at(now_ms));
        let mut in_force: Vec<_> = in_force.collect();
        let precedence = |(dated, last_used): &(&DatedCredential, Option<u64>)| {
            let is_configured = configured == Some(&dated.credential.client_id);
            (is_configured, *last_used, dated.not_before)
        };
        let first = (0..in_force.len()).max_by_key(|at| precedence(&in_force[*at]))?;
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
