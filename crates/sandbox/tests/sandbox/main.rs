//! Tests of a running sandbox, through a client that sees every byte.
//!
//! - `service`: orders over HTTP, recording, the emulator's own paths, start and stop
//! - `rows`: every operation of the catalogue is answered, under every path it has
//! - `client_types`: every answer against the types of GatePay's official client libraries
//! - `client_table`: the members and types that the libraries decode
//! - `accounts`: the accounts that a call may act for, and movements of money over HTTP
//! - `faults`: every fault, as it looks on the wire
//! - `notifications`: the notifications that the sandbox sends, their repetition, and their receivers
//! - `receiver`: a receiver of notifications that keeps every byte
//! - `tls`: the sandbox over TLS, with a certificate made for `localhost` only
//! - `support`: the sandbox and the client that these modules share

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod client_table;
#[cfg(test)]
mod client_types;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod notifications;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod service;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
