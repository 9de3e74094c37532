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

/// The body with each span replaced by the tenant's client id. All other bytes stay.
///
/// Any text in these places is the institution's id (protocol.md 5.1 and 5.3), also the id of a credential that the
/// configuration no longer has. An empty text names nothing.
pub(super) fn replaced<'b>(
    body: &'b [u8],
    spans: &[ClientIdSpan],
    tenant: &ClientId,
) -> Cow<'b, [u8]> {
    let mut spans: Vec<&ClientIdSpan> = spans.iter().filter(|span| !span.text.is_empty()).collect();
    if spans.is_empty() {
        return Cow::Borrowed(body);
    }
    spans.sort_by_key(|span| span.range.start);
    // A client id may have a quote or a backslash.
    let quoted = serde_json::Value::from(tenant.as_str()).to_string();
    let mut written = Vec::with_capacity(body.len() + spans.len() * quoted.len());
    let mut at = 0;
    for span in spans {
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
