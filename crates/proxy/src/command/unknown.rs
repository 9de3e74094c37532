//! Unknown commands: the names that other programs use, and the names here.

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Words of other programs, each with the command that does the same here.
const WORDS: [(&[&str], &str); 8] = [
    (
        &["start", "run", "server", "up", "daemon"],
        "`gatepay-proxy serve` starts the proxy, `gatepay-proxy demo` tries it without a file",
    ),
    (
        &["stop", "shutdown", "down", "kill", "quit"],
        "SIGTERM ends the process after a drain: `systemctl stop gatepay-proxy`, or `kill PID`",
    ),
    (
        &["reload", "restart"],
        "changed files are read within poll_ms, and at once on SIGHUP or POST /-/reload: `systemctl reload gatepay-proxy`",
    ),
    (
        &["validate", "test", "verify", "lint", "config", "configtest"],
        "`gatepay-proxy check` checks the configuration",
    ),
    (
        &["status", "info", "health", "ps", "top"],
        "the running process shows its status at admin.address: http://127.0.0.1:9090/ by default",
    ),
    (
        &["logs", "log", "tail"],
        "access lines go to standard output, the program's log to standard error: `journalctl -u gatepay-proxy`",
    ),
    (
        &["init", "setup", "install", "new"],
        "`gatepay-proxy tenant add` makes a tenant, `gatepay-proxy state init` the state folder",
    ),
    (
        &["add", "list", "rotate", "remove", "suspend"],
        "that is about tenants: `gatepay-proxy tenant --help`",
    ),
];

/// Adds the name that an unknown command may have here to the error about it.
pub(crate) fn suggest(error: &mut Error) {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    let given = given.to_lowercase();
    let Some((_, tip)) = WORDS.iter().find(|(words, _)| words.contains(&&*given)) else {
        return;
    };
    // A word that only looks like another command would mislead: `start` is no `state`.
    error.remove(ContextKind::SuggestedSubcommand);
    let tip = ContextValue::StyledStrs(vec![(*tip).into()]);
    error.insert(ContextKind::Suggested, tip);
}
