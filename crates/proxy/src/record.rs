//! Request record: each request is recorded exactly once, as one access line and its metrics.
//!
//! A [`RequestRecord`] begins at the head and travels with the request, in the end inside the answer's body. Its `Drop`
//! submits the access line, so a caller that hangs up and a panic are recorded too.

pub mod access_line;
pub mod access_log;
pub mod log_level;
pub mod meters;
pub mod program_log;
pub mod refused_head;
pub mod telemetry;
pub mod trace;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use gatepay_admission::limit_name::LimitSet;
use gatepay_admission::replay::{EarlierCopy, StampFingerprint, UnusableStamp};
use gatepay_core::envelope::{AnswerJudgement, EnvelopeCode};
use gatepay_core::look_up::ObservedOutcome;
use gatepay_core::{ClientId, FreshStamp, Kind};
use gatepay_tenancy::{PartyRef, Rate, ReplayRule};

use crate::callers::activity::ActiveRequest;
use crate::cluster::usage_tally::UsageTally;
use crate::generation::Generation;
use crate::generation::credential_usage::why_not_in_force;
use crate::generation::tenant_limits::TenantLimits;
use crate::headers::KnownHeaders;
use crate::journal;
use crate::process::clock;
use crate::process::drain::DrainPhase;
use crate::prom::outcome::RequestOutcome;
use crate::record::access_line::{AccessLine, LineDetails, LineLevel, RequestPhase};
use crate::record::refused_head::RefusedHead;
use crate::record::telemetry::Telemetry;
use crate::record::trace::TraceContext;
use crate::refusal::{Blame, CallOutcome, Refusal};

/// The state of a request that its access line, metrics and journal record need.
pub struct RequestRecord {
    telemetry: Arc<Telemetry>,
    /// The access line in the making. `generation`, `key` and `detail` are its details.
    line: AccessLine,
    generation: Option<Arc<Generation>>,
    key: Option<String>,
    detail: Option<String>,
    /// The operation's kind.
    kind: Option<Kind>,
    /// The request's stamp, while the replay memory counts it as a copy under way.
    arrival: Option<StampFingerprint>,
    /// Why an earlier copy of the refused request may have been admitted.
    doubt: Option<EarlierCopy>,
    /// The store's verdict about copies that another process may have admitted, once there is one.
    elsewhere: Option<CopiesByStore>,
    /// Whether the request came by an operator's path.
    by_operator: bool,
    /// Whether the store has booked the call for statements.
    booking: CallBooking,
    /// The current phase, and the elapsed time at which it began.
    phase: (RequestPhase, Duration),
    /// The call's pending journal entry. Dropping it writes the call's result to the audit journal.
    journal: Option<journal::PendingCall>,
    /// Whether the credential that signed the request is in force.
    in_force: bool,
    /// Set once the answer's last byte was handed over.
    relayed: bool,
    /// Keeps the connection from counting as idle.
    busy: ActiveRequest,
}

/// Why another process may have admitted a copy, by the store's verdict; `None` if none has.
type CopiesByStore = Option<EarlierCopy>;

/// Whether statements have the call from the store, so that this process does not count it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CallBooking {
    None,
    Booked,
}

impl RequestRecord {
    /// Begins the record when the head has arrived. It is boxed because it is large and moves from step to step.
    pub fn begin(
        telemetry: &Arc<Telemetry>,
        peer: IpAddr,
        lines: &KnownHeaders<'_>,
        busy: ActiveRequest,
    ) -> Box<Self> {
        telemetry.requests.in_flight.inc();
        let (id, trace) = (clock::random(), TraceContext::read(lines));
        Box::new(Self {
            line: AccessLine::begin(telemetry.clock.unix_ms(), id, trace, peer),
            phase: (RequestPhase::Own, telemetry.clock.elapsed()),
            telemetry: Arc::clone(telemetry),
            generation: None,
            key: None,
            detail: None,
            kind: None,
            arrival: None,
            doubt: None,
            elsewhere: None,
            by_operator: false,
            booking: CallBooking::None,
            journal: None,
            in_force: true,
            relayed: false,
            busy,
        })
    }

    /// The request id, as sent in `X-Request-Id`.
    pub fn id(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        hex::encode_to_slice(self.line.id, &mut digits).expect("16 bytes make 32 digits");
        digits
    }

    /// When the request's head arrived, in milliseconds since 1970.
    pub fn began_unix_ms(&self) -> u64 {
        self.line.time
    }

    /// The answer's `traceparent`, if the caller sent a trace.
    pub fn trace(&self) -> Option<impl AsRef<[u8]>> {
        let span = self.line.id.first_chunk().expect("there are 16");
        self.line.trace.map(|trace| trace.answer(*span))
    }

    /// Sets the operation, its generation, and whether the request came by an operator's path.
    pub fn operation(&mut self, position: usize, generation: &Arc<Generation>, by_operator: bool) {
        self.by_operator = by_operator;
        self.kind = Some(generation.catalogue.rows()[position].kind);
        self.line.operation = place(position);
        self.generation = Some(Arc::clone(generation));
    }

    /// Sets the party that the request claims to be from, by its position in the registry.
    pub fn claimed(&mut self, position: usize) {
        self.line.party = place(position);
    }

    /// Reports the request's stamp to the replay memory: a copy under way until the request is admitted or refused.
    pub fn arrives(&mut self, print: StampFingerprint) -> Result<(), UnusableStamp> {
        self.arrival = Some(print);
        self.telemetry.replay.copy_arrives(print)
    }

    /// The replay memory has recorded the stamp as used by this request.
    pub fn admitted(&mut self) {
        self.arrival = None;
    }

    /// The store has recorded the stamp for this request, and the replay memory has not. So no other copy was or will be
    /// admitted.
    pub fn admitted_by_store(&mut self) {
        if let Some(print) = self.arrival.take() {
            self.telemetry.replay.refused(print);
        }
    }

    /// The store has booked the call, and counts it in statements.
    pub fn is_booked(&mut self) {
        self.booking = CallBooking::Booked;
    }

    /// Whether another copy of the refused request was or may be executed. Decided once.
    pub fn is_in_doubt(&mut self) -> bool {
        if let Some(print) = self.arrival.take() {
            let here = self.telemetry.replay.refused(print);
            self.doubt = here.or_else(|| self.elsewhere(print));
        }
        self.doubt.is_some()
    }

    /// Decides the same from the head of a request that was refused before its caller was identified.
    pub fn is_refused_unidentified(&mut self, head: &RefusedHead<'_>) {
        if self.arrival.is_none() && self.doubt.is_none() {
            let replay = &self.telemetry.replay;
            self.doubt = head.doubt(|client_id, stamp| {
                let print = replay.fingerprint(client_id, stamp, ReplayRule::Pair);
                replay.doubt(print).or_else(|| self.elsewhere(print))
            });
        }
    }

    /// The store's verdict: why another process may have admitted a copy, `None` if none has.
    pub fn judged_elsewhere(&mut self, elsewhere: Option<EarlierCopy>) {
        self.elsewhere = Some(elsewhere);
    }

    /// Why another process may have admitted a copy. A read may be repeated, also if its copy was executed; but the stamps of an
    /// earlier run are known by their time, and a copy on the path of a read does not hide that one of them was a write.
    fn elsewhere(&self, print: StampFingerprint) -> Option<EarlierCopy> {
        let unjudged = || self.telemetry.elsewhere.of(print);
        let elsewhere = self.elsewhere.unwrap_or_else(unjudged);
        let is_read = self.kind == Some(Kind::Read);
        elsewhere.filter(|copy| !is_read || *copy == EarlierCopy::BeforeTheStart)
    }

    /// Why a copy of the refused request may have been executed, if one may.
    pub fn doubt(&self) -> Option<EarlierCopy> {
        self.doubt
    }

    /// The operation's kind, if the request's path is known.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// The generation, the operation's position in its catalogue, and whether an operator calls, if the path is known.
    pub fn known_operation(&self) -> Option<(&Generation, usize, bool)> {
        let position = self.line.operation? as usize;
        Some((self.generation.as_deref()?, position, self.by_operator))
    }

    /// The signature is verified: from here on the request counts as the claimed party's.
    pub fn verified(&mut self, position: usize, credential: usize) {
        self.line.credential = place(credential);
        if let Some(generation) = &self.generation {
            let used = generation.used(position, credential);
            used.note(self.line.time);
            // A reload changes positions but keeps each party's `TenantLimits`, so its address identifies the party.
            let limits = NonNull::from(&**generation.tenant_limits(position));
            self.busy.verified(limits.addr());
        }
    }

    /// The signature is right, but its credential is not in force. The request is refused, and is counted, logged and
    /// shown as that party's.
    pub fn not_in_force(&mut self, position: usize, credential: usize) {
        self.claimed(position);
        self.line.credential = place(credential);
        self.in_force = false;
        let (Some(generation), now_ms) = (&self.generation, self.line.time) else {
            return;
        };
        let party = generation.registry.at(position).party();
        let dated = &party.credentials[credential];
        let why = why_not_in_force(dated, now_ms).unwrap_or_default();
        generation.tenant_limits(position).meters().not_in_force();
        if generation
            .used(position, credential)
            .note_not_in_force(now_ms)
        {
            let client_id = dated.credential.client_id.as_str();
            let party = party.id.as_str();
            tracing::warn!(
                party,
                client_id,
                "requests of a party are refused: they are signed with a credential that {why}"
            );
        }
        self.detail = Some(format!("the signature is right, but the credential {why}"));
    }

    /// Awaits `future` and charges the wait to the phase `turn`. A future that is ready at once costs no clock reading.
    pub async fn wait_in<F: Future + Unpin>(
        &mut self,
        turn: RequestPhase,
        mut future: F,
    ) -> F::Output {
        let mut waiting = false;
        let output = poll_fn(|cx| {
            let polled = Pin::new(&mut future).poll(cx);
            if polled.is_pending() && !waiting {
                waiting = true;
                self.enter_phase(turn);
            }
            polled
        })
        .await;
        if waiting {
            self.enter_phase(RequestPhase::Own);
        }
        output
    }

    /// Awaits the request's body. Gives `None` if the connection gives way to a new one meanwhile.
    pub async fn receives<F: Future + Unpin>(&mut self, mut body: F) -> Option<F::Output> {
        let mut waiting = false;
        let output = poll_fn(|cx| {
            let polled = Pin::new(&mut body).poll(cx);
            if polled.is_pending() {
                if !waiting {
                    waiting = true;
                    self.enter_phase(RequestPhase::Body);
                    self.busy.receives();
                }
                if self.busy.gives_way() {
                    return Poll::Ready(None);
                }
            }
            polled.map(Some)
        })
        .await;
        if waiting {
            self.busy.received();
            self.enter_phase(RequestPhase::Own);
        }
        output
    }

    /// Ends the current phase, adds its time to the line, and begins the phase `turn`. Gives the clock's elapsed time.
    pub fn enter_phase(&mut self, turn: RequestPhase) -> Duration {
        let now = self.telemetry.clock.elapsed();
        let (before, since) = self.phase;
        self.line.timings.add(before, now.saturating_sub(since));
        self.phase = (turn, now);
        now
    }

    /// Sets the length of the request's body, in bytes.
    pub fn body(&mut self, bytes: usize) {
        self.line.bytes_in = bytes;
    }

    /// Sets the request's idempotency key, for the access line.
    pub fn key(&mut self, key: Option<String>) {
        self.key = key;
    }

    /// The request's idempotency key.
    pub fn known_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Sets the shadow limits that would have refused the request, had they been enforced.
    pub fn shadow(&mut self, shadow: LimitSet) {
        self.line.shadow = shadow;
    }

    /// What is left of the caller's rate, if caller and operation are known and `ratelimit_headers` is set.
    pub fn left(&self) -> Option<(Rate, u32)> {
        // With a credential that is not in force, the answer says no more than to an unidentified caller.
        let wanted = self.telemetry.ratelimit_headers && self.in_force;
        let kind = self.kind.filter(|_| wanted)?;
        let now = self.telemetry.clock.elapsed();
        self.tenant_limits().map(|limits| limits.left(kind, now))
    }

    /// The party's `TenantLimits`, once a credential is known to have signed the request.
    fn tenant_limits(&self) -> Option<&TenantLimits> {
        let (generation, party) = self.generation.as_ref().zip(self.line.party)?;
        let limits = generation.tenant_limits(party as usize);
        self.line.credential.map(|_| &**limits)
    }

    /// An upstream attempt begins, signed as this client under this stamp.
    pub fn attempt(&mut self, client_id: &ClientId, stamp: &FreshStamp) {
        if let Some(open) = &mut self.journal {
            open.attempt(client_id, &stamp.as_stamp());
        }
        self.line.attempts += 1;
        if self.line.attempts == 1 {
            self.enter_phase(RequestPhase::Upstream);
        }
    }

    /// Sets the outcome that a look-up observed at GatePay for a call whose answer was lost.
    pub fn observed(&mut self, observed: ObservedOutcome) {
        self.line.observed = Some(observed);
        if let Some(open) = &mut self.journal {
            open.observed(observed.as_str());
        }
        self.telemetry.upstream.resolutions[observed as usize].inc();
    }

    /// Sets the detail that the log shows and the caller's answer leaves out.
    pub fn detail(&mut self, detail: String) {
        self.detail = Some(detail);
    }

    /// GatePay answered. `body` does not hold the body of a long answer.
    pub fn answered(&mut self, status: u16, judgement: &AnswerJudgement, body: &Bytes) {
        if let Some(open) = &mut self.journal {
            let code = judgement.code.as_ref().map(EnvelopeCode::as_str);
            open.answered(status, code, body);
        }
        let line = &mut self.line;
        line.status = Some(status);
        line.end = judgement.verdict.into();
        if line.end == RequestOutcome::Unknown {
            line.level = LineLevel::Warn;
        }
        line.code = judgement.code;
        if let Some(code) = &line.code {
            self.telemetry.requests.answered(code);
        }
    }

    /// Sets the final outcome of a write or money call that was answered, after any look-up.
    pub fn settled(&mut self, outcome: CallOutcome) {
        let line = &mut self.line;
        (line.end, line.level) = match outcome {
            CallOutcome::Executed => (RequestOutcome::Success, LineLevel::Info),
            CallOutcome::Refused | CallOutcome::NotExecuted => {
                (RequestOutcome::Failure, LineLevel::Info)
            }
            // GatePay refused because it already has an object with this key, as `observed` says.
            CallOutcome::Found if line.end == RequestOutcome::Failure => {
                (RequestOutcome::Failure, LineLevel::Info)
            }
            CallOutcome::Found | CallOutcome::Unknown => (RequestOutcome::Unknown, LineLevel::Warn),
        };
    }

    /// The proxy refused the request. [`is_in_doubt`](Self::is_in_doubt) must have been called before.
    pub fn refused(&mut self, refusal: &Refusal) {
        let slug = refusal.slug();
        self.line.refusal = Some(slug);
        self.line.end = match (refusal, refusal.outcome()) {
            (Refusal::Replayed { .. }, _) => RequestOutcome::RefusedUnknown,
            (_, CallOutcome::NotExecuted) if self.doubt.is_some() => RequestOutcome::RefusedUnknown,
            (_, CallOutcome::NotExecuted) => RequestOutcome::Refused,
            _ => RequestOutcome::Unknown,
        };
        self.line.level = match (refusal.blame(), refusal) {
            // The start logged this once, so a refusal for each caller adds nothing.
            (Blame::Caller, _) | (_, Refusal::Starting { .. }) => LineLevel::Info,
            (Blame::Upstream, _) => LineLevel::Warn,
            (Blame::Us, _) => LineLevel::Error,
        };
        self.telemetry.requests.refused(slug);
        if let Some(limits) = self.tenant_limits() {
            limits.refusals.count(slug, self.line.time);
        }
        let (telemetry, detail) = (&self.telemetry, self.detail.as_deref());
        let digits = self.id();
        let id = str::from_utf8(&digits).expect("hexadecimal digits are ASCII");
        let tenant = self.generation.as_ref().zip(self.line.party);
        let tenant = tenant.map(|(of, at)| of.registry.at(at as usize).party().id.as_str());
        match self.line.level {
            LineLevel::Info => tracing::debug!(id, tenant, refusal = slug, detail, "{refusal}"),
            // In an outage every request fails for the same reason, and each has its access line.
            _ if !telemetry.seldom.may(telemetry.clock.elapsed()) => {}
            LineLevel::Warn => tracing::warn!(id, tenant, refusal = slug, detail, "{refusal}"),
            LineLevel::Error => tracing::error!(id, tenant, refusal = slug, detail, "{refusal}"),
        }
    }

    /// The call is written down in the audit journal and may be sent.
    pub fn journaled(&mut self, open: journal::PendingCall) {
        self.journal = Some(open);
    }

    /// The answer is composed. The call's outcome goes to the journal even if the caller leaves.
    pub fn decided(&mut self) {
        if let Some(mut open) = self.journal.take() {
            open.outcome(self.line.end.as_str());
        }
    }

    /// Sets the answer's HTTP status.
    pub fn status(&mut self, status: u16) {
        self.line.status = Some(status);
    }

    /// The answer begins. From here on the proxy waits for the caller to read it.
    pub fn answering(&mut self) {
        self.busy.answering();
    }

    /// Adds bytes of the answer's body that were handed over.
    pub fn sent(&mut self, bytes: u64) {
        self.busy.answering();
        self.line.bytes_out += bytes;
    }

    /// The answer was cut short: the caller's connection must be aborted, not closed as after a whole answer.
    pub fn cut(&self) {
        self.busy.abort();
    }

    /// The whole answer was handed over.
    pub fn relayed(&mut self) {
        self.relayed = true;
    }
}

impl RequestRecord {
    /// Counts a verified request for its party's statement.
    fn count(&self, usage: &UsageTally, operation: usize) {
        let (Some(generation), Some(party), Some(_)) =
            (&self.generation, self.line.party, self.line.credential)
        else {
            return;
        };
        let party = generation.registry.at(party as usize);
        let account = match party {
            PartyRef::Tenant(tenant) => tenant.sub_account.as_str(),
            PartyRef::Operator(_) => "",
        };
        let holder = (party.party().id.as_str(), account);
        let ended = (self.booking == CallBooking::None).then_some(self.line.end);
        let operation = &generation.catalogue.rows()[operation];
        usage.ended(holder, operation, ended, self.line.time / 1000);
    }
}

/// A position as the 32-bit number that an access line holds.
fn place(at: usize) -> Option<u32> {
    u32::try_from(at).ok()
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if let Some(print) = self.arrival.take() {
            self.telemetry.replay.refused(print);
        }
        self.enter_phase(RequestPhase::Own);
        let requests = &self.telemetry.requests;
        requests.in_flight.dec();
        let line = &mut self.line;
        if std::thread::panicking() {
            line.end = RequestOutcome::Unknown;
            line.level = LineLevel::Error;
            self.detail = Some("panicked".to_owned());
        }
        if let Some(kind) = self.kind
            && kind != Kind::Read
            && line.end == RequestOutcome::CallerLeft
            && line.attempts > 0
        {
            // The process ends, so nothing awaits GatePay's answer: the call's outcome is unknown.
            line.end = RequestOutcome::Unknown;
            line.level = LineLevel::Warn;
        }
        line.caller_left = !self.relayed && self.telemetry.drain.phase() < DrainPhase::Over;
        let line = &self.line;
        if let Some((position, kind)) = line.operation.zip(self.kind) {
            requests.took(position as usize, &line.timings, line.attempts > 0);
            if let Some(limits) = self.tenant_limits() {
                limits.meters().ended(kind, line.end);
            }
            if let Some(usage) = &self.telemetry.usage {
                self.count(usage, position as usize);
            }
        }
        // Sampling may leave out routine successes only. Always logged: money calls, failures, callers that left,
        // retries and traces that the caller samples.
        let routine = line.end == RequestOutcome::Success
            && self.kind != Some(Kind::Money)
            && !line.caller_left
            && line.attempts == 1
            && !line.trace.is_some_and(|trace| trace.is_sampled());
        let rest = LineDetails {
            generation: self.generation.as_ref(),
            key: self.key.as_deref(),
            detail: self.detail.as_deref(),
        };
        self.telemetry.log.submit(line, rest, routine);
    }
}
