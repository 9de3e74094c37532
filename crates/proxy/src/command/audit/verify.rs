//! `audit verify`.

use std::path::PathBuf;

use clap::Args;
use gatepay_core::SigningKey;
use gatepay_proxy::journal::folder::Disk;
use gatepay_proxy::journal::head::HeadFolder;
use gatepay_proxy::journal::verify::{Head, Known, Report, verify_against};

use super::{Place, configured, journal, usage};
use crate::command::from::SecretFrom;
use crate::command::{Exit, complain, fail, say};

/// Verify that no record was altered, removed, inserted or reordered.
///
/// The end of the last run can be cut without a trace in the journal itself, so it is compared with the heads that the
/// proxy keeps in `state_dir`. A head is in the proxy's log too, once a minute
/// (`"message":"audit journal","head":"3.1207.…"`): give one or more with --head, and a cut shows although `state_dir`
/// was changed as well. Works beside a running proxy. Exits with 0 if everything is as it was written, 1 if not, 64 for
/// bad usage.
#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    place: Place,
    /// The file that holds the journal's key, if it is looked at away from the proxy.
    #[arg(long, value_name = "FILE", requires = "dir")]
    key_file: Option<PathBuf>,
    /// The proxy's `state_dir`, or a copy of it, with the heads of the last runs.
    #[arg(long, value_name = "FOLDER", requires = "dir")]
    state_dir: Option<PathBuf>,
    /// A head from the log, `run.seq.link`; may be repeated.
    #[arg(long, value_name = "HEAD")]
    head: Vec<Head>,
    /// The first run that has to be there; files of earlier ones were moved away.
    #[arg(long, value_name = "RUN", default_value_t = 1)]
    from_run: u32,
}

/// What `verify` looks at.
struct Subject {
    folder: PathBuf,
    key: SigningKey,
    state_dir: Option<PathBuf>,
    /// What is said if there is no state folder.
    without: &'static str,
}

impl Verify {
    pub(super) fn run(&self) -> Result<Exit, Exit> {
        let subject = self.subject()?;
        let (folder, key) = (&subject.folder, &subject.key);
        let failed = |error| fail(format_args!("{}: {error}", folder.display()));
        // Before the journal is read, so that none is newer than what is read of it.
        let heads = HeadFolder::of(subject.state_dir.as_deref(), folder);
        let kept = heads.read(key).map_err(failed)?;
        let known = Known {
            from: self.from_run,
            heads: &self.head,
            kept: (subject.state_dir.is_some() || !kept.is_empty()).then_some(&kept),
        };
        let report = verify_against(&Disk::at(folder), key, &known).map_err(failed)?;
        if subject.state_dir.is_none() {
            say(format_args!("note: {}", subject.without));
        }
        tell(&report)
    }

    fn subject(&self) -> Result<Subject, Exit> {
        match (&self.place.dir, &self.key_file) {
            (Some(dir), Some(file)) => {
                let secret = SecretFrom::file(file).key().map_err(usage)?;
                Ok(Subject {
                    folder: dir.clone(),
                    key: SigningKey::new(&secret),
                    state_dir: self.state_dir.clone(),
                    without: "no --state-dir is given: the end of the journal is compared with no head from there",
                })
            }
            (Some(_), None) => Err(usage("name the file of the journal's key with --key-file")),
            (None, _) => {
                let settings = configured(&self.place.config)?;
                let audit = journal(&self.place.config, settings.audit)?;
                Ok(Subject {
                    folder: audit.dir,
                    key: audit.key,
                    state_dir: settings.state_dir,
                    without: "no state_dir is configured: the end of the journal is compared with heads beside it only",
                })
            }
        }
    }
}

fn tell(report: &Report) -> Result<Exit, Exit> {
    for note in &report.notes {
        say(format_args!("note: {note}"));
    }
    for finding in &report.findings {
        complain(finding);
    }
    say(format_args!(
        "{} records, {} calls, {} of them without a record of their end",
        report.records, report.calls, report.open
    ));
    if let Some(head) = &report.head {
        say(format_args!("head: {head}"));
    }
    match report.findings.len() {
        0 => {
            say("everything is as it was written");
            Ok(Exit::Fine)
        }
        1 => Err(fail("1 finding: the journal is not as it was written")),
        many => Err(fail(format_args!(
            "{many} findings: the journal is not as it was written"
        ))),
    }
}
