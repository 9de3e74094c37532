//! Sign: the institution's request, made anew for every attempt at the moment of sending.

use std::ops::Range;

use bytes::Bytes;
use gatepay_core::look_up::LookUpQuestion;
use gatepay_core::operation::{Method, Operation};
use gatepay_core::{Credential, FreshStamp, Payload, Signature};
use http::header::{self, HeaderValue};

use crate::headers;
use crate::http1::request_head::RequestHead;
use crate::http1::wire_lines;
use crate::journey::admit::Acting;
use crate::process::yielding::in_pieces;

/// What is sent to GatePay, apart from what each attempt makes fresh.
///
/// It cannot be built without saying whom it is made for: a tenant's call never goes out in the institution's own name.
pub struct Outbound {
    /// The request line, `Content-Type` and then the lines that a look-up has as well: all of a head but its signature,
    /// its length and its end.
    head: Vec<u8>,
    /// Where in it those lines begin.
    common: usize,
    /// Where in it the query stands.
    query: Option<Range<usize>>,
    /// Without a body, only a method that usually has one is given a length.
    method: Method,
    body: Bytes,
    /// Whether an answer in gzip is asked for.
    gzip: bool,
}

/// What of a caller's request goes into the institution's.
pub struct InboundRequest<'a> {
    /// What stands behind `?`.
    pub query: Option<&'a str>,
    /// Its head, of which only allow-listed lines are taken.
    pub head: RequestHead<'a>,
    /// The body that was verified.
    pub body: Bytes,
    /// Whether the answer may be in gzip.
    pub gzip: bool,
}

impl<'a> InboundRequest<'a> {
    /// A request whose answer may be in no coding.
    pub fn uncoded(query: Option<&'a str>, head: RequestHead<'a>, body: Bytes) -> Self {
        Self {
            query,
            head,
            body,
            gzip: false,
        }
    }
}

/// What of it cannot be written as HTTP. Nothing is sent then.
#[derive(Debug, thiserror::Error)]
pub enum UnsendableHead {
    /// The row has no institution path.
    #[error("the operation has no institution path")]
    NoPath,
    /// A byte of path, query or account would end its line or part of it.
    #[error("{0} has a byte that cannot stand in a head")]
    NotText(&'static str),
}

impl Outbound {
    /// The institution's call as the caller made it: other path, same query, same body byte for byte, allow-listed
    /// headers.
    pub fn verbatim(
        operation: &Operation,
        inbound: InboundRequest<'_>,
        acting: Acting<'_>,
        host: &HeaderValue,
    ) -> Result<Self, UnsendableHead> {
        let media = inbound.head.all(header::CONTENT_TYPE.as_str());
        let mut outbound = Self::begin(operation, inbound.query, media, inbound.body)?;
        outbound.gzip = inbound.gzip;
        outbound.lines(Some(inbound.head), acting, host)?;
        Ok(outbound)
    }

    /// The institution's balance query for a merchant's: another method, and this body, which says what the merchant's
    /// asked for ([`gatepay_core::translate::balance_request`]).
    pub fn balance(
        operation: &Operation,
        inbound: &InboundRequest<'_>,
        acting: Acting<'_>,
        host: &HeaderValue,
        body: Vec<u8>,
    ) -> Result<Self, UnsendableHead> {
        let mut outbound = Self::begin(operation, None, [JSON], body.into())?;
        outbound.lines(Some(inbound.head), acting, host)?;
        Ok(outbound)
    }

    /// A look-up of what became of this call, for the same account.
    pub fn look_up(
        &self,
        row: &Operation,
        question: &LookUpQuestion,
    ) -> Result<Self, UnsendableHead> {
        let (query, body) = (question.query.as_deref(), question.body.clone());
        let mut outbound = Self::begin(row, query, [JSON], body.into())?;
        outbound.head.extend_from_slice(&self.head[self.common..]);
        Ok(outbound)
    }

    /// A read of the proxy's own, for nobody: whatever is answered shows that GatePay is there, and what time it is.
    pub fn probe(row: &Operation, host: &HeaderValue) -> Result<Self, UnsendableHead> {
        let mut outbound = Self::begin(row, Some("limit=1"), [], Bytes::new())?;
        outbound.lines(None, Acting::Nobody, host)?;
        Ok(outbound)
    }

    /// Whether an answer in gzip is asked for.
    pub fn accepts_gzip(&self) -> bool {
        self.gzip
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The query as it is sent, and the body.
    pub fn content(&self) -> (Option<&str>, &Bytes) {
        let query = self.query.clone().map(|at| &self.head[at]);
        (
            query.and_then(|query| str::from_utf8(query).ok()),
            &self.body,
        )
    }

    /// The request line, and what the body is.
    fn begin<'a>(
        operation: &Operation,
        query: Option<&str>,
        media: impl IntoIterator<Item = &'a [u8]>,
        body: Bytes,
    ) -> Result<Self, UnsendableHead> {
        let path = operation.institution_path.as_deref();
        let path = path.ok_or(UnsendableHead::NoPath)?;
        let method = operation.institution_method;
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(method.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(target(path)?);
        let query = match query {
            Some(query) => {
                head.push(b'?');
                head.extend_from_slice(target(query)?);
                Some(head.len() - query.len()..head.len())
            }
            None => None,
        };
        head.extend_from_slice(b" HTTP/1.1\r\n");
        for media in media {
            wire_lines::write(&mut head, &header::CONTENT_TYPE, media);
        }
        Ok(Self {
            common: head.len(),
            head,
            query,
            method,
            body,
            gzip: false,
        })
    }

    /// The allow-listed lines of a caller's head, and whom the call is made for.
    fn lines(
        &mut self,
        inbound: Option<RequestHead<'_>>,
        acting: Acting<'_>,
        host: &HeaderValue,
    ) -> Result<(), UnsendableHead> {
        let head = &mut self.head;
        wire_lines::write(head, &header::HOST, host.as_bytes());
        // Without it any coding is allowed (RFC 9110, 12.5.3), and a coded answer is one that nobody here can judge.
        let coding: &[u8] = if self.gzip { b"gzip" } else { b"identity" };
        wire_lines::write(head, &header::ACCEPT_ENCODING, coding);
        for (name, value) in inbound.iter().flat_map(RequestHead::lines) {
            if let Some(name) = headers::to_gatepay(name) {
                wire_lines::write(head, name, value);
            }
        }
        let (name, account) = match acting {
            Acting::OnBehalfOf(account) => (headers::ON_BEHALF_OF, account),
            Acting::Merchant(merchant) => (headers::MERCHANT_ID, merchant),
            Acting::Nobody => return Ok(()),
        };
        if !account.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UnsendableHead::NotText("the account"));
        }
        wire_lines::write(head, &name, account.as_bytes());
        Ok(())
    }

    /// One attempt, signed with the institution's credential under a stamp that no other attempt has: puts its head into
    /// `head` and returns its body.
    pub fn attempt(
        &self,
        credential: &Credential,
        stamp: &FreshStamp,
        head: &mut Vec<u8>,
    ) -> Bytes {
        let signature = gatepay_core::sign(&credential.key, &stamp.as_stamp(), &self.body);
        self.signed(credential, stamp, &signature, head)
    }

    /// The same, for a long body: others have their turn while it is hashed.
    pub async fn attempt_in_pieces(
        &self,
        credential: &Credential,
        stamp: &FreshStamp,
        head: &mut Vec<u8>,
    ) -> Bytes {
        let mut payload = Payload::begin(&credential.key, &stamp.as_stamp());
        in_pieces(&self.body, |piece| payload.body(piece)).await;
        self.signed(credential, stamp, &payload.sign(), head)
    }

    /// An attempt with this signature.
    fn signed(
        &self,
        credential: &Credential,
        stamp: &FreshStamp,
        signature: &Signature,
        head: &mut Vec<u8>,
    ) -> Bytes {
        let stamp = stamp.as_stamp();
        let [timestamp, nonce] = stamp.bytes();
        let signature = signature.to_hex();
        head.reserve(self.head.len() + SIGNED);
        head.extend_from_slice(&self.head);
        // Ids, digits and symbols: each is visible ASCII by its type.
        for (name, value) in [
            (headers::CLIENT_ID, credential.client_id.as_str().as_bytes()),
            (headers::TIMESTAMP, timestamp),
            (headers::NONCE, nonce),
            (headers::SIGNATURE, &signature),
        ] {
            wire_lines::write(head, &name, value);
        }
        if !self.body.is_empty() || self.method == Method::Post {
            let mut digits = itoa::Buffer::new();
            let length = digits.format(self.body.len());
            wire_lines::write(head, &header::CONTENT_LENGTH, length.as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        self.body.clone()
    }
}

/// How much an attempt adds to a head, about.
const SIGNED: usize = 512;
/// The bodies that are made here.
const JSON: &[u8] = b"application/json";

/// How much room a head is given: most need no more.
const HEAD: usize = 544;

/// A part of a request's target, if it cannot end there or begin anything else.
fn target(part: &str) -> Result<&[u8], UnsendableHead> {
    let is_one = |byte: u8| byte > b' ' && byte != 0x7f && byte != b'#';
    if part.bytes().all(is_one) {
        Ok(part.as_bytes())
    } else {
        Err(UnsendableHead::NotText("the target"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::yielding::YIELD_AFTER;
    use crate::process::yielding::tests::polls;
    use gatepay_core::{Catalogue, ClientId, SecretKey, SigningKey};

    #[test]
    fn a_long_body_is_signed_in_pieces_and_as_it_would_be_at_once() {
        let catalogue = Catalogue::standard();
        let row = catalogue.named("create_order").unwrap();
        let host = HeaderValue::from_static("gatepay.example");
        let (parts, ()) = http::Request::new(()).into_parts();
        let inbound = InboundRequest {
            query: None,
            head: RequestHead::of_parts(&parts),
            body: vec![b'x'; 16 * YIELD_AFTER].into(),
            gzip: false,
        };
        let outbound = Outbound::verbatim(row, inbound, Acting::Nobody, &host).unwrap();
        let secret = SecretKey::new("fake-institution-secret".to_owned().into()).unwrap();
        let credential = Credential {
            client_id: ClientId::parse("institution").unwrap(),
            key: SigningKey::new(&secret),
        };
        let stamp = FreshStamp::new(1_767_225_600_000, [7; 32]);
        let (mut at_once, mut head) = (Vec::new(), Vec::new());
        let body = outbound.attempt(&credential, &stamp, &mut at_once);
        let in_pieces = outbound.attempt_in_pieces(&credential, &stamp, &mut head);
        let (polls, same) = polls(in_pieces);
        assert_eq!(polls, 16);
        assert_eq!((head, same), (at_once, body));
    }

    #[test]
    fn nothing_that_would_end_a_line_is_sent() {
        let catalogue = Catalogue::standard();
        let row = catalogue.named("query_order").unwrap();
        let host = HeaderValue::from_static("gatepay.example");
        let (parts, ()) = http::Request::new(()).into_parts();
        let outbound = |query, account| {
            let inbound = InboundRequest {
                query: Some(query),
                head: RequestHead::of_parts(&parts),
                body: Bytes::new(),
                gzip: false,
            };
            Outbound::verbatim(row, inbound, Acting::OnBehalfOf(account), &host)
        };
        let sent = outbound("a=b&c", "1").unwrap();
        assert_eq!(sent.content().0, Some("a=b&c"));
        for (query, account) in [
            ("a=b HTTP/1.1\r\nX: y", "1"),
            ("a b", "1"),
            ("a#b", "1"),
            ("a\u{7f}", "1"),
            ("a", "1\r\nX: y"),
            ("a", "1 2"),
            ("a", "\u{e9}"),
        ] {
            assert!(outbound(query, account).is_err(), "{query:?} {account:?}");
        }
    }
}
