//! Record: every request exactly once, however it ends: one access line and its metrics.
//!
//! A [`Record`] is made from the head and travels with the request, at last inside the body of the answer. It is
//! written when it is dropped, which also happens if the caller hangs up or something panics.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::envelope::{Code, Judgement};
use gatepay_core::look_up::Observed;
use gatepay_core::{ClientId, FreshStamp, Kind};
use gatepay_tenancy::Rate;

use crate::app::App;
use crate::clock;
use crate::drain::Phase;
use crate::journal;
use crate::lane::Lane;
use crate::limit::Limits;
use crate::log::Line;
use crate::metrics::End;
use crate::pace::Busy;
use crate::refusal::{Blame, Outcome, Refusal};

/// What is known of a request so far.
pub struct Record {
    app: Arc<App>,
    id: [u8; 16],
    began_unix_ms: u64,
    began: Duration,
    peer: IpAddr,
    tenant: Option<(String, Option<Arc<Lane>>)>,
    client_id: Option<ClientId>,
    operation: Option<(usize, String, Kind)>,
    key: Option<String>,
    end: End,
    refusal: Option<&'static str>,
    detail: Option<String>,
    status: Option<u16>,
    code: Option<String>,
    shadow: Limits,
    bytes_in: usize,
    bytes_out: u64,
    sent_at: Option<Duration>,
    upstream: Option<Duration>,
    attempts: u32,
    observed: Option<Observed>,
    /// Written down in the audit journal; when it is let go, so is how the call ended.
    journal: Option<journal::Open>,
    /// Set once the answer's last byte was handed over.
    relayed: bool,
    /// Its connection is not idle while this lives.
    busy: Busy,
}

impl Record {
    /// Begins when the head has arrived.
    pub fn begin(app: &Arc<App>, peer: IpAddr, busy: Busy) -> Self {
        app.metrics.in_flight.inc();
        Self {
            id: clock::random(),
            began_unix_ms: app.clock.unix_ms(),
            began: app.clock.elapsed(),
            peer,
            app: Arc::clone(app),
            tenant: None,
            client_id: None,
            operation: None,
            key: None,
            end: End::CallerLeft,
            refusal: None,
            detail: None,
            status: None,
            code: None,
            shadow: Limits::default(),
            bytes_in: 0,
            bytes_out: 0,
            sent_at: None,
            upstream: None,
            attempts: 0,
            observed: None,
            journal: None,
            relayed: false,
            busy,
        }
    }

    /// The request's id, as it stands in `X-Request-Id`.
    pub fn id(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        hex::encode_to_slice(self.id, &mut digits).expect("16 bytes make 32 digits");
        digits
    }

    /// The operation it is for.
    pub fn operation(&mut self, position: usize, operation: &gatepay_core::Operation) {
        self.operation = Some((position, operation.name.to_string(), operation.kind));
    }

    /// Whom it claims to be from.
    pub fn claimed(&mut self, tenant: &str) {
        self.tenant = Some((tenant.to_owned(), None));
    }

    /// It is from whom it claims to be from: from here on it counts as that tenant's.
    pub fn verified(&mut self, client_id: &ClientId, lane: &Arc<Lane>) {
        self.client_id = Some(client_id.clone());
        if let Some((_, slot)) = &mut self.tenant {
            *slot = Some(Arc::clone(lane));
        }
    }

    /// How long its body was.
    pub fn body(&mut self, bytes: usize) {
        self.bytes_in = bytes;
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
    pub fn shadow(&mut self, shadow: Limits) {
        self.shadow = shadow;
    }

    /// What is left of the caller's rate, if it is known who calls what, and wanted on every answer.
    pub fn left(&self) -> Option<(Rate, u32)> {
        let (_, _, kind) = self
            .operation
            .as_ref()
            .filter(|_| self.app.settings.ratelimit_headers)?;
        let (_, lane) = self.tenant.as_ref()?;
        lane.as_ref().map(|lane| lane.left(*kind))
    }

    /// An attempt begins, signed as this client under this stamp.
    pub fn attempt(&mut self, client_id: &ClientId, stamp: &FreshStamp) {
        if let Some(open) = &mut self.journal {
            open.attempt(client_id, &stamp.as_stamp());
        }
        self.attempts += 1;
        self.sent_at.get_or_insert_with(|| self.app.clock.elapsed());
    }

    /// GatePay's part is over, whole or not.
    pub fn upstream_ended(&mut self) {
        self.upstream = self
            .sent_at
            .map(|sent| self.app.clock.elapsed().saturating_sub(sent));
    }

    /// What GatePay was seen to have of a call whose answer was lost.
    pub fn observed(&mut self, observed: Observed) {
        self.observed = Some(observed);
        if let Some(open) = &mut self.journal {
            open.observed(observed.as_str());
        }
        self.app.metrics.upstream.resolutions[observed as usize].inc();
    }

    /// What the log may know beyond what the caller is told.
    pub fn detail(&mut self, detail: String) {
        self.detail = Some(detail);
    }

    /// GatePay answered; of a long answer the body is not known.
    pub fn answered(&mut self, status: u16, judgement: &Judgement, body: &Bytes) {
        if let Some(open) = &mut self.journal {
            let code = judgement.code.as_ref().map(Code::as_str);
            open.answered(status, code, body);
        }
        self.status = Some(status);
        self.end = judgement.verdict.into();
        self.code = judgement.code.as_ref().map(|code| code.as_str().to_owned());
        if let Some(code) = &self.code {
            self.app.metrics.answered(code);
        }
    }

    /// The proxy refused.
    pub fn refused(&mut self, refusal: &Refusal) {
        let slug = refusal.slug();
        self.refusal = Some(slug);
        self.end = match refusal {
            // The stamp was used before, so this request itself went nowhere.
            Refusal::Replayed { .. } => End::Refused,
            _ if refusal.outcome() != Outcome::NotExecuted => End::Unknown,
            _ => End::Refused,
        };
        self.app.metrics.refused(slug);
        let (detail, digits) = (self.detail.as_deref(), self.id());
        let id = str::from_utf8(&digits).expect("hexadecimal digits are ASCII");
        let tenant = self.tenant.as_ref().map(|(id, _)| id.as_str());
        match (refusal.blame(), refusal) {
            // The start itself said so, once; whoever calls meanwhile is no news.
            (Blame::Caller, _) | (_, Refusal::Starting { .. }) => {
                tracing::debug!(id, tenant, refusal = slug, detail, "{refusal}");
            }
            (Blame::Upstream, _) => tracing::warn!(id, tenant, refusal = slug, detail, "{refusal}"),
            (Blame::Us, _) => tracing::error!(id, tenant, refusal = slug, detail, "{refusal}"),
        }
    }

    /// It is written down in the audit journal and may be sent.
    pub fn journaled(&mut self, open: journal::Open) {
        self.journal = Some(open);
    }

    /// The answer is composed: how the call ended is known, and written down whatever becomes of the caller.
    pub fn decided(&mut self) {
        if let Some(mut open) = self.journal.take() {
            open.outcome(self.end.as_str());
        }
    }

    /// The status of the answer.
    pub fn status(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// The answer begins; from here on the caller has to take it.
    pub fn answering(&mut self) {
        self.busy.answering();
    }

    /// Some of the answer's body was handed over.
    pub fn sent(&mut self, bytes: u64) {
        self.busy.answering();
        self.bytes_out += bytes;
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

impl Drop for Record {
    fn drop(&mut self) {
        let metrics = &self.app.metrics;
        metrics.in_flight.dec();
        let took = self.app.clock.elapsed().saturating_sub(self.began);
        if std::thread::panicking() {
            self.end = End::Unknown;
            self.detail = Some("panicked".to_owned());
        }
        if let Some((position, _, kind)) = &self.operation {
            if self.end == End::CallerLeft && self.attempts > 0 && *kind != Kind::Read {
                // Nobody waits for GatePay any more, for the process ends; what it made of the call is open.
                self.end = End::Unknown;
            }
            metrics.took(
                *position,
                took.as_secs_f64(),
                self.upstream.map(|upstream| upstream.as_secs_f64()),
            );
            if let Some((_, Some(lane))) = &self.tenant {
                lane.meters.ended(*kind, self.end);
            }
        }
        let id = self.id();
        self.app.log.submit(Line {
            time: self.began_unix_ms,
            id: String::from_utf8_lossy(&id).into_owned(),
            tenant: self.tenant.take().map(|(id, _)| id),
            client_id: self.client_id.take().map(|id| id.to_string()),
            kind: self.operation.as_ref().map(|(_, _, kind)| kind.as_str()),
            operation: self.operation.take().map(|(_, name, _)| name),
            key: self.key.take(),
            outcome: self.end.as_str(),
            refusal: self.refusal,
            detail: self.detail.take(),
            status: self.status,
            code: self.code.take(),
            shadow: self.shadow,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            ms: milliseconds(took),
            upstream_ms: self.upstream.map(milliseconds),
            attempts: self.attempts,
            observed: self.observed.map(Observed::as_str),
            peer: self.peer.to_string(),
            caller_left: !self.relayed && self.app.drain.phase() < Phase::Over,
        });
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
