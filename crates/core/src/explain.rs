//! Explain: finds the reason for a signature mismatch. Each usual mistake is tried until one gives the claimed
//! signature.
//!
//! The search needs the secret. A finding names the mistake, and contains neither the secret nor the right signature.
//! The mistakes are data, with one file for each part of a signature: `secret`, `layout`, `timestamp`, `body` (with
//! `restyle` for JSON), `mac`, and `claimed` for the notation of the signature.

mod body;
mod claimed;
mod layout;
mod mac;
mod restyle;
mod secret;
mod timestamp;

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::secret::SecretKey;
use claimed::ClaimedReading;
use layout::StringLayout;
use mac::MacRecipe;

pub use timestamp::unit;

/// A request, as sent or as intended.
#[derive(Debug, Clone, Copy)]
pub struct ClaimedRequest<'a> {
    /// The header's text.
    pub timestamp: &'a str,
    /// The header's text.
    pub nonce: &'a str,
    /// The claimed signature, as the header states it.
    pub signature: &'a str,
    /// The complete body.
    pub body: &'a [u8],
    /// Method and target, if they are known. The protocol does not sign them; some clients do.
    pub line: Option<RequestLine<'a>>,
}

/// The first line of a request, without its version.
#[derive(Debug, Clone, Copy)]
pub struct RequestLine<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// The path, with its query.
    pub target: &'a str,
}

/// Mistakes that together give the claimed signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainFinding {
    /// The mistakes; the list has at least one.
    pub causes: Vec<MistakeCause>,
}

/// A mistake in one part of a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MistakeCause {
    /// The part of the signature with the mistake.
    pub part: SignaturePart,
    /// The wrong part, in words.
    pub what: Cow<'static, str>,
}

/// The parts of a signature in which mistakes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignaturePart {
    /// The key.
    Secret,
    /// The pieces of the signed string, their order and their separators.
    Layout,
    /// The timestamp in the signed string.
    Timestamp,
    /// The body in the signed string.
    Body,
    /// The MAC function.
    Mac,
    /// The notation of the signature in the header.
    Writing,
}

/// The mistakes that explain the claimed signature.
///
/// The list is empty if the signature is right, or if no tried mistake explains the signature. At most two mistakes are
/// combined, and two only if no single mistake explains the signature. A mistake in the notation shows in the header
/// and does not count.
pub fn hypotheses(secret: &SecretKey, request: &ClaimedRequest<'_>) -> Vec<ExplainFinding> {
    let claimed = claimed::readings(request.signature);
    let right = SigningAttempt::right(secret, request);
    if let Some(finding) = right.finding(&[], &claimed) {
        return Vec::from_iter(Some(finding).filter(|finding| !finding.causes.is_empty()));
    }
    let all = all(secret, request);
    let singly: Vec<_> = all
        .iter()
        .filter_map(|one| right.finding(&[one], &claimed))
        .collect();
    if !singly.is_empty() {
        return singly;
    }
    let common: Vec<_> = all.iter().filter(|one| !one.rare).collect();
    let pairs = common.iter().enumerate().flat_map(|(at, one)| {
        let others = common[at + 1..]
            .iter()
            .filter(|other| other.cause.part != one.cause.part);
        others.map(|other| [*one, *other])
    });
    pairs
        .filter_map(|pair| right.finding(&pair, &claimed))
        .collect()
}

/// The usual change to the body that gives `digest`, the SHA-256 of the signed string as the proxy printed it.
pub fn arrived(request: &ClaimedRequest<'_>, digest: &[u8; 32]) -> Option<Cow<'static, str>> {
    let right = SigningAttempt {
        request,
        key: &[],
        layout: &StringLayout::RIGHT,
        timestamp: request.timestamp,
        body: request.body,
        recipe: MacRecipe::Hmac,
    };
    body::hypotheses(request).into_iter().find_map(|one| {
        let mut attempt = right;
        one.change.apply(&mut attempt);
        (Sha256::digest(attempt.string())[..] == digest[..]).then_some(one.cause.what)
    })
}

impl SignaturePart {
    /// The remedy, in one sentence.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Secret => {
                "key the MAC with the secret as issued, as text: every character of it, nothing added, nothing decoded"
            }
            Self::Layout => {
                "sign `timestamp LF nonce LF body LF`, where LF is the one byte 0x0A, after the body too"
            }
            Self::Timestamp => {
                "take the time once, in milliseconds, and put the same digits into the header and the signed string"
            }
            Self::Body => {
                "serialize the body once, keep the bytes, and both sign and send exactly these; method, path and query are not signed"
            }
            Self::Mac => {
                "compute HMAC-SHA512, with the secret as its key and the string as its message"
            }
            Self::Writing => "write the 64 bytes of the MAC as 128 hexadecimal digits",
        }
    }
}

impl fmt::Display for MistakeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.part {
            SignaturePart::Secret => "used as the key",
            SignaturePart::Layout => "signed",
            SignaturePart::Timestamp => "signed as the timestamp",
            SignaturePart::Body => "signed as the body",
            SignaturePart::Mac => "computed",
            SignaturePart::Writing => "written",
        };
        write!(f, "{place}: {}", self.what)
    }
}

/// A mistake, and the change that makes it.
struct MistakeHypothesis {
    cause: MistakeCause,
    change: MistakeChange,
    /// Whether the mistake is tried alone only, because there are hundreds of its kind.
    rare: bool,
}

/// The wrong value of one part of a [`SigningAttempt`].
enum MistakeChange {
    Key(Zeroizing<Vec<u8>>),
    Layout(StringLayout),
    Timestamp(String),
    Body(Vec<u8>),
    Recipe(MacRecipe),
}

/// Every mistake that changes the signed string, the key or the MAC, part by part, the likelier mistakes first.
fn all(secret: &SecretKey, request: &ClaimedRequest<'_>) -> Vec<MistakeHypothesis> {
    [
        secret::hypotheses(secret),
        layout::hypotheses(request),
        timestamp::hypotheses(request.timestamp),
        body::hypotheses(request),
        mac::hypotheses(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl MistakeHypothesis {
    fn new(what: impl Into<Cow<'static, str>>, change: MistakeChange) -> Self {
        let part = match &change {
            MistakeChange::Key(_) => SignaturePart::Secret,
            MistakeChange::Layout(_) => SignaturePart::Layout,
            MistakeChange::Timestamp(_) => SignaturePart::Timestamp,
            MistakeChange::Body(_) => SignaturePart::Body,
            MistakeChange::Recipe(_) => SignaturePart::Mac,
        };
        Self {
            cause: MistakeCause {
                part,
                what: what.into(),
            },
            change,
            rare: false,
        }
    }
}

impl MistakeChange {
    fn apply<'a>(&'a self, attempt: &mut SigningAttempt<'a>) {
        match self {
            Self::Key(key) => attempt.key = key,
            Self::Layout(layout) => attempt.layout = layout,
            Self::Timestamp(timestamp) => attempt.timestamp = timestamp,
            Self::Body(body) => attempt.body = body,
            Self::Recipe(recipe) => attempt.recipe = *recipe,
        }
    }
}

/// One way to sign a request.
#[derive(Clone, Copy)]
struct SigningAttempt<'a> {
    request: &'a ClaimedRequest<'a>,
    key: &'a [u8],
    layout: &'a StringLayout,
    timestamp: &'a str,
    body: &'a [u8],
    recipe: MacRecipe,
}

impl<'a> SigningAttempt<'a> {
    /// The attempt that follows the protocol.
    fn right(secret: &'a SecretKey, request: &'a ClaimedRequest<'a>) -> Self {
        Self {
            request,
            key: secret.as_bytes(),
            layout: &StringLayout::RIGHT,
            timestamp: request.timestamp,
            body: request.body,
            recipe: MacRecipe::Hmac,
        }
    }

    /// Makes these mistakes, and returns them as a finding if the result is the claimed signature.
    fn finding(
        mut self,
        mistakes: &[&'a MistakeHypothesis],
        claimed: &[ClaimedReading],
    ) -> Option<ExplainFinding> {
        for mistake in mistakes {
            mistake.change.apply(&mut self);
        }
        let string = self.string();
        let claimed = claimed
            .iter()
            .find(|claimed| claimed.is(&self.recipe.compute(claimed.hash, self.key, &string)))?;
        let made = mistakes.iter().map(|mistake| &mistake.cause);
        Some(ExplainFinding {
            causes: made.chain(&claimed.causes).cloned().collect(),
        })
    }

    fn string(&self) -> Vec<u8> {
        self.layout.string(self.request, self.timestamp, self.body)
    }
}

#[cfg(test)]
mod tests;
