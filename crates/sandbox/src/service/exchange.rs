//! One request: read, judged, executed, recorded, answered. Or whatever fault was asked for.

use std::time::Duration;

use bytes::Bytes;
use gatepay_core::header;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::http::request::Parts;

use crate::service::control;
use crate::service::disruption::{Disruption, on_the_wire};
use crate::service::fault::Fault;
use crate::service::received::Received;
use crate::service::world::{Reached, World};
use crate::wire::answer::Answer;

/// More than the largest body GatePay takes: the files of a bank account (catalogue, multipart rows).
const LONGEST_BODY: usize = 72 << 20;

/// Takes one request from its head to its answer, or to the way its connection ends instead.
pub(crate) async fn exchange(
    world: &World,
    request: Request<Incoming>,
) -> Result<Answer, Disruption> {
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
    if fault == Some(Fault::ResetBeforeReading) {
        world.state().log.push(received);
        return Err(Disruption::Reset(Bytes::new()));
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

/// What was received, as far as the head tells.
fn received(at_ms: u64, head: &Parts, reached: Option<Reached<'_>>) -> Received {
    let target = head.uri.path_and_query();
    Received {
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

/// The whole body. If it does not come whole, or is too long, there is no next request either.
async fn read(body: Incoming) -> Result<Bytes, Disruption> {
    match Limited::new(body, LONGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let answer = Answer::plain(413, "the body is larger than any that GatePay takes\n");
            Err(Disruption::Close(on_the_wire(&answer)))
        }
        Err(_broken) => Err(Disruption::Close(Bytes::new())),
    }
}

/// Verifies, executes and records, all in one go, so that requests take effect in the order recorded.
fn judge(
    world: &World,
    reached: Option<Reached<'_>>,
    head: &Parts,
    fault: Option<&Fault>,
    mut received: Received,
) -> Result<Answer, Disruption> {
    let now = world.now();
    let mut state = world.state();
    let verified = match reached {
        None => Err(Answer::plain(404, "")),
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
            .map_err(Answer::failure),
    };
    received.verified = verified.is_ok();
    let answer = match fault {
        Some(Fault::ResetBeforeReading | Fault::ResetBeforeExecuting) => {
            state.log.push(received);
            return Err(Disruption::Reset(Bytes::new()));
        }
        Some(Fault::Failure(failure)) => Answer::failure(*failure),
        Some(Fault::Status { status, body }) => Answer::plain(*status, body.clone()),
        None
        | Some(
            Fault::ResetAfterExecuting
            | Fault::Delay(_)
            | Fault::Drip(_)
            | Fault::ResetMidAnswer { .. }
            | Fault::Truncated
            | Fault::Endless { .. }
            | Fault::Garbage(_),
        ) => verified
            .and_then(|reached| state.execute(reached, head, now, &mut received))
            .unwrap_or_else(|refusal| refusal),
    };
    received.answer_status = Some(answer.status);
    received.answer_body = answer.body.clone();
    state.log.push(received);
    Ok(answer)
}

/// Sends an answer in the way a fault asks for.
async fn deliver(answer: Answer, fault: Option<Fault>) -> Result<Answer, Disruption> {
    match fault {
        None | Some(Fault::Failure(_) | Fault::Status { .. }) => Ok(answer),
        Some(Fault::Delay(by)) => {
            pause(by).await;
            Ok(answer)
        }
        Some(
            Fault::ResetBeforeReading | Fault::ResetBeforeExecuting | Fault::ResetAfterExecuting,
        ) => Err(Disruption::Reset(Bytes::new())),
        Some(Fault::Drip(pause)) => Err(Disruption::Drip(on_the_wire(&answer), pause)),
        Some(Fault::ResetMidAnswer { after_bytes }) => {
            let mut bytes = on_the_wire(&answer);
            bytes.truncate(after_bytes);
            Err(Disruption::Reset(bytes))
        }
        Some(Fault::Truncated) => {
            let mut bytes = on_the_wire(&answer);
            bytes.truncate(bytes.len() - answer.body.len().div_ceil(2));
            Err(Disruption::Close(bytes))
        }
        Some(Fault::Endless {
            max_bytes,
            max_time,
        }) => Err(Disruption::Endless {
            max_bytes,
            max_time,
        }),
        Some(Fault::Garbage(bytes)) => Err(Disruption::Close(bytes)),
    }
}

/// Waits; not even a turn of the timer if there is nothing to wait for.
async fn pause(time: Duration) {
    if time > Duration::ZERO {
        tokio::time::sleep(time).await;
    }
}
