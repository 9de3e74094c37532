//! `audit verify`.

use clap::Args;
use gatepay_proxy::journal::verify::{JournalFinding, VerifyReport};
use serde_json::json;

use super::{JournalPlace, usage};
use crate::command::{ExitStatus, complain, fail, say, say_json};

/// Verify that no record was altered, removed, inserted or reordered.
///
/// The end of the last run can be cut without a trace in the journal itself, so it is compared with the heads that the
/// proxy keeps in `state_dir`. The proxy's log has a head once a minute, too
/// (`"message":"audit journal","head":"3.1207.…"`): give one or more with --head to detect a cut even if `state_dir`
/// was changed as well. The proxy may run meanwhile. Exits with 0 if the journal is intact, 1 if not, 64 for bad usage.
#[derive(Args)]
pub(crate) struct AuditVerify {
    #[command(flatten)]
    place: JournalPlace,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

impl AuditVerify {
    pub(super) fn run(&self) -> Result<ExitStatus, ExitStatus> {
        let subject = self.place.subject()?;
        let Some(key) = &subject.key else {
            return Err(usage("give the file of the journal's key with --key-file"));
        };
        let kept = subject.heads(key)?;
        let report = subject.verify(&self.place, key, kept.as_ref())?;
        let without_state = subject.state_dir.is_none().then_some(subject.without);
        if self.json {
            return tell_json(&report, without_state);
        }
        if let Some(note) = without_state {
            say(format_args!("note: {note}"));
        }
        tell(&report)
    }
}

fn tell_json(report: &VerifyReport, without_state: Option<&str>) -> Result<ExitStatus, ExitStatus> {
    let notes = without_state.map(str::to_owned);
    let notes: Vec<_> = notes.into_iter().chain(report.notes.clone()).collect();
    let finding = |finding: &JournalFinding| json!({ "file": finding.part.to_string(), "line": finding.line, "text": finding.what });
    let intact = report.findings.is_empty();
    say_json(&json!({
        "intact": intact,
        "records": report.records,
        "calls": report.calls,
        "open": report.open,
        "head": report.head,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "notes": notes,
    }));
    if intact {
        Ok(ExitStatus::Fine)
    } else {
        Err(ExitStatus::Failed)
    }
}

fn tell(report: &VerifyReport) -> Result<ExitStatus, ExitStatus> {
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
            say("the journal is intact: every record is as it was written");
            Ok(ExitStatus::Fine)
        }
        1 => Err(fail("1 finding: the journal is not as it was written")),
        many => Err(fail(format_args!(
            "{many} findings: the journal is not as it was written"
        ))),
    }
}
