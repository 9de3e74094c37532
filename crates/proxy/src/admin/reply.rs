//! The answers of the admin address.

use std::borrow::Cow;

use gatepay_core::visible::visible_json;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// An admin answer with its whole body in memory.
pub(super) type AdminResponse = Response<Full<Bytes>>;

/// JSON in one line. Tenants chose some of its texts: characters that are not seen as themselves stand as escapes, so that an
/// answer that is printed as it is steers no terminal.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> AdminResponse {
    let mut body = serde_json::to_string(value).expect("its keys are texts");
    if let Cow::Owned(visible) = visible_json(&body) {
        body = visible;
    }
    body.push('\n');
    answer_of(status, "application/json", body.into())
}

pub(super) fn text(status: StatusCode, body: &'static str) -> AdminResponse {
    let body = Bytes::from_static(body.as_bytes());
    answer_of(status, TEXT, body)
}

pub(super) fn answer_text(status: StatusCode, body: String) -> AdminResponse {
    answer_of(status, TEXT, body.into())
}

pub(super) fn answer_of(status: StatusCode, kind: &'static str, body: Bytes) -> AdminResponse {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A request that has no result: the status, and a line about it.
#[derive(Debug)]
pub(super) struct AdminFailure(pub(super) StatusCode, pub(super) Cow<'static, str>);

impl AdminFailure {
    pub(super) fn answer(self) -> AdminResponse {
        match self.1 {
            Cow::Borrowed(body) => text(self.0, body),
            Cow::Owned(body) => answer_text(self.0, body),
        }
    }
}
