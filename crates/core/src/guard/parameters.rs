//! Query parameters of a write or money call: each name occurs once, in one spelling, and no value contradicts the
//! body.
//!
//! The signature does not cover a query, but GatePay may read the query. Parsers split a query at `&`, some at `;` too.
//! Of two parameters of one name they take the first, the last, or both.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{SteeringAttempt, is_plain_name};
use crate::body::BodyReading;
use crate::query::decode;
use crate::spelling::folded_name;

/// Values by their [folded](folded_name) names.
#[derive(Default)]
pub(super) struct FoldedParameters<'a>(HashMap<Vec<u8>, Cow<'a, str>>);

impl<'a> FoldedParameters<'a> {
    /// The parameters of a query. Each must have a plain and unique name.
    pub(super) fn read(reading: &BodyReading<'a>) -> Result<Self, SteeringAttempt> {
        let mut values = HashMap::new();
        for (name, value) in reading.parameters() {
            // Two separators in a row, or a separator at either end.
            if name.is_empty() && value.is_empty() {
                continue;
            }
            let name = decode(name);
            if !is_plain_name(name.as_bytes()) {
                return Err(SteeringAttempt::ParameterName);
            }
            let before = values.insert(folded_name(name.as_bytes()).collect(), decode(value));
            if before.is_some() {
                return Err(SteeringAttempt::RepeatedParameter);
            }
        }
        Ok(Self(values))
    }

    /// Whether the query has a parameter of this folded name.
    pub(super) fn has(&self, folded: &[u8]) -> bool {
        self.0.contains_key(folded)
    }

    /// Whether a field at the top of the body has another value in the query. Clients send a field in either, or the
    /// same value in both; null and empty text count as absent (schemas.md).
    pub(super) fn contradict(&self, reading: &BodyReading<'_>) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut members = reading.top();
        let mut folded = Vec::new();
        members.any(|(name, value)| {
            folded.clear();
            folded.extend(folded_name(name));
            let parameter = self.0.get(&folded);
            let parameter = parameter.filter(|text| !text.is_empty() && !value.is_nothing());
            parameter.is_some_and(|text| match value.text_or_number() {
                Some(member) => member != *text,
                None => value.as_str() != text,
            })
        })
    }
}
