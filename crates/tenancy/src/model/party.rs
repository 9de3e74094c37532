//! Parties: the common part of tenants and operators, which sign requests.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use gatepay_core::{Credential, Kind, StampWindow};
use ipnet::IpNet;
use smol_str::SmolStr;

use crate::model::permissions::Permissions;

/// A signer of requests: the common part of a tenant and an operator. Fields of every request come first: see
/// [`Tenant`](crate::Tenant).
#[repr(C)]
pub struct Party {
    /// Its credentials; at least one. Keys are never copied: a party with another standing shares them.
    pub credentials: Arc<[DatedCredential]>,
    /// How far its stamps may lie from our clock; never wider than the proxy's.
    pub window: StampWindow,
    /// The operations it may call.
    pub permissions: Permissions,
    /// Where its calls may come from; empty means anywhere.
    pub addresses: Box<[IpNet]>,
    /// Active, read-only or suspended.
    pub standing: Standing,
    /// The rule by which a request is a replay.
    pub replay: ReplayRule,
    /// How much it may call.
    pub limits: PartyLimits,
    /// Its name in logs, metrics and files.
    pub id: PartyId,
}

impl Party {
    /// Everything else at its default, for a party made in a process instead of a file.
    pub fn new(id: PartyId, permissions: Permissions, credentials: Vec<DatedCredential>) -> Self {
        Self {
            id,
            standing: Standing::Active,
            addresses: Box::default(),
            replay: ReplayRule::Pair,
            limits: PartyLimits::default(),
            permissions,
            window: DEFAULT_WINDOW,
            credentials: credentials.into(),
        }
    }

    /// Whether a call may come from this address.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|net| net.contains(&address))
    }
}

/// The name of a tenant or an operator: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or digit.
///
/// It becomes a file name and a metric label, so it must be safe as both.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartyId(SmolStr);

/// Why a text cannot be such a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit")]
pub struct PartyIdError;

impl PartyId {
    /// Accepts names that are safe as a file name and a metric label.
    pub fn parse(text: &str) -> Result<Self, PartyIdError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let allowed = text
            .bytes()
            .all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
        if allowed && text.len() <= 64 && text.bytes().next().is_some_and(plain) {
            Ok(Self(text.into()))
        } else {
            Err(PartyIdError)
        }
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for PartyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PartyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PartyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The payment pages promise merchants five minutes back. They allow as much ahead, but the future is cut to ten
/// seconds: it is also how long a start without a replay hand-over has to wait.
pub const DEFAULT_WINDOW: StampWindow = StampWindow {
    past_ms: 300_000,
    future_ms: 10_000,
};

/// The standing of a party.
///
/// Ordered by how much that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing.
    Suspended,
    /// Only the reads that its permissions allow.
    ReadOnly,
    /// Everything its permissions allow.
    Active,
}

impl Standing {
    /// Its words in files.
    pub(crate) const WORDS: &[(&str, Self)] = &[
        (Self::Active.as_str(), Self::Active),
        (Self::ReadOnly.as_str(), Self::ReadOnly),
        (Self::Suspended.as_str(), Self::Suspended),
    ];

    /// Its word in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::ReadOnly => "read_only",
            Self::Suspended => "suspended",
        }
    }
}

/// The rule by which a signed request is a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayRule {
    /// The same timestamp and nonce (protocol.md 1.5: some clients keep a nonce for hours).
    Pair,
    /// The same nonce, with any timestamp.
    Nonce,
}

impl ReplayRule {
    /// Its words in files.
    pub(crate) const WORDS: &[(&str, Self)] = &[
        (Self::Pair.as_str(), Self::Pair),
        (Self::Nonce.as_str(), Self::Nonce),
    ];

    /// Its word in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Nonce => "nonce",
        }
    }
}

/// How often: a steady rate, and how much may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second over time.
    pub per_second: NonZeroU32,
    /// Requests at once after a quiet time.
    pub burst: NonZeroU32,
}

/// Limits that are evaluated and counted, but not enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each limit, and each by itself"
)]
pub struct LimitsShadow {
    /// `PartyLimits::all`.
    pub all: bool,
    /// `PartyLimits::in_flight`.
    pub in_flight: bool,
    /// `PartyLimits::read`.
    pub read: bool,
    /// `PartyLimits::write`.
    pub write: bool,
    /// `PartyLimits::money`.
    pub money: bool,
}

impl LimitsShadow {
    /// Which are, by their names in the file.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let Self {
            all,
            in_flight,
            read,
            write,
            money,
        } = *self;
        let all = [
            ("rate", all),
            ("in_flight", in_flight),
            ("read", read),
            ("write", write),
            ("money", money),
        ];
        all.into_iter().filter_map(|(name, is)| is.then_some(name))
    }

    /// Whether the further limit on calls of one kind is in shadow.
    pub fn of_kind(&self, kind: Kind) -> bool {
        match kind {
            Kind::Read => self.read,
            Kind::Write => self.write,
            Kind::Money => self.money,
        }
    }
}

/// Rates and concurrency of a party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartyLimits {
    /// Over all calls.
    pub all: Rate,
    /// Requests at the same time.
    pub in_flight: NonZeroU32,
    /// Over reads, besides `all`.
    pub read: Option<Rate>,
    /// Over writes, besides `all`.
    pub write: Option<Rate>,
    /// Over money calls, besides `all`.
    pub money: Option<Rate>,
    /// Which of them are not enforced.
    pub shadow: LimitsShadow,
}

impl Default for PartyLimits {
    fn default() -> Self {
        let per_second = Self::REQUESTS_PER_SECOND;
        Self {
            all: Rate {
                per_second,
                burst: per_second.saturating_mul(Self::BURST),
            },
            in_flight: Self::IN_FLIGHT,
            read: None,
            write: None,
            money: None,
            shadow: LimitsShadow::default(),
        }
    }
}

impl PartyLimits {
    /// A busy shop's peak; ten such tenants fill the institution's default quota.
    pub(crate) const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
    /// The burst as a multiple of the rate: two seconds' worth, since shops poll in step. 100 by default.
    pub(crate) const BURST: NonZeroU32 = NonZeroU32::new(2).expect("not zero");
    /// At GatePay's usual answer times far more than the rate needs; one slow minute still cannot take all connections.
    pub(crate) const IN_FLIGHT: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

    /// The further limit on calls of one kind.
    pub fn of_kind(&self, kind: Kind) -> Option<Rate> {
        match kind {
            Kind::Read => self.read,
            Kind::Write => self.write,
            Kind::Money => self.money,
        }
    }
}

/// A credential and the time it is good for, in milliseconds since 1970. The dates are first, so that a party's only
/// credential is read from four cache lines and not five.
#[repr(C)]
pub struct DatedCredential {
    /// Good from here on.
    pub not_before: Option<u64>,
    /// Good before this.
    pub not_after: Option<u64>,
    /// Client id and key.
    pub credential: Credential,
}

impl DatedCredential {
    /// A credential that is always good.
    pub fn undated(credential: Credential) -> Self {
        Self {
            credential,
            not_before: None,
            not_after: None,
        }
    }

    /// The same credential once more, with a copy of its key.
    pub(crate) fn duplicate(&self) -> Self {
        let Credential { client_id, key } = &self.credential;
        Self {
            not_before: self.not_before,
            not_after: self.not_after,
            credential: Credential {
                client_id: client_id.clone(),
                key: key.duplicate(),
            },
        }
    }

    /// Whether it is good at a time: from `not_before` on, and before `not_after`.
    pub fn valid_at(&self, now_ms: u64) -> bool {
        self.not_before.is_none_or(|begin| begin <= now_ms)
            && self.not_after.is_none_or(|end| now_ms < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;

    assert_not_impl_any!(Party: fmt::Debug, fmt::Display, serde::Serialize, Clone);
    assert_not_impl_any!(DatedCredential: fmt::Debug, fmt::Display, serde::Serialize, Clone);

    #[test]
    fn a_name_is_safe_as_a_file_name_and_a_label() {
        for good in ["acme", "7-eleven", "a.b_c-d", &"a".repeat(64)] {
            assert_eq!(PartyId::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "-x",
            "_x",
            "Acme",
            "a/b",
            "a b",
            "a\n",
            "ä",
            &"a".repeat(65),
        ] {
            assert_eq!(PartyId::parse(bad), Err(PartyIdError), "{bad:?}");
        }
    }

    #[test]
    fn a_credential_is_good_from_its_first_moment_to_before_its_last() {
        use gatepay_core::{ClientId, SecretKey};
        let secret = SecretKey::new(zeroize::Zeroizing::new("k".to_owned())).unwrap();
        let credential = Credential::new(ClientId::parse("c").unwrap(), &secret);
        let mut dated = DatedCredential::undated(credential);
        assert!(dated.valid_at(0) && dated.valid_at(u64::MAX));
        dated.not_before = Some(10);
        dated.not_after = Some(20);
        let good: Vec<_> = [9, 10, 19, 20].map(|now| dated.valid_at(now)).into();
        assert_eq!(good, [false, true, true, false]);
    }
}
