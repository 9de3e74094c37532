//! Numbers that merchants choose, so that a repeated call does no harm (schemas.md: "key").

use std::collections::HashMap;

use crate::config::NumbersUniquePer;
use crate::rules::call::LedgerCall;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// A merchant's number, and the scope in which it must be unique: one account, or (`None`) the institution.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RequestNumber {
    account: Option<String>,
    number: String,
}

impl NumbersUniquePer {
    pub(crate) fn number(self, account: &str, number: &str) -> RequestNumber {
        RequestNumber {
            account: match self {
                Self::SubAccount => Some(account.to_owned()),
                Self::Institution => None,
            },
            number: number.to_owned(),
        }
    }
}

/// Results by merchant number, at most one per number.
///
/// A repeated call has the outcome of the first; a repeated number with other parameters fails with 400001. GatePay
/// documents only that a number makes a repetition harmless, so the 400001 is the sandbox's choice.
pub(crate) struct OncePerNumber<T> {
    unique_per: NumbersUniquePer,
    positions: HashMap<RequestNumber, usize>,
    /// Oldest first.
    done: Vec<NumberedResult<T>>,
}

struct NumberedResult<T> {
    account: String,
    asked: RequestParameters,
    outcome: T,
}

impl<T> OncePerNumber<T> {
    pub(crate) fn new(unique_per: NumbersUniquePer) -> Self {
        Self {
            unique_per,
            positions: HashMap::new(),
            done: Vec::new(),
        }
    }

    /// The outcome of an earlier identical call, if there was one. `name` is the parameter that has the number.
    pub(crate) fn before(
        &self,
        call: LedgerCall<'_>,
        name: &'static str,
        asked: &RequestParameters,
    ) -> Result<Option<&T>, ApiFailure> {
        let number = self.unique_per.number(call.account, asked.text(name)?);
        let Some(position) = self.positions.get(&number) else {
            return Ok(None);
        };
        let done = &self.done[*position];
        if done.account == call.account && done.asked == *asked {
            Ok(Some(&done.outcome))
        } else {
            Err(ApiFailure::Reused(name))
        }
    }

    /// Whether any earlier call has used the number.
    pub(crate) fn is_taken(&self, account: &str, number: &str) -> bool {
        let number = self.unique_per.number(account, number);
        self.positions.contains_key(&number)
    }

    /// Stores the outcome of a call under an unused number.
    pub(crate) fn keep(
        &mut self,
        call: LedgerCall<'_>,
        number: &str,
        asked: &RequestParameters,
        outcome: T,
    ) {
        let number = self.unique_per.number(call.account, number);
        self.positions.insert(number, self.done.len());
        self.done.push(NumberedResult {
            account: call.account.to_owned(),
            asked: asked.clone(),
            outcome,
        });
    }

    /// The account's outcome under the number. Another account's number is not found.
    pub(crate) fn find(&self, account: &str, number: &str) -> Option<&T> {
        let number = self.unique_per.number(account, number);
        let done = &self.done[*self.positions.get(&number)?];
        (done.account == account).then_some(&done.outcome)
    }

    /// All outcomes of the account, oldest first.
    pub(crate) fn of(&self, account: &str) -> impl DoubleEndedIterator<Item = &T> {
        self.done
            .iter()
            .filter(move |done| done.account == account)
            .map(|done| &done.outcome)
    }

    /// All outcomes with their accounts, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &T)> {
        self.done
            .iter()
            .map(|done| (done.account.as_str(), &done.outcome))
    }

    /// All outcomes of the account, mutable, oldest first.
    pub(crate) fn of_mut(&mut self, account: &str) -> impl Iterator<Item = &mut T> {
        self.done
            .iter_mut()
            .filter(move |done| done.account == account)
            .map(|done| &mut done.outcome)
    }

    /// The next of GatePay's own ids, counted from `first`.
    pub(crate) fn next_id(&self, first: u64) -> String {
        (first + self.done.len() as u64).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AnswerForms;
    use serde_json::json;

    const ACME: LedgerCall<'_> = LedgerCall {
        account: "1",
        now: 0,
        forms: AnswerForms::Clients,
    };
    const OTHER: LedgerCall<'_> = LedgerCall {
        account: "2",
        now: 0,
        forms: AnswerForms::Clients,
    };

    fn asked(amount: &str) -> RequestParameters {
        let body = json!({"number": "n", "amount": amount}).to_string();
        RequestParameters::parse(body.as_bytes()).unwrap()
    }

    fn once(unique_per: NumbersUniquePer) -> OncePerNumber<&'static str> {
        let mut once = OncePerNumber::new(unique_per);
        assert_eq!(once.before(ACME, "number", &asked("1")), Ok(None));
        once.keep(ACME, "n", &asked("1"), "done");
        once
    }

    #[test]
    fn a_repeated_merchant_number_returns_the_first_outcome_and_other_parameters_are_refused() {
        let once = once(NumbersUniquePer::SubAccount);
        let again = once.before(ACME, "number", &asked("1"));
        assert_eq!(again, Ok(Some(&"done")));
        assert_eq!(
            once.before(ACME, "number", &asked("2")),
            Err(ApiFailure::Reused("number"))
        );
    }

    #[test]
    fn merchant_numbers_are_unique_per_account_or_per_institution() {
        let each = once(NumbersUniquePer::SubAccount);
        assert_eq!(each.before(OTHER, "number", &asked("1")), Ok(None));
        let all = once(NumbersUniquePer::Institution);
        assert_eq!(
            all.before(OTHER, "number", &asked("1")),
            Err(ApiFailure::Reused("number"))
        );
        for once in [each, all] {
            assert_eq!(once.find("1", "n"), Some(&"done"));
            assert_eq!(once.find("2", "n"), None);
            assert_eq!(once.of("2").count(), 0);
        }
    }
}
