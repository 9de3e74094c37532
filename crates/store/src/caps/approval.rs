//! Approval: the word of operators for one call above `approve_above`.
//!
//! Such a call is refused, and recorded: for which tenant, operation, key and body. Once operators have approved the record,
//! the tenant sends the same body under the same key again, and the transaction that admits it takes the approval away. The
//! store keeps no body, and nothing is sent by itself.

use std::fmt;

use gatepay_core::money::{MoneyDemand, PartCurrency};

use super::rule::CapBreach;
use crate::stored_text::{Fingerprint, LONGEST_TOLD, StoredText, ToldText};

/// The subject of an approval, besides tenant, operation and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalSubject {
    /// SHA-256 of the body; of body and query, if the call has a query.
    pub body_sha256: [u8; 32],
    /// The amounts, for people.
    pub amounts: ToldText,
    /// The targets, for people; empty if the money goes back to its payer or stays in the account.
    pub targets: ToldText,
}

/// The id of an approval, by which people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApprovalId([u8; 8]);

/// The calls that one approval is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApprovalKey {
    /// The tenant or operator that makes the call.
    pub party: StoredText,
    /// The sub-account.
    pub account: StoredText,
    /// The name under which the call is counted.
    pub counted_as: String,
    /// The call's key; `None` if no page documents one, or the body spells it otherwise.
    pub key: Option<StoredText>,
    /// As in [`ApprovalSubject`].
    pub body_sha256: [u8; 32],
}

/// A call that needs, needed or has an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// The calls that it is for.
    pub of: ApprovalKey,
    /// The amounts, for people.
    pub amounts: ToldText,
    /// The targets, for people.
    pub targets: ToldText,
    /// Its state.
    pub state: ApprovalState,
    /// When the call was refused, in milliseconds since 1970 by the store's clock.
    pub asked_ms: u64,
    /// When it ends: the wait for operators, or that for the tenant.
    pub until_ms: u64,
    /// The operators that approved it, in the order in which they did.
    pub signers: Vec<StoredText>,
}

/// The state of an approval. One whose time has passed is over in any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApprovalState {
    /// Operators have yet to decide.
    Waiting,
    /// The call passes once.
    Approved,
    /// An operator has rejected it.
    Rejected,
    /// The call has passed.
    Used,
}

/// Why a call needs an approval, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalDemand {
    /// The approval; `None` if the instance that asked did not tell which call it is for, or if too many wait.
    pub id: Option<ApprovalId>,
    /// Whether an operator has rejected it.
    pub is_rejected: bool,
    /// Whether it begins with this refusal.
    pub begins: bool,
    /// Whether as many calls of the party wait as [may](MOST_WAITING), so that this one does not.
    pub is_crowded: bool,
    /// The rule.
    pub breach: CapBreach,
}

/// The result of an operator's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalOrder {
    /// It is taken. Whether the call may pass now, its state says.
    Taken,
    /// No approval has this id.
    NotFound,
    /// It is used, rejected, or over.
    Closed,
    /// The operator is the party that makes the call.
    OwnCall,
}

/// The approvals that wait in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApprovalFigures {
    /// Calls that operators have yet to decide about.
    pub waiting: u64,
    /// When the oldest of them was refused, in milliseconds since 1970 by the store's clock.
    pub oldest_ms: Option<u64>,
    /// Whether a rule in force asks for approvals.
    pub is_asked: bool,
}

/// The approvals that a list shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApprovalQuery {
    /// Only approvals in this state.
    pub state: Option<ApprovalListing>,
    /// Only approvals of this party.
    pub party: Option<StoredText>,
    /// Only approvals behind this place, where the list goes on.
    pub after: Option<ApprovalPlace>,
    /// The most approvals.
    pub most: u32,
}

/// The state of an approval as people see it: one whose time has passed is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApprovalListing {
    /// It is in this state, and not over unless it is used.
    In(ApprovalState),
    /// Its time has passed before it was used.
    Expired,
}

/// The place of an approval in a list, in which the newest come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApprovalPlace {
    /// When the call was refused, in milliseconds since 1970 by the store's clock.
    pub asked_ms: u64,
    /// The approval.
    pub id: ApprovalId,
}

/// The most approvals of one party that wait for operators at a time: one party's cannot hide another one's.
pub const MOST_WAITING: u64 = 100;
/// How long operators may take, and after them the tenant, in milliseconds.
pub const APPROVAL_MS: u64 = 86_400_000;
/// How long an approval is kept after it is over, in milliseconds: 30 days.
pub const APPROVAL_KEPT_MS: u64 = 30 * 86_400_000;

impl ApprovalSubject {
    /// The subject of a call.
    pub fn of(body_sha256: [u8; 32], demand: &MoneyDemand) -> Self {
        let amounts = demand.parts.iter().map(|part| match &part.currency {
            PartCurrency::Stated(currency) => {
                format!("{} {currency}", part.amount)
            }
            PartCurrency::OfOrder(order) => {
                format!("{} in the currency of order {}", part.amount, order.text())
            }
        });
        Self {
            body_sha256,
            amounts: listed(amounts),
            targets: listed(demand.targets.iter().map(|it| it.target.told())),
        }
    }
}

/// As many of the texts as can be stored, and the number of the others.
fn listed(texts: impl Iterator<Item = String>) -> ToldText {
    const ROOM: usize = LONGEST_TOLD - 24;
    let (mut text, mut left_out) = (String::new(), 0_usize);
    for next in texts {
        let comma = if text.is_empty() { "" } else { ", " };
        if left_out > 0 || text.len() + comma.len() + next.len() > ROOM {
            left_out += 1;
        } else {
            text += comma;
            text += &next;
        }
    }
    if left_out > 0 {
        let comma = if text.is_empty() { "" } else { " and " };
        text = format!("{text}{comma}{left_out} more");
    }
    ToldText::parse(&text).unwrap_or_default()
}

impl ApprovalId {
    /// The id of an approval that the refusal of this stamp begins.
    pub(crate) fn of(stamp: &Fingerprint) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&stamp[..8]);
        Self(id)
    }

    /// An id as people write it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 8];
        let is_hex = text.len() == 16 && !text.bytes().any(|it| it.is_ascii_uppercase());
        hex::decode_to_slice(text, &mut id)
            .ok()
            .filter(|()| is_hex)?;
        Some(Self(id))
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl ApprovalState {
    /// Every state; the place is the number in tables.
    const ALL: [Self; 4] = [Self::Waiting, Self::Approved, Self::Rejected, Self::Used];

    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Used => "used",
        }
    }

    pub(crate) fn number(self) -> i16 {
        match self {
            Self::Waiting => 0,
            Self::Approved => 1,
            Self::Rejected => 2,
            Self::Used => 3,
        }
    }

    pub(crate) fn of(number: i64) -> Option<Self> {
        let at = usize::try_from(number).ok()?;
        Self::ALL.get(at).copied()
    }
}

impl ApprovalListing {
    /// The state of a word for people.
    pub fn parse(word: &str) -> Option<Self> {
        let mut states = ApprovalState::ALL.into_iter().map(Self::In);
        let state = states.find(|it| it.as_str() == word);
        state.or((word == Self::Expired.as_str()).then_some(Self::Expired))
    }

    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In(state) => state.as_str(),
            Self::Expired => "expired",
        }
    }

    /// The number in queries: that of the state, or one that no state has.
    pub(crate) fn number(self) -> i16 {
        match self {
            Self::In(state) => state.number(),
            Self::Expired => 4,
        }
    }
}

impl ApprovalPlace {
    /// A place as its text says it.
    pub fn parse(text: &str) -> Option<Self> {
        let (asked, id) = text.split_once('-')?;
        Some(Self {
            asked_ms: asked.parse().ok()?,
            id: ApprovalId::parse(id)?,
        })
    }
}

impl fmt::Display for ApprovalPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.asked_ms, self.id)
    }
}

impl Approval {
    /// Its state at a time, as people see it.
    pub fn listing(&self, now_ms: u64) -> ApprovalListing {
        if self.state != ApprovalState::Used && self.is_over(now_ms) {
            ApprovalListing::Expired
        } else {
            ApprovalListing::In(self.state)
        }
    }

    /// Its place in a list.
    pub fn place(&self) -> ApprovalPlace {
        ApprovalPlace {
            asked_ms: self.asked_ms,
            id: self.id,
        }
    }

    /// Whether it is over, or has been used.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.until_ms <= now_ms || self.state == ApprovalState::Used
    }

    /// Takes an operator's approval; of `needed` different ones each.
    pub(crate) fn sign(&mut self, by: &StoredText, needed: usize, now_ms: u64) -> ApprovalOrder {
        if self.is_over(now_ms) || self.state == ApprovalState::Rejected {
            return ApprovalOrder::Closed;
        }
        if self.of.party == *by {
            return ApprovalOrder::OwnCall;
        }
        if self.state == ApprovalState::Waiting {
            if !self.signers.contains(by) {
                self.signers.push(by.clone());
            }
            if self.signers.len() >= needed {
                self.state = ApprovalState::Approved;
                self.until_ms = now_ms.saturating_add(APPROVAL_MS);
            }
        }
        ApprovalOrder::Taken
    }

    /// Has an approved call wait again if fewer operators than these have approved it.
    pub(crate) fn wait_for(&mut self, needed: u32) {
        if self.state == ApprovalState::Approved && self.signers.len() < needed as usize {
            self.state = ApprovalState::Waiting;
        }
    }

    /// Ends it: the store may have lost that the call has passed.
    pub(crate) fn void(&mut self, now_ms: u64) {
        if matches!(self.state, ApprovalState::Waiting | ApprovalState::Approved) {
            self.until_ms = self.until_ms.min(now_ms);
        }
    }

    /// Takes an operator's rejection.
    pub(crate) fn reject(&mut self, now_ms: u64) -> ApprovalOrder {
        if self.is_over(now_ms) {
            return ApprovalOrder::Closed;
        }
        self.state = ApprovalState::Rejected;
        ApprovalOrder::Taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_says_how_much_is_left_out() {
        let texts = |number: usize| (0..number).map(|it| format!("user {it:020}"));
        assert_eq!(
            listed(texts(2)).as_str(),
            "user 00000000000000000000, user 00000000000000000001"
        );
        let long = listed(texts(2_000));
        assert!(long.as_str().ends_with(" and 788 more"), "{long:?}");
        assert!(long.as_str().len() <= LONGEST_TOLD);
        let most = listed(texts(1_200));
        assert!(!most.as_str().contains("more"), "all of them");
        let one = listed(std::iter::once("x".repeat(LONGEST_TOLD)));
        assert_eq!(one.as_str(), "1 more");
        assert_eq!(listed(texts(0)).as_str(), "");
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = ApprovalId::of(&[0xab; 16]);
        assert_eq!(id.to_string(), "abababababababab");
        assert_eq!(ApprovalId::parse("abababababababab"), Some(id));
        for other in [
            "ABABABABABABABAB",
            "abab",
            "ababababababababab",
            "gbababababababab",
        ] {
            assert_eq!(ApprovalId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_place_and_a_state_have_one_spelling() {
        let place = ApprovalPlace {
            asked_ms: 17,
            id: ApprovalId::of(&[0xab; 16]),
        };
        assert_eq!(place.to_string(), "17-abababababababab");
        assert_eq!(ApprovalPlace::parse(&place.to_string()), Some(place));
        assert_eq!(ApprovalPlace::parse("17"), None);
        for word in ["waiting", "approved", "rejected", "used", "expired"] {
            let state = ApprovalListing::parse(word).unwrap();
            assert_eq!(state.as_str(), word);
        }
        assert_eq!(ApprovalListing::parse("open"), None);
    }
}
