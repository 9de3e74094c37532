//! Ingress: the head within limits and with one reading, the body under its cap and deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gatepay_core::operation::{self, Media, Method};
use http::{HeaderMap, Version, header, request};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::headers;
use crate::refusal::Refusal;

/// The longest head, as the sum of its names and values. hyper's own limit stands above it, so that its bare 431
/// is met only by heads no client sends.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// The most lines a head may have; GatePay's clients send about a dozen.
pub const HEAD_LINES: usize = 64;
/// After so many bytes hashed in one go, others get their turn: a MiB takes about 1.8 ms.
const YIELD_AFTER: usize = 64 * 1024;

/// What of a head decides where a request goes.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// One of the methods that occur in the catalogue, or `None` for any other.
    pub method: Option<Method>,
    /// A canonical path.
    pub path: &'a str,
    /// What stands behind `?`, as it was sent.
    pub query: Option<&'a str>,
}

/// Reads a head that has one reading only, or refuses it.
pub fn head(parts: &request::Parts) -> Result<Head<'_>, Refusal> {
    let uri = &parts.uri;
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let size: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if size + target > HEAD_LIMIT || parts.headers.len() > HEAD_LINES {
        return Err(Refusal::HeadTooLarge);
    }
    // HTTP/2 always carries scheme and authority; in HTTP/1.1 they would name a second host beside `Host`.
    if parts.version < Version::HTTP_2 {
        if uri.scheme().is_some() || uri.authority().is_some() {
            return Err(malformed("the target must be a path, not a URL"));
        }
        match headers::single(&parts.headers, &header::HOST) {
            Err(headers::Repeated) => return Err(malformed("Host stands more than once")),
            Ok(None) if parts.version == Version::HTTP_11 => {
                return Err(malformed("Host is missing"));
            }
            Ok(_) => {}
        }
    }
    // The root is a path like any other that nobody knows.
    if uri.path() != "/" && !operation::is_canonical(uri.path()) {
        return Err(malformed(
            "the path must be plain: no escapes, dot segments, doubled or trailing slashes, or bytes outside visible ASCII",
        ));
    }
    Ok(Head {
        method: Method::parse(parts.method.as_str()),
        path: uri.path(),
        query: uri.query(),
    })
}

/// Whether a body is of the kind its operation takes. One that names no type is GatePay's to judge.
pub fn media_type(headers: &HeaderMap, media: Media) -> Result<(), Refusal> {
    let named = headers::single(headers, &header::CONTENT_TYPE)
        .map_err(|headers::Repeated| malformed("Content-Type stands more than once"))?;
    let Some(named) = named else { return Ok(()) };
    let essence = named
        .as_bytes()
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    let wanted = media.as_str();
    if media == Media::Json && names_other_charset(named.as_bytes()) {
        // GatePay would read other characters than were checked here.
        return Err(Refusal::UnsupportedMediaType { wanted });
    }
    if essence.eq_ignore_ascii_case(wanted.as_bytes()) {
        Ok(())
    } else {
        Err(Refusal::UnsupportedMediaType { wanted })
    }
}

fn names_other_charset(value: &[u8]) -> bool {
    let parameters = value
        .split(|byte| *byte == b';')
        .skip(1)
        .map(<[u8]>::trim_ascii);
    parameters
        .filter(|parameter| parameter.to_ascii_lowercase().starts_with(b"charset"))
        .any(|parameter| {
            let lower = parameter.to_ascii_lowercase();
            !matches!(
                lower.as_slice(),
                b"charset=utf-8" | b"charset=utf8" | b"charset=\"utf-8\"" | b"charset=\"utf8\""
            )
        })
}

fn malformed(what: &'static str) -> Refusal {
    Refusal::MalformedRequest(what.into())
}

/// Reads a whole body and hands each piece to `taken` as it arrives, which may refuse it.
///
/// A body that is announced as too long is refused before any of it is read.
pub async fn body<B>(
    body: &mut B,
    limit: u64,
    timeout: Duration,
    mut taken: impl FnMut(&[u8]) -> Result<(), Refusal>,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let too_large = Refusal::BodyTooLarge { limit };
    if body.size_hint().lower() > limit {
        return Err(too_large);
    }
    let deadline = Instant::now() + timeout;
    let mut whole = Pieces::default();
    let mut since_yield = 0;
    // A body of known length is not always polled to its end, so `is_end_stream` is asked as well.
    while !body.is_end_stream() {
        // The deadline costs no timer while frames are already there.
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                return Err(malformed("the body ended early or its framing is broken"));
            }
            Err(_) => return Err(Refusal::RequestTimeout { limit: timeout }),
        };
        // Trailers are not signed and not forwarded.
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        if whole.len() as u64 + piece.len() as u64 > limit {
            return Err(too_large);
        }
        for part in piece.chunks(YIELD_AFTER) {
            taken(part)?;
            since_yield += part.len();
            if since_yield >= YIELD_AFTER {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
        }
        whole.push(piece);
    }
    Ok(whole.into_bytes())
}

/// Room for all bodies together, so that many large ones cannot take the machine's memory.
pub struct Room(Arc<Semaphore>);

/// Room that one body holds, until dropped.
pub struct Held {
    room: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

/// How many bytes of bodies may be held at once: hundreds of the largest JSON bodies, or four bank uploads.
pub const BODIES: usize = 256 << 20;
/// Room is given out in pieces of this many bytes.
const PIECE: usize = 1024;

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODIES / PIECE)))
    }
}

impl Room {
    /// Room for a body that is about to be read.
    pub fn hold(&self) -> Held {
        Held {
            room: Arc::clone(&self.0),
            taken: None,
            bytes: 0,
        }
    }
}

impl Held {
    /// Takes room for so many bytes more.
    pub fn more(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.bytes += bytes;
        let have = self
            .taken
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = self.bytes.div_ceil(PIECE).saturating_sub(have);
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.room).try_acquire_many_owned(missing);
        let more = more.map_err(|_| {
            Refusal::Overloaded("too many large bodies are being read; come back in a moment")
        })?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

/// Reads the rest of a body that was refused and throws it away, if it is short and comes soon.
///
/// An HTTP/2 client that is still sending would see its stream reset, and many never read the answer then.
pub async fn discard<B>(body: &mut B)
where
    B: Body<Data = Bytes> + Unpin,
{
    let deadline = Instant::now() + DISCARD_TIME;
    let mut left = DISCARD;
    while !body.is_end_stream() {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else {
            return;
        };
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// How much of a refused body is read.
const DISCARD: usize = 64 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_millis(500);

/// A body in the making. Most arrive in one piece, which is kept as it is.
#[derive(Default)]
pub struct Pieces {
    first: Bytes,
    rest: BytesMut,
}

impl Pieces {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a piece.
    pub fn push(&mut self, piece: Bytes) {
        if self.is_empty() {
            self.first = piece;
        } else {
            if self.rest.is_empty() {
                self.rest.reserve(self.first.len() + piece.len());
                self.rest
                    .extend_from_slice(&std::mem::take(&mut self.first));
            }
            self.rest.extend_from_slice(&piece);
        }
    }

    /// The whole.
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http_body_util::Full;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    fn parts(uri: &str, lines: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn refused(uri: &str, lines: &[(&str, &str)]) -> Option<&'static str> {
        head(&parts(uri, lines)).err().map(|refusal| refusal.slug())
    }

    #[test]
    fn one_host_and_one_spelling_of_the_path() {
        let host = ("host", "pay.example");
        assert_eq!(refused("/v1/pay/order", &[host]), None);
        assert_eq!(refused("/v1/pay/order", &[]), Some("malformed_request"));
        assert_eq!(
            refused("/v1/pay/order", &[host, host]),
            Some("malformed_request")
        );
        assert_eq!(
            refused("http://other/v1/pay/order", &[host]),
            Some("malformed_request")
        );
        assert_eq!(
            refused("/v1/pay/%6frder", &[host]),
            Some("malformed_request")
        );
    }

    #[test]
    fn a_head_beyond_the_limits_is_431() {
        let long = "x".repeat(HEAD_LIMIT);
        assert_eq!(
            refused("/v1/pay/order", &[("host", "a"), ("x", &long)]),
            Some("head_too_large")
        );
        let many = vec![("x", "y"); HEAD_LINES + 1];
        assert_eq!(refused("/v1/pay/order", &many), Some("head_too_large"));
    }

    #[tokio::test]
    async fn a_body_at_the_limit_is_read_and_one_byte_more_is_not() {
        let read = async |bytes: &'static [u8]| {
            body(
                &mut Full::new(Bytes::from_static(bytes)),
                5,
                Duration::from_secs(1),
                |_| Ok(()),
            )
            .await
        };
        assert_eq!(read(b"12345").await.unwrap(), "12345");
        assert_eq!(read(b"123456").await.unwrap_err().slug(), "body_too_large");
    }

    #[test]
    fn there_is_room_for_so_many_bytes_and_it_comes_back() {
        let room = Room::default();
        let (mut most, mut little) = (room.hold(), room.hold());
        most.more(BODIES - PIECE).unwrap();
        little.more(1).unwrap();
        little.more(PIECE - 1).unwrap();
        assert_eq!(little.more(1).unwrap_err().slug(), "overloaded");
        drop(most);
        little.more(BODIES / 2).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_408() {
        let refusal = body(&mut Never, 5, Duration::from_secs(10), |_| Ok(()))
            .await
            .unwrap_err();
        assert_eq!(refusal.slug(), "request_timeout");
    }

    /// A body whose frames never arrive.
    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    proptest! {
        #[test]
        fn pieces_make_the_whole(pieces: Vec<Vec<u8>>) {
            let mut whole = Pieces::default();
            for piece in &pieces {
                whole.push(Bytes::from(piece.clone()));
            }
            prop_assert_eq!(whole.len(), pieces.iter().map(Vec::len).sum::<usize>());
            prop_assert_eq!(&whole.into_bytes()[..], &pieces.concat()[..]);
        }
    }
}
