//! `audit`: the journal of write and money calls, verified and searched.

mod csv;
mod fields;
mod names;
pub(super) mod show;
pub(super) mod time;
mod verify;

use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use gatepay_core::{Catalogue, SigningKey};
use gatepay_proxy::journal::folder::DiskFolder;
use gatepay_proxy::journal::head::{HeadFolder, KeptHeads};
use gatepay_proxy::journal::verify::{ChainHead, ExpectedHeads, VerifyReport, verify_against};
use gatepay_tenancy::Registry;
use gatepay_tenancy::load::{WhatIf, load_readable};

use super::config_file::ConfigFile;
use super::from::SecretFrom;
use super::{ExitStatus, complain, environment, fail};

/// Verify the audit journal, or find calls and changes in it.
#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    Verify(verify::AuditVerify),
    Show(Box<show::AuditShow>),
}

/// The journal to read, and the heads to compare its end with.
#[derive(Args)]
pub(super) struct JournalPlace {
    #[command(flatten)]
    config: ConfigFile,
    /// The journal's folder, or a copy of it; no configuration is read then.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// The file that holds the journal's key, to read a copy of the journal without the proxy's configuration.
    #[arg(long, value_name = "FILE", requires = "dir")]
    key_file: Option<PathBuf>,
    /// The proxy's `state_dir`, or a copy of it, with the heads of the last runs.
    #[arg(long, value_name = "FOLDER", requires = "dir")]
    state_dir: Option<PathBuf>,
    /// A head from the log, `run.seq.link`; may be repeated.
    #[arg(long, value_name = "HEAD")]
    head: Vec<ChainHead>,
    /// The first run that must be present; files of earlier runs were moved away.
    #[arg(long, value_name = "RUN", default_value_t = 1)]
    from_run: u32,
}

/// The journal that a `JournalPlace` names.
pub(super) struct AuditSubject {
    pub(super) folder: PathBuf,
    /// `None` if no `--key-file` goes with `--dir`.
    pub(super) key: Option<SigningKey>,
    state_dir: Option<PathBuf>,
    /// The note that is printed if there is no state folder.
    without: &'static str,
    /// The catalogue and the registry of the configuration; `None` with `--dir`.
    configuration: Option<(Catalogue, Registry)>,
}

impl AuditCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let ended = match self {
            Self::Verify(verify) => verify.run(),
            Self::Show(show) => show.run(),
        };
        ended.unwrap_or_else(|exit| exit)
    }
}

impl JournalPlace {
    /// The journal of a configuration, or of a folder, without heads to compare its end with.
    pub(super) fn of(config: ConfigFile, dir: Option<PathBuf>, key_file: Option<PathBuf>) -> Self {
        Self {
            config,
            dir,
            key_file,
            state_dir: None,
            head: Vec::new(),
            from_run: 1,
        }
    }

    pub(super) fn subject(&self) -> Result<AuditSubject, ExitStatus> {
        let Some(dir) = &self.dir else {
            return self.configured();
        };
        let key = self.key_file.as_deref().map(|file| {
            let secret = SecretFrom::file(file).key().map_err(usage)?;
            Ok(SigningKey::new(&secret))
        });
        Ok(AuditSubject {
            folder: dir.clone(),
            key: key.transpose()?,
            state_dir: self.state_dir.clone(),
            without: "no --state-dir is given: the end of the journal is not compared with the heads in state_dir",
            configuration: None,
        })
    }

    /// The journal of the configuration. Faulty tenant files are named, and the journal is read nevertheless.
    fn configured(&self) -> Result<AuditSubject, ExitStatus> {
        let what_if = WhatIf::default();
        let (configuration, problems) = load_readable(self.config.path(), &environment, what_if);
        problems.iter().for_each(complain);
        let settings = configuration.settings;
        let Some(audit) = settings.audit else {
            return Err(match problems.len() {
                0 => usage(format_args!(
                    "{} has no [audit]: there is no journal; name a folder with --dir",
                    self.config.path().display()
                )),
                _ => ExitStatus::Usage,
            });
        };
        Ok(AuditSubject {
            folder: audit.dir,
            key: Some(audit.key),
            state_dir: settings.state_dir,
            without: "no state_dir is configured: the end of the journal is compared only with the heads beside the journal",
            configuration: Some((configuration.catalogue, configuration.registry)),
        })
    }
}

impl AuditSubject {
    /// The kept heads, read before the journal, so that no head is newer than the records read.
    fn heads(&self, key: &SigningKey) -> Result<Option<KeptHeads>, ExitStatus> {
        let heads = HeadFolder::of(self.state_dir.as_deref(), &self.folder);
        let kept = heads.read(key).map_err(|error| self.unreadable(&error))?;
        Ok((self.state_dir.is_some() || !kept.is_empty()).then_some(kept))
    }

    fn verify(
        &self,
        place: &JournalPlace,
        key: &SigningKey,
        kept: Option<&KeptHeads>,
    ) -> Result<VerifyReport, ExitStatus> {
        let known = ExpectedHeads {
            from: place.from_run,
            heads: &place.head,
            kept,
        };
        let report = verify_against(&DiskFolder::at(&self.folder), key, &known);
        report.map_err(|error| self.unreadable(&error))
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> ExitStatus {
        fail(format_args!("{}: {error}", self.folder.display()))
    }
}

fn usage(line: impl std::fmt::Display) -> ExitStatus {
    complain(line);
    ExitStatus::Usage
}
