//! Folder tests: read, check and edit whole folders of configuration, as an operator has them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

/// An edit suspends, re-keys or removes a tenant in place, or changes nothing.
mod edits;
/// The files of `config/` are valid and show the defaults, and their commented keys are valid keys.
mod examples;
/// `[notifications]` of `proxy.toml` and of tenants: defaults, and the rules for endpoints.
mod notifications;
/// Configuration switches, corrects and adds rows of the catalogue, and never opens a reserved row to tenants.
mod operations;
/// The institution's own operators, as parties beside the tenants.
mod operators;
/// A plan states the changes between two folders in words and as JSON, and marks the changes that need a review.
mod plan;
/// Loading reports every mistake at once, each with its place.
mod problems;
/// The registry finds tenants in any layout of their files.
mod registry;
/// A program that follows changes of its files is as one that starts on them.
mod reloads;
/// A problem never contains a byte of a value.
mod secrecy;
/// The permitted and the forbidden places of secrets.
mod secrets;
/// `[store]`: engines, passwords.
mod store;
/// A change is noticed, read once, and applied as a whole or not at all.
mod watch;

mod support;
