//! The commands, one file each, and their shared parts: output and exit codes.

mod admin_client;
pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod call;
pub(crate) mod caps;
pub(crate) mod check;
pub(crate) mod completions;
mod config_file;
pub(crate) mod demo;
pub(crate) mod explain;
pub(crate) mod find;
mod from;
pub(crate) mod halt;
pub(crate) mod ledger;
mod line_difference;
pub(crate) mod notification_endpoints;
pub(crate) mod notifications;
pub(crate) mod operations;
pub(crate) mod probe;
pub(crate) mod sandbox;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod sign;
mod signals;
mod start_fault;
pub(crate) mod state;
pub(crate) mod statement;
pub(crate) mod store;
mod suspended;
pub(crate) mod tenant;
mod terminal_text;
pub(crate) mod unknown;
pub(crate) mod version;

use std::env;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use gatepay_proxy::process::clock::Clock;
use gatepay_proxy::record::log_level::LogLevel;
use gatepay_proxy::record::program_log::ProgramLogFormat;
use gatepay_tenancy::Problem;
use gatepay_tenancy::settings::LogFormat;
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::terminal_text::{harmless_lines, json_line};

/// The result of a command, which becomes its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// The command succeeded.
    Fine,
    /// The command could not start, or its work failed.
    Failed,
    /// The drain passed its deadline.
    Late,
    /// The compared configurations differ.
    Changes,
    /// The journal is not as it was written.
    Altered,
    /// The command has found nothing out.
    Inconclusive,
    /// GatePay does not keep accounts apart.
    NotApart,
    /// The command line or the configuration is wrong.
    Usage,
}

impl ExitStatus {
    /// The exit code that the parent process sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed => 1,
            Self::Late => 2,
            Self::Changes | Self::Inconclusive => 3,
            Self::Altered | Self::NotApart => 4,
            Self::Usage => 64,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(exit: ExitStatus) -> Self {
        Self::from(exit.code())
    }
}

/// Writes lines of results to standard output. Whatever a text contains, it steers no terminal.
pub(crate) fn say(line: impl fmt::Display) {
    // The reader may be gone (`| head`); that is no fault of the command.
    let _ = writeln!(io::stdout().lock(), "{}", harmless_lines(&line.to_string()));
}

/// Writes a result as JSON in one line.
pub(crate) fn say_json(value: &Value) {
    say(json_line(value));
}

/// Writes a problem as one member of a command's JSON.
pub(crate) fn problem_json(problem: &Problem) -> Value {
    json!({ "file": problem.file, "line": problem.line, "key": problem.key, "text": problem.text })
}

/// Writes a line about a problem to standard error.
pub(crate) fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{}", harmless_lines(&line.to_string()));
}

/// Writes a line about a problem, and returns the status of a failed command.
pub(crate) fn fail(line: impl fmt::Display) -> ExitStatus {
    complain(line);
    ExitStatus::Failed
}

/// Sends the program's own log to standard error until the returned guard is dropped. Access lines go elsewhere.
///
/// The level can be changed by the [`LogLevel`] that is returned.
/// A stalled reader of the log must not stop requests: lines that are not written in time are lost.
#[must_use = "the log ends with it"]
pub(crate) fn log_to_stderr(format: LogFormat) -> Result<(WorkerGuard, LogLevel), String> {
    let (filter, level) = LogLevel::starting_at(first_level()?);
    let (stderr, guard) = tracing_appender::non_blocking(io::stderr());
    // This fails only if a log was set before; that log then stays in use.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(io::stderr().is_terminal())
        .event_format(ProgramLogFormat::new(format, Clock::system()));
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    Ok((guard, level))
}

/// The level that the environment asks for. A level that is misspelt would hide the lines it was set for.
fn first_level() -> Result<LevelFilter, String> {
    match env::var_os("GATEPAY_LOG") {
        // An empty variable is how units and shells unset one.
        None => Ok(LevelFilter::INFO),
        Some(name) if name.is_empty() => Ok(LevelFilter::INFO),
        Some(name) => {
            let name = name.to_string_lossy();
            LogLevel::parse(&name).map_err(|error| format!("GATEPAY_LOG: `{name}` {error}"))
        }
    }
}

/// The note about an unread file in a folder of tenants.
pub(crate) const UNREAD: &str = "is not read: only names that end in .toml or .json are";

/// Reads a variable of the process's environment, for configurations that name variables.
pub(crate) fn environment(name: &str) -> Option<String> {
    env::var(name).ok()
}
