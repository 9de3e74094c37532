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
pub(crate) mod tenant;

use std::env;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use gatepay_tenancy::settings::LogFormat;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_appender::non_blocking::WorkerGuard;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything went well.
    Fine,
    /// It could not start, or what it was asked to do did not work.
    Failed,
    /// It drained past the deadline.
    Late,
    /// What was compared differs.
    Changes,
    /// The command line or the configuration is wrong.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Late => 2,
            Exit::Changes => 3,
            Exit::Usage => 64,
        })
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
pub(crate) fn fail(line: impl fmt::Display) -> Exit {
    complain(line);
    Exit::Failed
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

/// Waits for SIGTERM or Ctrl-C.
pub(crate) fn wait_for_signal() -> io::Result<&'static str> {
    Ok(Signals::listen()?.wait())
}

/// SIGTERM and Ctrl-C from the moment this is made: one that comes before it is waited for ends nothing by itself.
pub(crate) struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(entered);
        Ok(Self {
            runtime,
            terminate,
            interrupt,
        })
    }

    /// SIGHUP, likewise, for [`wait_and`](Self::wait_and).
    pub(crate) fn hangup(&self) -> io::Result<Signal> {
        let _entered = self.runtime.enter();
        signal(SignalKind::hangup())
    }

    /// The next one.
    pub(crate) fn wait(&mut self) -> &'static str {
        let (terminate, interrupt) = (&mut self.terminate, &mut self.interrupt);
        self.runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        })
    }

    /// The next one; meanwhile every hang-up is a reload.
    pub(crate) fn wait_and(&mut self, hangup: &mut Signal, reload: impl Fn()) -> &'static str {
        let (terminate, interrupt) = (&mut self.terminate, &mut self.interrupt);
        self.runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return "SIGTERM",
                    _ = interrupt.recv() => return "SIGINT",
                    _ = hangup.recv() => reload(),
                }
            }
        })
    }
}

/// A program's environment, for configuration that names variables.
pub(crate) fn environment(name: &str) -> Option<String> {
    env::var(name).ok()
}
