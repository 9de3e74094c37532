//! The handling of one request: reading, verification, execution, logging and answer, or the injected fault.

use std::time::Duration;

use bytes::Bytes;
use gatepay_core::header;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::http::request::Parts;

use crate::service::control;
use crate::service::disruption::{ConnectionDisruption, on_the_wire};
use crate::service::fault::InjectedFault;
use crate::service::received::ReceivedRequest;
use crate::service::world::{ReachedOperation, SandboxWorld};
use crate::wire::answer::SandboxAnswer;

/// More than the largest body GatePay takes: the files of a bank account (catalogue, multipart rows).
const LONGEST_BODY: usize = 72 << 20;

/// Handles one request from its head to its answer, or to the disruption of its connection.
pub(crate) async fn exchange(
    world: &SandboxWorld,
    request: Request<Incoming>,
) -> Result<SandboxAnswer, ConnectionDisruption> {
    let at_ms = world.now();
    let (head, body) = request.into_parts();
    if control::is_own(head.uri.path()) {
        let body = read(body).await?;
        return Ok(control::answer(world, &head, &body));
    }

    let reached = world.reach(&head);
    let account = head.headers.get(header::ON_BEHALF_OF);
    let account = account.and_then(|value| value.to_str().ok());
    let fault = world.state().faults.strike(head.uri.path(), account);
    let mut received = received(at_ms, &head, reached);
    if fault == Some(InjectedFault::ResetBeforeReading) {
        world.state().log.push(received);
        return Err(ConnectionDisruption::Reset(Bytes::new()));
    }
    match read(body).await {
        Ok(body) => received.body = body,
        Err(unread) => {
            world.state().log.push(received);
            return Err(unread);
        }
    }

    let answer = judge(world, reached, &head, fault.as_ref(), received)?;
    pause(world.answer_delay).await;
    deliver(answer, fault).await
}

/// The log entry of a request, with the facts of its head.
fn received(at_ms: u64, head: &Parts, reached: Option<ReachedOperation<'_>>) -> ReceivedRequest {
    let target = head.uri.path_and_query();
    ReceivedRequest {
        at_ms,
        method: head.method.to_string(),
        target: target.map_or_else(String::new, ToString::to_string),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| {
                let value = Bytes::copy_from_slice(value.as_bytes());
                (name.as_str().to_owned(), value)
            })
            .collect(),
        body: Bytes::new(),
        operation: reached.map(|reached| reached.operation.name.to_string()),
        verified: false,
        executed: false,
        answer_status: None,
        answer_body: Bytes::new(),
    }
}

/// Reads the whole body. An incomplete or too long body ends the connection.
async fn read(body: Incoming) -> Result<Bytes, ConnectionDisruption> {
    match Limited::new(body, LONGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let answer =
                SandboxAnswer::plain(413, "the body is larger than any that GatePay takes\n");
            Err(ConnectionDisruption::Close(on_the_wire(&answer)))
        }
        Err(_broken) => Err(ConnectionDisruption::Close(Bytes::new())),
    }
}

/// Verifies, executes and logs a request under one lock, so that requests take effect in the order of the log.
fn judge(
    world: &SandboxWorld,
    reached: Option<ReachedOperation<'_>>,
    head: &Parts,
    fault: Option<&InjectedFault>,
    mut received: ReceivedRequest,
) -> Result<SandboxAnswer, ConnectionDisruption> {
    let now = world.now();
    let mut state = world.state();
    let verified = match reached {
        None => Err(SandboxAnswer::plain(404, "")),
        Some(reached) => state
            .gate
            .verify(
                reached.operation,
                reached.method,
                &head.headers,
                &received.body,
                now,
            )
            .map(|()| reached)
            .map_err(SandboxAnswer::failure),
    };
    received.verified = verified.is_ok();
    let answer = match fault {
        Some(InjectedFault::ResetBeforeReading | InjectedFault::ResetBeforeExecuting) => {
            state.log.push(received);
            return Err(ConnectionDisruption::Reset(Bytes::new()));
        }
        Some(InjectedFault::Failure(failure)) => SandboxAnswer::failure(*failure),
        Some(InjectedFault::Status { status, body }) => SandboxAnswer::plain(*status, body.clone()),
        None
        | Some(
            InjectedFault::ResetAfterExecuting
            | InjectedFault::Delay(_)
            | InjectedFault::Drip(_)
            | InjectedFault::ResetMidAnswer { .. }
            | InjectedFault::Truncated
            | InjectedFault::Endless { .. }
            | InjectedFault::Garbage(_),
        ) => verified
            .and_then(|reached| state.execute(reached, head, now, &mut received))
            .unwrap_or_else(|refusal| refusal),
    };
    world.announce(&mut state);
    received.answer_status = Some(answer.status);
    received.answer_body = answer.body.clone();
    state.log.push(received);
    Ok(answer)
}

/// Delivers an answer in the way that the fault prescribes.
async fn deliver(
    answer: SandboxAnswer,
    fault: Option<InjectedFault>,
) -> Result<SandboxAnswer, ConnectionDisruption> {
    match fault {
        None | Some(InjectedFault::Failure(_) | InjectedFault::Status { .. }) => Ok(answer),
        Some(InjectedFault::Delay(by)) => {
            pause(by).await;
            Ok(answer)
        }
        Some(
            InjectedFault::ResetBeforeReading
            | InjectedFault::ResetBeforeExecuting
            | InjectedFault::ResetAfterExecuting,
        ) => Err(ConnectionDisruption::Reset(Bytes::new())),
        Some(InjectedFault::Drip(pause)) => {
            Err(ConnectionDisruption::Drip(on_the_wire(&answer), pause))
        }
        Some(InjectedFault::ResetMidAnswer { after_bytes }) => {
            let mut bytes = on_the_wire(&answer);
            bytes.truncate(after_bytes);
            Err(ConnectionDisruption::Reset(bytes))
        }
        Some(InjectedFault::Truncated) => {
            let mut bytes = on_the_wire(&answer);
            bytes.truncate(bytes.len() - answer.body.len().div_ceil(2));
            Err(ConnectionDisruption::Close(bytes))
        }
        Some(InjectedFault::Endless {
            max_bytes,
            max_time,
        }) => Err(ConnectionDisruption::Endless {
            max_bytes,
            max_time,
        }),
        Some(InjectedFault::Garbage(bytes)) => Err(ConnectionDisruption::Close(bytes)),
    }
}

/// Sleeps for `time`; a zero `time` returns at once, without a turn of the timer.
async fn pause(time: Duration) {
    if time > Duration::ZERO {
        tokio::time::sleep(time).await;
    }
}
