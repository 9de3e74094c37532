//! HTTP/2 with a caller.

use std::error::Error;
use std::io::ErrorKind;
use std::iter;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{sleep, sleep_until};

use crate::crowd::Peer;
use crate::drain::{Entering, FIRST_WORD, Phase};
use crate::framing::HEAD_LIMIT;
use crate::head::Head;
use crate::http2_head;
use crate::inbound::Inbound;
use crate::ingress;
use crate::journey::{self, Worker};
use crate::lifetime::{CloseReason, Lifetime};
use crate::pace::{Busy, Leave, Pace, Verdict};
use crate::refused_head::RefusedHead;
use crate::relay::Reply;

/// How many requests one HTTP/2 connection may have open: as many as common clients open before they have read how many
/// they may, so that none of those is refused.
pub const STREAMS: u32 = 100;
/// How many streams a peer may open and reset, or make us reset, before the connection is closed.
const RESETS: usize = 20;
/// How much of bodies may arrive on one HTTP/2 connection before it is read; a stream may have all of it. A call has less
/// than a KiB, so that a connection from 100 ms away brings some 600 calls in a second.
pub const WINDOW: u32 = 64 * 1024;
/// How much of answers one HTTP/2 stream holds ready to be sent.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest frame, and the table heads are compressed with: as the standard has them.
const FRAME: u32 = 16 * 1024;
const HEADER_TABLE: u32 = 4 * 1024;
/// How long a caller has to answer a GOAWAY before an idle connection is dropped.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a connection that is ending is looked at.
const ENDING: Duration = Duration::from_millis(50);
/// How often it is looked whether a connection has asked, while the process drains.
const LOOK: Duration = Duration::from_millis(2);

/// Answers one stream.
async fn answer_stream(
    worker: Arc<Worker>,
    peer: Arc<Peer>,
    busy: Busy,
    entering: Entering,
    request: Request<Incoming>,
) -> Result<Response<Reply>, h2::Error> {
    let (parts, mut body) = request.into_parts();
    let reply = match http2_head::check(&parts) {
        Ok(()) => {
            let head = Head::of_parts(&parts);
            let reply = journey::handle(&worker, &peer, busy, entering, &head, &mut body).await;
            reply.ok_or(h2::Reason::CANCEL)?
        }
        Err(fault) => {
            worker.app.metrics.unreadable_heads.inc();
            let head = RefusedHead::of_lines(Head::of_parts(&parts).lines());
            journey::unreadable(&worker.app, &peer, busy, fault, &head)
        }
    };
    if !body.is_end_stream() {
        ingress::discard(&mut body).await;
    }
    Ok(reply.into_response())
}

/// Serves a connection to its end. `entering` becomes the place at the door of its first request.
///
/// # Errors
/// If it ended before its time.
pub async fn serve(
    worker: &Arc<Worker>,
    stream: Inbound,
    peer: Peer,
    lifetime: &Lifetime,
    entering: Entering,
) -> Result<(), CloseReason> {
    let (pace, peer) = (&lifetime.pace, Arc::new(peer));
    pace.http2();
    let service = service_fn(|request| {
        let entering = worker.door.enter();
        let (worker, peer) = (Arc::clone(worker), Arc::clone(&peer));
        let (busy, seat) = (pace.request(), worker.app.crowd.seat(&peer));
        // In a place of its own: the library makes a task of every stream at once, and of those that are refused there
        // may be many times as many as of those that have a seat.
        let answering = seat.map(|seat| {
            let (worker, busy) = (Arc::clone(&worker), busy.seated(seat));
            Box::pin(answer_stream(worker, peer, busy, entering, request))
        });
        async move {
            let Some(answering) = answering else {
                // An answer of many streams takes as much memory as what it is to save. This says the same with less: by
                // the standard the request was not processed, and may be sent again.
                worker.app.metrics.requests_crowded.inc();
                return Err(h2::Error::from(h2::Reason::REFUSED_STREAM));
            };
            answering.await
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(2 * HEAD_LIMIT).expect("the limit is small"))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .header_table_size(HEADER_TABLE)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut leaving = pin!(async {
        tokio::select! {
            () = worker.app.drain.long_after(Phase::Leaving) => {}
            // One that is new may ask before it is sent away, or its caller could never ask at all.
            () = async {
                worker.app.drain.reached(Phase::Leaving).await;
                while !pace.has_asked() {
                    sleep(LOOK).await;
                }
            } => {}
        }
    });
    let mut alarm = pin!(sleep_until(lifetime.first_look()));
    let mut asked_to_leave = pin!(pace.asked_to_leave());
    let mut finishing = pin!(worker.app.drain.reached(Phase::Finishing));
    let (mut told, mut ending, mut late, mut leaves) = (false, false, false, false);
    // Its caller opens more requests until it has read the GOAWAY, so the connection stays at the door for so long.
    let mut entering = Some(entering);
    let mut known = pin!(sleep(FIRST_WORD));
    loop {
        tokio::select! {
            ended = &mut connection => return ended.map_err(CloseReason::Broken),
            () = &mut finishing, if !ending => {
                ending = true;
                alarm.set(sleep(ENDING));
            }
            // A peer that has gone silent never acknowledges the GOAWAY; once it has all its answers it is left.
            () = &mut alarm => match pace.judge() {
                Verdict::Stalled => return Err(lifetime.stalled()),
                // It had its time to acknowledge the GOAWAY.
                _ if leaves && pace.is_idle_for(farewell(worker, pace)) => return Ok(()),
                Verdict::Late if late => return Ok(()),
                // A request that is under way meets a GOAWAY, and not a closed door.
                Verdict::Late => {
                    late = true;
                    connection.as_mut().graceful_shutdown();
                    alarm.set(sleep(FAREWELL));
                }
                _ if ending && pace.is_settled() => return Ok(()),
                _ if ending || leaves => alarm.set(sleep(ENDING)),
                Verdict::Fine(until) => alarm.set(sleep_until(lifetime.judge(until))),
            },
            () = &mut asked_to_leave, if !leaves => {
                leaves = true;
                // Streams whose bodies are awaited do not end by themselves, and nothing is proved of any.
                if pace.leaves() == Some(Leave::SlowBody) && pace.only_receives() {
                    return Ok(());
                }
                connection.as_mut().graceful_shutdown();
                alarm.set(sleep(farewell(worker, pace)));
            }
            // GOAWAY: streams that are open end, new ones go elsewhere.
            () = &mut leaving, if !told => {
                told = true;
                known.set(sleep(FIRST_WORD));
                connection.as_mut().graceful_shutdown();
            }
            () = &mut known, if told && entering.is_some() => entering = None,
        }
    }
}

/// How long a caller has to acknowledge the GOAWAY by which its connection leaves.
fn farewell(worker: &Worker, pace: &Pace) -> Duration {
    match (pace.leaves(), pace.party()) {
        // A new connection waits meanwhile.
        (Some(Leave::Full | Leave::SlowBody), None) => ENDING,
        (Some(Leave::Full | Leave::SlowBody), Some(_)) => FAREWELL / 4,
        _ => worker.app.settings.listen.head_timeout,
    }
}

/// Whether a peer sent more frames than it may, by our count or by the library's.
pub fn is_flood(error: &hyper::Error) -> bool {
    is_ours(error)
        || h2_error(error)
            .is_some_and(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// Whether that, or frames no client makes, for which we ended the connection.
pub fn is_abuse(error: &hyper::Error) -> bool {
    is_ours(error) || h2_error(error).is_some_and(|error| error.is_go_away() && error.is_library())
}

fn is_ours(error: &hyper::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == ErrorKind::QuotaExceeded)
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    iter::successors(error.source(), |cause| (*cause).source())
}
