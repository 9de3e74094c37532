//! Whole folders of configuration, as an operator has them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

/// Tenants are suspended, re-keyed and removed in place, or nothing is changed at all.
mod edits;
/// The files of `config/` are good, and say what they claim to say.
mod examples;
/// Rows of the catalogue are switched, corrected and added, and never opened.
mod operations;
/// The institution's own operators, beside the tenants.
mod operators;
/// What changes between two folders is told in words and as JSON, and what needs a second look is named.
mod plan;
/// Every mistake is reported, with its place, together with all others.
mod problems;
/// Tenants are found, whichever way their files are laid out.
mod registry;
/// No byte of a value ever gets into a problem.
mod secrecy;
/// Where secrets may stand, and where not.
mod secrets;
/// A change is seen, read once, and used whole or not at all.
mod watch;

mod support;
