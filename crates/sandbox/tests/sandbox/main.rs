//! What a running sandbox does, seen by a client that sees every byte.
//!
//! - `service`: orders over HTTP, recording, the emulator's own paths, start and stop
//! - `faults`: every fault, as it looks on the wire
//! - `tls`: the same over TLS, with a certificate for `localhost` made for nothing else
//! - `support`: the sandbox and the client they share

#[cfg(test)]
mod faults;
#[cfg(test)]
mod service;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
