//! The commands, one file each, and what they share: how they print and how they end.

pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod explain;
pub(crate) mod operations;
pub(crate) mod sandbox;
pub(crate) mod serve;
pub(crate) mod sign;
pub(crate) mod tenant;

use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gatepay_core::SecretKey;
use gatepay_tenancy::settings::LogFormat;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything went well.
    Fine,
    /// It could not start, or what it was asked to do did not work.
    Failed,
    /// It drained past the deadline.
    Late,
    /// The command line or the configuration is wrong.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Late => 2,
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

/// Where a secret is. Never on the command line, which every process of the machine may read.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SecretFrom {
    /// A file that holds the secret; one final line feed is not part of it.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// An environment variable that holds the secret.
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
}

impl SecretFrom {
    /// The text, as it stands there, but for one final LF or CR LF of a file.
    pub(crate) fn text(&self) -> Result<Zeroizing<String>, String> {
        match (&self.secret_file, &self.secret_env) {
            (Some(path), _) => {
                let text = fs::read_to_string(path)
                    .map_err(|error| format!("{}: {}", path.display(), error.kind()))?;
                let text = Zeroizing::new(text);
                let line = text.strip_suffix('\n').map_or(text.as_str(), |line| {
                    line.strip_suffix('\r').unwrap_or(line)
                });
                Ok(Zeroizing::new(line.to_owned()))
            }
            (None, Some(name)) => env::var(name)
                .map(Zeroizing::new)
                .map_err(|_| format!("environment variable {name} is not set")),
            (None, None) => Err("name the secret with --secret-file or --secret-env".to_owned()),
        }
    }

    /// The secret.
    pub(crate) fn key(&self) -> Result<SecretKey, String> {
        SecretKey::new(self.text()?).map_err(|error| format!("the secret {error}"))
    }
}

/// Sends the program's own log to standard error. Access lines go elsewhere.
pub(crate) fn log_to_stderr(format: LogFormat) {
    let level = env::var("GATEPAY_LOG")
        .ok()
        .and_then(|level| level.parse().ok())
        .unwrap_or(tracing::Level::INFO);
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_target(false);
    // Fails only if a log was set before, which then goes on.
    let _ = match format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Human => log.try_init(),
    };
}

/// Waits for SIGTERM or Ctrl-C.
pub(crate) fn wait_for_signal() -> io::Result<&'static str> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            Ok(tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            })
        })
}

/// A program's environment, for configuration that names variables.
pub(crate) fn environment(name: &str) -> Option<String> {
    env::var(name).ok()
}
