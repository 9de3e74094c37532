//! `find`: the story of one id, over the store and this machine's audit journal.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use gatepay_core::visible::visible;
use gatepay_proxy::journal::find::{ScanProgress, find};
use gatepay_proxy::journal::folder::DiskFolder;
use gatepay_proxy::journal::show::FoundRecord;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::admin_client::AdminArguments;
use super::audit::show::{lines_of, object};
use super::audit::{AuditSubject, JournalPlace};
use super::{ExitStatus, complain, fail, say, say_json};

/// Find everything about one id: a request id, a merchantTradeNo, a refundRequestId, a prepayId, a batch id, the id of a
/// notification.
/// Asks the running process for the records in the store (the ledger, calls without a known outcome, spends, GatePay's
/// notifications and their deliveries), and reads this machine's audit journal (the caller, its address, the amounts and
/// the answer). Prints all of it in the order of time. Without a store only the journal is read.
/// Exits with 0 if something is found, with 1 if nothing is, and with 64 for bad usage.
#[derive(Args)]
pub(crate) struct FindCommand {
    /// The id, whole and exactly as written.
    id: String,
    /// Read another journal's folder, or a copy of one.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// The file that holds the journal's key, to verify records of --dir.
    #[arg(long, value_name = "FILE", requires = "dir")]
    key_file: Option<PathBuf>,
    /// Do not read a journal: ask the store only.
    #[arg(long, conflicts_with_all = ["dir", "key_file"])]
    no_journal: bool,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// An entry of the story, with its time in RFC 3339.
struct Told {
    at: String,
    json: Value,
    lines: Vec<String>,
}

impl FindCommand {
    pub(crate) fn run(self) -> ExitStatus {
        self.story().unwrap_or_else(|exit| exit)
    }

    fn story(&self) -> Result<ExitStatus, ExitStatus> {
        let parameters = [("id", Some(self.id.as_str()))];
        let asked = self.arguments.ask(&Method::GET, "/find", &parameters);
        if matches!(asked, Err(ExitStatus::Usage)) {
            return Err(ExitStatus::Usage);
        }
        let has_store = asked.is_ok();
        let mut told: Vec<Told> = asked.iter().flat_map(of_store).collect();
        if !self.no_journal {
            let place = self.journal();
            match place.subject() {
                Ok(subject) => told.extend(self.of_journal(&subject, has_store)?),
                // The reason is printed; what the store has is worth printing too.
                Err(exit) if !has_store => return Err(exit),
                Err(_) => {}
            }
        }
        // As text they do not sort: some have fewer digits. Of equal times the order of the sources stays.
        told.sort_by_key(|told| told.at.parse::<Timestamp>().ok());
        if told.is_empty() {
            return Err(fail("nothing is known by this id"));
        }
        for told in &told {
            if self.arguments.is_json() {
                say_json(&told.json);
            } else {
                told.lines.iter().for_each(say);
            }
        }
        Ok(ExitStatus::Fine)
    }

    fn journal(&self) -> JournalPlace {
        let config = self.arguments.config().clone();
        JournalPlace::of(config, self.dir.clone(), self.key_file.clone())
    }

    fn of_journal(&self, subject: &AuditSubject, has_store: bool) -> Result<Vec<Told>, ExitStatus> {
        let folder = subject.folder.display();
        if !has_store {
            complain(format_args!(
                "note: no store has answered; reading only this machine's journal in {folder}, other machines have their own"
            ));
        }
        let is_terminal = io::stderr().is_terminal();
        let shown = |progress| show_progress(progress, is_terminal);
        let found = find(
            &DiskFolder::at(&subject.folder),
            subject.key.as_ref(),
            &self.id,
            shown,
        );
        let found = found.map_err(|error| subject.unreadable(&error))?;
        Ok(found.found.iter().map(of_record).collect())
    }
}

/// On a terminal one line that is written over; otherwise a line at the beginning and at the end.
fn show_progress(progress: ScanProgress, is_terminal: bool) {
    let ScanProgress { read, all } = progress;
    let is_end = read == all;
    if is_terminal {
        let end = if is_end { "\n" } else { "" };
        let _unseen = write!(io::stderr(), "\rjournal: {read} of {all} files read{end}");
    } else if is_end || read == 0 {
        complain(format_args!("journal: {read} of {all} files read"));
    }
}

fn of_store(story: &Value) -> Vec<Told> {
    let entries = story["entries"].as_array().into_iter().flatten();
    let told = entries.map(|entry| {
        let word = |name: &str| entry[name].as_str().unwrap_or("-");
        let of = match entry["tenant"].as_str() {
            Some(tenant) => format!(" {tenant} (account {})", word("account")),
            None => String::new(),
        };
        let line = format!("{}  {}{of}: {}", word("at"), word("source"), word("says"));
        Told {
            at: word("at").to_owned(),
            json: entry.clone(),
            lines: vec![visible(&line).into_owned()],
        }
    });
    told.collect()
}

fn of_record(found: &FoundRecord) -> Told {
    let record = match found {
        FoundRecord::Call(call) => &call.before,
        FoundRecord::Event(event) => &event.record,
    };
    let at = record.get("time").and_then(Value::as_str);
    let mut json = object(found);
    json["source"] = json!("journal");
    json["at"] = json!(at);
    Told {
        at: at.unwrap_or_default().to_owned(),
        json,
        lines: lines_of(found),
    }
}
