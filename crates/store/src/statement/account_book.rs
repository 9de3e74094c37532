//! Account book: the admitted calls that change something, and how each of them stands at a time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::{CurrencyCode, StatedAmount, are_of};

use crate::caps::spend::{NO_KEY, SpendAmount};
use crate::error::StoreError;
use crate::stored_text::{Fingerprint, StoredText};

/// The booking of a write or money call, made when it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallUsage {
    /// The call's own key, by which GatePay knows a repetition; a call without one stands alone.
    pub key: Option<StoredText>,
    /// Whether all calls under one key are one: those of a write, and money calls of which GatePay documents it. Otherwise
    /// each call that it accepts counts.
    pub is_once: bool,
    /// The amounts of a money call; `None` if they cannot be read exactly. Empty for a write.
    pub amounts: Option<Vec<SpendAmount>>,
}

/// A booked call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookedCall {
    /// The stamp that the call was admitted with.
    pub stamp: Fingerprint,
    /// The sub-account that it was made for.
    pub account: String,
    /// The operation's name.
    pub operation: String,
    /// The key in tables.
    pub key: String,
    /// As [`CallUsage::is_once`].
    pub is_once: bool,
    /// As [`CallUsage::amounts`], one for each currency.
    pub amounts: Option<Vec<SpendAmount>>,
    /// When the call was admitted.
    pub at_ms: u64,
    /// The first result of the call, and the time at which it was learned.
    pub learned: Option<(LearnedResult, u64)>,
    /// The call's own end, and the time at which it was learned, if it came after GatePay's word on the call's number, which
    /// does not tell of which call GatePay has the object.
    pub own_end: Option<(LearnedResult, u64)>,
    /// The final failure of the object of an accepted call.
    pub failure: Option<ObjectFailure>,
}

/// The final failure of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectFailure {
    /// When it was learned.
    pub learned_ms: u64,
    /// A time at which GatePay had already decided. Calls that were admitted later may have made another object.
    pub decided_ms: u64,
}

/// The calls of one operation under one key that decide how all calls under it stand at a time. There may be any number of
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KeyHeads {
    /// The call that counts: the first one whose object GatePay is known to have. Where all calls under the key are one, the
    /// first that GatePay accepted in its own answer comes before those that were only found.
    pub(crate) first: Option<KeyHead>,
    /// The call that counts after that object has failed.
    pub(crate) next: Option<KeyHead>,
    /// The first one that GatePay accepted. Read for keys under which each call may be one of its own.
    pub(crate) accepted: Option<KeyHead>,
    /// The call of another party for the same sub-account of which it was learned before the first one that GatePay has its object:
    /// a key is unique for its account, whoever makes the call. Read for all other keys.
    pub(crate) elsewhere: Option<KeyHead>,
}

/// One of the [`KeyHeads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHead {
    stamp: Fingerprint,
    at_ms: u64,
    learned_ms: u64,
    pub(crate) failure: Option<ObjectFailure>,
}

/// The result of a booked call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearnedResult {
    /// It was not sent, or GatePay refused it.
    Refused,
    /// GatePay accepted it.
    Accepted,
    /// GatePay has the object under its key, which this call or another one has made.
    Found,
}

/// A booked call that GatePay may have executed or not, and that it can be asked about by a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownCall {
    /// When it was admitted, in milliseconds since 1970 by the store's clock.
    pub at_ms: u64,
    /// The tenant or operator.
    pub party: StoredText,
    /// The sub-account.
    pub account: StoredText,
    /// The operation's name.
    pub operation: String,
    /// The key.
    pub key: StoredText,
}

/// How a booked call stands at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallStanding {
    /// GatePay executed it.
    Executed,
    /// Another call under its key is the executed one: it is the same transaction.
    Repeated,
    /// GatePay executed it, and the object has finally failed.
    Failed,
    /// It was not sent, or GatePay refused it.
    Refused,
    /// It may have been executed.
    Unknown,
}

impl CallStanding {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Repeated => "repeated",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

impl LearnedResult {
    /// The result that an engine stores as this number.
    pub(crate) fn of(number: i64) -> Option<Self> {
        Some(match number {
            0 => Self::Refused,
            1 => Self::Accepted,
            3 => Self::Found,
            _ => return None,
        })
    }
}

/// The column for amounts that cannot be read exactly.
const UNREAD: &str = "?";

impl CallUsage {
    /// The amounts as a column: `ETH=0.5,USDT=12`.
    pub(crate) fn parts_text(&self) -> String {
        let Some(amounts) = &self.amounts else {
            return UNREAD.to_owned();
        };
        let mut sums: BTreeMap<&str, ExactAmount> = BTreeMap::new();
        for part in amounts {
            let sum = sums.entry(part.currency.as_str()).or_default();
            *sum = sum.plus(part.amount).unwrap_or(ExactAmount::MOST);
        }
        let mut text = String::new();
        for (currency, amount) in sums {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{currency}={amount}");
        }
        text
    }

    /// The key in tables: a call without one has its stamp's.
    pub(crate) fn stored_key(&self, stamp: &Fingerprint) -> String {
        match &self.key {
            Some(key) => key.as_str().to_owned(),
            None => format!("{NO_KEY}{}", hex::encode(stamp)),
        }
    }
}

/// The amounts in a column; `None` if they could not be read when the call was admitted.
pub(crate) fn amounts_of(text: &str) -> Result<Option<Vec<SpendAmount>>, StoreError> {
    if text == UNREAD {
        return Ok(None);
    }
    let unexpected = || StoreError::Unexpected("parts of a booked call".to_owned());
    let parts = text.split(',').filter(|part| !part.is_empty());
    let amounts = parts.map(|part| {
        let (currency, amount) = part.split_once('=').ok_or_else(unexpected)?;
        Ok(SpendAmount {
            currency: CurrencyCode::parse(currency).ok_or_else(unexpected)?,
            amount: ExactAmount::parse(amount).map_err(|_| unexpected())?,
        })
    });
    amounts.collect::<Result<_, _>>().map(Some)
}

impl BookedCall {
    /// Whether other calls may have the same key.
    pub(crate) fn has_key(&self) -> bool {
        !self.key.starts_with(NO_KEY)
    }

    /// The result that was known at a time.
    fn learned_by(&self, ms: u64) -> Option<LearnedResult> {
        let by = |end: Option<(LearnedResult, u64)>| end.filter(|(_, learned)| *learned < ms);
        let known = by(self.own_end).or(by(self.learned));
        known.map(|(result, _)| result)
    }

    fn failed_by(&self, ms: u64) -> Option<ObjectFailure> {
        self.failure.filter(|failure| failure.learned_ms < ms)
    }

    /// Whether all calls under its key are one, and the key was only found at GatePay: another of the calls may have made the
    /// object.
    pub(crate) fn is_found_repetition(&self) -> bool {
        self.is_once && matches!(self.learned, Some((LearnedResult::Found, _)))
    }

    /// The call that made the object: the first one that GatePay accepted, otherwise this one, which was known first. If this
    /// call's object has failed before a time, an accepted call takes its place only if its own has failed as well.
    pub(crate) fn or_accepted(self, accepted: Option<Self>, before_ms: u64) -> Self {
        let fails = |call: &Self| call.failed_by(before_ms).is_some();
        match accepted {
            Some(accepted) if !fails(&self) || fails(&accepted) => accepted,
            _ => self,
        }
    }

    /// Whether it asked for the amounts that GatePay states of an object, and if they are the whole of it, for nothing else; `None`
    /// if its own cannot be read.
    pub(crate) fn asked_for(&self, stated: &[StatedAmount], is_whole: bool) -> Option<bool> {
        let parts = self.amounts.as_deref().filter(|own| !own.is_empty())?;
        let parts = parts.iter().map(|part| (Some(&part.currency), part.amount));
        Some(are_of(stated, is_whole, &parts.collect::<Vec<_>>()))
    }

    fn accepted_by(&self, ms: u64) -> CallStanding {
        match self.failed_by(ms) {
            Some(_) => CallStanding::Failed,
            None => CallStanding::Executed,
        }
    }
}

impl KeyHead {
    /// A call of which something is known at a time.
    pub(crate) fn of(call: &BookedCall, before_ms: u64) -> Self {
        let learned_ms = call.learned.map_or(before_ms, |(_, learned)| learned);
        Self {
            stamp: call.stamp,
            at_ms: call.at_ms,
            learned_ms,
            failure: call.failed_by(before_ms),
        }
    }

    /// Whether the object is the only one that a call may have made: the call came before the end of it.
    fn is_object_of(&self, call: &BookedCall) -> bool {
        let mut failure = self.failure.iter();
        failure.all(|failure| call.at_ms <= failure.decided_ms)
    }

    /// Whether the object of this call of another party had ended before a call, and this was known by then, or by the time at which
    /// the call's end was learned. Later news of another party change nothing, so that they need no correction in the statement
    /// of the call's party.
    fn had_ended_before(&self, call: &BookedCall, before_ms: u64) -> bool {
        let learned = call.learned.filter(|(_, learned)| *learned < before_ms);
        let known_ms = learned.map_or(call.at_ms, |(_, learned)| learned);
        let mut failure = self.failure.iter();
        failure.any(|it| call.at_ms > it.decided_ms && it.learned_ms < known_ms)
    }

    fn is(&self, call: &BookedCall) -> bool {
        self.stamp == call.stamp
    }
}

impl KeyHeads {
    /// The heads of a call that stands alone.
    pub(crate) fn of_one(call: &BookedCall, before_ms: u64) -> Self {
        let learned = call.learned_by(before_ms);
        let is_known = matches!(
            learned,
            Some(LearnedResult::Accepted | LearnedResult::Found)
        );
        Self {
            first: is_known.then(|| KeyHead::of(call, before_ms)),
            next: None,
            accepted: None,
            elsewhere: None,
        }
    }

    /// Whether a call is one of the heads.
    pub(crate) fn have(&self, call: &BookedCall) -> bool {
        let heads = [self.first, self.next, self.accepted];
        heads.iter().flatten().any(|head| head.is(call))
    }
}

/// How a call stands before a time, by what was learned of all calls of its operation under its key.
///
/// Where all calls under a key are one, the call counts that GatePay accepted in its own answer: it made the object, which has
/// its amounts. Without such an answer, the first call counts whose object GatePay is known to have. After the object has
/// failed, the next call under the key may make another one. The object that another party has under the key for the same
/// sub-account is the same one: it counts for the party of which it was known first. Where each call may be one of its own, a
/// call counts by its own answer. GatePay's word on the number proves one object, that of the first call under it. If the
/// object may be another call's, only an operator can tell.
pub(crate) fn standing(call: &BookedCall, heads: &KeyHeads, before_ms: u64) -> CallStanding {
    let learned = call.learned_by(before_ms);
    match learned {
        Some(LearnedResult::Refused) => return CallStanding::Refused,
        Some(LearnedResult::Accepted) if !call.is_once => return call.accepted_by(before_ms),
        _ => {}
    }
    let Some(first) = heads.first else {
        return CallStanding::Unknown;
    };
    if !call.is_once {
        let mut accepted = heads.accepted.iter();
        let may_be_others = accepted.any(|other| other.at_ms <= first.learned_ms);
        return if first.is(call) && !may_be_others {
            CallStanding::Executed
        } else {
            CallStanding::Unknown
        };
    }
    let elsewhere = heads.elsewhere;
    let has_ended = elsewhere.is_some_and(|it| it.had_ended_before(call, before_ms));
    if learned.is_some() && elsewhere.is_some() && !has_ended {
        return CallStanding::Repeated;
    }
    if first.is(call) || heads.next.is_some_and(|next| next.is(call)) {
        return call.accepted_by(before_ms);
    }
    // A call that came after the first object had failed may have made another object.
    let is_covered = first.is_object_of(call) && !has_ended;
    if learned.is_some() || heads.next.is_some() || is_covered {
        CallStanding::Repeated
    } else {
        CallStanding::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u8, is_once: bool, learned: Option<(LearnedResult, u64)>) -> BookedCall {
        BookedCall {
            stamp: [number; 16],
            account: "100".to_owned(),
            operation: "create_payout".to_owned(),
            key: "k".to_owned(),
            is_once,
            amounts: Some(Vec::new()),
            at_ms: u64::from(number) * 10,
            learned,
            own_end: None,
            failure: None,
        }
    }

    /// The heads as both engines find them by an index.
    fn heads(group: &[BookedCall], before_ms: u64) -> KeyHeads {
        let known = group.iter().filter(|call| {
            let learned = call.learned_by(before_ms);
            matches!(learned, Some(Accepted | Found))
        });
        let mut known: Vec<&BookedCall> = known.collect();
        known.sort_by_key(|call| (call.learned.map(|(_, ms)| ms), call.stamp));
        let first_accepted = |since: Option<u64>| {
            let mut later = known.iter().filter(|call| Some(call.at_ms) > since);
            let accepted = later.find(|call| call.learned_by(before_ms) == Some(Accepted));
            accepted.copied().cloned()
        };
        let counting = |since: Option<u64>| {
            let mut later = known.iter().filter(|call| Some(call.at_ms) > since);
            let known = BookedCall::clone(later.next()?);
            let accepted = first_accepted(since).filter(|_| known.is_found_repetition());
            Some(known.or_accepted(accepted, before_ms))
        };
        let first = counting(None);
        let failed = first.as_ref().and_then(|first| first.failed_by(before_ms));
        let head = |call: &BookedCall| KeyHead::of(call, before_ms);
        KeyHeads {
            first: first.as_ref().map(head),
            next: failed
                .and_then(|it| counting(Some(it.decided_ms)))
                .as_ref()
                .map(head),
            accepted: first_accepted(None).as_ref().map(head),
            elsewhere: None,
        }
    }

    fn standings(group: &[BookedCall], before_ms: u64) -> Vec<&'static str> {
        let heads = heads(group, before_ms);
        let all = group.iter();
        all.map(|one| standing(one, &heads, before_ms).as_str())
            .collect()
    }

    use LearnedResult::{Accepted, Found, Refused};

    #[test]
    fn a_call_is_unknown_until_its_end_is_learned() {
        let group = [call(1, true, Some((Accepted, 15)))];
        assert_eq!(standings(&group, 15), ["unknown"]);
        assert_eq!(standings(&group, 16), ["executed"]);
    }

    #[test]
    fn calls_under_one_key_are_one_transaction_the_one_that_was_learned_first() {
        let group = [
            call(1, true, None),
            call(2, true, Some((Accepted, 25))),
            call(3, true, Some((Accepted, 35))),
            call(4, true, Some((Refused, 45))),
        ];
        assert_eq!(
            standings(&group, 20),
            ["unknown", "unknown", "unknown", "unknown"]
        );
        let now = ["repeated", "executed", "repeated", "refused"];
        assert_eq!(standings(&group, 100), now);
    }

    #[test]
    fn the_call_that_gatepay_accepted_counts_before_one_whose_key_exists() {
        let group = [
            call(1, true, Some((Found, 15))),
            call(2, true, Some((Accepted, 25))),
        ];
        assert_eq!(standings(&group, 20), ["executed", "repeated"]);
        assert_eq!(standings(&group, 100), ["repeated", "executed"]);
        // Both were found, and the own answer of one came later.
        let mut accepted = call(2, true, Some((Found, 15)));
        accepted.own_end = Some((Accepted, 25));
        let mut group = [call(1, true, Some((Found, 15))), accepted];
        assert_eq!(standings(&group, 20), ["executed", "repeated"]);
        assert_eq!(standings(&group, 100), ["repeated", "executed"]);
        // GatePay refused one of them.
        group[0].own_end = Some((Refused, 30));
        assert_eq!(standings(&group, 100), ["refused", "executed"]);
    }

    #[test]
    fn an_accepted_call_of_which_it_is_learned_late_does_not_undo_a_failure() {
        let failure = Some(ObjectFailure {
            learned_ms: 45,
            decided_ms: 30,
        });
        let mut found = call(1, true, Some((Found, 15)));
        found.failure = failure;
        let group = [found.clone(), call(2, true, Some((Accepted, 55)))];
        assert_eq!(standings(&group, 100), ["failed", "repeated"]);
        // The later one was admitted after GatePay had decided.
        let group = [found.clone(), call(4, true, Some((Accepted, 55)))];
        assert_eq!(standings(&group, 100), ["failed", "executed"]);
        // It has failed with it.
        let mut accepted = call(2, true, Some((Accepted, 25)));
        accepted.failure = failure;
        let group = [found, accepted];
        assert_eq!(standings(&group, 40), ["repeated", "executed"]);
        assert_eq!(standings(&group, 100), ["repeated", "failed"]);
    }

    #[test]
    fn without_a_documented_key_each_accepted_call_counts_and_what_is_found_may_be_anothers() {
        let group = [
            call(1, false, None),
            call(2, false, Some((Accepted, 25))),
            call(3, false, Some((Accepted, 35))),
            call(4, false, Some((Found, 45))),
        ];
        let now = ["unknown", "executed", "executed", "unknown"];
        assert_eq!(standings(&group, 100), now);
        let found = [call(1, false, None), call(2, false, Some((Found, 25)))];
        assert_eq!(standings(&found, 100), ["unknown", "executed"]);
        // The object was found before the second call was made.
        let later = [
            call(1, false, Some((Found, 15))),
            call(2, false, Some((Accepted, 25))),
        ];
        assert_eq!(standings(&later, 100), ["executed", "executed"]);
    }

    #[test]
    fn without_a_documented_key_a_calls_own_end_outweighs_gatepays_word_on_its_number() {
        let mut first = call(1, false, Some((Found, 25)));
        first.own_end = Some((Refused, 40));
        let second = call(2, false, Some((Accepted, 30)));
        let group = [first.clone(), second.clone()];
        assert_eq!(standings(&group, 28), ["executed", "unknown"]);
        assert_eq!(standings(&group, 35), ["unknown", "executed"]);
        assert_eq!(standings(&group, 100), ["refused", "executed"]);
        first.own_end = Some((Accepted, 40));
        let group = [first, second];
        assert_eq!(standings(&group, 100), ["executed", "executed"]);
    }

    #[test]
    fn after_a_failure_the_next_call_under_the_key_counts_anew() {
        let mut first = call(1, true, Some((Accepted, 15)));
        first.failure = Some(ObjectFailure {
            learned_ms: 45,
            decided_ms: 25,
        });
        let group = [
            first,
            call(2, true, Some((Accepted, 28))),
            call(3, true, Some((Accepted, 38))),
            call(4, true, None),
        ];
        let before = ["executed", "repeated", "repeated", "repeated"];
        assert_eq!(standings(&group, 45), before);
        // The third was admitted after GatePay had decided, though before this was learned.
        let after = ["failed", "repeated", "executed", "repeated"];
        assert_eq!(standings(&group, 100), after);
        let without = [group[0].clone(), group[3].clone()];
        assert_eq!(standings(&without, 100), ["failed", "unknown"]);
    }

    #[test]
    fn amounts_of_a_column_are_those_that_were_written() {
        let part = |currency: &str, amount: &str| SpendAmount {
            currency: CurrencyCode::parse(currency).unwrap(),
            amount: ExactAmount::parse(amount).unwrap(),
        };
        let usage = |amounts| CallUsage {
            key: None,
            is_once: true,
            amounts,
        };
        let two = usage(Some(vec![
            part("USDT", "1.000000000000000001"),
            part("ETH", "2"),
            part("USDT", "1"),
        ]));
        assert_eq!(two.parts_text(), "ETH=2,USDT=2.000000000000000001");
        let read = vec![part("ETH", "2"), part("USDT", "2.000000000000000001")];
        let of = |usage: &CallUsage| amounts_of(&usage.parts_text()).unwrap();
        assert_eq!(of(&two), Some(read));
        assert_eq!(of(&usage(None)), None);
        assert_eq!(of(&usage(Some(Vec::new()))), Some(Vec::new()));
        assert!(amounts_of("USDT").is_err());
    }
}
