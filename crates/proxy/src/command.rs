//! The commands, one file each, and what they share: how they print and how they end.

pub(crate) mod audit;
pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod explain;
mod from;
pub(crate) mod operations;
pub(crate) mod sandbox;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod sign;
mod signals;
pub(crate) mod state;
mod suspended;
pub(crate) mod tenant;

use std::env;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use gatepay_tenancy::settings::LogFormat;
use tracing_appender::non_blocking::WorkerGuard;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// Everything went well.
    Fine,
    /// It could not start, or what it was asked to do did not work.
    Failed,
    /// It drained past the deadline.
    Late,
    /// What was compared differs.
    Changes,
    /// What was read is not as it was written.
    Altered,
    /// The command line or the configuration is wrong.
    Usage,
}

impl ExitStatus {
    /// What the process that started this one sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed => 1,
            Self::Late => 2,
            Self::Changes => 3,
            Self::Altered => 4,
            Self::Usage => 64,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(exit: ExitStatus) -> Self {
        Self::from(exit.code())
    }
}

/// Writes a line where results go.
pub(crate) fn say(line: impl fmt::Display) {
    // Whoever reads may be gone (`| head`); that is no fault of the command.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Writes a line where complaints go.
pub(crate) fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Complains, and ends as failed.
pub(crate) fn fail(line: impl fmt::Display) -> ExitStatus {
    complain(line);
    ExitStatus::Failed
}

/// Sends the program's own log to standard error, until what it gives is dropped. Access lines go elsewhere.
///
/// Whoever reads it and stalls must not stop requests: lines that are not taken in time are lost.
#[must_use = "the log ends with it"]
pub(crate) fn log_to_stderr(format: LogFormat) -> WorkerGuard {
    let level = env::var("GATEPAY_LOG")
        .ok()
        .and_then(|level| level.parse().ok())
        .unwrap_or(tracing::Level::INFO);
    let (stderr, guard) = tracing_appender::non_blocking(io::stderr());
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    // Fails only if a log was set before, which then goes on.
    let _ = match format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Human => log.try_init(),
    };
    guard
}

/// What is said of a file beside those of tenants.
pub(crate) const UNREAD: &str = "is not read: only names that end in .toml or .json are";

/// A program's environment, for configuration that names variables.
pub(crate) fn environment(name: &str) -> Option<String> {
    env::var(name).ok()
}
