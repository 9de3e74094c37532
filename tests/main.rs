//! What the program does, seen through its real listener. One binary, so that it links once.

mod support;

// A request that is fine arrives at GatePay as it was sent, signed by the institution.
mod forwarding;
// A request that is not from who it says, not fresh, or not new is refused, each for its own reason.
mod authentication;
