//! Panics: where one happened, and never what was being worked on.
//!
//! A panic's message may hold that: the standard library's own repeat a text that was cut in the wrong place, or the value
//! nobody expected. So only a message that stands word for word in the program's text is repeated; the place tells the rest.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write as _};
use std::panic::{self, PanicHookInfo};
use std::thread;

/// What is said instead of a message that was put together.
const WITHHELD: &str = "(not repeated: it may hold what was being worked on)";

/// From now on panics of this process are reported so: in its log, once it has one, else to standard error.
pub fn report() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let current = thread::current();
        let (thread, said) = (current.name().unwrap_or("?"), literal(info));
        // Only with RUST_BACKTRACE: who could cause panics could keep the machine busy with it.
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let backtrace = backtrace.as_deref();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(place, thread, said, backtrace, "panicked");
        } else {
            let backtrace = backtrace.unwrap_or_default();
            let text = format!("panicked at {place}, thread {thread}: {said}\n{backtrace}");
            // There is nobody left to tell.
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }));
}

/// The message, if it holds nothing but what the program's text does: what was put together is a `String`.
fn literal(info: &PanicHookInfo<'_>) -> &'static str {
    let message = info.payload().downcast_ref::<&'static str>();
    message.copied().unwrap_or(WITHHELD)
}
