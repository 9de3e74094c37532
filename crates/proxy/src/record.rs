//! Record: every request exactly once, however it ends: one access line and its metrics.
//!
//! A [`RequestRecord`] is made from the head and travels with the request, at last inside the body of the answer. It is
//! written when it is dropped, which also happens if the caller hangs up or something panics.

pub mod access_line;
pub mod access_log;
pub mod meters;
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
use gatepay_core::envelope::{AnswerJudgement, EnvelopeCode};
use gatepay_core::look_up::ObservedOutcome;
use gatepay_core::{ClientId, FreshStamp, Kind};
use gatepay_tenancy::{Rate, ReplayRule};

use crate::admission::limit_name::LimitSet;
use crate::admission::replay::{EarlierCopy, StampFingerprint, UnusableStamp};
use crate::callers::activity::ActiveRequest;
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

/// What is known of a request so far.
pub struct RequestRecord {
    telemetry: Arc<Telemetry>,
    /// What the access line will say, with what it does not hold itself.
    line: AccessLine,
    generation: Option<Arc<Generation>>,
    key: Option<String>,
    detail: Option<String>,
    /// Of the operation.
    kind: Option<Kind>,
    /// Its stamp, while it is counted as under way.
    arrival: Option<StampFingerprint>,
    /// Why its stamp may have been admitted though it is refused.
    doubt: Option<EarlierCopy>,
    /// Whether it came by an operator's path.
    by_operator: bool,
    /// Whose turn it is, and since when.
    phase: (RequestPhase, Duration),
    /// Written down in the audit journal; when it is let go, so is how the call ended.
    journal: Option<journal::PendingCall>,
    /// Whether the credential it was verified by was in force.
    in_force: bool,
    /// Set once the answer's last byte was handed over.
    relayed: bool,
    /// Its connection is not idle while this lives.
    busy: ActiveRequest,
}

impl RequestRecord {
    /// Begins when the head has arrived, in the place where it stays: it is handed on from step to step, and large.
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
            by_operator: false,
            journal: None,
            in_force: true,
            relayed: false,
            busy,
        })
    }

    /// The request's id, as it stands in `X-Request-Id`.
    pub fn id(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        hex::encode_to_slice(self.line.id, &mut digits).expect("16 bytes make 32 digits");
        digits
    }

    /// When its head arrived, in milliseconds since 1970.
    pub fn began_unix_ms(&self) -> u64 {
        self.line.time
    }

    /// What the caller is told of its trace, if it has one.
    pub fn trace(&self) -> Option<impl AsRef<[u8]>> {
        let span = self.line.id.first_chunk().expect("there are 16");
        self.line.trace.map(|trace| trace.answer(*span))
    }

    /// The operation it is for, and whether it speaks the institution's form.
    pub fn operation(&mut self, position: usize, generation: &Arc<Generation>, by_operator: bool) {
        self.by_operator = by_operator;
        self.kind = Some(generation.catalogue.rows()[position].kind);
        self.line.operation = place(position);
        self.generation = Some(Arc::clone(generation));
    }

    /// The party it claims to be from, by its position in the registry.
    pub fn claimed(&mut self, position: usize) {
        self.line.party = place(position);
    }

    /// Its stamp is read: until it is admitted or refused, it counts as a copy under way.
    pub fn arrives(&mut self, print: StampFingerprint) -> Result<(), UnusableStamp> {
        self.arrival = Some(print);
        self.telemetry.replay.copy_arrives(print)
    }

    /// Its stamp was recorded as used, for this request.
    pub fn admitted(&mut self) {
        self.arrival = None;
    }

    /// It is refused: whether another copy of it was or may be executed. Decided once.
    pub fn is_in_doubt(&mut self) -> bool {
        if let Some(print) = self.arrival.take() {
            self.doubt = self.telemetry.replay.refused(print);
        }
        self.doubt.is_some()
    }

    /// The same of a request that was refused before its caller was identified, by its head.
    pub fn is_refused_unidentified(&mut self, head: &RefusedHead<'_>) {
        if self.arrival.is_none() && self.doubt.is_none() {
            let replay = &self.telemetry.replay;
            self.doubt = head.doubt(|client_id, stamp| {
                replay.doubt(replay.fingerprint(client_id, stamp, ReplayRule::Pair))
            });
        }
    }

    /// Why it may have been executed though it is refused, if it may.
    pub fn doubt(&self) -> Option<EarlierCopy> {
        self.doubt
    }

    /// What it does, if its path is known.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Its operation's place in this generation's catalogue, and whether an operator calls it, if its path is known.
    pub fn known_operation(&self) -> Option<(&Generation, usize, bool)> {
        let position = self.line.operation? as usize;
        Some((self.generation.as_deref()?, position, self.by_operator))
    }

    /// It is from whom it claims to be from: from here on it counts as that tenant's.
    pub fn verified(&mut self, position: usize, credential: usize) {
        self.line.credential = place(credential);
        if let Some(generation) = &self.generation {
            let used = generation.used(position, credential);
            used.note(self.line.time);
            // Positions change with a reload, lanes do not.
            let lane = NonNull::from(&**generation.tenant_limits(position));
            self.busy.verified(lane.addr());
        }
    }

    /// Its signature is right, by a credential that is not in force: it is refused, and counted, logged and shown as that
    /// party's.
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
                "a party is refused: it signs with a credential that {why}"
            );
        }
        self.detail = Some(format!("the signature is right, but the credential {why}"));
    }

    /// Awaits what is somebody else's turn to give. What is there at once took nobody's turn, and no clock is read.
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

    /// Awaits its body. Nothing comes of that if its connection gives way to a new one meanwhile.
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

    /// From here on it is somebody's turn. Where a request's time goes is told by this. Gives the time by the clock.
    pub fn enter_phase(&mut self, turn: RequestPhase) -> Duration {
        let now = self.telemetry.clock.elapsed();
        let (before, since) = self.phase;
        self.line.spent.add(before, now.saturating_sub(since));
        self.phase = (turn, now);
        now
    }

    /// How long its body was.
    pub fn body(&mut self, bytes: usize) {
        self.line.bytes_in = bytes;
    }

    /// The idempotency key it carries, for the access line.
    pub fn key(&mut self, key: Option<String>) {
        self.key = key;
    }

    /// The idempotency key it carries.
    pub fn known_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Limits that would have refused it, had they been enforced.
    pub fn shadow(&mut self, shadow: LimitSet) {
        self.line.shadow = shadow;
    }

    /// What is left of the caller's rate, if it is known who calls what, and wanted on every answer.
    pub fn left(&self) -> Option<(Rate, u32)> {
        // Of a credential that is not in force the answer says no more than to a stranger.
        let wanted = self.telemetry.ratelimit_headers && self.in_force;
        let kind = self.kind.filter(|_| wanted)?;
        self.tenant_limits().map(|lane| lane.left(kind))
    }

    /// Whose request it is, once that is proved.
    fn tenant_limits(&self) -> Option<&TenantLimits> {
        let (generation, party) = self.generation.as_ref().zip(self.line.party)?;
        let lane = generation.tenant_limits(party as usize);
        self.line.credential.map(|_| &**lane)
    }

    /// An attempt begins, signed as this client under this stamp.
    pub fn attempt(&mut self, client_id: &ClientId, stamp: &FreshStamp) {
        if let Some(open) = &mut self.journal {
            open.attempt(client_id, &stamp.as_stamp());
        }
        self.line.attempts += 1;
        if self.line.attempts == 1 {
            self.enter_phase(RequestPhase::Upstream);
        }
    }

    /// What GatePay was seen to have of a call whose answer was lost.
    pub fn observed(&mut self, observed: ObservedOutcome) {
        self.line.observed = Some(observed);
        if let Some(open) = &mut self.journal {
            open.observed(observed.as_str());
        }
        self.telemetry.upstream.resolutions[observed as usize].inc();
    }

    /// What the log may know beyond what the caller is told.
    pub fn detail(&mut self, detail: String) {
        self.detail = Some(detail);
    }

    /// GatePay answered; of a long answer the body is not known.
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

    /// What became of the write or money call that was answered, after all that was asked about it.
    pub fn settled(&mut self, outcome: CallOutcome) {
        let line = &mut self.line;
        (line.end, line.level) = match outcome {
            CallOutcome::Executed => (RequestOutcome::Success, LineLevel::Info),
            CallOutcome::Refused | CallOutcome::NotExecuted => {
                (RequestOutcome::Failure, LineLevel::Info)
            }
            // GatePay said no, and it is known why: `observed` says that it has what has this key.
            CallOutcome::Found if line.end == RequestOutcome::Failure => {
                (RequestOutcome::Failure, LineLevel::Info)
            }
            CallOutcome::Found | CallOutcome::Unknown => (RequestOutcome::Unknown, LineLevel::Warn),
        };
    }

    /// The proxy refused. Of the request's copies [`is_in_doubt`](Self::is_in_doubt) has been asked.
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
            // The start itself said so, once; whoever calls meanwhile is no news.
            (Blame::Caller, _) | (_, Refusal::Starting { .. }) => LineLevel::Info,
            (Blame::Upstream, _) => LineLevel::Warn,
            (Blame::Us, _) => LineLevel::Error,
        };
        self.telemetry.requests.refused(slug);
        if let Some(lane) = self.tenant_limits() {
            lane.refusals.count(slug, self.line.time);
        }
        let (telemetry, detail) = (&self.telemetry, self.detail.as_deref());
        let digits = self.id();
        let id = str::from_utf8(&digits).expect("hexadecimal digits are ASCII");
        let tenant = self.generation.as_ref().zip(self.line.party);
        let tenant = tenant.map(|(of, at)| of.registry.at(at as usize).party().id.as_str());
        match self.line.level {
            LineLevel::Info => tracing::debug!(id, tenant, refusal = slug, detail, "{refusal}"),
            // In an outage it is the same for every request, and each has its access line.
            _ if !telemetry.seldom.may(telemetry.clock.elapsed()) => {}
            LineLevel::Warn => tracing::warn!(id, tenant, refusal = slug, detail, "{refusal}"),
            LineLevel::Error => tracing::error!(id, tenant, refusal = slug, detail, "{refusal}"),
        }
    }

    /// It is written down in the audit journal and may be sent.
    pub fn journaled(&mut self, open: journal::PendingCall) {
        self.journal = Some(open);
    }

    /// The answer is composed: how the call ended is known, and written down whatever becomes of the caller.
    pub fn decided(&mut self) {
        if let Some(mut open) = self.journal.take() {
            open.outcome(self.line.end.as_str());
        }
    }

    /// The status of the answer.
    pub fn status(&mut self, status: u16) {
        self.line.status = Some(status);
    }

    /// The answer begins; from here on the caller has to take it.
    pub fn answering(&mut self) {
        self.busy.answering();
    }

    /// Some of the answer's body was handed over.
    pub fn sent(&mut self, bytes: u64) {
        self.busy.answering();
        self.line.bytes_out += bytes;
    }

    /// The answer was cut short: the caller's connection must not end as if it were whole.
    pub fn cut(&self) {
        self.busy.abort();
    }

    /// All of the answer was handed over.
    pub fn relayed(&mut self) {
        self.relayed = true;
    }
}

/// A place as a line has it: there are fewer than four billion of any.
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
            // Nobody waits for GatePay any more, for the process ends; what it made of the call is open.
            line.end = RequestOutcome::Unknown;
            line.level = LineLevel::Warn;
        }
        line.caller_left = !self.relayed && self.telemetry.drain.phase() < DrainPhase::Over;
        let line = &self.line;
        if let Some((position, kind)) = line.operation.zip(self.kind) {
            requests.took(position as usize, &line.spent, line.attempts > 0);
            if let Some(lane) = self.tenant_limits() {
                lane.meters().ended(kind, line.end);
            }
        }
        // What somebody may ask about later is always written down: money, doubt, trouble, and what the caller traces.
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
