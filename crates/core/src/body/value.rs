//! Body value: one value of a field, from the query or the body.

use std::borrow::Cow;

use super::BodyReading;
use crate::json::JsonText;

/// A value of a field: text in a query, JSON in a body.
pub(crate) enum BodyValue<'a> {
    Query(Cow<'a, str>),
    Body(JsonText<'a>),
}

impl<'a> BodyValue<'a> {
    /// The value's text; `None` if the value is not text.
    pub(crate) fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::Query(text) => Some(text.clone()),
            Self::Body(raw) => raw.text(),
        }
    }

    /// The value's number, as written. In a query, every text may be a number.
    pub(crate) fn number(&self) -> Option<&str> {
        match self {
            Self::Query(text) => Some(text),
            Self::Body(raw) => raw.number(),
        }
    }

    /// The value's text, or its number as written: clients send ids as either.
    pub(crate) fn text_or_number(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::Query(text) => Some(text.clone()),
            Self::Body(raw) => raw.text_or_number(),
        }
    }

    /// The value's text, or the texts of a list.
    pub(crate) fn texts(&self) -> Vec<Cow<'a, str>> {
        match (self.text(), self) {
            (Some(text), _) => vec![text],
            (None, Self::Body(raw)) => serde_json::from_str(raw.as_str()).unwrap_or_default(),
            (None, Self::Query(_)) => Vec::new(),
        }
    }

    /// Whether the value is a list of texts.
    pub(crate) fn is_list_of_texts(&self) -> bool {
        match self {
            Self::Query(_) => false,
            Self::Body(raw) => serde_json::from_str::<Vec<Cow<'_, str>>>(raw.as_str()).is_ok(),
        }
    }

    /// The members of the value, if the value is an object.
    pub(crate) fn members(&self) -> Option<BodyReading<'a>> {
        let Self::Body(raw) = self else { return None };
        BodyReading::of_object(raw.as_str())
    }
}
