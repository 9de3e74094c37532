//! One value a field was sent with.

use std::borrow::Cow;

use super::BodyReading;
use crate::json::JsonText;

/// Text in a query, JSON in a body.
pub(crate) enum BodyValue<'a> {
    Query(Cow<'a, str>),
    Body(JsonText<'a>),
}

impl<'a> BodyValue<'a> {
    /// The text it is, if it is text.
    pub(crate) fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::Query(text) => Some(text.clone()),
            Self::Body(raw) => raw.text(),
        }
    }

    /// The number it is, as it was written. In a query, every text may be one.
    pub(crate) fn number(&self) -> Option<&str> {
        match self {
            Self::Query(text) => Some(text),
            Self::Body(raw) => raw.number(),
        }
    }

    /// Its text, or its number as it was written: ids are sent as either.
    pub(crate) fn text_or_number(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::Query(text) => Some(text.clone()),
            Self::Body(raw) => raw.text_or_number(),
        }
    }

    /// Its text, or the texts of a list.
    pub(crate) fn texts(&self) -> Vec<Cow<'a, str>> {
        match (self.text(), self) {
            (Some(text), _) => vec![text],
            (None, Self::Body(raw)) => serde_json::from_str(raw.as_str()).unwrap_or_default(),
            (None, Self::Query(_)) => Vec::new(),
        }
    }

    /// Whether it is a list, and every item a text.
    pub(crate) fn is_list_of_texts(&self) -> bool {
        match self {
            Self::Query(_) => false,
            Self::Body(raw) => serde_json::from_str::<Vec<Cow<'_, str>>>(raw.as_str()).is_ok(),
        }
    }

    /// What stands in it, if it is an object.
    pub(crate) fn members(&self) -> Option<BodyReading<'a>> {
        let Self::Body(raw) = self else { return None };
        BodyReading::of_object(raw.as_str())
    }
}
