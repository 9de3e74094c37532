//! Panics: the report names the place, and never the data in use.
//!
//! A panic's message may contain such data: the standard library's own messages repeat a text that was cut in the wrong
//! place, or an unexpected value. So a message is repeated only if it stands word for word in the program's text.
//! Otherwise the place must suffice.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write as _};
use std::panic::{self, PanicHookInfo};
use std::thread;

/// The text in place of a formatted message.
const WITHHELD: &str = "(withheld: it may hold data of a request)";

/// Installs the panic hook, which reports panics of this process in its log, or to standard error before it has a log.
pub fn report() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let current = thread::current();
        let (thread, said) = (current.name().unwrap_or("?"), literal(info));
        // Only with RUST_BACKTRACE: a caller that could cause panics could keep the machine busy with backtraces.
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let backtrace = backtrace.as_deref();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(place, thread, said, backtrace, "panicked");
        } else {
            let backtrace = backtrace.unwrap_or_default();
            let text = format!("panicked at {place}, thread {thread}: {said}\n{backtrace}");
            // A failed report cannot be reported.
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }));
}

/// The message, if it is a literal of the program's text: a formatted message is a `String`.
fn literal(info: &PanicHookInfo<'_>) -> &'static str {
    let message = info.payload().downcast_ref::<&'static str>();
    message.copied().unwrap_or(WITHHELD)
}
