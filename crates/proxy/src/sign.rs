//! Sign: the institution's request, made anew for every attempt at the moment of sending.

use bytes::Bytes;
use gatepay_core::look_up::Question;
use gatepay_core::operation::Operation;
use gatepay_core::{Credential, FreshStamp, translate};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::Full;

use crate::admit::Acting;
use crate::headers;

/// What is sent to GatePay, apart from what each attempt makes fresh.
///
/// It cannot be built without saying whom it is made for: a tenant's call never goes out in the institution's own name.
pub struct Outbound {
    method: Method,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// What of a caller's request goes into the institution's.
pub struct Inbound<'a> {
    /// What stands behind `?`.
    pub query: Option<&'a str>,
    /// Its head, of which only allow-listed lines are taken.
    pub headers: &'a HeaderMap,
    /// The body that was verified.
    pub body: Bytes,
}

/// What of it cannot be written as HTTP. Nothing is sent then.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    /// The row has no institution path.
    #[error("the operation has no institution path")]
    NoPath,
    /// Path and query do not make a target, or an id does not make a header.
    #[error(transparent)]
    Http(#[from] http::Error),
}

impl Outbound {
    /// The institution's call as the caller made it: other path, same query, same body byte for byte, allow-listed
    /// headers.
    pub fn verbatim(
        operation: &Operation,
        inbound: Inbound<'_>,
        acting: Acting<'_>,
        host: &HeaderValue,
    ) -> Result<Self, Unsendable> {
        let headers = headers_to_gatepay(inbound.headers, acting, host)?;
        Self::build(operation, inbound.query, headers, inbound.body)
    }

    /// The institution's balance query for a merchant's: another method, and a body that asks for the currencies the
    /// tenant names, or for `currencies`.
    pub fn balance(
        operation: &Operation,
        inbound: &Inbound<'_>,
        acting: Acting<'_>,
        host: &HeaderValue,
        currencies: &[String],
    ) -> Result<Self, Unsendable> {
        let mut headers = headers_to_gatepay(inbound.headers, acting, host)?;
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let body = translate::balance_request(inbound.query, &inbound.body, currencies);
        Self::build(operation, None, headers, body.into())
    }

    /// A look-up of what became of this call, for the same account.
    pub fn look_up(&self, row: &Operation, question: &Question) -> Result<Self, Unsendable> {
        let mut headers = self.headers.clone();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let body = Bytes::from(question.body.clone());
        Self::build(row, question.query.as_deref(), headers, body)
    }

    /// A read of the proxy's own, for nobody: whatever is answered shows that GatePay is there, and what time it is.
    pub fn probe(row: &Operation, host: &HeaderValue) -> Result<Self, Unsendable> {
        let headers = headers_to_gatepay(&HeaderMap::new(), Acting::Nobody, host)?;
        Self::build(row, Some("limit=1"), headers, Bytes::new())
    }

    /// The query as it is sent, and the body.
    pub fn content(&self) -> (Option<&str>, &Bytes) {
        (self.target.query(), &self.body)
    }

    fn build(
        operation: &Operation,
        query: Option<&str>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Self, Unsendable> {
        let path = operation
            .institution_path
            .as_deref()
            .ok_or(Unsendable::NoPath)?;
        let target = match query {
            Some(query) => Uri::try_from(format!("{path}?{query}")),
            None => Uri::try_from(path),
        };
        let target = target.map_err(http::Error::from)?;
        let method = Method::from_bytes(operation.institution_method.as_str().as_bytes())
            .map_err(http::Error::from)?;
        Ok(Self {
            method,
            target,
            headers,
            body,
        })
    }

    /// One attempt, signed with the institution's credential under a stamp that no other attempt has.
    ///
    /// # Panics
    /// Never: ids, digits and symbols are visible ASCII.
    pub fn attempt(&self, credential: &Credential, stamp: &FreshStamp) -> Request<Full<Bytes>> {
        let stamp = stamp.as_stamp();
        let value =
            |text: &[u8]| HeaderValue::from_bytes(text).expect("visible ASCII makes a header");
        let mut signature =
            value(&gatepay_core::sign(&credential.key, &stamp, &self.body).to_hex());
        signature.set_sensitive(true);

        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert(
            headers::CLIENT_ID,
            value(credential.client_id.as_str().as_bytes()),
        );
        headers.insert(headers::TIMESTAMP, value(stamp.timestamp().as_bytes()));
        headers.insert(headers::NONCE, value(stamp.nonce().as_bytes()));
        headers.insert(headers::SIGNATURE, signature);
        request
    }
}

/// The allow-listed lines of a caller's head, and whom the call is made for.
fn headers_to_gatepay(
    inbound: &HeaderMap,
    acting: Acting<'_>,
    host: &HeaderValue,
) -> Result<HeaderMap, Unsendable> {
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(header::HOST, host.clone());
    for name in &headers::TO_GATEPAY {
        for value in inbound.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    let (name, account) = match acting {
        Acting::OnBehalfOf(account) => (headers::ON_BEHALF_OF, account),
        Acting::Merchant(merchant) => (headers::MERCHANT_ID, merchant),
        Acting::Nobody => return Ok(headers),
    };
    headers.insert(
        name,
        HeaderValue::from_str(account).map_err(http::Error::from)?,
    );
    Ok(headers)
}
