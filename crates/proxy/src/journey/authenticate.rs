//! Authenticate: finds the party of a request and proves that every signed byte comes from that party.

use bytes::Bytes;
use gatepay_core::header as names;
use gatepay_core::payload::PayloadDigest;
use gatepay_core::stamp::StampError;
use gatepay_core::{ClientId, Credential, Payload, Signature, SigningKey, Stamp, payload};
use gatepay_tenancy::{CredentialMatch, Party, PartyRef, Registry};

use crate::headers::{self, AtMostOnce, KnownHeaders};
use crate::process::yielding::in_pieces;
use crate::refusal::{Refusal, SignatureMismatch, StaleStamp};

/// A claim to be a tenant or an operator. So far it is only known to be well formed and fresh, not proved.
pub struct Caller<'a> {
    /// The party that owns the client id.
    pub owner: PartyRef<'a>,
    /// The party's position in the registry.
    pub position: usize,
    /// The credential's index among the party's credentials.
    pub credential_index: usize,
    /// The client id.
    pub client_id: &'a ClientId,
    /// The stamp that the caller claims to have signed.
    pub stamp: Stamp<'a>,
    key: &'a SigningKey,
    signature: Signature,
    /// The header value that `signature` was parsed from.
    signature_text: &'a [u8],
}

impl Caller<'_> {
    /// The caller's party in a registry, if it has the credential there that the caller signed with, and the credential is
    /// valid at `now_ms`.
    pub fn party_in<'r>(&self, registry: &'r Registry, now_ms: u64) -> Option<&'r Party> {
        let found = registry.find(self.client_id.as_str())?;
        let (dated, party) = (found.credential, found.owner.party());
        let is_same = found.owner.word() == self.owner.word()
            && party.id == self.owner.party().id
            && dated.credential.key.same_secret(self.key);
        (is_same && dated.valid_at(now_ms)).then_some(party)
    }
}

/// A well-formed claim, by whether its credential is in force.
pub enum IdentifiedCaller<'a> {
    /// The credential is in force: the caller may be admitted once it is verified.
    InForce(Caller<'a>),
    /// The credential is not in force: the caller gets the refusal of an unknown client, whether or not its signature
    /// is right. The signature only decides whether the party is named to the institution.
    NotInForce(Caller<'a>),
}

impl<'a> IdentifiedCaller<'a> {
    /// The caller, if it may be admitted.
    pub fn in_force(self) -> Result<Caller<'a>, Refusal> {
        match self {
            Self::InForce(caller) => Ok(caller),
            Self::NotInForce(_) => Err(not_in_force()),
        }
    }
}

/// The refusal for a credential that is not in force: the party itself and a stranger with its client id get the same
/// answer.
pub fn not_in_force() -> Refusal {
    Refusal::UnknownClient("this client id is not valid yet, or no longer")
}

/// The owner of the client id in a head, if known. It is found first, since the valid paths depend on it.
pub fn claimed<'a>(
    registry: &'a Registry,
    lines: &KnownHeaders<'_>,
) -> Option<CredentialMatch<'a>> {
    let client_id = lines.client_id.ok()??;
    registry.find(str::from_utf8(client_id).ok()?)
}

/// Reads the four headers. This needs no hashing, so an unknown client is cheap to refuse.
pub fn identify<'a>(
    found: Option<CredentialMatch<'a>>,
    lines: &KnownHeaders<'a>,
    now_ms: u64,
) -> Result<IdentifiedCaller<'a>, Refusal> {
    match lines.client_id {
        Err(headers::RepeatedHeader) => return Err(repeated(names::CLIENT_ID)),
        Ok(None) => {
            return Err(Refusal::UnknownClient(
                "X-GatePay-Certificate-ClientId is missing",
            ));
        }
        Ok(Some(_)) => {}
    }
    let timestamp = required(lines.timestamp, names::TIMESTAMP)?;
    let nonce = required(lines.nonce, names::NONCE)?;
    let signature = required(lines.signature, names::SIGNATURE)?;

    let found = found.ok_or(Refusal::UnknownClient(
        "no tenant or operator has this client id",
    ))?;
    let caller = claim(&found, (timestamp, nonce, signature), now_ms);
    if found.credential.valid_at(now_ms) {
        caller.map(IdentifiedCaller::InForce)
    } else {
        // The answer is the same for any further fault. A stale stamp proves nothing: requests signed while the
        // credential was in force could be sent again for ever.
        caller
            .map(IdentifiedCaller::NotInForce)
            .map_err(|_| not_in_force())
    }
}

/// The claim of a request, if the claim is well formed and fresh.
fn claim<'a>(
    found: &CredentialMatch<'a>,
    (timestamp, nonce, signature_text): (&'a [u8], &'a [u8], &'a [u8]),
    now_ms: u64,
) -> Result<Caller<'a>, Refusal> {
    let CredentialMatch {
        owner,
        credential: dated,
        position,
        credential_index,
    } = *found;
    let stamp = Stamp::parse(timestamp, nonce).map_err(|error| match error {
        StampError::TimestampNotDigits | StampError::TimestampInSeconds => {
            Refusal::MalformedRequest(error.to_string().into())
        }
        StampError::NonceEmpty | StampError::NonceTooLong(_) | StampError::NonceNotPrintable => {
            Refusal::MalformedNonce(error)
        }
    })?;
    let signature = Signature::parse(signature_text)
        .map_err(|error| Refusal::SignatureMismatch(SignatureMismatch::Form(error)))?;
    let window = owner.party().window;
    window
        .check(stamp.millis(), now_ms)
        .map_err(|skew| Refusal::StaleTimestamp(StaleStamp::Skew(skew)))?;
    let Credential { client_id, key } = &dated.credential;
    Ok(Caller {
        owner,
        position,
        credential_index,
        client_id,
        stamp,
        key,
        signature,
        signature_text,
    })
}

impl Caller<'_> {
    /// A MAC that has taken the stamp and waits for the body.
    pub fn payload(&self) -> Payload {
        Payload::begin(self.key, &self.stamp)
    }

    /// Proves the claim: the MAC over the received bytes equals the signature that was sent.
    pub fn verify(&self, payload: Payload, body: &Bytes) -> Result<(), Refusal> {
        if payload.verify(&self.signature) {
            return Ok(());
        }
        Err(mismatch(body, payload::digest(&self.stamp, body)))
    }

    /// Like `verify`, for a long body: other tasks run while the digest for a refusal is made.
    pub async fn verify_in_pieces(&self, payload: Payload, body: &Bytes) -> Result<(), Refusal> {
        if payload.verify(&self.signature) {
            return Ok(());
        }
        Err(mismatch(body, digest_in_pieces(&self.stamp, body).await))
    }
}

async fn digest_in_pieces(stamp: &Stamp<'_>, body: &[u8]) -> [u8; 32] {
    let mut digest = PayloadDigest::begin(stamp);
    in_pieces(body, |piece| digest.body(piece)).await;
    digest.end()
}

fn mismatch(body: &Bytes, digest: [u8; 32]) -> Refusal {
    Refusal::SignatureMismatch(SignatureMismatch::Bytes {
        body_bytes: body.len(),
        digest,
    })
}

/// The signature that proves the claim, for the journal alone. It is read from the head again: a `Signature` cannot be
/// copied.
impl From<&Caller<'_>> for Signature {
    fn from(caller: &Caller<'_>) -> Self {
        Self::parse(caller.signature_text)
            .expect("a caller is made only from a text that has parsed")
    }
}

fn required<'a>(line: AtMostOnce<'a>, name: &str) -> Result<&'a [u8], Refusal> {
    match line {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(Refusal::MalformedRequest(
            format!("{name} is missing").into(),
        )),
        Err(headers::RepeatedHeader) => Err(repeated(name)),
    }
}

fn repeated(name: &str) -> Refusal {
    Refusal::MalformedRequest(format!("{name} stands more than once").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::yielding::YIELD_AFTER;
    use crate::process::yielding::tests::polls;

    #[test]
    fn the_digest_of_a_long_body_is_made_in_pieces_and_is_the_same() {
        let stamp = Stamp::parse(b"1767225600000", b"n").unwrap();
        let body = vec![7; 16 * YIELD_AFTER + 1];
        let (polls, digest) = polls(digest_in_pieces(&stamp, &body));
        assert_eq!(polls, 17);
        assert_eq!(digest, payload::digest(&stamp, &body));
    }
}
