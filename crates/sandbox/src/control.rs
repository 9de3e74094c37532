//! The emulator's own paths, unsigned: what a customer or an onlooker does, for whoever runs the sandbox by itself.
//! Faults do not strike them, and they are not recorded.

use hyper::Method;
use hyper::http::request::Parts;

use crate::answer::Answer;
use crate::body::Body;
use crate::exchange::World;
use crate::received::Received;

/// No path of GatePay's starts like this.
const PREFIX: &str = "/-/sandbox/";

pub(crate) fn is_own(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// Answers a request to an own path.
pub(crate) fn answer(world: &World, head: &Parts, body: &[u8]) -> Answer {
    match (&head.method, &head.uri.path()[PREFIX.len()..]) {
        (&Method::POST, "pay") => {
            Answer::standard(Body::parse(body).and_then(|body| world.pay(body.text("prepayId")?)))
        }
        (&Method::GET, "received") => {
            let state = world.state();
            Answer::json(&state.log.all().map(Received::to_json).collect::<Vec<_>>())
        }
        _ => Answer::plain(404, ""),
    }
}
