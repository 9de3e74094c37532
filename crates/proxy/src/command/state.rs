//! `state`: the state folder, which outlives a process.

use clap::{Args, Subcommand};
use gatepay_proxy::process::state_dir::{InitResult, init};
use gatepay_tenancy::load::{WhatIf, load_what_if};

use super::config_file::ConfigFile;
use super::{ExitStatus, complain, environment, fail, say};

/// Prepare the folder in which one run hands the replay memory over to the next.
#[derive(Subcommand)]
pub(crate) enum StateCommand {
    Init(StateInit),
}

/// Create `state_dir`, accessible to its owner only.
/// The first start with an empty folder waits for `timestamp.future_ms`, since earlier requests are unknown. With
/// --never-served the start does not wait: you assert that no process on any machine ever served the credentials of this
/// configuration. If one did, requests of the last minutes can be executed a second time. Exits with 0 if the folder
/// exists, 1 if it could not be created or, with --never-served, was used before, 64 for a wrong configuration.
#[derive(Args)]
pub(crate) struct StateInit {
    #[command(flatten)]
    config: ConfigFile,
    /// Assert that no process ever served these credentials: the first start does not wait.
    #[arg(long)]
    never_served: bool,
}

impl StateCommand {
    pub(crate) fn run(self) -> ExitStatus {
        match self {
            Self::Init(init) => init.run(),
        }
    }
}

impl StateInit {
    fn run(self) -> ExitStatus {
        let what_if = WhatIf {
            file: None,
            secrets_elsewhere: true,
        };
        let settings = match load_what_if(self.config.path(), &environment, what_if) {
            Ok(configuration) => configuration.settings,
            Err(problems) => {
                problems.iter().for_each(complain);
                return ExitStatus::Usage;
            }
        };
        let Some(folder) = &settings.state_dir else {
            complain(format_args!(
                "{}: there is no state_dir",
                self.config.path().display()
            ));
            return ExitStatus::Usage;
        };
        let (name, guard) = (folder.display(), settings.window.future_ms);
        match init(folder, self.never_served) {
            Ok(InitResult::NeverServed) => say(format_args!(
                "{name}: marked: no process ever served these credentials, so the first start does not wait"
            )),
            Ok(InitResult::Unused) => say(format_args!(
                "{name}: ready; the first start waits {guard} ms before it admits requests"
            )),
            Ok(InitResult::Used) if self.never_served => {
                return fail(format_args!(
                    "{name}: was used before, so it is not marked as never served"
                ));
            }
            Ok(InitResult::Used) => say(format_args!("{name}: was used before; nothing changes")),
            Err(error) => return fail(format_args!("state_dir: {error}")),
        }
        ExitStatus::Fine
    }
}
