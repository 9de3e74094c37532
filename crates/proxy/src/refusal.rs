//! Every refusal of the proxy. Only this file knows status codes.
//!
//! Three exhaustive matches give a refusal's properties: [`code`](Refusal::code), `status` and
//! [`blame`](Refusal::blame). Its slug is the same in the answer, the log and the metric label. Callers get a fixed
//! sentence and measured facts, never the expected value. The log gets the detail.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use gatepay_admission::breaker::BreakerOpen;
use gatepay_admission::limiter::RateExceeded;
use gatepay_admission::quota::QuotaDenied;
use gatepay_admission::replay::EarlierCopy;
use gatepay_core::Kind;
use gatepay_core::envelope::Envelope;
use gatepay_core::look_up::{LookUpObservation, ObservedOutcome};
use gatepay_core::operation::{AnswerForm, Method};
use gatepay_core::proof::SettledCall;
use gatepay_core::signature::SignatureError;
use gatepay_core::stamp::{ClockSkew, StampError};
use gatepay_http1::header_block::HeaderBlock;
use gatepay_store::caps::approval::{ApprovalDemand, MOST_WAITING};
use gatepay_store::caps::rule::CapBreach;
use gatepay_store::destinations::DestinationFault;
use gatepay_tenancy::Rate;
use gatepay_tenancy::settings::RefusalStatus;
use http::{StatusCode, header};

use crate::headers;
use crate::process::timestamp::Rfc3339;

/// Why the caller gets a refusal instead of GatePay's answer.
#[derive(Debug)]
pub enum Refusal {
    /// The framing, the path or the headers do not make one unambiguous request.
    MalformedRequest(Cow<'static, str>),
    /// A body that GatePay is certain to refuse, or that two parsers could read differently.
    InvalidBody(String),
    /// A media type the operation does not take.
    UnsupportedMediaType {
        /// The media type that the operation takes.
        wanted: &'static str,
    },
    /// The signature is not this client's signature over these bytes.
    SignatureMismatch(SignatureMismatch),
    /// The stamp lies outside the window, or below the replay memory's horizon.
    StaleTimestamp(StaleStamp),
    /// The client id is missing or unknown, or its credential is not valid now.
    UnknownClient(&'static str),
    /// The nonce is empty, too long or not printable.
    MalformedNonce(StampError),
    /// The same stamp was admitted before.
    Replayed {
        /// The repeated part of the stamp: the subject of a sentence.
        what: &'static str,
        /// How long ago the first copy was admitted, in milliseconds.
        admitted_ms_ago: u64,
    },
    /// `X-GatePay-On-Behalf-Of`, or a field of the query or the body, does not fit the account the caller may act for.
    OnBehalfOfMismatch(String),
    /// The tenant's standing is `suspended`.
    TenantSuspended,
    /// The tenant may not call this operation, or it is off.
    OperationNotAllowed(Cow<'static, str>),
    /// The operation is off. Only the log is told how to turn it on.
    OperationOff {
        /// The operation's name.
        operation: String,
        /// Why the operation is off, and how to turn it on.
        why: &'static str,
    },
    /// The tenant's own rate is spent.
    RateLimited(RateExceeded),
    /// The tenant's seats are all taken.
    TooManyInFlight {
        /// The number of the tenant's seats.
        seats: u32,
    },
    /// The institution's quota is spent, or this party's share of it while other parties want their shares.
    InstitutionQuota(QuotaDenied),
    /// The proxy has reached a limit of its own.
    Overloaded(&'static str),
    /// No connection to GatePay could be made; nothing was sent.
    UpstreamUnreachable,
    /// The institution's circuit breaker or this party's own is open; nothing was sent.
    UpstreamUnavailable(BreakerOpen),
    /// The call was sent, and no whole answer fit to relay came.
    OutcomeUnknown {
        /// The fault of the connection or of the answer.
        what: &'static str,
        /// The query to make, and its key, before anything else.
        advice: Cow<'static, str>,
        /// The result of the look-up at GatePay, for a call that changes something.
        observation: Option<LookUpObservation>,
    },
    /// The body did not arrive in time.
    RequestTimeout {
        /// The time limit for the body.
        limit: Duration,
    },
    /// The body is longer than allowed.
    BodyTooLarge {
        /// The largest body in bytes.
        limit: u64,
    },
    /// A fault of the proxy itself.
    Internal(CallOutcome),
    /// The tenant's credential is not valid from this address.
    AddressNotAllowed,
    /// No operation has this method and path. Holds both, fit for a message.
    UnknownOperation(String),
    /// The head is longer than allowed, or has too many lines.
    HeadTooLarge,
    /// GatePay refused the institution's own signature, clock or client id.
    InstitutionRejected,
    /// An earlier run of the proxy may have admitted this stamp.
    Starting {
        /// The time until a new stamp is admitted.
        retry: Duration,
    },
    /// The audit journal cannot be written.
    JournalUnavailable,
    /// The store that all instances share did not answer in time.
    StoreUnavailable,
    /// A halt that the institution has set covers the call.
    Halted,
    /// A money cap has no room for the call, or none is set for its currency.
    CapExceeded {
        /// The cap, and what is left of it.
        breach: Box<CapBreach>,
        /// The time until room can come free; `None` if none will.
        frees: Option<Duration>,
    },
    /// The money of the call may not go where it sends it.
    DestinationNotAllowed(DestinationFault),
    /// Operators of the institution have to approve the call.
    ApprovalRequired(Box<ApprovalDemand>),
}

/// How long a caller waits before it repeats a halted call: halts last for minutes.
const HALTED_RETRY: Duration = Duration::from_secs(30);

/// The facts about a signature that does not match: enough to find out which side is wrong.
#[derive(Debug)]
pub enum SignatureMismatch {
    /// The header is not 128 hexadecimal digits.
    Form(SignatureError),
    /// The MAC over the received bytes differs.
    Bytes {
        /// The length of the received body in bytes.
        body_bytes: usize,
        /// SHA-256 of the whole signed string.
        digest: [u8; 32],
    },
}

/// The reason why a stamp is too old or too far ahead.
#[derive(Debug)]
pub enum StaleStamp {
    /// The stamp lies outside the window.
    Skew(ClockSkew),
    /// The stamp lies at or below the horizon of the replay memory.
    Forgotten,
}

/// The facts about the refused call that its answer needs besides the reason.
#[derive(Debug, Default)]
pub struct RefusedCall {
    /// The kind of the call, if its operation is known.
    pub kind: Option<Kind>,
    /// The form of a successful answer to the call, if its operation is known.
    pub answer: Option<AnswerForm>,
    /// Whether the call is known to carry the idempotency key of its operation.
    pub has_key: bool,
    /// Why another copy of the call may have been executed, if that is possible.
    pub doubt: Option<DuplicateDoubt>,
    /// The request's id, as sent in `X-Request-Id`.
    pub request_id: [u8; 32],
}

/// The doubt that another copy of a refused call was or may be executed.
#[derive(Debug)]
pub struct DuplicateDoubt {
    /// The other copy in question.
    pub why: EarlierCopy,
    /// The query to make, and its key, to learn the outcome of that copy.
    pub advice: Cow<'static, str>,
}

/// The outcome of the call, as far as is known. "Not executed" and "unknown" are different facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// No call with this stamp was or can have been executed, by this delivery or any other that arrived; or GatePay
    /// refused the call before acting. A repeat, signed anew, is safe.
    NotExecuted,
    /// GatePay may have acted on the call.
    Unknown,
    /// The outcome was unknown, then the call was looked up: GatePay has it.
    Found,
    /// GatePay accepted the call. This does not mean that the money arrived.
    Executed,
    /// GatePay refused the call, and not because of an earlier delivery.
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

/// The side at fault; decides the level of the log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The caller that sent the request.
    Caller,
    /// GatePay, or the network path to it.
    Upstream,
    /// This proxy or its operator.
    Us,
}

impl Refusal {
    /// No operation has this method and path. The caller chose both texts, so they are cut to a length and escaped.
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

    /// The detail for the log alone: how the institution can resolve the refusal.
    pub fn detail(&self) -> Option<&'static str> {
        match self {
            Self::OperationOff { why, .. } => Some(why),
            _ => None,
        }
    }

    /// The slug and the envelope code (design, refusal table): GatePay's own code if GatePay has one for the cause.
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
            Self::StoreUnavailable => ("store_unavailable", "900021"),
            Self::Halted => ("halted", "900022"),
            Self::CapExceeded { .. } => ("cap_exceeded", "900023"),
            Self::DestinationNotAllowed(_) => ("destination_not_allowed", "900024"),
            Self::ApprovalRequired(_) => ("approval_required", "900025"),
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
            | Self::CapExceeded { .. }
            | Self::DestinationNotAllowed(_)
            | Self::ApprovalRequired(_)
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
            | Self::JournalUnavailable
            | Self::StoreUnavailable
            | Self::Halted => StatusCode::SERVICE_UNAVAILABLE,
            Self::OutcomeUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The side at fault.
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
            | Self::HeadTooLarge
            | Self::CapExceeded { .. }
            | Self::DestinationNotAllowed(_)
            | Self::ApprovalRequired(_)
            // The institution has set the halt: neither side is to be repaired.
            | Self::Halted => Blame::Caller,
            Self::UpstreamUnreachable
            | Self::UpstreamUnavailable(_)
            | Self::OutcomeUnknown { .. } => Blame::Upstream,
            Self::Overloaded(_)
            | Self::Internal(_)
            | Self::InstitutionRejected
            | Self::Starting { .. }
            | Self::JournalUnavailable
            | Self::StoreUnavailable => Blame::Us,
        }
    }

    /// The outcome of this delivery of the call. Another copy may have been executed: [`DuplicateDoubt`] covers that,
    /// except for a replayed stamp, as its first copy was admitted.
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

    /// Whether the request fails to prove its claimed identity.
    pub fn is_failed_authentication(&self) -> bool {
        matches!(self, Self::UnknownClient(_) | Self::SignatureMismatch(_))
    }

    /// The slug: the same word in the answer, the log and the metric.
    pub fn slug(&self) -> &'static str {
        self.code().0
    }

    /// The wait before a retry, in whole seconds, at least 1.
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
            | Self::JournalUnavailable
            | Self::StoreUnavailable => Duration::from_secs(1),
            Self::Halted => HALTED_RETRY,
            Self::CapExceeded {
                frees: Some(frees), ..
            } => *frees,
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

    /// The outcome of the call, with the doubt about other copies included.
    fn outcome_of(&self, call: &RefusedCall) -> CallOutcome {
        match (self.outcome(), &call.doubt) {
            (CallOutcome::NotExecuted, Some(_)) => CallOutcome::Unknown,
            (outcome, _) => outcome,
        }
    }

    /// The message for the caller: the sentence, then the values of the headers. Many clients show no header.
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

    /// The cause of the refusal, and the advice to the caller.
    fn sentence(&self, call: &RefusedCall) -> String {
        let text = match self {
            // Only the caller is told the method and path it sent: they may hold any text, and a log keeps its lines.
            Self::UnknownOperation(what) => format!("{self}: {what}"),
            _ => self.to_string(),
        };
        match (&call.doubt, self) {
            // The text already states the outcome and the advice.
            (_, Self::OutcomeUnknown { .. }) => text,
            (Some(DuplicateDoubt { advice, .. }), Self::Replayed { .. }) => format!(
                "{text}; if the answer was lost, {advice}; a new request needs a new nonce and signature"
            ),
            (
                Some(DuplicateDoubt {
                    why: why @ EarlierCopy::OtherInstance,
                    ..
                }),
                _,
            ) if self.status() == StatusCode::TOO_MANY_REQUESTS => {
                format!("{text}; outcome unknown: {why}; the same bytes are executed once at most")
            }
            (Some(DuplicateDoubt { why, advice }), _) => {
                format!("{text}; outcome unknown: {why}; {advice}")
            }
            (None, Self::Starting { .. } | Self::StaleTimestamp(StaleStamp::Forgotten)) => {
                format!("{text}; sign anew")
            }
            (None, _) => text,
        }
    }

    /// The answer: status, header lines and body with the envelope.
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
                // GatePay itself answers this code when it does not know: repeat with the same parameters. Without a
                // key that would be a second call.
                if call.has_key {
                    code = "400000";
                }
                StatusCode::INTERNAL_SERVER_ERROR
            }
            (RefusalStatus::Gatepay, Some(AnswerForm::Envelope)) => StatusCode::OK,
            // If a successful answer has no envelope, or may have none, a client takes any 200 for success: for an
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
        // A browser must read the answer as JSON only.
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
    pub const SLUGS: [&'static str; 32] = [
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
        "store_unavailable",
        "halted",
        "cap_exceeded",
        "destination_not_allowed",
        "approval_required",
    ];
}

/// The sentence a caller reads.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A table: one sentence per refusal.
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
                f.write_str("rate limited: your own request rate is exceeded; send the same bytes again after Retry-After")
            }
            Self::TooManyInFlight { seats } => write!(
                f,
                "too many in flight: {seats} of your requests are in flight, your maximum; send the \
                 same bytes again after Retry-After"
            ),
            Self::InstitutionQuota(QuotaDenied::Rate(_)) => f.write_str(
                "institution quota: the institution's request rate is exceeded; send the same bytes again after Retry-After",
            ),
            Self::InstitutionQuota(QuotaDenied::Places { .. }) => f.write_str(
                "institution quota: the institution has its maximum of requests in flight; send the \
                 same bytes again after Retry-After",
            ),
            Self::Overloaded(what) => write!(f, "overloaded: {what}"),
            Self::UpstreamUnreachable => f.write_str(
                "upstream unreachable: no connection to GatePay could be made, nothing was sent; it is safe to repeat, signed anew",
            ),
            Self::UpstreamUnavailable(BreakerOpen::Institution) => f.write_str(
                "upstream unavailable: the circuit breaker is open, nothing was sent; it is safe to repeat, signed anew",
            ),
            Self::UpstreamUnavailable(BreakerOpen::Party { .. }) => f.write_str(
                "upstream unavailable: the circuit breaker of this account is open, nothing was sent; it is safe to repeat, signed anew",
            ),
            Self::OutcomeUnknown { what, advice, observation } => {
                write!(f, "outcome unknown: {what}; ")?;
                match observation {
                    Some(LookUpObservation { observed: ObservedOutcome::Found, .. }) => {
                        f.write_str("a look-up found the call at GatePay, as data.order says: do not repeat it")
                    }
                    Some(LookUpObservation { has_other_amounts: true, .. }) => {
                        write!(f, "GatePay has another amount under the call's key, as data.order says: {advice}")
                    }
                    Some(LookUpObservation { observed: ObservedOutcome::NotFound, .. }) => {
                        write!(f, "a look-up did not find the call at GatePay, but it may still be under way: {advice}")
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
                f.write_str("address not allowed: this credential is not valid from the address of this caller")
            }
            Self::UnknownOperation(_) => f.write_str("unknown operation: no such method and path"),
            Self::HeadTooLarge => f.write_str("head too large"),
            Self::InstitutionRejected => f.write_str(
                "institution rejected: GatePay refused the institution's own signature, clock or client id; yours was right; \
                 tell your institution",
            ),
            Self::Starting { .. } => {
                f.write_str("starting: requests stamped before the last restart may be repeats")
            }
            Self::JournalUnavailable => f.write_str("journal unavailable: the audit journal cannot be written; nothing was sent"),
            Self::StoreUnavailable => f.write_str(
                "store unavailable: the store that all instances share does not answer; this request was not sent",
            ),
            Self::Halted => f.write_str("halted: your institution has stopped calls of this kind; this request was not sent"),
            Self::CapExceeded { breach, .. } => write!(f, "cap exceeded: {breach}; this request was not sent"),
            Self::DestinationNotAllowed(fault) => {
                write!(f, "destination not allowed: {}; this request was not sent", DestinationText(fault))
            }
            Self::ApprovalRequired(demand) => {
                write!(f, "approval required: {}; this request was not sent", ApprovalText(demand))
            }
        }
    }
}

/// The next step of operators and of the caller.
struct ApprovalText<'a>(&'a ApprovalDemand);

impl fmt::Display for ApprovalText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ApprovalDemand {
            id,
            is_rejected,
            is_crowded,
            breach,
            ..
        } = self.0;
        match id {
            None if *is_crowded => write!(
                f,
                "{breach}; {MOST_WAITING} of your calls wait for your institution's approval, as many as may: this one does \
                 not wait, send it anew once your institution has decided about some"
            ),
            None => write!(
                f,
                "{breach}; this instance cannot ask for it yet, send it anew in a minute"
            ),
            Some(id) if *is_rejected => {
                write!(f, "{breach}; your institution has rejected approval {id}")
            }
            Some(id) => write!(
                f,
                "{breach}; once your institution has approved {id}, send the same body under the same key within a day, signed anew"
            ),
        }
    }
}

/// `withdraw_list[2] names a destination that …`.
struct DestinationText<'a>(&'a DestinationFault);

impl fmt::Display for DestinationText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DestinationFault::Unreadable(fault) => {
                write!(f, "{fault}, so that it cannot be told where the money goes")
            }
            DestinationFault::Unlisted(entry) => {
                write!(f, "{entry} names a destination that is not in your list")
            }
            DestinationFault::Held {
                entry,
                until_ms: Some(until_ms),
            } => {
                write!(
                    f,
                    "{entry} names a new destination, which is held until {}",
                    Rfc3339(*until_ms)
                )
            }
            DestinationFault::Held {
                entry,
                until_ms: None,
            } => {
                write!(f, "{entry} names a new destination, whose hold begins now")
            }
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
            Self::Forgotten => f.write_str("it is older than the replay memory's oldest entry"),
        }
    }
}

impl CallOutcome {
    /// The value of `X-Gatepay-Proxy-Outcome`.
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

/// The value of `WWW-Authenticate` for this status: a 401 has to name a scheme (RFC 9110, 11.6.1).
pub fn challenge(status: StatusCode) -> Option<&'static str> {
    (status == StatusCode::UNAUTHORIZED).then_some(headers::SCHEME)
}

/// The status under which GatePay's answer is relayed. Clients that read only the envelope take any status other than
/// 500 for a final outcome.
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

/// `RateLimit-Policy` and `RateLimit` of a rate. The policy is the burst and the seconds in which that much comes back.
/// The limit is the tokens left and, if none are, the seconds until a retry.
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

/// The query a caller should make before a repeat, and its key: from the catalogue row, with the key's value if known.
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
mod tests;
