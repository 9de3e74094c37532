//! Sign: builds the institution's request, signed anew for every attempt at the moment of sending.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use gatepay_core::body::BodyReading;
use gatepay_core::header as names;
use gatepay_core::look_up::LookUpQuestion;
use gatepay_core::operation::{Method, Operation};
use gatepay_core::owner_look_up::InquiryContent;
use gatepay_core::{Credential, FreshStamp, Kind, Payload, Signature, translate};
use gatepay_http1::buffer_pool::{self, PooledBuffer};
use gatepay_http1::request_head::RequestHead;
use gatepay_http1::{content_coding, request_encoder, wire_lines};
use gatepay_tenancy::settings::{AcceptEncoding, Settings};
use http::header::{self, HeaderValue};

use crate::cluster::halt_check::{HaltCheck, StopBeforeSending};
use crate::cluster::local_halts::LocalHaltCheck;
use crate::generation::tenant_limits::TenantLimits;
use crate::headers::{self, AtMostOnce, KnownHeaders};
use crate::journey::judge::{Acting, Judged};
use crate::process::yielding::{OffloadThreads, YIELD_AFTER, in_pieces};
use crate::record::RequestRecord;
use crate::refusal::{CallOutcome, Refusal};
use crate::upstream::clock_offset::UpstreamClock;
use crate::upstream::connection::MakeAttempt;

/// A judged request, and the request to GatePay made from it. [`compose`] alone makes one.
pub struct Composed<'g> {
    judged: Judged<'g>,
    outbound: Outbound,
    is_translated: bool,
    has_body: bool,
}

impl<'g> Composed<'g> {
    /// The judged request.
    pub fn judged(&self) -> &Judged<'g> {
        &self.judged
    }

    /// Whether the caller's request has a body, which a translated one need not have although GatePay's has.
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// The judged request without its body, the request to GatePay, and whether GatePay's answer has to be translated.
    pub fn into_parts(self) -> (Judged<'g>, Outbound, bool) {
        (self.judged, self.outbound, self.is_translated)
    }
}

/// What the request to GatePay is made with, apart from the caller's request.
pub struct OutboundRules<'a> {
    /// GatePay's name in `Host`.
    host: &'a HeaderValue,
    /// Whether reads may be answered in gzip.
    gzip: bool,
    /// The currencies that a translated balance query asks for.
    balance_currencies: &'a [String],
    /// Threads for work on long bodies.
    offload: &'a OffloadThreads,
}

impl<'a> OutboundRules<'a> {
    /// The rules in the process's settings, with GatePay's name in `Host`.
    pub fn of(settings: &'a Settings, host: &'a HeaderValue, offload: &'a OffloadThreads) -> Self {
        Self {
            host,
            gzip: settings.upstream.accept_encoding == AcceptEncoding::Gzip,
            balance_currencies: &settings.balance_currencies,
            offload,
        }
    }
}

/// The body that is sent in place of the caller's, if the call has to be translated; [`translate()`] alone makes one.
pub enum Translation {
    /// The caller's body is sent as it is.
    Verbatim,
    /// The body of the institution's balance query.
    Balance(Vec<u8>),
}

/// Translates the body of a judged call if its operation demands it. A long body is read on another thread.
pub async fn translate(
    judged: &Judged<'_>,
    rules: &OutboundRules<'_>,
) -> Result<Translation, Refusal> {
    let routed = judged.verified().routed();
    // Operators already use the institution's form.
    if routed.is_by_operator() || routed.operation().is_verbatim() {
        return Ok(Translation::Verbatim);
    }
    let (query, body) = (routed.query(), judged.verified().body());
    let currencies = rules.balance_currencies;
    if body.len() <= YIELD_AFTER {
        let reading = BodyReading::read(routed.operation(), query, body);
        let query = translate::balance_request(&reading, currencies);
        return Ok(Translation::Balance(query));
    }
    let catalogue = Arc::clone(&routed.generation().catalogue);
    let (position, body) = (routed.position(), body.clone());
    let (query, currencies) = (query.map(str::to_owned), currencies.to_vec());
    let read = move || {
        let row = &catalogue.rows()[position];
        let reading = BodyReading::read(row, query.as_deref(), &body);
        translate::balance_request(&reading, &currencies)
    };
    let position = judged.verified().caller().position;
    let limits = routed.generation().tenant_limits(position);
    let offload = rules.offload.of_party::<TenantLimits>(limits);
    Ok(Translation::Balance(Box::pin(offload.run(read)).await))
}

/// Makes the request to GatePay for a judged call. Each attempt signs it.
pub fn compose<'g>(
    mut judged: Judged<'g>,
    translation: Translation,
    (head, lines): (&RequestHead<'_>, &KnownHeaders<'_>),
    rules: &OutboundRules<'_>,
    record: &mut RequestRecord,
) -> Result<Composed<'g>, Refusal> {
    let routed = judged.verified().routed();
    let operation = routed.operation();
    let is_translated = matches!(translation, Translation::Balance(_));
    let inbound = InboundRequest {
        query: routed.query(),
        head,
        content_type: lines.content_type,
        body: judged.take_body(),
        // Only a read whose caller accepts gzip may be answered in gzip.
        gzip: !is_translated
            && rules.gzip
            && operation.kind == Kind::Read
            && content_coding::accepts_gzip(head.all(header::ACCEPT_ENCODING.as_str())),
    };
    let has_body = !inbound.body.is_empty();
    let (acting, host) = (judged.acting(), rules.host);
    let outbound = match translation {
        Translation::Verbatim => Outbound::verbatim(operation, inbound, acting, host),
        Translation::Balance(body) => Outbound::balance(operation, head, acting, host, body),
    };
    match outbound {
        Ok(outbound) => Ok(Composed {
            judged,
            outbound,
            is_translated,
            has_body,
        }),
        Err(error) => {
            record.detail(error.to_string());
            Err(Refusal::Internal(CallOutcome::NotExecuted))
        }
    }
}

/// The request to GatePay, apart from the parts that each attempt makes fresh.
///
/// Building it requires an `Acting`: a tenant's call never goes out in the institution's own name.
pub struct Outbound {
    /// The request line, `Content-Type`, and then the lines that a look-up shares: the whole head but its signature,
    /// its length and its end.
    head: PooledBuffer,
    /// The offset in `head` at which the shared lines begin.
    common: usize,
    /// The range of the query in `head`.
    query: Option<Range<usize>>,
    /// The method: without a body, only a method that usually has one gets a `Content-Length`.
    method: Method,
    body: Bytes,
    /// Whether the request accepts an answer in gzip.
    gzip: bool,
}

/// The parts of a caller's request that go into the institution's request.
struct InboundRequest<'a> {
    /// The query behind `?`.
    query: Option<&'a str>,
    /// The head, of which only allow-listed lines are taken.
    head: &'a RequestHead<'a>,
    /// The media type in that head.
    content_type: AtMostOnce<'a>,
    /// The body that was verified.
    body: Bytes,
    /// Whether the answer may be in gzip.
    gzip: bool,
}

/// A part of the request that cannot be written as HTTP. Nothing is sent then.
#[derive(Debug, thiserror::Error)]
pub enum UnsendableHead {
    /// The row has no institution path.
    #[error("the operation has no institution path")]
    NoPath,
    /// The row of an inquiry is not a read.
    #[error("the operation is not a read")]
    NoRead,
    /// A byte of the path, the query or the account would end its line or its part of the line.
    #[error("{0} has a byte that cannot stand in a head")]
    NotText(&'static str),
}

impl Outbound {
    /// The institution's call as the caller made it: another path, the same query, the same body byte for byte,
    /// allow-listed headers.
    fn verbatim(
        operation: &Operation,
        inbound: InboundRequest<'_>,
        acting: Acting<'_>,
        host: &HeaderValue,
    ) -> Result<Self, UnsendableHead> {
        let once = inbound.content_type.ok().flatten();
        // Only a request without a body can have got here with several.
        let several = inbound.content_type.is_err().then_some(inbound.head);
        let several = several.map(|head| head.all(header::CONTENT_TYPE.as_str()));
        let media = once.into_iter().chain(several.into_iter().flatten());
        let mut outbound = Self::begin(operation, inbound.query, media, inbound.body)?;
        outbound.gzip = inbound.gzip;
        outbound.lines(Some(inbound.head), acting, host)?;
        Ok(outbound)
    }

    /// The institution's balance query for a merchant's query: another method, and this body, which carries the
    /// merchant's question ([`gatepay_core::translate::balance_request`]).
    fn balance(
        operation: &Operation,
        inbound: &RequestHead<'_>,
        acting: Acting<'_>,
        host: &HeaderValue,
        body: Vec<u8>,
    ) -> Result<Self, UnsendableHead> {
        let mut outbound = Self::begin(operation, None, [JSON], body.into())?;
        outbound.lines(Some(inbound), acting, host)?;
        Ok(outbound)
    }

    /// A look-up of this call, for the same account.
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

    /// A look-up of a call that ended long ago, for its account.
    pub fn later_look_up(
        row: &Operation,
        question: &LookUpQuestion,
        account: &str,
        host: &HeaderValue,
    ) -> Result<Self, UnsendableHead> {
        let (query, body) = (question.query.as_deref(), question.body.clone());
        let mut outbound = Self::begin(row, query, [JSON], body.into())?;
        outbound.lines(None, Acting::OnBehalfOf(account), host)?;
        Ok(outbound)
    }

    /// A probe read of the proxy's own, for no account: any answer shows that GatePay is up, and the time of its clock.
    pub fn probe(row: &Operation, host: &HeaderValue) -> Result<Self, UnsendableHead> {
        let mut outbound = Self::begin(row, Some("limit=1"), [], Bytes::new())?;
        outbound.lines(None, Acting::Nobody, host)?;
        Ok(outbound)
    }

    /// A read of the proxy's own that asks whether an account has an object.
    pub fn inquiry(
        row: &Operation,
        content: InquiryContent,
        account: &str,
        host: &HeaderValue,
    ) -> Result<Self, UnsendableHead> {
        if row.kind != Kind::Read {
            return Err(UnsendableHead::NoRead);
        }
        let (query, body) = (content.query.as_deref(), content.body.into());
        let mut outbound = Self::begin(row, query, [JSON], body)?;
        outbound.lines(None, Acting::OnBehalfOf(account), host)?;
        Ok(outbound)
    }

    /// Whether the request accepts an answer in gzip.
    pub fn accepts_gzip(&self) -> bool {
        self.gzip
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Sends another body, as each attempt states its length.
    pub fn replace_body(&mut self, body: Bytes) {
        self.body = body;
    }

    /// The query as it is sent to GatePay, and the body.
    pub fn content(&self) -> (Option<&str>, &Bytes) {
        let query = self.query.clone().map(|at| &self.head[at]);
        (
            query.and_then(|query| str::from_utf8(query).ok()),
            &self.body,
        )
    }

    /// Begins the head with the request line and `Content-Type`.
    fn begin<'a>(
        operation: &Operation,
        query: Option<&str>,
        media: impl IntoIterator<Item = &'a [u8]>,
        body: Bytes,
    ) -> Result<Self, UnsendableHead> {
        let path = operation.institution_path.as_deref();
        let path = path.ok_or(UnsendableHead::NoPath)?;
        let method = operation.institution_method;
        let mut head = buffer_pool::take();
        head.reserve(HEAD);
        let mut parts = [Some(path), query].into_iter().flatten();
        if !parts.all(request_encoder::is_target_part) {
            return Err(UnsendableHead::NotText("the target"));
        }
        let method_name = method.as_str();
        let query = request_encoder::write_request_line(&mut head, method_name, path, query);
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

    /// Adds the allow-listed lines of a caller's head, and the account that the call is for.
    fn lines(
        &mut self,
        inbound: Option<&RequestHead<'_>>,
        acting: Acting<'_>,
        host: &HeaderValue,
    ) -> Result<(), UnsendableHead> {
        let head = &mut self.head;
        wire_lines::write(head, &header::HOST, host.as_bytes());
        // Without this line any coding is allowed (RFC 9110, 12.5.3), and the proxy cannot judge a coded answer.
        let coding: &[u8] = if self.gzip { b"gzip" } else { b"identity" };
        wire_lines::write(head, &header::ACCEPT_ENCODING, coding);
        for (name, value) in inbound.into_iter().flat_map(RequestHead::lines) {
            if let Some(name) = headers::to_gatepay(name) {
                wire_lines::write(head, name, value);
            }
        }
        let (name, account) = match acting {
            Acting::OnBehalfOf(account) => (names::ON_BEHALF_OF, account),
            Acting::Merchant(merchant) => (names::MERCHANT_ID, merchant),
            Acting::Nobody => return Ok(()),
        };
        if !account.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UnsendableHead::NotText("the account"));
        }
        wire_lines::write(head, name, account.as_bytes());
        Ok(())
    }

    /// One attempt, signed with the institution's credential under a stamp that no other attempt has: writes its head
    /// into `head` and returns its body.
    pub fn attempt(
        &self,
        credential: &Credential,
        stamp: &FreshStamp,
        head: &mut Vec<u8>,
    ) -> Bytes {
        let signature = gatepay_core::sign(&credential.key, &stamp.as_stamp(), &self.body);
        self.signed(credential, stamp, &signature, head)
    }

    /// Like `attempt`, for a long body: other tasks run while the body is hashed.
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

    /// Writes the head of an attempt with this signature, and returns the body.
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
            (names::CLIENT_ID, credential.client_id.as_str().as_bytes()),
            (names::TIMESTAMP, timestamp),
            (names::NONCE, nonce),
            (names::SIGNATURE, &signature),
        ] {
            wire_lines::write(head, name, value);
        }
        request_encoder::write_end(head, self.body.len(), self.method == Method::Post);
        self.body.clone()
    }
}

/// Makes the attempts of a call. Each attempt has its own stamp, which is recorded.
pub struct SignedAttempts<'a> {
    /// The request to GatePay.
    pub outbound: &'a Outbound,
    /// The institution's credential.
    pub credential: &'a Credential,
    /// GatePay's clock, which gives the stamps.
    pub clock: &'a UpstreamClock,
    /// The record of the caller's request.
    pub record: &'a mut RequestRecord,
    /// The halts that each attempt has to pass before its first byte is sent.
    pub halts: SendCheck<'a>,
}

/// The halts that a call has to pass before a byte of it is sent.
pub enum SendCheck<'a> {
    /// The halts of this process, which has no store.
    Local(LocalHaltCheck<'a>),
    /// The halts of the store.
    Shared(HaltCheck<'a>),
}

impl MakeAttempt for SignedAttempts<'_> {
    async fn make(&mut self, head: &mut Vec<u8>) -> Bytes {
        let stamp = self.clock.stamp();
        self.record.attempt(&self.credential.client_id, &stamp);
        if self.outbound.body().len() <= YIELD_AFTER {
            return self.outbound.attempt(self.credential, &stamp, head);
        }
        let attempt = self
            .outbound
            .attempt_in_pieces(self.credential, &stamp, head);
        Box::pin(attempt).await
    }

    fn begin<T>(&self, send: impl FnOnce() -> T) -> Result<T, StopBeforeSending> {
        match &self.halts {
            SendCheck::Local(halts) => halts.pass(send),
            SendCheck::Shared(halts) => halts.pass(send),
        }
    }
}

/// The approximate number of bytes that an attempt adds to a head.
const SIGNED: usize = 512;
/// The media type of the bodies that the proxy makes itself.
const JSON: &[u8] = b"application/json";

/// The initial capacity of a head in bytes: most heads need no more.
const HEAD: usize = 544;

#[cfg(test)]
mod tests {
    use super::*;
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
            head: &RequestHead::of_parts(&parts),
            content_type: Ok(None),
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
                head: &RequestHead::of_parts(&parts),
                content_type: Ok(None),
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
