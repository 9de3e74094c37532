//! Client id span: the places where a notification names the application's client id, to be replaced in place.

use std::borrow::Cow;
use std::ops::Range;

use crate::body::{BodyReading, BodyValue};
use crate::credential::ClientId;

/// A client id in a notification's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdSpan {
    /// The byte range of the value in the body, quotes included.
    pub range: Range<usize>,
    /// The client id, without quotes and escapes.
    pub text: String,
}

/// The spellings of the field (protocol.md 5.1), in any case.
const NAMES: [&str; 2] = ["client_id", "clientId"];

/// The client ids among the members of an object that stands in `body` itself.
pub(super) fn spans_of(body: &[u8], object: &BodyReading<'_>) -> Vec<ClientIdSpan> {
    let values = NAMES.iter().flat_map(|name| object.values(name));
    let span = |value: BodyValue<'_>| {
        let BodyValue::Body(raw) = value else {
            return None;
        };
        Some(ClientIdSpan {
            text: raw.text()?.into_owned(),
            range: range_of(body, raw.as_str())?,
        })
    };
    values.filter_map(span).collect()
}

/// The byte range of a part of the body; `None` for a text outside the body, for example within unescaped `data`.
fn range_of(body: &[u8], part: &str) -> Option<Range<usize>> {
    let begin = part.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
    let range = begin..begin.checked_add(part.len())?;
    (body.get(range.clone())? == part.as_bytes()).then_some(range)
}

/// The body with each span that names one of the institution's client ids replaced by the tenant's. All other bytes
/// stay.
pub(super) fn replaced<'b>(
    body: &'b [u8],
    spans: &[ClientIdSpan],
    institution: &[ClientId],
    tenant: &ClientId,
) -> Cow<'b, [u8]> {
    let is_institution = |span: &&ClientIdSpan| {
        let mut ids = institution.iter();
        ids.any(|id| id.as_str() == span.text)
    };
    let mut own: Vec<&ClientIdSpan> = spans.iter().filter(is_institution).collect();
    own.sort_by_key(|span| span.range.start);
    if own.is_empty() {
        return Cow::Borrowed(body);
    }
    // A client id may have a quote or a backslash.
    let quoted = serde_json::Value::from(tenant.as_str()).to_string();
    let mut written = Vec::with_capacity(body.len() + own.len() * quoted.len());
    let mut at = 0;
    for span in own {
        let Some(before) = body.get(at..span.range.start) else {
            continue;
        };
        written.extend_from_slice(before);
        written.extend_from_slice(quoted.as_bytes());
        at = span.range.end;
    }
    written.extend_from_slice(body.get(at..).unwrap_or_default());
    Cow::Owned(written)
}
