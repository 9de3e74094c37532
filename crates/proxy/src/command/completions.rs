//! `completions` and `manual`: files for shells and for `man`, from the definition of the commands.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::{ExitStatus, fail, say};

/// Print the completions of a shell.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsCommand {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  gatepay-proxy completions bash > /etc/bash_completion.d/gatepay-proxy
  gatepay-proxy completions zsh > \"${fpath[1]}/_gatepay-proxy\"
  gatepay-proxy completions fish > ~/.config/fish/completions/gatepay-proxy.fish";

/// Write a page for `man` about each command into a folder, as packages do: `gatepay-proxy-tenant-add.1`.
#[derive(Args)]
pub(crate) struct ManualCommand {
    /// The folder, which is made if it does not exist.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl CompletionsCommand {
    pub(crate) fn run(self, mut commands: Command) -> ExitStatus {
        let mut script = Vec::new();
        generate(self.shell, &mut commands, "gatepay-proxy", &mut script);
        say(String::from_utf8_lossy(&script).trim_end());
        ExitStatus::Fine
    }
}

impl ManualCommand {
    pub(crate) fn run(self, commands: Command) -> ExitStatus {
        let made = fs::create_dir_all(&self.folder);
        match made.and_then(|()| clap_mangen::generate_to(commands, &self.folder)) {
            Ok(()) => ExitStatus::Fine,
            Err(error) => fail(format_args!("{}: {error}", self.folder.display())),
        }
    }
}
