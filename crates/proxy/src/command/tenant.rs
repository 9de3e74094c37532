//! `tenant`: the files of tenants.

mod add;
mod list;
mod remove;
mod rotate;
mod set;
mod show;
mod standing;

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use gatepay_proxy::process::clock;
use gatepay_tenancy::edit::{ConfigFiles, EditError, EditedCopies, RandomBytes};
use gatepay_tenancy::facts::time;
use gatepay_tenancy::load::{WhatIf, load_readable};
use gatepay_tenancy::{Configuration, DatedCredential, PartyId, Problem};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::config_file::ConfigFile;
use super::{ExitStatus, complain, environment, fail, say};

/// Add, list, show, change, re-key, suspend, resume and remove tenants, in their files.
/// An edit keeps comments and order. The whole configuration is checked with the edit first; if it has a problem, no file
/// is changed. `suspend` and `rotate --overlap 0s` take rights away, so problems in other files do not stop them. A running
/// proxy applies the edit within `poll_ms`.
#[derive(Subcommand)]
pub(crate) enum TenantCommand {
    Add(add::TenantAdd),
    List(list::TenantList),
    Show(show::TenantShow),
    Set(set::TenantSet),
    Rotate(rotate::TenantRotate),
    Suspend(standing::TenantSuspend),
    Resume(standing::TenantResume),
    Remove(remove::TenantRemove),
}

impl TenantCommand {
    pub(crate) fn run(self) -> ExitStatus {
        match self {
            Self::Add(add) => add.run(),
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Set(set) => set.run(),
            Self::Rotate(rotate) => rotate.run(),
            Self::Suspend(suspend) => suspend.run(),
            Self::Resume(resume) => resume.run(),
            Self::Remove(remove) => remove.run(),
        }
    }
}

/// The options of all tenant commands.
#[derive(Args)]
struct TenantArguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Accept missing secret files: for a checkout of the configuration without secrets.
    #[arg(long)]
    without_secrets: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

impl TenantArguments {
    fn files(&self) -> ConfigFiles<'_> {
        ConfigFiles {
            proxy_toml: self.config.path(),
            env: &environment,
            secrets_elsewhere: self.without_secrets,
        }
    }

    /// The readable part of the configuration, and the problems in the rest.
    fn load(&self) -> (Configuration, Vec<Problem>) {
        let what_if = WhatIf {
            file: None,
            secrets_elsewhere: self.without_secrets,
        };
        load_readable(self.config.path(), &environment, what_if)
    }

    /// Prints the JSON or the lines.
    fn print(&self, json: &Value, lines: &[String]) -> ExitStatus {
        if self.json {
            say(json);
        } else {
            lines.iter().for_each(say);
        }
        ExitStatus::Fine
    }
}

fn random() -> RandomBytes {
    RandomBytes {
        client_id: clock::random(),
        secret: Zeroizing::new(clock::random()),
    }
}

/// Prints why the edit was not made.
fn not_edited(error: EditError) -> ExitStatus {
    match error {
        EditError::Problems(problems) => refuse(
            &problems,
            "nothing was changed: with this edit the configuration has",
        ),
        EditError::Unknown { .. } | EditError::Misshapen(_) => {
            complain(error);
            ExitStatus::Usage
        }
        EditError::Changed(_) | EditError::Io { .. } => fail(error),
    }
}

fn refuse(problems: &[Problem], why: &str) -> ExitStatus {
    print_problems(problems, why);
    ExitStatus::Usage
}

/// Prints problems and their number.
fn print_problems(problems: &[Problem], why: &str) {
    problems.iter().for_each(complain);
    let plural = if problems.len() == 1 { "" } else { "s" };
    complain(format_args!("{why} {} problem{plural}", problems.len()));
}

/// Prints why rights were not taken away, and another way to do it.
fn not_restricted(error: EditError, id: &PartyId) -> ExitStatus {
    let exit = not_edited(error);
    complain(without_files(id));
    exit
}

/// The way that no file can prevent. It is the way for operators, too.
fn without_files(id: &PartyId) -> String {
    format!(
        "to suspend a tenant or an operator without files: POST /-/suspend?tenant={id} on the admin address"
    )
}

impl TenantArguments {
    /// Prints the problems in the rest of the configuration, if there are any, and their consequence for an edit that
    /// takes rights away.
    fn print_other_problems(&self, problems: &[Problem], id: &PartyId, what: &str) {
        if problems.is_empty() {
            return;
        }
        print_problems(problems, what);
        let own = self.config.path().file_name().map(Path::new);
        if problems.iter().any(|problem| Some(&*problem.file) == own) {
            complain(format_args!(
                "proxy.toml is invalid, so a running proxy may still read other files than the ones it names now: make sure \
                 that {id} is refused; {}",
                without_files(id)
            ));
        }
    }
}

/// The lines about further files that named the tenant by mistake.
fn changed_copies<'a>(
    copies: &'a EditedCopies,
    id: &PartyId,
) -> impl Iterator<Item = String> + use<'a> {
    let id = id.clone();
    let line = move |file: &PathBuf| {
        let file = file.display();
        format!("changed {file}, which names {id} too; a tenant has one table: remove the others")
    };
    copies.edited.iter().map(line)
}

/// Prints the files that name the tenant too and could not be edited. The exit status says whether there are any.
fn print_unchanged_copies(copies: EditedCopies, id: &PartyId, exit: ExitStatus) -> ExitStatus {
    if let Some(file) = &copies.unreadable {
        complain(format_args!(
            "{} cannot be read; if a running proxy has {id} from it, {id} is not restricted; {}",
            file.display(),
            without_files(id)
        ));
    }
    let mut exit = exit;
    for (file, error) in copies.failed {
        complain(format_args!(
            "{} names {id} too, and was not changed",
            file.display()
        ));
        exit = not_restricted(error, id);
    }
    exit
}

/// A credential without its key.
fn credential(dated: &DatedCredential, now_ms: u64) -> Value {
    // A credential that was ended before it began has both dates.
    let state = if dated.not_after.is_some_and(|end| end <= now_ms) {
        "ended"
    } else if dated.valid_at(now_ms) {
        "valid"
    } else {
        "coming"
    };
    json!({
        "client_id": dated.credential.client_id.as_str(),
        "not_before": dated.not_before.map(time),
        "not_after": dated.not_after.map(time),
        "state": state,
    })
}

/// The lines that are printed once for the tenant.
fn credential_lines(
    id: &impl fmt::Display,
    client_id: &impl fmt::Display,
    secret: &str,
) -> [String; 4] {
    [
        String::new(),
        format!("tell {id} its credential, by a way that keeps it secret; it is not shown again:"),
        format!("  client id  {client_id}"),
        format!("  secret     {secret}"),
    ]
}
