//! A request's journey, top to bottom. This file holds the order of the steps; its submodules hold the steps.

pub mod admit;
pub mod authenticate;
pub mod ingress;
pub mod relay;
pub mod route;
pub mod sign;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use gatepay_core::amount::BodyAmounts;
use gatepay_core::body::BodyReading;
use gatepay_core::envelope::{AnswerJudgement, AnswerVerdict, EnvelopeCode};
use gatepay_core::guard::CallerIdentity;
use gatepay_core::look_up::{LookUpObservation, LookUpQuestion};
use gatepay_core::operation::LookUp;
use gatepay_core::proof::{AnswerProof, LookUpRule};
use gatepay_core::{Credential, Kind, Operation, Payload, envelope, translate};
use gatepay_http1::content_coding::{self, ContentCoding};
use gatepay_http1::request_head::RequestHead;
use gatepay_http1::request_parser::FramingError;
use gatepay_http1::response_parser::ResponseHead;
use gatepay_tenancy::PartyRef;
use gatepay_tenancy::settings::AcceptEncoding;
use http::header;

use crate::app::App;
use crate::callers::activity::ActiveRequest;
use crate::callers::address_limits::ConnectionPeer;
use crate::callers::body_memory::BodyReservation;
use crate::callers::client_address::ClientAddress;
use crate::generation::Generation;
use crate::headers::{self, AtMostOnce, KnownHeaders};
use crate::journal::JournalUnavailable;
use crate::journal::entry::CallIntent;
use crate::journey::admit::JudgedBody;
use crate::journey::authenticate::{Caller, IdentifiedCaller};
use crate::journey::ingress::{BodyTime, CallerGone, RequestBody, unless_gone};
use crate::journey::relay::Reply;
use crate::journey::sign::{InboundRequest, Outbound, UnsendableHead};
use crate::process::drain::{DrainPhase, EntryGate, EntryGuard, RunningGuard};
use crate::process::yielding::{YIELD_AFTER, in_pieces};
use crate::record::RequestRecord;
use crate::record::access_line::RequestPhase;
use crate::record::refused_head::RefusedHead;
use crate::refusal::{self, CallOutcome, DuplicateDoubt, Refusal, RefusedCall};
use crate::upstream::clock_offset::UpstreamClock;
use crate::upstream::connection::MakeAttempt;
use crate::upstream::credential_rotation::ActiveCredential;
use crate::upstream::exchange::{AnswerBody, CallFailure, UpstreamAnswer};
use crate::upstream::forward::{self, CallOwner, UpstreamCall};
use crate::upstream::pool::Pool;
use crate::upstream::resolve::ResolveSchedule;
use crate::upstream::retry::RetryBudget;
use crate::upstream::{probe, resolve};

/// One worker thread that carries requests, with its connections to GatePay.
pub struct Worker {
    /// The state that all workers share.
    pub app: Arc<App>,
    /// This worker's pool of upstream connections.
    pub pool: Arc<Pool>,
    /// This worker's retry budget.
    pub budget: RetryBudget,
    /// The gate through which callers' connections enter this worker.
    pub entry_gate: Arc<EntryGate>,
}

impl Worker {
    fn upstream_call<'a>(&'a self, owner: CallOwner<'a>) -> UpstreamCall<'a> {
        UpstreamCall {
            pool: &self.pool,
            budget: &self.budget,
            quota: &self.app.admission.quota,
            breaker: &self.app.upstream.breaker,
            clock: &self.app.upstream.clock,
            offload: &self.app.admission.offload,
            owner,
            gzip: false,
        }
    }

    /// Sends the proxy's own probe reads to GatePay, for as long as this future is polled.
    pub async fn probe(&self) {
        let app = &self.app;
        let ask = || {
            let generation = app.generation.load();
            let row = generation.catalogue.probe()?;
            let outbound = Outbound::probe(row, &app.upstream.host).ok()?;
            let signing = app
                .upstream
                .credential_rotation
                .signing(&generation.institution)?;
            Some(move |head: &mut Vec<u8>| {
                outbound.attempt(signing.credential(), &app.upstream.clock.stamp(), head)
            })
        };
        probe::watch(self.upstream_call(CallOwner::Proxy), ask).await;
    }

    /// Switches signing to another credential of the institution when its time has come and GatePay accepts that
    /// credential, for as long as this future is polled.
    pub async fn rotate(&self) {
        let app = &self.app;
        let institution = || Arc::clone(&app.generation.load().institution);
        let proves = |signing: Arc<ActiveCredential>| async move {
            let generation = app.generation.load_full();
            let row = generation.catalogue.probe();
            let read = row.and_then(|row| Outbound::probe(row, &app.upstream.host).ok());
            let read = read.ok_or("there is no read to try it with: list_accounts is off")?;
            let attempt = |head: &mut Vec<u8>| {
                read.attempt(signing.credential(), &app.upstream.clock.stamp(), head)
            };
            probe::prove(self.upstream_call(CallOwner::Proxy), attempt).await
        };
        app.upstream
            .credential_rotation
            .watch(institution, proves)
            .await;
    }
}

/// The refusal text while admissions cannot be stored for the next process.
const UNMARKED: &str =
    "admissions cannot be recorded at present; send the same bytes again after Retry-After";

/// The refusal text for a body that arrives too slowly to keep its connection slot.
const GIVES_WAY: &str = "all connections are in use and this body comes slowly; send the same bytes again after Retry-After";

/// A call that may be sent to GatePay.
struct AdmittedCall {
    generation: Arc<Generation>,
    position: usize,
    outbound: Outbound,
    /// Whether the caller is an operator: operators use the institution's form and are told institution paths.
    operator: bool,
    /// Whether GatePay's answer has to be translated back into the merchant form.
    translated: bool,
    permit: admit::Permit,
    /// The journal entry that is written before the call is sent.
    before: Option<Box<CallIntent>>,
    /// The memory reserved for the body.
    _held: BodyReservation,
}

/// Why a request is not processed further.
enum StopReason {
    /// The proxy refuses the request.
    Refused(Refusal),
    /// The caller has left.
    Gone,
}

impl From<Refusal> for StopReason {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<CallerGone> for StopReason {
    fn from(CallerGone: CallerGone) -> Self {
        Self::Gone
    }
}

/// Begins the record of a request whose head has one reading. Returns the caller's address and the known headers too.
fn begin<'h>(
    app: &App,
    peer: &ConnectionPeer,
    busy: ActiveRequest,
    head: &RequestHead<'h>,
) -> (ClientAddress, KnownHeaders<'h>, Box<RequestRecord>) {
    let origin = app.listener.trusted_proxies.caller(peer.origin, head);
    let lines = KnownHeaders::read(head.lines());
    let mut record = RequestRecord::begin(&app.telemetry, origin.address, &lines, busy);
    if head.method == "HEAD" {
        // The answer to HEAD has no body to relay.
        record.relayed();
    }
    (origin, lines, record)
}

/// Answers a request beyond the limit on concurrent requests: only its head is read.
pub fn crowded(
    app: &Arc<App>,
    peer: &ConnectionPeer,
    busy: ActiveRequest,
    head: &RequestHead<'_>,
) -> Reply {
    app.metrics.requests_crowded.inc();
    let (_, _, mut record) = begin(app, peer, busy, head);
    record.is_refused_unidentified(&RefusedHead::of_lines(head.lines()));
    let refusal = Refusal::Overloaded(
        "too many requests are being answered; send the same bytes again after Retry-After",
    );
    let mut reply = refuse(app, record, refusal);
    reply.close();
    reply
}

/// Refuses a head that has no single reading.
pub fn unreadable(
    app: &Arc<App>,
    peer: &ConnectionPeer,
    busy: ActiveRequest,
    fault: FramingError,
    head: &RefusedHead<'_>,
) -> Reply {
    let mut record = RequestRecord::begin(
        &app.telemetry,
        peer.origin.address,
        &KnownHeaders::NONE,
        busy,
    );
    record.is_refused_unidentified(head);
    let mut reply = refuse(app, record, ingress::unreadable(fault));
    reply.close();
    reply
}

/// Answers a request, whatever its outcome, unless the caller has left.
pub async fn handle<B: RequestBody>(
    worker: &Arc<Worker>,
    peer: &ConnectionPeer,
    busy: ActiveRequest,
    entering: EntryGuard,
    head: &RequestHead<'_>,
    body: &mut B,
) -> Option<Reply> {
    let app = &worker.app;
    let (origin, lines, mut record) = begin(app, peer, busy, head);
    let held = app.admission.body_memory.hold(peer.unauthenticated_bytes());
    let entered = enter(worker, origin, held, (head, &lines), body, &mut record).await;
    drop(entering);
    let mut reply = match entered {
        Err(StopReason::Gone) => return None,
        Err(StopReason::Refused(refusal)) => {
            if refusal.is_failed_authentication()
                && let Some(address) = origin.attributable()
            {
                app.admission.auth_throttle.failed(address);
            }
            record.is_refused_unidentified(&RefusedHead::of_lines(head.lines()));
            refuse(app, record, refusal)
        }
        Ok(admitted) if admitted.operation().kind == Kind::Read => {
            let leaving = pin!(leave(worker, admitted, record));
            unless_gone(body, leaving).await.ok()?
        }
        Ok(admitted) => {
            // From here on the call runs in its own task: a caller that leaves does not stop a call already under way.
            let running = RunningGuard::begin(&app.lifecycle.drain);
            let worker = Arc::clone(worker);
            let detached = tokio::spawn(async move {
                let reply = leave(&worker, admitted, record).await;
                drop(running);
                reply
            });
            match unless_gone(body, pin!(detached)).await.ok()? {
                Ok(reply) => reply,
                // The record was written while the task unwound. The connection is aborted: the caller reads no answer.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    };
    if app.lifecycle.drain.phase() >= DrainPhase::Leaving {
        reply.close();
    }
    Some(reply)
}

/// Takes a request from its head to its permit: ingress, route, authenticate, admit, sign.
async fn enter(
    worker: &Worker,
    origin: ClientAddress,
    mut held: BodyReservation,
    (head, lines): (&RequestHead<'_>, &KnownHeaders<'_>),
    body: &mut impl RequestBody,
    record: &mut RequestRecord,
) -> Result<Box<AdmittedCall>, StopReason> {
    let app = &worker.app;
    let now_ms = record.began_unix_ms();
    let generation = app.generation.load_full();

    let target = ingress::target(head, lines)?;
    let found = authenticate::claimed(&generation.registry, lines);
    if let Some(found) = &found {
        generation.prefetch(found);
    }
    let who = found.map(|found| found.owner);
    let position = route::operation(&generation.catalogue, &target, who)?;
    let operation = &generation.catalogue.rows()[position];
    let operator = matches!(who, Some(PartyRef::Operator(_)));
    record.operation(position, &generation, operator);

    let caller = match authenticate::identify(found, lines, now_ms)? {
        IdentifiedCaller::InForce(caller) => caller,
        IdentifiedCaller::NotInForce(caller) => {
            let upload = (target.bytes, body);
            let stopped = recognize(app, origin, held, upload, operation, &caller, record);
            return Err(Box::pin(stopped).await);
        }
    };
    let party = caller.owner.party();
    record.claimed(caller.position);
    let replay = &app.admission.replay;
    let print = replay.fingerprint(caller.client_id.as_str(), &caller.stamp, party.replay);
    let usable = record.arrives(print);
    if !body.is_end_stream() {
        held.begin(target.bytes, body.size_hint().lower())
            .map_err(Refusal::from)?;
        ingress::media_type(lines.content_type, operation.media)?;
    }
    let body = receive(app, origin, &mut held, body, operation, &caller, record).await?;
    record.verified(caller.position, caller.credential_index);
    held.authenticated();

    let lane = generation.tenant_limits(caller.position);
    let verified = VerifiedRequest {
        caller: &caller,
        position,
        peer: origin.address,
        on_behalf_of: lines.on_behalf_of,
        query: target.query,
        body: &body,
    };
    let judged = match usable {
        Ok(()) => judge(app, &generation, &verified).await,
        Err(unusable) => Err(admit::refuse(unusable, now_ms)),
    };
    let (acting, JudgedBody { key, amounts }) = match judged {
        Ok(judged) => judged,
        Err(refusal) => {
            remember_key(app, &generation, &verified, record).await;
            return Err(refusal.into());
        }
    };
    record.key(key);
    // Operators already use the institution's form.
    let translated = !operator && !operation.is_verbatim();
    let inbound = InboundRequest::uncoded(target.query, *head, body);
    let outbound = outbound(app, (&generation, position), inbound, acting, translated).await;
    let outbound = outbound.map_err(|error| {
        record.detail(error.to_string());
        Refusal::Internal(CallOutcome::NotExecuted)
    })?;
    if !app.admission.watermark.covers(caller.stamp.millis()).await {
        return Err(unmarked(record).into());
    }
    let journal = app
        .journal
        .as_ref()
        .filter(|_| operation.kind != Kind::Read);
    if journal.is_some_and(|journal| !journal.is_available()) {
        return Err(Refusal::JournalUnavailable.into());
    }
    // Reading the body takes time: the stamp is checked again, under the lock of the replay memory.
    let now_ms = app.clock.unix_ms();
    let permit = admit::enter(lane, replay, &app.clock, operation.kind, print, now_ms)?;
    record.admitted();
    let before = journal.map(|_| {
        let call = (operation, &acting, amounts);
        record_before(record, caller, origin.address, call, &outbound)
    });
    record.shadow(permit.shadow);
    Ok(Box::new(AdmittedCall {
        position,
        outbound,
        operator,
        translated,
        permit,
        before: before.map(Box::new),
        _held: held,
        generation,
    }))
}

/// The journal entry about an admitted call, made before the call is sent.
fn record_before(
    record: &RequestRecord,
    caller: Caller<'_>,
    peer: IpAddr,
    (operation, acting, amounts): (&Operation, &admit::Acting<'_>, BodyAmounts),
    outbound: &Outbound,
) -> CallIntent {
    CallIntent {
        id: record.id(),
        party: caller.owner.party().id.as_str().to_owned(),
        client_id: caller.client_id.to_string(),
        peer,
        operation: operation.name.to_string(),
        kind: operation.kind.as_str(),
        account: acting.account().map(str::to_owned),
        key: record.known_key().map(str::to_owned),
        amounts,
        timestamp: caller.stamp.timestamp().to_owned(),
        nonce: caller.stamp.nonce().to_owned(),
        body: outbound.content().1.clone(),
        signature: caller.into(),
    }
}

/// A verified request, with the parts of it that admission reads.
struct VerifiedRequest<'a, 'b> {
    caller: &'b Caller<'a>,
    position: usize,
    peer: IpAddr,
    on_behalf_of: AtMostOnce<'a>,
    query: Option<&'b str>,
    body: &'b Bytes,
}

/// Stores the idempotency key of a refused call in the record if an earlier copy of the call may have been admitted.
async fn remember_key(
    app: &App,
    generation: &Generation,
    verified: &VerifiedRequest<'_, '_>,
    record: &mut RequestRecord,
) {
    if record.is_in_doubt() {
        let row = (&generation.catalogue, verified.position);
        let (query, body) = (verified.query, verified.body);
        record.key(admit::key_of_body(&app.admission.offload, row, query, body).await);
    }
}

/// Checks that the caller may make this call with this body; returns the acting account and the facts of the body.
async fn judge<'a>(
    app: &App,
    generation: &'a Generation,
    verified: &VerifiedRequest<'a, '_>,
) -> Result<(admit::Acting<'a>, JudgedBody), Refusal> {
    let caller = verified.caller;
    let operation = &generation.catalogue.rows()[verified.position];
    admit::allowed(
        caller.owner,
        generation.tenant_limits(caller.position),
        verified.position,
        operation,
        verified.peer,
    )?;
    let acting = admit::acting(
        caller.owner,
        operation,
        verified.on_behalf_of,
        &generation.registry,
        &generation.institution,
    )?;
    let own = match caller.owner {
        PartyRef::Tenant(tenant) => Some(CallerIdentity {
            account: tenant.sub_account.as_str(),
            client_id: caller.client_id.as_str(),
        }),
        PartyRef::Operator(_) => None,
    };
    let row = (&generation.catalogue, verified.position);
    let (query, body) = (verified.query, verified.body);
    let rules = admit::BodyRules::of(&app.settings, app.journal.is_some());
    let judged = admit::judge_body(&app.admission.offload, row, query, body, own, rules).await?;
    Ok((acting, judged))
}

/// The refusal of a stamp that the watermark in the state folder does not cover.
fn unmarked(record: &mut RequestRecord) -> Refusal {
    record.detail("the state folder cannot be written".to_owned());
    Refusal::Overloaded(UNMARKED)
}

/// Whether GatePay may answer in gzip: only a read, if its caller accepts gzip and the settings allow it.
fn allows_gzip(app: &App, operation: &Operation, head: &RequestHead<'_>) -> bool {
    app.settings.upstream.accept_encoding == AcceptEncoding::Gzip
        && operation.kind == Kind::Read
        && content_coding::accepts_gzip(head.all(header::ACCEPT_ENCODING.as_str()))
}

/// Builds the request to GatePay for a verified call.
async fn outbound(
    app: &App,
    (generation, position): (&Generation, usize),
    inbound: InboundRequest<'_>,
    acting: admit::Acting<'_>,
    translated: bool,
) -> Result<Outbound, UnsendableHead> {
    let (operation, host) = (&generation.catalogue.rows()[position], &app.upstream.host);
    if !translated {
        let gzip = allows_gzip(app, operation, &inbound.head);
        return Outbound::verbatim(operation, InboundRequest { gzip, ..inbound }, acting, host);
    }
    let currencies = &app.settings.balance_currencies;
    let body = if inbound.body.len() <= YIELD_AFTER {
        translate::balance_request(
            &BodyReading::read(operation, inbound.query, &inbound.body),
            currencies,
        )
    } else {
        let (catalogue, body) = (Arc::clone(&generation.catalogue), inbound.body.clone());
        let query = inbound.query.map(str::to_owned);
        let currencies = currencies.clone();
        let read = move || {
            let row = &catalogue.rows()[position];
            translate::balance_request(
                &BodyReading::read(row, query.as_deref(), &body),
                &currencies,
            )
        };
        Box::pin(app.admission.offload.run(read)).await
    };
    Outbound::balance(operation, &inbound, acting, host, body)
}

/// Reads the body and verifies the caller's signature over it. An unverified body is never used.
async fn receive(
    app: &App,
    origin: ClientAddress,
    held: &mut BodyReservation,
    incoming: &mut impl RequestBody,
    operation: &Operation,
    caller: &Caller<'_>,
    record: &mut RequestRecord,
) -> Result<Bytes, StopReason> {
    let listen = &app.settings.listen;
    let failing = origin
        .attributable()
        .filter(|address| app.admission.auth_throttle.is_failing(*address));
    let mut payload = caller.payload();
    let mut body = Bytes::new();
    if !incoming.is_end_stream() {
        let limit = operation.body_limit.unwrap_or(listen.body_limit);
        let piece = |piece: &[u8]| {
            if failing.is_none() {
                payload.body(piece);
            }
        };
        let time = BodyTime {
            whole: listen.body_timeout,
            bytes_per_second: listen.body_bytes_per_second,
        };
        let read = ingress::body(incoming, limit, &time, held, piece);
        let read = record.receives(pin!(read)).await;
        body = read.unwrap_or(Err(Refusal::Overloaded(GIVES_WAY)))?;
        record.body(body.len());
    }
    if let Some(address) = failing {
        // Waits only now, so that a slow body does not hold up other callers at the same address.
        let turn = pin!(app.admission.auth_throttle.permit(address));
        let turn = unless_gone(incoming, turn);
        let _turn = record.wait_in(RequestPhase::Body, pin!(turn)).await?;
        in_pieces(&body, |piece| payload.body(piece)).await;
        verify(caller, payload, &body).await?;
    } else {
        verify(caller, payload, &body).await?;
    }
    Ok(body)
}

/// Refuses a credential that is not in force. The body is read and verified within the same bounds as any other body,
/// only to name the party to the institution: the answer does not depend on the verification.
async fn recognize(
    app: &App,
    origin: ClientAddress,
    mut held: BodyReservation,
    (head_bytes, incoming): (usize, &mut impl RequestBody),
    operation: &Operation,
    caller: &Caller<'_>,
    record: &mut RequestRecord,
) -> StopReason {
    let announced = incoming.size_hint().lower();
    if incoming.is_end_stream() || held.begin(head_bytes, announced).is_ok() {
        let received = receive(app, origin, &mut held, incoming, operation, caller, record);
        match received.await {
            Ok(_) => record.not_in_force(caller.position, caller.credential_index),
            Err(StopReason::Refused(_)) => {}
            Err(StopReason::Gone) => return StopReason::Gone,
        }
    }
    authenticate::not_in_force().into()
}

/// Verifies the caller's signature over a body of any length.
async fn verify(caller: &Caller<'_>, payload: Payload, body: &Bytes) -> Result<(), Refusal> {
    if body.len() <= YIELD_AFTER {
        return caller.verify(payload, body);
    }
    Box::pin(caller.verify_in_pieces(payload, body)).await
}

impl AdmittedCall {
    fn operation(&self) -> &Operation {
        &self.generation.catalogue.rows()[self.position]
    }
}

/// Takes a call from its permit to its answer: journal, sign, forward, relay.
async fn leave(
    worker: &Worker,
    mut admitted: Box<AdmittedCall>,
    mut record: Box<RequestRecord>,
) -> Reply {
    let app = &worker.app;
    if let (Some(journal), Some(before)) = (&app.journal, admitted.before.take()) {
        record.enter_phase(RequestPhase::Journal);
        let written = journal.before(*before).await;
        record.enter_phase(RequestPhase::Own);
        match written {
            Ok(open) => record.journaled(open),
            Err(JournalUnavailable) => return refuse(app, record, Refusal::JournalUnavailable),
        }
    }
    let Some(signing) = app
        .upstream
        .credential_rotation
        .signing(&admitted.generation.institution)
    else {
        record.detail("no institution credential is valid at this time".to_owned());
        return refuse(app, record, Refusal::Internal(CallOutcome::NotExecuted));
    };
    let now = app.clock.instant(record.enter_phase(RequestPhase::Connect));
    let credential = signing.credential();
    let attempts = SignedAttempts {
        outbound: &admitted.outbound,
        credential,
        guardian: &app.upstream.clock,
        record: &mut record,
    };
    let (kind, limit) = (admitted.operation().kind, app.settings.upstream.deadline);
    admitted.permit.spend(true);
    let road = UpstreamCall {
        gzip: admitted.outbound.accepts_gzip(),
        ..worker.upstream_call(CallOwner::Party(admitted.permit.tenant_limits()))
    };
    let sent = forward::send(road, kind, now, limit, attempts).await;
    record.enter_phase(RequestPhase::Own);
    let answer = match sent {
        Ok(answer) => answer,
        Err(CallFailure::NotSent(detail) | CallFailure::NoPlace(detail)) => {
            record.detail(detail);
            return refuse(app, record, Refusal::UpstreamUnreachable);
        }
        Err(CallFailure::Unavailable(open)) => {
            admitted.permit.spend(false);
            return refuse(app, record, Refusal::UpstreamUnavailable(open));
        }
        Err(CallFailure::Lost { what, detail }) => {
            record.detail(detail);
            return Box::pin(lose(worker, &admitted, credential, record, what)).await;
        }
    };
    if answer.is_coded(admitted.outbound.accepts_gzip()) {
        record.answered(
            answer.head.status.as_u16(),
            &AnswerJudgement::UNREAD,
            &Bytes::new(),
        );
        let what = "GatePay's answer is in a content coding, and none was asked for";
        return Box::pin(lose(worker, &admitted, credential, record, what)).await;
    }
    let UpstreamAnswer { head, body } = answer;
    match body {
        AnswerBody::Whole(body, judgement) => {
            let answer = WholeAnswer {
                head,
                body,
                judgement,
            };
            tell(worker, admitted, credential, record, answer).await
        }
        AnswerBody::Long(long) => {
            record.answered(
                head.status.as_u16(),
                &AnswerJudgement::UNREAD,
                &Bytes::new(),
            );
            relay::long(head, long, limit, record, admitted.permit)
        }
    }
}

/// An answer of GatePay that has arrived completely.
struct WholeAnswer {
    head: ResponseHead,
    body: Bytes,
    judgement: AnswerJudgement,
}

/// Turns GatePay's whole answer into the caller's reply.
async fn tell(
    worker: &Worker,
    admitted: Box<AdmittedCall>,
    credential: &Credential,
    mut record: Box<RequestRecord>,
    answer: WholeAnswer,
) -> Reply {
    let app = &worker.app;
    let WholeAnswer {
        mut head,
        body,
        judgement,
    } = answer;
    let status = head.status.as_u16();
    record.answered(status, &judgement, &body);
    if is_rejection(&judgement) {
        // Relayed unchanged, this answer would send the tenant looking for the fault in the tenant's own key.
        app.upstream.clock.is_refused();
        let text: Cow<'_, [u8]> = match head.coding {
            ContentCoding::Identity => body[..].into(),
            ContentCoding::Gzip | ContentCoding::Other => {
                let decoded = content_coding::decoded(&body, REJECTION);
                decoded.unwrap_or_else(|| b"in gzip".to_vec()).into()
            }
        };
        record.detail(rejection(&text, app.upstream.clock.offset_ms()));
        if judgement.verdict == AnswerVerdict::Failure {
            return refuse(app, record, Refusal::InstitutionRejected);
        }
        let what = "GatePay's answer contradicts itself";
        return Box::pin(lose(worker, &admitted, credential, record, what)).await;
    }
    if admitted.operation().kind == Kind::Read {
        let body = if admitted.translated {
            translate::balance_answer(&body).into_owned().into()
        } else {
            body
        };
        return relay::whole(head, body, record, Some(admitted.permit));
    }
    let outcome = match AnswerProof::of(status, &judgement) {
        AnswerProof::Executed => CallOutcome::Executed,
        AnswerProof::Refused => CallOutcome::Refused,
        AnswerProof::LookUp(rule) => {
            Box::pin(settle(worker, &admitted, credential, &mut record, rule)).await
        }
        AnswerProof::Lost(what) => {
            record.detail(format!("HTTP {status} with {} bytes of body", body.len()));
            return Box::pin(lose(worker, &admitted, credential, record, what)).await;
        }
    };
    record.settled(outcome);
    head.fields.add(&headers::OUTCOME, outcome.as_str());
    head.status = refusal::relayed_status(app.settings.refusal_status, head.status, outcome);
    record.status(head.status.as_u16());
    relay::whole(head, body, record, Some(admitted.permit))
}

/// Whether the answer rejects the institution's own signature, clock or client id.
fn is_rejection(judgement: &AnswerJudgement) -> bool {
    let rejects = |code: EnvelopeCode| envelope::rejects_institution(code.as_str());
    judgement.verdict != AnswerVerdict::Success && judgement.code.is_some_and(rejects)
}

/// The most bytes to which a rejection in gzip is decoded for the log.
const REJECTION: usize = 64 * 1024;

/// The part of a rejection that goes to the log: at most 512 characters, and the clock offset if known.
fn rejection(body: &[u8], offset_ms: Option<i64>) -> String {
    let begins = &body[..body.len().min(2048)];
    let mut detail: String = String::from_utf8_lossy(begins).chars().take(512).collect();
    if let Some(offset) = offset_ms {
        let _ = write!(
            detail,
            " (GatePay's clock is {offset} ms ahead of this one)"
        );
    }
    detail
}

/// Determines the outcome of a call by look-up, where the answer alone does not decide it.
async fn settle(
    worker: &Worker,
    admitted: &AdmittedCall,
    credential: &Credential,
    record: &mut RequestRecord,
    rule: LookUpRule,
) -> CallOutcome {
    let schedule = match rule {
        LookUpRule::UnderWay => &resolve::AFTER_LOSS,
        LookUpRule::Decided | LookUpRule::RefusedIfAbsent | LookUpRule::RefusedUnlessFound => {
            &resolve::AFTER_REFUSAL
        }
    };
    record.enter_phase(RequestPhase::LookUp);
    let LookUpObservation { observed, .. } = look_up(worker, admitted, credential, schedule).await;
    record.enter_phase(RequestPhase::Own);
    record.observed(observed);
    rule.settle(observed).into()
}

/// Makes the attempts of a call. Each attempt has its own stamp, which is recorded.
struct SignedAttempts<'a> {
    outbound: &'a Outbound,
    credential: &'a Credential,
    guardian: &'a UpstreamClock,
    record: &'a mut RequestRecord,
}

impl MakeAttempt for SignedAttempts<'_> {
    async fn make(&mut self, head: &mut Vec<u8>) -> Bytes {
        let stamp = self.guardian.stamp();
        self.record.attempt(&self.credential.client_id, &stamp);
        if self.outbound.body().len() <= YIELD_AFTER {
            return self.outbound.attempt(self.credential, &stamp, head);
        }
        let attempt = self
            .outbound
            .attempt_in_pieces(self.credential, &stamp, head);
        Box::pin(attempt).await
    }
}

/// Answers a call that was sent and has no answer fit to relay: the outcome is looked up at GatePay where possible.
async fn lose(
    worker: &Worker,
    admitted: &AdmittedCall,
    credential: &Credential,
    mut record: Box<RequestRecord>,
    what: &'static str,
) -> Reply {
    let app = &worker.app;
    let observation = match admitted.operation().kind {
        Kind::Read => None,
        Kind::Write | Kind::Money => {
            record.enter_phase(RequestPhase::LookUp);
            Some(look_up(worker, admitted, credential, &resolve::AFTER_LOSS).await)
        }
    };
    record.enter_phase(RequestPhase::Own);
    if let Some(observation) = &observation {
        record.observed(observation.observed);
    }
    let advice = advice(
        &admitted.generation,
        admitted.operation(),
        record.known_key(),
        admitted.operator,
    );
    let refusal = Refusal::OutcomeUnknown {
        what,
        advice,
        observation,
    };
    refuse(app, record, refusal)
}

/// Looks a call up at GatePay on schedule, until the call is found, or `upstream.resolve_ms` or the drain ends it.
async fn look_up(
    worker: &Worker,
    admitted: &AdmittedCall,
    credential: &Credential,
    schedule: &ResolveSchedule,
) -> LookUpObservation {
    let app = &worker.app;
    let mut seen = LookUpObservation::UNKNOWN;
    let outbound = &admitted.outbound;
    let (query, body) = outbound.content();
    let asked = if body.len() <= YIELD_AFTER {
        question(&admitted.generation, admitted.position, query, body)
    } else {
        let (generation, position) = (Arc::clone(&admitted.generation), admitted.position);
        let (query, body) = (query.map(str::to_owned), body.clone());
        let read = move || question(&generation, position, query.as_deref(), &body);
        app.admission.offload.run(read).await
    };
    let row = look_up_row(&admitted.generation, admitted.operation());
    let Some((question, (_, row))) = asked.zip(row) else {
        return seen;
    };
    let Ok(outbound) = outbound.look_up(row, &question) else {
        return seen;
    };
    let ask = |head: &mut Vec<u8>| outbound.attempt(credential, &app.upstream.clock.stamp(), head);
    let within = app.settings.upstream.resolve;
    let road = worker.upstream_call(CallOwner::LookUp(admitted.permit.tenant_limits()));
    tokio::select! {
        () = resolve::resolve(road, &question, schedule, within, &mut seen, ask) => {}
        // The drain deadline is near: answer with the observation so far while there is time.
        () = app.lifecycle.drain.before_deadline(app.settings.drain.deadline) => {}
    }
    seen
}

/// The look-up question about a call with this body.
fn question(
    generation: &Generation,
    position: usize,
    query: Option<&str>,
    body: &[u8],
) -> Option<LookUpQuestion> {
    let operation = &generation.catalogue.rows()[position];
    let (by, row) = look_up_row(generation, operation)?;
    LookUpQuestion::about(by, row, &BodyReading::read(operation, query, body))
}

/// The operation's look-up and the row of the look-up operation, if there is such a row and it is on.
fn look_up_row<'a>(
    generation: &'a Generation,
    operation: &'a Operation,
) -> Option<(&'a LookUp, &'a Operation)> {
    let look_up = operation.look_up.as_ref()?;
    let row = generation.catalogue.named(look_up.operation)?;
    row.off().is_none().then_some((look_up, row))
}

/// The advice to a caller before a repeat: the query to make, and its key.
fn advice(
    generation: &Generation,
    operation: &Operation,
    key: Option<&str>,
    operator: bool,
) -> Cow<'static, str> {
    let look_up = look_up_row(generation, operation);
    let look_up = look_up.and_then(|(_, row)| match &row.merchant_path {
        Some(path) if !operator => Some((row.method, path.as_ref())),
        _ => Some((row.institution_method, row.institution_path.as_deref()?)),
    });
    refusal::advice(operation, look_up, key)
}

/// The advice if the path belongs to no operation: the signature does not cover the path.
const ELSEWHERE: &str =
    "look up the call that was first sent with this timestamp and nonce, before anything else";

/// The advice if the path belongs to a read.
const READ_ELSEWHERE: &str = "a read may be repeated, signed anew; if this timestamp and nonce were first sent with another \
    call, look that one up";

/// The facts about a refused call that its answer states.
fn refused_call(record: &mut RequestRecord) -> RefusedCall {
    record.is_in_doubt();
    let doubt = record.doubt().map(|why| DuplicateDoubt {
        why,
        advice: match record.known_operation() {
            Some((generation, position, operator)) => {
                let operation = &generation.catalogue.rows()[position];
                match operation.kind {
                    Kind::Read => READ_ELSEWHERE.into(),
                    Kind::Write | Kind::Money => {
                        advice(generation, operation, record.known_key(), operator)
                    }
                }
            }
            None => ELSEWHERE.into(),
        },
    });
    let operation = record.known_operation();
    let operation =
        operation.map(|(generation, position, _)| &generation.catalogue.rows()[position]);
    RefusedCall {
        kind: record.kind(),
        answer: operation.map(|operation| operation.answer),
        has_key: record.known_key().is_some(),
        doubt,
        request_id: record.id(),
    }
}

fn refuse(app: &App, mut record: Box<RequestRecord>, refusal: Refusal) -> Reply {
    if let Some(detail) = refusal.detail() {
        record.detail(detail.to_owned());
    }
    let call = refused_call(&mut record);
    record.refused(&refusal);
    let (status, fields, body) = refusal.into_answer(app.settings.refusal_status, &call);
    record.status(status.as_u16());
    relay::refusal(status, fields, body, record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::http2::stream::Http2Stream;
    use crate::memory_bound::REQUEST;

    #[test]
    fn a_request_that_waits_is_small() {
        fn size<A, B, C, D, E, F, G>(_: impl Fn(A, B, C, D, E, F) -> G) -> usize {
            size_of::<G>()
        }
        // The HTTP/2 library's memory per stream comes on top, and so does the head, which is counted separately.
        let size = size(handle::<Http2Stream>);
        assert!(size <= REQUEST * 2 / 5, "{size} bytes");
    }
}
