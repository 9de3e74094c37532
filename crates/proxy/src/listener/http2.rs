//! HTTP/2 with a caller: a connection on which requests are answered concurrently.
//!
//! The `h2` crate reads and writes the frames. hyper, its usual server, cannot send an informational answer, so a
//! caller that waits for `100 Continue` would wait forever. This module therefore drives `h2` itself. Each request has
//! its own task ([`stream`]).

pub mod ending;
pub mod keep_alive;
pub mod stream;

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gatepay_http1::request_parser::HEAD_LIMIT;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Error, Reason, RecvStream};
use http::Request;
use tokio::time::timeout;

use crate::callers::activity::ConnectionActivity;
use crate::callers::address_limits::ConnectionPeer;
use crate::listener::lifetime::{CloseReason, ConnectionLifetime};
use crate::listener::transport::InboundStream;
use crate::process::drain::EntryGuard;
use crate::worker::Worker;
use ending::{ConnectionEnding, GoawaySignal};
use stream::{Http2Caller, SEND_BUFFER};

/// How many requests one HTTP/2 connection may have open. Common clients open as many before they have read this limit,
/// so none of their requests is refused.
pub const STREAMS: u32 = 100;
/// How many streams a peer may open and reset, or make the proxy reset, before the connection is closed.
const RESETS: usize = 20;
/// How many bytes of bodies may arrive on one HTTP/2 connection before they are read; one stream may use all of them. A
/// call has less than a KiB, so a connection with a round trip of 100 ms brings some 600 calls per second.
pub const WINDOW: u32 = 64 * 1024;
/// The size in bytes of the largest head, as HTTP/2 counts it.
const HEADER_LIST: u32 = 32 * 1024;
/// The sizes in bytes of the largest frame and of the table that compresses heads: the standard's defaults.
const FRAME: u32 = 16 * 1024;
const HEADER_TABLE: u32 = 4 * 1024;

/// Serves a connection to its end. `entry` is the entry guard for requests that may still come, until the caller
/// knows that the process ends.
///
/// # Errors
/// If the connection ended early.
pub async fn serve(
    worker: &Arc<Worker>,
    stream: InboundStream,
    peer: ConnectionPeer,
    lifetime: &ConnectionLifetime,
    entry: EntryGuard,
) -> Result<(), CloseReason> {
    let activity = &lifetime.activity;
    activity.http2();
    let head_timeout = worker.app.settings.listen.head_timeout;
    let handshake = timeout(head_timeout, settings().handshake(stream)).await;
    let Ok(handshake) = handshake else {
        return Ok(());
    };
    let mut frames = handshake.map_err(CloseReason::Broken)?;
    let goaway = GoawaySignal::default();
    let ending = ConnectionEnding::new(worker, lifetime, &goaway);
    let mut ended = pin!(ending.reached(frames.ping_pong(), entry));
    let mut connection = Http2Connection {
        frames,
        activity: Arc::clone(activity),
        caller: Arc::new(Http2Caller {
            worker: Arc::clone(worker),
            peer,
        }),
    };
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(over) = connection.poll(cx) {
                return Poll::Ready(over.map_err(CloseReason::Broken));
            }
            if let Poll::Ready(ended) = ended.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if !goaway.is_due() {
                return Poll::Pending;
            }
            connection.frames.graceful_shutdown();
        }
    })
    .await
}

fn settings() -> Builder {
    let mut settings = Builder::new();
    settings
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(RESETS))
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .header_table_size(HEADER_TABLE)
        .max_send_buffer_size(SEND_BUFFER);
    settings
}

const _: () = assert!(HEADER_LIST as usize == 2 * HEAD_LIMIT);

/// A connection that speaks HTTP/2.
struct Http2Connection {
    frames: Connection<InboundStream, Bytes>,
    activity: Arc<ConnectionActivity>,
    caller: Arc<Http2Caller>,
}

impl Http2Connection {
    /// Reads and writes frames, and begins to answer every request that has arrived. Ready once the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let accepted = pin!(self.frames.accept()).poll(cx);
            let Some(accepted) = ready!(accepted) else {
                return Poll::Ready(Ok(()));
            };
            let (request, respond) = accepted?;
            self.begin(request, respond);
        }
    }

    fn begin(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let Http2Caller { worker, peer } = &*self.caller;
        let (active, entry) = (self.activity.request(), worker.entry_gate.enter());
        let Some(request_slot) = worker.app.listener.address_limits.request_slot(peer) else {
            // An answer would take memory, which is short. A reset says the same with less: by the standard the request
            // was not processed, and may be sent again.
            worker.app.metrics.requests_crowded.inc();
            return respond.send_reset(Reason::REFUSED_STREAM);
        };
        let (caller, active) = (Arc::clone(&self.caller), active.with_slot(request_slot));
        let serving = stream::serve(caller, active, entry, request, respond);
        // In a box, because tokio moves a task's future several times, and this one has some 4 KB.
        tokio::spawn(Box::pin(serving));
    }
}

/// Whether a peer sent more frames than it may, by the frame counter or by the library's limits.
pub fn is_flood(error: &Error) -> bool {
    is_ours(error) || error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
}

/// Whether the connection was ended for a flood, or for frames that no client makes.
pub fn is_abuse(error: &Error) -> bool {
    is_ours(error) || (error.is_go_away() && error.is_library())
}

fn is_ours(error: &Error) -> bool {
    let io = error.get_io();
    io.is_some_and(|io| io.kind() == ErrorKind::QuotaExceeded)
}
