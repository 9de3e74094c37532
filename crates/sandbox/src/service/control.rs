//! The emulator's own unsigned paths, for a sandbox that runs as a separate process: the actions of customers, and
//! the log of received requests. Faults do not apply to these paths, and the log does not include them.

use hyper::Method;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::notify::sent::SentNotification;
use crate::service::received::ReceivedRequest;
use crate::service::world::SandboxWorld;
use crate::wire::answer::{EnvelopeForm, SandboxAnswer};
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The prefix of the sandbox's own paths. No path of GatePay's starts with it.
const PREFIX: &str = "/-/sandbox/";

pub(crate) fn is_own(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// Answers a request to an own path.
pub(crate) fn answer(world: &SandboxWorld, head: &Parts, body: &[u8]) -> SandboxAnswer {
    match (&head.method, &head.uri.path()[PREFIX.len()..]) {
        (&Method::POST, "pay") => {
            let paid = RequestParameters::parse(body)
                .and_then(|asked| world.pay(None, asked.text("prepayId")?));
            done(paid)
        }
        (&Method::POST, "fund") => {
            let funded = RequestParameters::parse(body).and_then(|asked| {
                let (account, currency) = (asked.text("account")?, asked.text("currency")?);
                world.fund(account, currency, asked.amount("amount")?)
            });
            done(funded)
        }
        (&Method::POST, "deposit") => {
            let deposited = RequestParameters::parse(body).and_then(|asked| {
                let (address, currency) = (asked.text("address")?, asked.text("currency")?);
                world.deposit(address, currency, asked.amount("amount")?)
            });
            done(deposited)
        }
        (&Method::POST, "collect") => {
            let collected = RequestParameters::parse(body).and_then(|asked| {
                let (id, currency) = (asked.text("subscriptionOrderNo")?, asked.text("currency")?);
                world.collect(id, currency, asked.amount("amount")?)
            });
            done(collected)
        }
        (&Method::POST, "notify") => {
            let sent = RequestParameters::parse(body).and_then(|asked| notify(world, &asked));
            SandboxAnswer::new(EnvelopeForm::Standard, sent.map(|id| json!({ "id": id })))
        }
        (&Method::GET, "notifications") => {
            let sent: Option<Vec<_>> = world.sender.as_ref().map(|sender| {
                let outbox = sender.outbox();
                outbox.log.all().map(SentNotification::to_json).collect()
            });
            SandboxAnswer::json(&sent.unwrap_or_default())
        }
        (&Method::GET, "received") => {
            let state = world.state();
            SandboxAnswer::json(
                &state
                    .log
                    .all()
                    .map(ReceivedRequest::to_json)
                    .collect::<Vec<_>>(),
            )
        }
        _ => SandboxAnswer::plain(404, ""),
    }
}

/// Sends a given body, or the body of an earlier notification.
fn notify(world: &SandboxWorld, asked: &RequestParameters) -> Result<u64, ApiFailure> {
    if let Some(id) = asked.optional_integer("id")? {
        return world.notify_again(id);
    }
    let body = match asked.members().get("body") {
        None | Some(Value::Null) => return Err(ApiFailure::Malformed("body")),
        Some(Value::String(text)) => text.clone(),
        Some(json) => json.to_string(),
    };
    world.notify(asked.optional_text("url")?, body.into())
}

fn done(result: Result<(), ApiFailure>) -> SandboxAnswer {
    SandboxAnswer::new(EnvelopeForm::Standard, result.map(Value::from))
}
