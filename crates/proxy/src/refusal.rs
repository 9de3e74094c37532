//! Every way the proxy says no. Only this file knows status codes.
//!
//! A refusal answers three questions in three exhaustive matches: [`code`](Refusal::code), `status` and
//! [`blame`](Refusal::blame). Its slug is the same in the answer, the log and the metric label. Callers get a fixed
//! sentence and measured facts, never what would have been right; the log gets the detail.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::Kind;
use gatepay_core::envelope::Envelope;
use gatepay_core::look_up::{LookUpObservation, ObservedOutcome};
use gatepay_core::operation::{AnswerForm, Method};
use gatepay_core::proof::SettledCall;
use gatepay_core::signature::SignatureError;
use gatepay_core::stamp::{ClockSkew, StampError};
use gatepay_tenancy::Rate;
use gatepay_tenancy::settings::RefusalStatus;
use http::{StatusCode, header};

use crate::admission::breaker::BreakerOpen;
use crate::admission::limiter::RateExceeded;
use crate::admission::quota::QuotaDenied;
use crate::admission::replay::EarlierCopy;
use crate::headers;
use crate::http1::header_block::HeaderBlock;

/// Why the caller gets no answer of GatePay's.
#[derive(Debug)]
pub enum Refusal {
    /// Framing, path or headers that are not one unambiguous request.
    MalformedRequest(Cow<'static, str>),
    /// A body GatePay is certain to refuse, or that two parsers could read in two ways.
    InvalidBody(String),
    /// A media type the operation does not take.
    UnsupportedMediaType {
        /// What it takes.
        wanted: &'static str,
    },
    /// The signature is not this client's over these bytes.
    SignatureMismatch(SignatureMismatch),
    /// The stamp lies outside the window, or below the replay memory's horizon.
    StaleTimestamp(StaleStamp),
    /// No such client id, or none that is valid now.
    UnknownClient(&'static str),
    /// The nonce is empty, too long or not printable.
    MalformedNonce(StampError),
    /// The same stamp was admitted before.
    Replayed {
        /// What of it was: the subject of a sentence.
        what: &'static str,
        /// How long ago the first copy was admitted, in milliseconds.
        admitted_ms_ago: u64,
    },
    /// The header, or a field of query or body, names another account than the tenant's own.
    OnBehalfOfMismatch(String),
    /// The tenant's standing is `suspended`.
    TenantSuspended,
    /// The tenant may not call this operation, or it is off.
    OperationNotAllowed(Cow<'static, str>),
    /// The operation is off; of what turns it on only the log is told.
    OperationOff {
        /// Its name.
        operation: String,
        /// Why it is off, and what turns it on.
        why: &'static str,
    },
    /// The tenant's own rate is spent.
    RateLimited(RateExceeded),
    /// The tenant's seats are all taken.
    TooManyInFlight {
        /// How many it has.
        seats: u32,
    },
    /// The institution's quota is spent, or this party's share of it while others want theirs.
    InstitutionQuota(QuotaDenied),
    /// The proxy itself is full.
    Overloaded(&'static str),
    /// No connection to GatePay could be had; nothing was sent.
    UpstreamUnreachable,
    /// The breaker is open, or this party's own; nothing was sent.
    UpstreamUnavailable(BreakerOpen),
    /// Sent, and no whole answer came.
    OutcomeUnknown {
        /// What happened to the connection.
        what: &'static str,
        /// What to ask, and by which key, before anything else.
        advice: Cow<'static, str>,
        /// What GatePay was seen to have of a call that changes something.
        observation: Option<LookUpObservation>,
    },
    /// The body did not arrive in time.
    RequestTimeout {
        /// How long it may take.
        limit: Duration,
    },
    /// The body is longer than allowed.
    BodyTooLarge {
        /// How long it may be, in bytes.
        limit: u64,
    },
    /// A fault of the proxy's own.
    Internal(CallOutcome),
    /// The tenant's credential is not valid from this address.
    AddressNotAllowed,
    /// No such method and path: what was asked for, fit for a message.
    UnknownOperation(String),
    /// The head is longer than allowed, or has too many lines.
    HeadTooLarge,
    /// GatePay refused our own signature, clock or id.
    InstitutionRejected,
    /// A run before this one may have admitted this stamp.
    Starting {
        /// When a new stamp will be admitted.
        retry: Duration,
    },
    /// The audit journal cannot be written.
    JournalUnavailable,
}

/// What is known about a signature that does not match: enough to find out which side is wrong.
#[derive(Debug)]
pub enum SignatureMismatch {
    /// The header is not 128 hexadecimal digits.
    Form(SignatureError),
    /// The MAC over what arrived is another.
    Bytes {
        /// How many bytes of body were signed over.
        body_bytes: usize,
        /// SHA-256 of the whole signed string.
        digest: [u8; 32],
    },
}

/// Which end of time a stamp fell off.
#[derive(Debug)]
pub enum StaleStamp {
    /// Outside the window.
    Skew(ClockSkew),
    /// At or below the horizon of the replay memory.
    Forgotten,
}

/// What an answer has to know of the call that is refused, beside the reason.
#[derive(Debug, Default)]
pub struct RefusedCall {
    /// What the call does, if its operation is known.
    pub kind: Option<Kind>,
    /// What a successful answer to it looks like, if its operation is known.
    pub answer: Option<AnswerForm>,
    /// Whether it is known to carry its row's idempotency key.
    pub has_key: bool,
    /// Why another copy of it may have been executed, if one may.
    pub doubt: Option<DuplicateDoubt>,
    /// The request's id, as it stands in `X-Request-Id`.
    pub request_id: [u8; 32],
}

/// Another copy of a refused call was or may be executed.
#[derive(Debug)]
pub struct DuplicateDoubt {
    /// Which copy.
    pub why: EarlierCopy,
    /// What to ask, and by which key, to learn what became of it.
    pub advice: Cow<'static, str>,
}

/// What became of the call, as far as is known. "Not executed" and "unknown" are different facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// Nothing with this stamp was or can have been executed, by this delivery or any other that arrived; or GatePay
    /// refused it before acting. Safe to repeat, signed anew.
    NotExecuted,
    /// GatePay may have acted on it.
    Unknown,
    /// It was unknown, then looked up: GatePay has it.
    Found,
    /// GatePay accepted it. It does not say that the money arrived.
    Executed,
    /// GatePay refused it, and not because of an earlier delivery.
    Refused,
}

impl From<SettledCall> for CallOutcome {
    fn from(settled: SettledCall) -> Self {
        match settled {
            SettledCall::Found => Self::Found,
            SettledCall::Refused => Self::Refused,
            SettledCall::Unknown => Self::Unknown,
        }
    }
}

/// Whose fault it is; decides the level of the log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Whoever sent the request.
    Caller,
    /// GatePay, or the way to it.
    Upstream,
    /// This program or its operator.
    Us,
}

impl Refusal {
    /// Nothing answers this method and path. Both are the caller's: they are cut to a length, and escaped.
    pub fn unknown_operation(method: &str, path: &str) -> Self {
        let part = |text: &str, most: usize| {
            let mut part: String = text
                .chars()
                .take(most)
                .flat_map(char::escape_default)
                .collect();
            if text.chars().nth(most).is_some() {
                part.push_str("...");
            }
            part
        };
        Self::UnknownOperation(format!("{} {}", part(method, 16), part(path, 128)))
    }

    /// What only the log is told: what the institution can do about it.
    pub fn detail(&self) -> Option<&'static str> {
        match self {
            Self::OperationOff { why, .. } => Some(why),
            _ => None,
        }
    }

    /// Slug and envelope code (design, refusal table): GatePay's own code where it has one for the cause.
    pub fn code(&self) -> (&'static str, &'static str) {
        match self {
            Self::MalformedRequest(_) => ("malformed_request", "400001"),
            Self::InvalidBody(_) => ("invalid_body", "400001"),
            Self::UnsupportedMediaType { .. } => ("unsupported_media_type", "400007"),
            Self::SignatureMismatch(_) => ("signature_mismatch", "400002"),
            Self::StaleTimestamp(_) => ("stale_timestamp", "400003"),
            Self::UnknownClient(_) => ("unknown_client", "400004"),
            Self::MalformedNonce(_) => ("malformed_nonce", "400020"),
            Self::Replayed { .. } => ("replayed", "900001"),
            Self::OnBehalfOfMismatch(_) => ("on_behalf_of_mismatch", "900002"),
            Self::TenantSuspended => ("tenant_suspended", "900003"),
            Self::OperationNotAllowed(_) | Self::OperationOff { .. } => {
                ("operation_not_allowed", "900004")
            }
            Self::RateLimited(_) => ("rate_limited", "900005"),
            Self::TooManyInFlight { .. } => ("too_many_in_flight", "900006"),
            Self::InstitutionQuota(_) => ("institution_quota", "900007"),
            Self::Overloaded(_) => ("overloaded", "900008"),
            Self::UpstreamUnreachable => ("upstream_unreachable", "900009"),
            Self::UpstreamUnavailable(_) => ("upstream_unavailable", "900010"),
            Self::OutcomeUnknown { .. } => ("outcome_unknown", "900011"),
            Self::RequestTimeout { .. } => ("request_timeout", "900012"),
            Self::BodyTooLarge { .. } => ("body_too_large", "900013"),
            Self::Internal(_) => ("internal", "900014"),
            Self::AddressNotAllowed => ("address_not_allowed", "900015"),
            Self::UnknownOperation(_) => ("unknown_operation", "900016"),
            Self::HeadTooLarge => ("head_too_large", "900017"),
            Self::InstitutionRejected => ("institution_rejected", "900018"),
            Self::Starting { .. } => ("starting", "900019"),
            Self::JournalUnavailable => ("journal_unavailable", "900020"),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::MalformedRequest(_) | Self::InvalidBody(_) => StatusCode::BAD_REQUEST,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::SignatureMismatch(_)
            | Self::StaleTimestamp(_)
            | Self::UnknownClient(_)
            | Self::MalformedNonce(_)
            | Self::Replayed { .. } => StatusCode::UNAUTHORIZED,
            Self::OnBehalfOfMismatch(_)
            | Self::TenantSuspended
            | Self::OperationNotAllowed(_)
            | Self::OperationOff { .. }
            | Self::AddressNotAllowed => StatusCode::FORBIDDEN,
            Self::UnknownOperation(_) => StatusCode::NOT_FOUND,
            Self::RateLimited(_) | Self::TooManyInFlight { .. } | Self::InstitutionQuota(_) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::RequestTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UpstreamUnreachable | Self::InstitutionRejected => StatusCode::BAD_GATEWAY,
            Self::Overloaded(_)
            | Self::UpstreamUnavailable(_)
            | Self::Starting { .. }
            | Self::JournalUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::OutcomeUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::MalformedRequest(_)
            | Self::InvalidBody(_)
            | Self::UnsupportedMediaType { .. }
            | Self::SignatureMismatch(_)
            | Self::StaleTimestamp(_)
            | Self::UnknownClient(_)
            | Self::MalformedNonce(_)
            | Self::Replayed { .. }
            | Self::OnBehalfOfMismatch(_)
            | Self::TenantSuspended
            | Self::OperationNotAllowed(_)
            | Self::OperationOff { .. }
            | Self::RateLimited(_)
            | Self::TooManyInFlight { .. }
            | Self::InstitutionQuota(_)
            | Self::RequestTimeout { .. }
            | Self::BodyTooLarge { .. }
            | Self::AddressNotAllowed
            | Self::UnknownOperation(_)
            | Self::HeadTooLarge => Blame::Caller,
            Self::UpstreamUnreachable
            | Self::UpstreamUnavailable(_)
            | Self::OutcomeUnknown { .. } => Blame::Upstream,
            Self::Overloaded(_)
            | Self::Internal(_)
            | Self::InstitutionRejected
            | Self::Starting { .. }
            | Self::JournalUnavailable => Blame::Us,
        }
    }

    /// What became of this delivery of the call. Another copy may have been executed: that is [`DuplicateDoubt`]'s to say, except
    /// of a replayed stamp, whose first copy was admitted.
    pub fn outcome(&self) -> CallOutcome {
        match self {
            Self::OutcomeUnknown {
                observation:
                    Some(LookUpObservation {
                        observed: ObservedOutcome::Found,
                        ..
                    }),
                ..
            } => CallOutcome::Found,
            Self::Replayed { .. } | Self::OutcomeUnknown { .. } => CallOutcome::Unknown,
            Self::Internal(outcome) => *outcome,
            _ => CallOutcome::NotExecuted,
        }
    }

    /// Whether the request is not from who it claims to be from.
    pub fn is_failed_authentication(&self) -> bool {
        matches!(self, Self::UnknownClient(_) | Self::SignatureMismatch(_))
    }

    /// The slug: the same word in the answer, the log and the metric.
    pub fn slug(&self) -> &'static str {
        self.code().0
    }

    /// When to come back, in whole seconds, never 0.
    fn retry_after(&self) -> Option<u64> {
        let wait = match self {
            Self::RateLimited(spent) | Self::InstitutionQuota(QuotaDenied::Rate(spent)) => {
                spent.wait
            }
            Self::Starting { retry } => *retry,
            Self::UpstreamUnavailable(BreakerOpen::Party { wait }) => *wait,
            Self::TooManyInFlight { .. }
            | Self::InstitutionQuota(QuotaDenied::Places { .. })
            | Self::Overloaded(_)
            | Self::UpstreamUnavailable(BreakerOpen::Institution)
            | Self::JournalUnavailable => Duration::from_secs(1),
            _ => return None,
        };
        Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }

    /// `RateLimit-Policy` and `RateLimit` (the IETF's structured fields) of the limit that was met.
    fn policy(&self, retry_after: u64) -> Option<(String, String)> {
        let places = |name, places| {
            (
                format!("\"{name}\";q={places};qu=\"concurrent-requests\""),
                format!("\"{name}\";r=0"),
            )
        };
        Some(match self {
            Self::RateLimited(spent) => limit_lines("tenant", spent.rate, 0, Some(retry_after)),
            Self::InstitutionQuota(QuotaDenied::Rate(spent)) => {
                limit_lines("institution", spent.rate, 0, Some(retry_after))
            }
            Self::InstitutionQuota(QuotaDenied::Places { all }) => {
                places("institution-in-flight", all)
            }
            Self::TooManyInFlight { seats } => places("in-flight", seats),
            _ => return None,
        })
    }

    /// What becomes of the call in the light of other copies of it.
    fn outcome_of(&self, call: &RefusedCall) -> CallOutcome {
        match (self.outcome(), &call.doubt) {
            (CallOutcome::NotExecuted, Some(_)) => CallOutcome::Unknown,
            (outcome, _) => outcome,
        }
    }

    /// What a caller reads: the sentence, and what the headers say. Many clients show no header.
    fn message(&self, outcome: CallOutcome, call: &RefusedCall) -> String {
        let wait = self.retry_after();
        let wait = wait.map_or_else(String::new, |seconds| format!("Retry-After: {seconds} s; "));
        format!(
            "{} ({wait}outcome: {}; request id: {})",
            self.sentence(call),
            outcome.as_str(),
            call.request_id.escape_ascii()
        )
    }

    /// What happened, and what the caller is told to do about it.
    fn sentence(&self, call: &RefusedCall) -> String {
        let text = match self {
            // Only the caller is told what it asked for: it may be anything, and a log keeps it.
            Self::UnknownOperation(what) => format!("{self}: {what}"),
            _ => self.to_string(),
        };
        match (&call.doubt, self) {
            // It says so itself.
            (_, Self::OutcomeUnknown { .. }) => text,
            (Some(DuplicateDoubt { advice, .. }), Self::Replayed { .. }) => format!(
                "{text}; if the answer was lost, {advice}; a new request needs a new nonce and signature"
            ),
            (Some(DuplicateDoubt { why, advice }), _) => {
                format!("{text}; outcome unknown: {why}; {advice}")
            }
            (None, Self::Starting { .. } | Self::StaleTimestamp(StaleStamp::Forgotten)) => {
                format!("{text}; sign anew")
            }
            (None, _) => text,
        }
    }

    /// The answer: status, lines and envelope.
    ///
    /// # Panics
    /// Never: strings always serialize.
    pub fn into_answer(
        self,
        statuses: RefusalStatus,
        call: &RefusedCall,
    ) -> (StatusCode, HeaderBlock, Bytes) {
        let (slug, mut code) = self.code();
        let outcome = self.outcome_of(call);
        let is_open = outcome != CallOutcome::NotExecuted && call.kind != Some(Kind::Read);
        let status = match (statuses, call.answer) {
            (RefusalStatus::Gatepay, _) if is_open => {
                // What GatePay itself says when it does not know: repeat with the same parameters. Without a key that
                // would be a second call.
                if call.has_key {
                    code = "400000";
                }
                StatusCode::INTERNAL_SERVER_ERROR
            }
            (RefusalStatus::Gatepay, Some(AnswerForm::Envelope)) => StatusCode::OK,
            // Where a successful answer has no envelope, or may have none, a client takes any 200 for one: for an
            // empty balance, for example.
            (RefusalStatus::Gatepay, Some(AnswerForm::Bare) | None) | (RefusalStatus::Http, _) => {
                self.status()
            }
        };
        let message = self.message(outcome, call);
        let label = slug.to_uppercase();
        let data = match &self {
            Self::OutcomeUnknown { observation, .. } => observation.as_ref(),
            _ => None,
        };
        let envelope = Envelope::failure(code, &label, message).with(data);
        let body = serde_json::to_vec(&envelope).expect("strings always serialize");

        let mut lines = HeaderBlock::default();
        lines.add(&header::CONTENT_TYPE, "application/json");
        // JSON, whatever a browser that was led here makes of it.
        lines.add(&header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        lines.add(&headers::REFUSAL, slug);
        lines.add(&headers::OUTCOME, outcome.as_str());
        if let Some(seconds) = self.retry_after() {
            lines.add(&header::RETRY_AFTER, seconds.to_string());
            if let Some((policy, left)) = self.policy(seconds) {
                lines.add(&headers::RATELIMIT_POLICY, policy);
                lines.add(&headers::RATELIMIT, left);
            }
        }
        (status, lines, Bytes::from(body))
    }

    /// Every slug, for metrics that start at zero.
    pub const SLUGS: [&'static str; 27] = [
        "malformed_request",
        "invalid_body",
        "unsupported_media_type",
        "signature_mismatch",
        "stale_timestamp",
        "unknown_client",
        "malformed_nonce",
        "replayed",
        "on_behalf_of_mismatch",
        "tenant_suspended",
        "operation_not_allowed",
        "rate_limited",
        "too_many_in_flight",
        "institution_quota",
        "overloaded",
        "upstream_unreachable",
        "upstream_unavailable",
        "outcome_unknown",
        "request_timeout",
        "body_too_large",
        "internal",
        "address_not_allowed",
        "unknown_operation",
        "head_too_large",
        "institution_rejected",
        "starting",
        "journal_unavailable",
    ];
}

/// The sentence a caller reads.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MalformedRequest(what) => write!(f, "malformed request: {what}"),
            Self::InvalidBody(fault) => write!(f, "invalid body: {fault}"),
            Self::UnsupportedMediaType { wanted } => {
                write!(f, "unsupported media type: send `Content-Type: {wanted}`")
            }
            Self::SignatureMismatch(mismatch) => write!(f, "signature does not match: {mismatch}"),
            Self::StaleTimestamp(stale) => write!(f, "stale timestamp: {stale}"),
            Self::UnknownClient(what) => write!(f, "unknown client: {what}"),
            Self::MalformedNonce(error) => write!(f, "malformed nonce: {error}"),
            Self::Replayed { what, admitted_ms_ago } => write!(f, "replayed: {what} admitted {admitted_ms_ago} ms ago"),
            Self::OnBehalfOfMismatch(what) => write!(f, "on-behalf-of mismatch: {what}"),
            Self::TenantSuspended => f.write_str("tenant suspended: ask your institution"),
            Self::OperationNotAllowed(why) => write!(f, "operation not allowed: {why}"),
            Self::OperationOff { operation, .. } => {
                write!(f, "operation not allowed: {operation} is off; ask your institution")
            }
            Self::RateLimited(_) => {
                f.write_str("rate limited: your own request rate is spent; send the same bytes again after Retry-After")
            }
            Self::TooManyInFlight { seats } => write!(
                f,
                "too many in flight: {seats} of your requests are being answered, as many as you may have at once; send the \
                 same bytes again after Retry-After"
            ),
            Self::InstitutionQuota(QuotaDenied::Rate(_)) => f.write_str(
                "institution quota: the institution's request rate is spent; send the same bytes again after Retry-After",
            ),
            Self::InstitutionQuota(QuotaDenied::Places { .. }) => f.write_str(
                "institution quota: as many of the institution's requests are being answered as may be at once; send the \
                 same bytes again after Retry-After",
            ),
            Self::Overloaded(what) => write!(f, "overloaded: {what}"),
            Self::UpstreamUnreachable => f.write_str(
                "upstream unreachable: no connection to GatePay could be made, nothing was sent; it is safe to repeat, signed anew",
            ),
            Self::UpstreamUnavailable(BreakerOpen::Institution) => f.write_str(
                "upstream unavailable: GatePay has been failing, nothing was sent; it is safe to repeat, signed anew",
            ),
            Self::UpstreamUnavailable(BreakerOpen::Party { .. }) => f.write_str(
                "upstream unavailable: GatePay has been failing the calls of this account, nothing was sent; it is safe to \
                 repeat, signed anew",
            ),
            Self::OutcomeUnknown { what, advice, observation } => {
                write!(f, "outcome unknown: {what}; ")?;
                match observation {
                    Some(LookUpObservation { observed: ObservedOutcome::Found, .. }) => {
                        f.write_str("GatePay was asked since and has it, as data.order says: do not repeat it")
                    }
                    Some(LookUpObservation { observed: ObservedOutcome::NotFound, .. }) => {
                        write!(f, "GatePay was asked since and shows no sign of it, but it may still be under way: {advice}")
                    }
                    Some(LookUpObservation { observed: ObservedOutcome::Unknown, .. }) | None => f.write_str(advice),
                }
            }
            Self::RequestTimeout { limit } => {
                write!(f, "request timeout: the body did not arrive within {} ms", limit.as_millis())
            }
            Self::BodyTooLarge { limit } => write!(f, "body too large: at most {limit} bytes are accepted"),
            Self::Internal(_) => f.write_str("internal error: quote the request id to your institution"),
            Self::AddressNotAllowed => {
                f.write_str("address not allowed: this credential is not valid from where the request came")
            }
            Self::UnknownOperation(_) => f.write_str("unknown operation: no such method and path"),
            Self::HeadTooLarge => f.write_str("head too large"),
            Self::InstitutionRejected => f.write_str(
                "institution rejected: GatePay refused the institution's own signature, clock or client id; yours was right; \
                 tell your institution",
            ),
            Self::Starting { .. } => {
                f.write_str("starting: requests stamped before the last restart cannot be told from repeats")
            }
            Self::JournalUnavailable => f.write_str("journal unavailable: the audit journal cannot be written"),
        }
    }
}

impl fmt::Display for SignatureMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(error) => write!(f, "{error}"),
            Self::Bytes { body_bytes, digest } => {
                let question = match body_bytes {
                    0 => "was a body signed that was not sent",
                    _ => "was the body serialized again after signing",
                };
                write!(
                    f,
                    "HMAC-SHA512 over `timestamp LF nonce LF body LF`, with {body_bytes} bytes of body, is another: \
                     {question}? The SHA-256 of the string that arrived is {}",
                    hex::encode(digest)
                )
            }
        }
    }
}

impl fmt::Display for StaleStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skew(skew) => write!(f, "{skew}"),
            Self::Forgotten => f.write_str("it lies before what the replay memory remembers"),
        }
    }
}

impl CallOutcome {
    /// The word in `X-Gatepay-Proxy-Outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotExecuted => "not-executed",
            Self::Unknown => "unknown",
            Self::Found => "found",
            Self::Executed => "executed",
            Self::Refused => "refused",
        }
    }
}

/// What an answer of this status names in `WWW-Authenticate`: a 401 has to name a scheme (RFC 9110, 11.6.1).
pub fn challenge(status: StatusCode) -> Option<&'static str> {
    (status == StatusCode::UNAUTHORIZED).then_some(headers::SCHEME)
}

/// The status under which an answer of GatePay's is relayed. Clients that read only the envelope take any other than 500
/// for the end of the matter.
pub fn relayed_status(
    statuses: RefusalStatus,
    status: StatusCode,
    outcome: CallOutcome,
) -> StatusCode {
    match (statuses, outcome) {
        (RefusalStatus::Gatepay, CallOutcome::Unknown) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => status,
    }
}

/// `RateLimit-Policy` and `RateLimit` of a rate: a burst and the time in which as much comes back; what is left, and when
/// to come back if it is nothing.
pub fn limit_lines(name: &str, rate: Rate, left: u32, reset: Option<u64>) -> (String, String) {
    let window = rate.burst.get().div_ceil(rate.per_second.get());
    let reset = reset
        .map(|seconds| format!(";t={seconds}"))
        .unwrap_or_default();
    (
        format!("\"{name}\";q={};w={window}", rate.burst),
        format!("\"{name}\";r={left}{reset}"),
    )
}

/// What a caller should ask before it repeats, and by which key: from the row, with the key's value if it has one.
pub fn advice(
    operation: &gatepay_core::Operation,
    look_up: Option<(Method, &str)>,
    key: Option<&str>,
) -> Cow<'static, str> {
    let fields = &operation.key;
    let value = key.map(|key| format!(" {key}")).unwrap_or_default();
    match look_up {
        Some((method, path)) => format!(
            "ask {method} {path} by {fields}{value} before anything else, and repeat it only under the same {fields}"
        )
        .into(),
        None if operation.kind == Kind::Read => "it is a read: it may be repeated, signed anew".into(),
        None => "GatePay offers no query for this call: settle it with your institution before you repeat it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const SPENT: RateExceeded = RateExceeded {
        wait: Duration::from_secs(1),
        rate: Rate {
            per_second: NonZeroU32::new(50).unwrap(),
            burst: NonZeroU32::new(120).unwrap(),
        },
    };

    fn one_of_each() -> Vec<Refusal> {
        let second = Duration::from_secs(1);
        vec![
            Refusal::MalformedRequest("x".into()),
            Refusal::InvalidBody("x".into()),
            Refusal::UnsupportedMediaType {
                wanted: "application/json",
            },
            Refusal::SignatureMismatch(SignatureMismatch::Bytes {
                body_bytes: 1,
                digest: [0; 32],
            }),
            Refusal::StaleTimestamp(StaleStamp::Forgotten),
            Refusal::UnknownClient("x"),
            Refusal::MalformedNonce(StampError::NonceEmpty),
            Refusal::Replayed {
                what: "this timestamp and nonce were",
                admitted_ms_ago: 1,
            },
            Refusal::OnBehalfOfMismatch("x".into()),
            Refusal::TenantSuspended,
            Refusal::OperationNotAllowed("x".into()),
            Refusal::RateLimited(SPENT),
            Refusal::TooManyInFlight { seats: 1 },
            Refusal::InstitutionQuota(QuotaDenied::Rate(SPENT)),
            Refusal::Overloaded("x"),
            Refusal::UpstreamUnreachable,
            Refusal::UpstreamUnavailable(BreakerOpen::Institution),
            Refusal::OutcomeUnknown {
                what: "x",
                advice: "x".into(),
                observation: None,
            },
            Refusal::RequestTimeout { limit: second },
            Refusal::BodyTooLarge { limit: 1 },
            Refusal::Internal(CallOutcome::Unknown),
            Refusal::AddressNotAllowed,
            Refusal::unknown_operation("GET", "/x"),
            Refusal::HeadTooLarge,
            Refusal::InstitutionRejected,
            Refusal::Starting { retry: second },
            Refusal::JournalUnavailable,
        ]
    }

    #[test]
    fn every_slug_is_listed_for_the_metrics() {
        for refusal in one_of_each() {
            assert!(
                Refusal::SLUGS.contains(&refusal.slug()),
                "{}",
                refusal.slug()
            );
        }
        assert_eq!(one_of_each().len(), Refusal::SLUGS.len());
    }

    #[test]
    fn a_429_and_a_503_say_when_to_come_back() {
        for refusal in one_of_each() {
            let (slug, status) = (refusal.slug(), refusal.status());
            let (_, headers, _) = refusal.into_answer(RefusalStatus::Http, &RefusedCall::default());
            let wanted = matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            assert_eq!(
                headers.get(&header::RETRY_AFTER).is_some(),
                wanted,
                "{slug}"
            );
        }
    }

    #[test]
    fn a_429_names_the_limit_that_was_met() {
        let refusal = Refusal::RateLimited(SPENT);
        let (_, headers, _) = refusal.into_answer(RefusalStatus::Http, &RefusedCall::default());
        let policy = headers.get(&headers::RATELIMIT_POLICY);
        assert_eq!(policy, Some(&b"\"tenant\";q=120;w=3"[..]));
        let left = headers.get(&headers::RATELIMIT);
        assert_eq!(left, Some(&b"\"tenant\";r=0;t=1"[..]));
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (wait, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            let refusal = Refusal::RateLimited(RateExceeded {
                wait: Duration::from_millis(wait),
                ..SPENT
            });
            assert_eq!(refusal.retry_after(), Some(seconds), "{wait} ms");
        }
    }

    fn call(kind: Option<Kind>, has_key: bool, why: Option<EarlierCopy>) -> RefusedCall {
        let answer = kind.map(|_| AnswerForm::Envelope);
        let doubt = why.map(|why| DuplicateDoubt {
            why,
            advice: "ask X".into(),
        });
        RefusedCall {
            kind,
            answer,
            has_key,
            doubt,
            request_id: [b'7'; 32],
        }
    }

    #[test]
    fn no_refusal_says_not_executed_of_a_call_another_copy_of_which_may_have_been() {
        for refusal in one_of_each() {
            let slug = refusal.slug();
            let call = call(Some(Kind::Money), false, Some(EarlierCopy::UnderWay));
            let (_, lines, body) = refusal.into_answer(RefusalStatus::Http, &call);
            assert_eq!(
                lines.get(&headers::OUTCOME),
                Some(&b"unknown"[..]),
                "{slug}"
            );
            let body = String::from_utf8(body.into()).unwrap();
            assert!(
                slug == "outcome_unknown" || body.contains("ask X"),
                "{body}"
            );
            assert!(!body.contains("sign anew"), "{body}");
        }
    }

    #[test]
    fn clients_that_read_only_the_envelope_are_never_told_of_a_failure_that_is_not_certain() {
        let lost = || Refusal::OutcomeUnknown {
            what: "x",
            advice: "x".into(),
            observation: None,
        };
        let starting = || Refusal::Starting {
            retry: Duration::from_secs(1),
        };
        let doubt = Some(EarlierCopy::BeforeTheStart);
        let bare = |kind, doubt| RefusedCall {
            answer: Some(AnswerForm::Bare),
            ..call(kind, false, doubt)
        };
        let (money, read) = (Some(Kind::Money), Some(Kind::Read));
        for (refusal, call, status, code) in [
            (lost(), call(money, true, None), 500, "400000"),
            (lost(), call(money, false, None), 500, "900011"),
            (lost(), call(read, false, None), 200, "900011"),
            (lost(), bare(read, None), 504, "900011"),
            (lost(), bare(money, None), 500, "900011"),
            (starting(), bare(money, None), 503, "900019"),
            (starting(), bare(money, doubt), 500, "900019"),
            (starting(), call(money, true, doubt), 500, "400000"),
            (starting(), call(money, false, doubt), 500, "900019"),
            (starting(), call(None, false, doubt), 500, "900019"),
            (starting(), call(money, true, None), 200, "900019"),
            (
                Refusal::unknown_operation("GET", "/x"),
                call(None, false, None),
                404,
                "900016",
            ),
        ] {
            let slug = refusal.slug();
            let (got, lines, body) = refusal.into_answer(RefusalStatus::Gatepay, &call);
            assert_eq!(lines.get(&headers::REFUSAL), Some(slug.as_bytes()));
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (got.as_u16(), &body["status"], &body["code"]),
                (status, &"FAIL".into(), &code.into()),
                "{slug} {call:?}"
            );
        }
    }
}
