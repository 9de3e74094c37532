//! The emulator's own unsigned paths, for a sandbox that runs as a separate process: the actions of customers, and
//! the log of received requests. Faults do not apply to these paths, and the log does not include them.

use hyper::Method;
use hyper::http::request::Parts;
use serde_json::Value;

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
            let paid =
                RequestParameters::parse(body).and_then(|asked| world.pay(asked.text("prepayId")?));
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

fn done(result: Result<(), ApiFailure>) -> SandboxAnswer {
    SandboxAnswer::new(EnvelopeForm::Standard, result.map(Value::from))
}
