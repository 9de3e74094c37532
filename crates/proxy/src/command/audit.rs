//! `audit`: the journal of write and money calls, verified and searched.

mod show;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use gatepay_tenancy::settings::{Audit as AuditSettings, Settings};

use super::{Exit, complain, environment};

/// Verify the audit journal, or find a call in it.
#[derive(Subcommand)]
pub(crate) enum Audit {
    Verify(verify::Verify),
    Show(show::Show),
}

/// Which journal.
#[derive(Args)]
struct Place {
    /// The process's configuration, whose `[audit]` says where the journal is.
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
    /// The journal's folder, wherever it was copied to; no configuration is read then.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    dir: Option<PathBuf>,
}

impl Audit {
    pub(crate) fn run(self) -> Exit {
        let ended = match self {
            Self::Verify(verify) => verify.run(),
            Self::Show(show) => show.run(),
        };
        ended.unwrap_or_else(|exit| exit)
    }
}

fn configured(config: &Path) -> Result<Settings, Exit> {
    let configuration = gatepay_tenancy::load(config, &environment).map_err(|problems| {
        problems.iter().for_each(complain);
        Exit::Usage
    })?;
    Ok(configuration.settings)
}

fn journal(config: &Path, audit: Option<AuditSettings>) -> Result<AuditSettings, Exit> {
    audit.ok_or_else(|| {
        usage(format_args!(
            "{} has no [audit]: there is no journal; name a folder with --dir",
            config.display()
        ))
    })
}

fn usage(line: impl std::fmt::Display) -> Exit {
    complain(line);
    Exit::Usage
}
