//! Ingress: checks that the head is within limits and has one reading; reads the body under its cap and deadline.
//!
//! Faults of a head that only HTTP/1 has are found by [`request_parser`](gatepay_http1::request_parser) before and are
//! refused here.

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::operation::{MediaType, Method};
use gatepay_core::spelling;
use gatepay_http1::body_buffer::BodyBuffer;
use gatepay_http1::request_head::RequestHead;
use gatepay_http1::request_parser::{FramingError, HEAD_LIMIT, HEAD_LINES};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use crate::callers::body_memory::{BodyReservation, NoRoom};
use crate::headers::{self, AtMostOnce, KnownHeaders};
use crate::process::yielding::{SinceYield, YIELD_AFTER};
use crate::refusal::Refusal;

/// The fewest bytes that a piece of a body counts as, however short it is.
const LEAST_PIECE: usize = 64;

/// The parts of a head that decide which operation a request is for.
#[derive(Debug, Clone, Copy)]
pub struct RequestTarget<'a> {
    /// The method, if the catalogue has an operation with it; `None` for any other method.
    pub method: Option<Method>,
    /// The method as it was sent.
    pub method_text: &'a str,
    /// A canonical path.
    pub path: &'a str,
    /// The query behind `?`, as it was sent.
    pub query: Option<&'a str>,
    /// The size in bytes of path, query and header lines.
    pub bytes: usize,
}

/// Reads the target of a request, or refuses the request.
pub fn target<'a>(
    head: &RequestHead<'a>,
    lines: &KnownHeaders<'_>,
) -> Result<RequestTarget<'a>, Refusal> {
    let query = head.query.map_or(0, |query| query.len() + 1);
    let bytes = head.path.len() + query + lines.bytes;
    if bytes > HEAD_LIMIT || lines.count > HEAD_LINES {
        return Err(Refusal::HeadTooLarge);
    }
    // The root is a path like any other path that no operation has.
    if head.path != "/" && !spelling::is_canonical(head.path) {
        return Err(malformed(
            "the path must be plain: no escapes, dot segments, doubled or trailing slashes, or bytes outside visible ASCII",
        ));
    }
    Ok(RequestTarget {
        method: Method::parse(head.method),
        method_text: head.method,
        path: head.path,
        query: head.query,
        bytes,
    })
}

/// The refusal of a head that has no single reading.
pub fn unreadable(fault: FramingError) -> Refusal {
    match fault {
        FramingError::TooLarge => Refusal::HeadTooLarge,
        fault => malformed(fault.text()),
    }
}

/// A body that is still to be read, and its sender.
pub trait RequestBody: Body<Data = Bytes> + Unpin {
    /// Whether the sender has left, that is, has reset the connection or the stream. A sender that only stops sending
    /// has not left. Polled while the request waits for something else.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The caller has left before its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerGone;

/// Why a request is not processed further.
pub enum StopReason {
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

/// Waits for `awaited`, unless the sender of `body` leaves first.
pub async fn unless_gone<F: Future>(
    body: &mut impl RequestBody,
    mut awaited: Pin<&mut F>,
) -> Result<F::Output, CallerGone> {
    poll_fn(|cx| match awaited.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => body.poll_gone(cx).map(|()| Err(CallerGone)),
    })
    .await
}

/// Checks the `Content-Type` of a body against its operation. Without the header the decision is left to GatePay.
pub fn media_type(named: AtMostOnce<'_>, media: MediaType) -> Result<(), Refusal> {
    let named =
        named.map_err(|headers::RepeatedHeader| malformed("Content-Type stands more than once"))?;
    let Some(named) = named else { return Ok(()) };
    let wanted = media.as_str();
    // Most callers name the media type alone.
    if named.eq_ignore_ascii_case(wanted.as_bytes()) {
        return Ok(());
    }
    let mut parts = named.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let essence = parts.next().unwrap_or_default();
    // With another charset GatePay would read other characters than the proxy checked.
    if !essence.eq_ignore_ascii_case(wanted.as_bytes())
        || (media == MediaType::Json && parts.any(is_other_charset))
    {
        return Err(Refusal::UnsupportedMediaType { wanted });
    }
    Ok(())
}

/// Whether a parameter of a media type names a charset other than UTF-8.
fn is_other_charset(parameter: &[u8]) -> bool {
    let lower = parameter.to_ascii_lowercase();
    lower.starts_with(b"charset")
        && !matches!(
            lower.as_slice(),
            b"charset=utf-8" | b"charset=utf8" | b"charset=\"utf-8\"" | b"charset=\"utf8\""
        )
}

fn malformed(what: &'static str) -> Refusal {
    Refusal::MalformedRequest(what.into())
}

/// The time limits of a body.
#[derive(Debug, Clone, Copy)]
pub struct BodyTime {
    /// The time for the whole body.
    pub whole: Duration,
    /// The bytes that have to arrive per second on average, once half of that time is over.
    pub bytes_per_second: NonZeroU32,
}

impl BodyTime {
    /// The time by which more than `bytes` bytes have to be there.
    fn for_more_than(&self, bytes: usize) -> Duration {
        let earned =
            Duration::from_millis(bytes as u64 * 1_000 / u64::from(self.bytes_per_second.get()));
        earned.max(self.whole / 2).min(self.whole)
    }
}

/// Reads a whole body and hands each piece to `read` as it arrives. Memory is taken from `held` before it is allocated.
///
/// A body that is announced as too long is refused before any of it is read.
pub async fn body<B>(
    body: &mut B,
    limit: u64,
    time: &BodyTime,
    held: &mut BodyReservation,
    mut read: impl FnMut(&[u8]),
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let too_large = Refusal::BodyTooLarge { limit };
    if body.size_hint().lower() > limit {
        return Err(too_large);
    }
    let mut waiting_since = None;
    let mut whole = BodyBuffer::default();
    let mut since_yield = SinceYield::default();
    // A body of known length is not always polled to its end, so `is_end_stream` is asked as well.
    while !body.is_end_stream() {
        // Most bodies arrive with their head: the clock is read only if the body has to be waited for.
        let frame = if let Some(frame) = at_once(body).await {
            frame
        } else {
            let limit = time.for_more_than(whole.len());
            let deadline = *waiting_since.get_or_insert_with(Instant::now) + limit;
            let frame = timeout_at(deadline, body.frame()).await;
            frame.map_err(|_| Refusal::RequestTimeout { limit })?
        };
        let frame = match frame {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                return Err(malformed("the body ended early or its framing is broken"));
            }
        };
        // Trailers are not signed and not forwarded.
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        if whole.len() as u64 + piece.len() as u64 > limit {
            return Err(too_large);
        }
        let is_all = whole.is_empty() && body.is_end_stream();
        if is_all {
            held.more(piece.len())?;
        } else {
            let announced = body.size_hint().upper();
            let left = announced.map_or(usize::MAX, |left| {
                usize::try_from(left).map_or(usize::MAX, |left| left.saturating_add(piece.len()))
            });
            let missing = whole.missing(piece.len(), left);
            held.more(missing)?;
            whole.reserve(missing);
        }
        for part in piece.chunks(YIELD_AFTER) {
            read(part);
            // Tiny pieces cost more than their bytes.
            since_yield.worked_on(part.len().max(LEAST_PIECE)).await;
        }
        if is_all {
            whole.push(piece);
        } else {
            // A piece keeps the whole read buffer alive: one byte of a body could hold many KiB.
            whole.copy(&piece);
        }
    }
    join(whole, held).await
}

/// The next frame of a body or its end, if it is there already.
async fn at_once<B>(body: &mut B) -> Option<Option<Result<Frame<Bytes>, B::Error>>>
where
    B: Body<Data = Bytes> + Unpin,
{
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The bytes of a refused body that are read and thrown away after the answer: more than the largest upload has.
pub const LINGER: usize = 64 << 20;
/// The time limit for that once the process ends. Before, the limit is that of any body: `listen.body_timeout_ms`.
pub const LINGER_AT_THE_END: Duration = Duration::from_millis(500);

/// Joins the pieces into the whole body. It reserves the memory for the copy and yields to other tasks in between.
async fn join(pieces: BodyBuffer, held: &mut BodyReservation) -> Result<Bytes, Refusal> {
    let (length, parts) = match pieces.into_parts() {
        Ok(whole) => return Ok(whole),
        Err(parts) => parts,
    };
    let twice = held.twice(length)?;
    let mut whole = Vec::with_capacity(length);
    for (joined, part) in parts.into_iter().enumerate() {
        whole.extend_from_slice(&part);
        drop(part);
        if joined % JOINED == JOINED - 1 {
            tokio::task::yield_now().await;
        }
    }
    held.give(twice);
    Ok(whole.into())
}

/// The number of joined parts after which other tasks run: about 1 MiB, which takes some 100 µs.
const JOINED: usize = 16;

impl From<NoRoom> for Refusal {
    fn from(no_room: NoRoom) -> Self {
        Self::Overloaded(match no_room {
            NoRoom::Everywhere => {
                "too many large bodies are being read; send the same bytes again after Retry-After"
            }
            NoRoom::OfAddress => {
                "too much is arriving from this address; send the same bytes again after Retry-After"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::body_memory::{BODIES, BodyMemory, PIECE};
    use http::{Request, request};
    use http_body_util::Full;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use crate::process::yielding::tests::polls;

    const TIME: BodyTime = BodyTime {
        whole: Duration::from_secs(10),
        bytes_per_second: NonZeroU32::new(1_024).unwrap(),
    };

    fn parts(uri: &str, lines: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn refused(uri: &str, lines: &[(&str, &str)]) -> Option<&'static str> {
        let parts = parts(uri, lines);
        let head = RequestHead::of_parts(&parts);
        let target = target(&head, &KnownHeaders::read(head.lines()));
        target.err().map(|refusal| refusal.slug())
    }

    /// A body in pieces of this length, with its total length announced or not.
    struct Chunked {
        whole: Bytes,
        piece: usize,
        announced: bool,
    }

    impl Body for Chunked {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let now = self.piece.min(self.whole.len());
            let piece = self.whole.split_to(now);
            Poll::Ready((now > 0).then(|| Ok(Frame::data(piece))))
        }

        fn size_hint(&self) -> http_body::SizeHint {
            if self.announced {
                http_body::SizeHint::with_exact(self.whole.len() as u64)
            } else {
                http_body::SizeHint::default()
            }
        }
    }

    #[test]
    fn other_tasks_run_while_a_long_body_is_read_in_any_pieces() {
        let most = u64::MAX;
        let whole = vec![b'x'; 16 * YIELD_AFTER];
        let mut at_once = Full::new(Bytes::from(whole.clone()));
        let (mut since, mut held) = (0, BodyMemory::default().hold(None));
        let read = |piece: &[u8]| since += piece.len();
        let (turns, all) = polls(body(&mut at_once, most, &TIME, &mut held, read));
        assert_eq!((turns, all.unwrap().len()), (17, whole.len()));
        assert_eq!(since, whole.len());

        let mut bytewise = Chunked {
            whole: Bytes::from(vec![b'x'; 16 * 1024]),
            piece: 1,
            announced: false,
        };
        let mut held = BodyMemory::default().hold(None);
        let read = body(&mut bytewise, most, &TIME, &mut held, |_| {});
        let (turns, _) = polls(read);
        assert_eq!(turns, 17, "every 1024 pieces");
    }

    #[test]
    fn a_path_has_one_spelling() {
        assert_eq!(refused("/v1/pay/order", &[]), None);
        assert_eq!(refused("/v1/pay/%6frder", &[]), Some("malformed_request"));
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
            let mut held = BodyMemory::default().hold(None);
            let mut whole = Full::new(Bytes::from_static(bytes));
            body(&mut whole, 5, &TIME, &mut held, |_| {}).await
        };
        assert_eq!(read(b"12345").await.unwrap(), "12345");
        assert_eq!(read(b"123456").await.unwrap_err().slug(), "body_too_large");
    }

    #[test]
    fn body_memory_has_a_limit_and_finished_bodies_free_it() {
        let room = BodyMemory::default();
        let (mut most, mut little) = (room.hold(None), room.hold(None));
        most.more(BODIES - PIECE).unwrap();
        little.more(1).unwrap();
        little.more(PIECE - 1).unwrap();
        assert_eq!(little.more(1), Err(NoRoom::Everywhere));
        drop(most);
        little.more(BODIES / 2).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_refused_with_408() {
        let mut held = BodyMemory::default().hold(None);
        let refusal = body(&mut Never, 5, &TIME, &mut held, |_| {}).await;
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.slug(), "request_timeout");
    }

    #[tokio::test]
    async fn the_memory_allocated_for_a_body_is_reserved_however_it_is_cut() {
        for length in [1, 300, 5_000, 70_000, 3 << 20] {
            for piece in [1, 7, 1_000, 16 * 1024, 100_000] {
                for announced in [false, true] {
                    let name = format!("{length} bytes in pieces of {piece}, {announced}");
                    let room = BodyMemory::default();
                    let mut held = room.hold(None);
                    let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
                    let mut sent = Chunked {
                        whole: Bytes::from(bytes.clone()),
                        piece,
                        announced,
                    };
                    let mut seen = Vec::new();
                    let read = body(&mut sent, u64::MAX, &TIME, &mut held, |part| {
                        seen.extend_from_slice(part);
                    });
                    assert_eq!(read.await.unwrap(), bytes, "{name}");
                    assert_eq!(seen, bytes, "{name}");
                    let taken = held.bytes();
                    assert!(taken >= length, "{name}: {taken}");
                    // The last part may have spare capacity.
                    let most = length + piece.max(64 * 1024) + PIECE;
                    assert!(taken <= most, "{name}: {taken} of {most}");
                    drop(held);
                    assert_eq!(room.bytes(), 0, "{name}");
                }
            }
        }
    }

    #[test]
    fn body_parts_never_grow_and_their_memory_is_reserved_before() {
        let mut whole = BodyBuffer::default();
        let mut allocated = 0;
        for piece in [1, 4_000, 90, 6, 70_000, 1, 200_000] {
            let missing = whole.missing(piece, usize::MAX);
            allocated += missing;
            whole.reserve(missing);
            whole.copy(&vec![7; piece]);
            let capacity: usize = whole.capacity();
            assert_eq!(capacity, allocated);
        }
    }

    #[tokio::test]
    async fn a_body_is_put_together_only_if_there_is_room_for_it_twice() {
        let room = BodyMemory::default();
        let address = Arc::default();
        let mut other = room.hold(None);
        other.more(BODIES - (3 << 20)).unwrap();
        let read = async |length: usize, held: &mut BodyReservation| {
            let mut sent = Chunked {
                whole: Bytes::from(vec![7; length]),
                piece: 16 * 1024,
                announced: true,
            };
            body(&mut sent, u64::MAX, &TIME, held, |_| {}).await
        };
        let mut held = room.hold(Some(&address));
        assert_eq!(read(1 << 20, &mut held).await.unwrap().len(), 1 << 20);
        assert!(address.load(Ordering::Relaxed) < (1 << 20) + (80 << 10));
        drop(held);
        let refusal = read(2 << 20, &mut room.hold(None)).await.unwrap_err();
        assert_eq!(refusal.slug(), "overloaded");
    }

    /// A body whose frames never arrive.
    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    proptest! {
        #[test]
        fn body_pieces_are_joined_to_the_whole_body(pieces: Vec<Vec<u8>>) {
            let mut whole = BodyBuffer::default();
            for piece in &pieces {
                whole.push(Bytes::from(piece.clone()));
            }
            prop_assert_eq!(whole.len(), pieces.iter().map(Vec::len).sum::<usize>());
            prop_assert_eq!(&whole.into_bytes()[..], &pieces.concat()[..]);
        }
    }

    #[test]
    fn the_longer_a_body_takes_the_more_of_it_has_to_be_there() {
        for (bytes, seconds) in [(0, 5), (1_024, 5), (6 * 1_024, 6), (1 << 20, 10)] {
            assert_eq!(TIME.for_more_than(bytes), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn one_address_holds_limited_memory_for_unverified_bodies() {
        let room = BodyMemory::default();
        let address = Arc::default();
        let mut held: Vec<BodyReservation> = Vec::new();
        let mut send = |bytes: usize| {
            let mut request = room.hold(Some(&address));
            let taken = request.begin(300, 100).and_then(|()| request.more(bytes));
            held.push(request);
            taken.is_ok()
        };
        assert!(send(64 << 20), "the largest upload");
        assert!(send(1 << 20));
        assert!(!send(20 << 20));
        // Other addresses are not affected, and neither are authenticated bodies.
        let mut other = room.hold(Some(&Arc::default()));
        assert!(other.more(64 << 20).is_ok());
        held.iter_mut().for_each(BodyReservation::authenticated);
        let mut next = room.hold(Some(&address));
        assert!(next.more(64 << 20).is_ok());
        drop(next);
        assert_eq!(address.load(Ordering::Relaxed), 0);
    }
}
