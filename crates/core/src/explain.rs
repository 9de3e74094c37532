//! Why a signature does not match: the usual mistakes are made one by one, until one gives the signature that was
//! claimed.
//!
//! For whoever holds the secret. A finding names the mistake; neither the secret nor the right signature is ever
//! part of it. The mistakes are data, one file for each part of a signature they can be made in: `secret`, `layout`,
//! `timestamp`, `body` (with `restyle` for JSON), `mac`, and `claimed` for how the result is written.

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
use claimed::Claimed;
use layout::Layout;
use mac::Recipe;

pub use timestamp::unit;

/// A request as it was sent, or was meant to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The header's text.
    pub timestamp: &'a str,
    /// The header's text.
    pub nonce: &'a str,
    /// The header's text: what the sender claims.
    pub signature: &'a str,
    /// Every byte of it.
    pub body: &'a [u8],
    /// Method and target, if they are known. They are not signed; some sign them nevertheless.
    pub line: Option<Line<'a>>,
}

/// The first line of a request, without its version.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// The path, with its query.
    pub target: &'a str,
}

/// Mistakes that, made together, give the signature that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// At least one.
    pub causes: Vec<Cause>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Where it was made.
    pub part: Part,
    /// What stood there instead of what belongs there.
    pub what: Cow<'static, str>,
}

/// The parts of a signature in which mistakes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The key.
    Secret,
    /// What is signed, and in which order.
    Layout,
    /// The timestamp in the signed string.
    Timestamp,
    /// The body in the signed string.
    Body,
    /// The function.
    Mac,
    /// How the result is written into the header.
    Writing,
}

/// The mistakes that explain the claimed signature: none if it is right, and none if nothing that was tried explains
/// it.
///
/// At most two mistakes are made together, and two only if no single one explains it. A mistake in how the result is
/// written shows in the header and does not count.
pub fn hypotheses(secret: &SecretKey, request: &Request<'_>) -> Vec<Finding> {
    let claimed = claimed::readings(request.signature);
    let right = Attempt::right(secret, request);
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

/// What reached the proxy in the body's place, if the SHA-256 it printed is that of a body changed in a usual way.
pub fn arrived(request: &Request<'_>, digest: &[u8; 32]) -> Option<Cow<'static, str>> {
    let right = Attempt {
        request,
        key: &[],
        layout: &Layout::RIGHT,
        timestamp: request.timestamp,
        body: request.body,
        recipe: Recipe::Hmac,
    };
    body::hypotheses(request).into_iter().find_map(|one| {
        let mut attempt = right;
        one.change.apply(&mut attempt);
        (Sha256::digest(attempt.string())[..] == digest[..]).then_some(one.cause.what)
    })
}

impl Part {
    /// What to do instead, in one sentence.
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

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.part {
            Part::Secret => "used as the key",
            Part::Layout => "signed",
            Part::Timestamp => "signed as the timestamp",
            Part::Body => "signed as the body",
            Part::Mac => "computed",
            Part::Writing => "written",
        };
        write!(f, "{place}: {}", self.what)
    }
}

/// A mistake, and how to make it.
struct Hypothesis {
    cause: Cause,
    change: Change,
    /// Tried by itself only: there are hundreds of its kind.
    rare: bool,
}

/// What takes the right thing's place.
enum Change {
    Key(Zeroizing<Vec<u8>>),
    Layout(Layout),
    Timestamp(String),
    Body(Vec<u8>),
    Recipe(Recipe),
}

/// Every mistake that changes anything about this request, the likelier ones of a part first.
fn all(secret: &SecretKey, request: &Request<'_>) -> Vec<Hypothesis> {
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

impl Hypothesis {
    fn new(what: impl Into<Cow<'static, str>>, change: Change) -> Self {
        let part = match &change {
            Change::Key(_) => Part::Secret,
            Change::Layout(_) => Part::Layout,
            Change::Timestamp(_) => Part::Timestamp,
            Change::Body(_) => Part::Body,
            Change::Recipe(_) => Part::Mac,
        };
        Self {
            cause: Cause {
                part,
                what: what.into(),
            },
            change,
            rare: false,
        }
    }
}

impl Change {
    fn apply<'a>(&'a self, attempt: &mut Attempt<'a>) {
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
struct Attempt<'a> {
    request: &'a Request<'a>,
    key: &'a [u8],
    layout: &'a Layout,
    timestamp: &'a str,
    body: &'a [u8],
    recipe: Recipe,
}

impl<'a> Attempt<'a> {
    /// The way the protocol wants it.
    fn right(secret: &'a SecretKey, request: &'a Request<'a>) -> Self {
        Self {
            request,
            key: secret.as_bytes(),
            layout: &Layout::RIGHT,
            timestamp: request.timestamp,
            body: request.body,
            recipe: Recipe::Hmac,
        }
    }

    /// Makes these mistakes, and says so if the result is what was claimed.
    fn finding(mut self, mistakes: &[&'a Hypothesis], claimed: &[Claimed]) -> Option<Finding> {
        for mistake in mistakes {
            mistake.change.apply(&mut self);
        }
        let string = self.string();
        let claimed = claimed
            .iter()
            .find(|claimed| claimed.is(&self.recipe.compute(claimed.hash, self.key, &string)))?;
        let made = mistakes.iter().map(|mistake| &mistake.cause);
        Some(Finding {
            causes: made.chain(&claimed.causes).cloned().collect(),
        })
    }

    fn string(&self) -> Vec<u8> {
        self.layout.string(self.request, self.timestamp, self.body)
    }
}

#[cfg(test)]
mod tests;
