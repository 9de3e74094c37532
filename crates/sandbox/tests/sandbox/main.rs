//! What a running sandbox does, seen by a client that sees every byte.
//!
//! - `service`: orders over HTTP, recording, the emulator's own paths, start and stop
//! - `rows`: every operation of the catalogue is answered, under every path it has
//! - `client_types`: every answer against the types of GatePay's official client libraries
//! - `client_table`: the members and types that the libraries decode
//! - `accounts`: in whose name a call may be made, and money as it moves over HTTP
//! - `faults`: every fault, as it looks on the wire
//! - `tls`: the same over TLS, with a certificate for `localhost` made for nothing else
//! - `support`: the sandbox and the client they share

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod client_table;
#[cfg(test)]
mod client_types;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod service;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
