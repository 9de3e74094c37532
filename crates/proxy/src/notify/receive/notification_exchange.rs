//! Exchange: one call of GatePay's, and the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::header::{NONCE, SIGNATURE, TIMESTAMP};
use gatepay_core::notification::{ACKNOWLEDGMENT, NO_ACKNOWLEDGMENT, NotificationKind};
use gatepay_core::{Signature, Stamp};
use gatepay_tenancy::notifications::NotificationSettings;
use http::header::{ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::notify::receive::caller_shares::{BodyShare, CallerConnection};
use crate::notify::receive::institution_keys::InstitutionKeys;
use crate::notify::receive::log_budget::LogBudget;
use crate::notify::receive::meters::{ReceptionMeters, ReceptionResult};
use crate::notify::receive::reception::Reception;
use crate::process::clock::Clock;

/// The largest body: GatePay's samples have a few KiB, and a payout names each of its orders.
pub const LONGEST_BODY: usize = 1 << 20;
/// How long a body may take.
pub const BODY_WITHIN: Duration = Duration::from_secs(10);
/// The memory for bodies that are being received, of all callers together.
pub const BODY_BYTES: usize = 32 << 20;
/// The least memory for a body. It doubles as the body grows.
const FIRST_BYTES: usize = 4 << 10;
/// Stamps may be as old: GatePay repeats a notification for a day, and no page says whether it stamps it anew.
const LEAST_AGE_LIMIT: Duration = Duration::from_hours(72);

/// The state that exchanges share.
pub struct NotificationExchange {
    settings: Arc<NotificationSettings>,
    /// The institution's credentials.
    pub keys: Arc<InstitutionKeys>,
    reception: Reception,
    clock: Clock,
    meters: ReceptionMeters,
    unsigned: LogBudget,
    stale: LogBudget,
}

/// Why a call is not a notification of GatePay's, or is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotAcknowledged {
    Path,
    Method,
    Headers,
    Coding,
    TooLarge,
    Slow,
    Broken,
    Stale,
    Signature,
    Busy,
    NotStored,
}

impl NotificationExchange {
    /// The exchange with these parts.
    pub fn new(
        settings: Arc<NotificationSettings>,
        keys: Arc<InstitutionKeys>,
        reception: Reception,
        clock: Clock,
        meters: ReceptionMeters,
    ) -> Self {
        Self {
            settings,
            keys,
            reception,
            clock,
            meters,
            unsigned: LogBudget::default(),
            stale: LogBudget::default(),
        }
    }

    /// Answers a call. Only a notification that is committed is acknowledged. The connection of a caller whose call is not
    /// GatePay's is closed.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        caller: &CallerConnection,
    ) -> Response<Full<Bytes>> {
        let began = self.clock.elapsed();
        match self.receive(request, caller).await {
            Ok(()) => {
                let took = self.clock.elapsed().saturating_sub(began);
                self.meters.acknowledged.observe(took.as_secs_f64());
                reply(StatusCode::OK, ACKNOWLEDGMENT)
            }
            Err(why) => {
                self.count(why);
                let mut answer = reply(why.status(), NO_ACKNOWLEDGMENT);
                if why == NotAcknowledged::Method {
                    let headers = answer.headers_mut();
                    headers.insert(ALLOW, HeaderValue::from_static("POST"));
                }
                if answer.status().is_client_error() {
                    let headers = answer.headers_mut();
                    headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            }
        }
    }

    async fn receive(
        &self,
        request: Request<Incoming>,
        caller: &CallerConnection,
    ) -> Result<(), NotAcknowledged> {
        let (head, body) = request.into_parts();
        let token = self.token(&head)?;
        let signed = SignedHeaders::read(&head.headers)?;
        let mut memory = caller.body();
        let body = timeout(BODY_WITHIN, read(body, &mut memory)).await;
        let body = body.map_err(|_late| NotAcknowledged::Slow)??;
        let stamp = signed.stamp()?;
        let (address, now) = (caller.address(), self.clock.elapsed());
        if !self.keys.have_signed(&stamp, &body, &signed.signature) {
            if let Some(left_out) = self.unsigned.line(now) {
                tracing::warn!(
                    bytes = body.len(), %address, left_out,
                    "the signature of a notification is of none of the institution's credentials"
                );
            }
            return Err(NotAcknowledged::Signature);
        }
        caller.prove();
        // The age comes last, so that a caller without the key learns nothing of the limit.
        if self.is_stale(stamp.millis()) {
            if let Some(left_out) = self.stale.line(now) {
                let stamp_ms = stamp.millis();
                tracing::warn!(
                    stamp_ms, %address, left_out,
                    "a notification is signed with a stamp that is too far from the clock"
                );
            }
            return Err(NotAcknowledged::Stale);
        }
        let stored = self.reception.store(body, token).await;
        drop(memory);
        if stored {
            Ok(())
        } else {
            Err(NotAcknowledged::NotStored)
        }
    }

    /// The token in the path of a call; `None` for the path that GatePay calls by default.
    fn token(&self, head: &Parts) -> Result<Option<String>, NotAcknowledged> {
        let path = head.uri.path();
        let tokens = NotificationSettings::TOKENS;
        // A proxy in front may have removed the path.
        let bare = path.strip_prefix(tokens);
        let below = path.strip_prefix(&self.settings.path);
        let below = below.filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if bare.is_none() && below.is_none() {
            return Err(NotAcknowledged::Path);
        }
        if head.method != Method::POST {
            return Err(NotAcknowledged::Method);
        }
        let token = below.and_then(|rest| rest.strip_prefix(tokens)).or(bare);
        Ok(token.filter(|token| is_token(token)).map(str::to_owned))
    }

    fn is_stale(&self, stamp_ms: u64) -> bool {
        let days = u64::from(self.settings.keep_days.get());
        let limit =
            LEAST_AGE_LIMIT.max(Duration::from_hours(24) * u32::try_from(days).unwrap_or(u32::MAX));
        let distance = self.clock.unix_ms().abs_diff(stamp_ms);
        u128::from(distance) > limit.as_millis()
    }

    /// Counts a call that was not read as a notification. The reception counts the others.
    fn count(&self, why: NotAcknowledged) {
        let result = match why {
            NotAcknowledged::NotStored => return,
            NotAcknowledged::Busy => ReceptionResult::Busy,
            NotAcknowledged::Signature => ReceptionResult::Unsigned,
            NotAcknowledged::Stale => ReceptionResult::Stale,
            _ => ReceptionResult::Malformed,
        };
        self.meters.received(NotificationKind::Unknown, result);
    }
}

/// The headers that GatePay signs with.
struct SignedHeaders<'h> {
    timestamp: &'h [u8],
    nonce: &'h [u8],
    signature: Signature,
}

impl<'h> SignedHeaders<'h> {
    fn read(headers: &'h HeaderMap) -> Result<Self, NotAcknowledged> {
        let once = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().filter(|_| values.next().is_none());
            value
                .map(HeaderValue::as_bytes)
                .ok_or(NotAcknowledged::Headers)
        };
        if headers
            .get(CONTENT_ENCODING)
            .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(NotAcknowledged::Coding);
        }
        let signed = Self {
            timestamp: once(TIMESTAMP)?,
            nonce: once(NONCE)?,
            signature: Signature::parse(once(SIGNATURE)?).map_err(|_| NotAcknowledged::Headers)?,
        };
        signed.stamp()?;
        Ok(signed)
    }

    fn stamp(&self) -> Result<Stamp<'h>, NotAcknowledged> {
        Stamp::parse(self.timestamp, self.nonce).map_err(|_| NotAcknowledged::Headers)
    }
}

/// Reads a body. Memory is taken for what has arrived, not for what is announced.
async fn read(mut body: Incoming, memory: &mut BodyShare<'_>) -> Result<Bytes, NotAcknowledged> {
    if body.size_hint().lower() > LONGEST_BODY as u64 {
        return Err(NotAcknowledged::TooLarge);
    }
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| NotAcknowledged::Broken)?;
        if let Ok(data) = frame.into_data() {
            make_room(&mut whole, data.len(), memory)?;
            // A copy: the piece itself holds a whole buffer of the connection's.
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.into())
}

fn make_room(
    whole: &mut Vec<u8>,
    more: usize,
    memory: &mut BodyShare<'_>,
) -> Result<(), NotAcknowledged> {
    let (needed, before) = (whole.len() + more, whole.capacity());
    if needed > LONGEST_BODY {
        return Err(NotAcknowledged::TooLarge);
    }
    if needed > before {
        let room = needed.max(before * 2).clamp(FIRST_BYTES, LONGEST_BODY);
        if !memory.grow(room - before) {
            return Err(NotAcknowledged::Busy);
        }
        whole.reserve_exact(room - whole.len());
    }
    Ok(())
}

/// Whether a text can be a token of the proxy's.
fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn reply(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

impl NotAcknowledged {
    fn status(self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Headers | Self::Stale | Self::Signature => StatusCode::UNAUTHORIZED,
            Self::Coding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Busy | Self::NotStored => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
