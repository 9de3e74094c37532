//! The breach of a cap, as the function `cap_breach` tells it.

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;

use crate::caps::approval::{ApprovalDemand, ApprovalId, ApprovalState};
use crate::caps::rule::{CapBreach, CapMeasure};
use crate::error::StoreError;
use crate::stored_text::Fingerprint;

/// The breach that `cap_breach` tells: whose rule, currency, measure, limit and what is left, with spaces between them;
/// only the first two if there is no rule for the currency. A time at which room comes free may follow.
pub(super) fn breach(told: &str, frees_ms: Option<u64>) -> Result<CapBreach, StoreError> {
    let unreadable = || StoreError::Unexpected("a breach of a cap".to_owned());
    let mut words = told.split(' ');
    let over_all = words.next() == Some("all");
    let currency = words.next().and_then(CurrencyCode::parse);
    let amount = |word: Option<&str>| {
        let amount = word.and_then(|word| ExactAmount::parse(word).ok());
        amount.ok_or_else(unreadable)
    };
    let measure = words.next().map(|word| {
        let number = word.parse().ok();
        number.and_then(CapMeasure::of).ok_or_else(unreadable)
    });
    let (rule, left) = match measure {
        None => (None, ExactAmount::ZERO),
        Some(measure) => (
            Some((measure?, amount(words.next())?)),
            amount(words.next())?,
        ),
    };
    let told_ms = words.next().and_then(|word| word.parse().ok());
    Ok(CapBreach {
        over_all,
        currency: currency.ok_or_else(unreadable)?,
        rule,
        left,
        frees_ms: frees_ms.or(told_ms),
    })
}

/// What stands for the state of an approval if as many calls of its party wait as may.
const CROWDED: &str = "4";

/// What `reserve_spends` tells about a call without an approval: its id or `-`, its state, and the breach of its rule.
pub(super) fn approval_demand(
    told: &str,
    stamp: &Fingerprint,
) -> Result<ApprovalDemand, StoreError> {
    let unreadable = || StoreError::Unexpected("an approval".to_owned());
    let (id, rest) = told.split_once(' ').ok_or_else(unreadable)?;
    let (state, rest) = rest.split_once(' ').ok_or_else(unreadable)?;
    let id = match id {
        "-" => None,
        id => Some(ApprovalId::parse(id).ok_or_else(unreadable)?),
    };
    Ok(ApprovalDemand {
        id,
        begins: id == Some(ApprovalId::of(stamp)),
        is_rejected: state == ApprovalState::Rejected.number().to_string(),
        is_crowded: state == CROWDED,
        breach: breach(rest, None)?,
    })
}
