//! `tenant suspend` and `tenant resume`.

use clap::Args;
use gatepay_tenancy::{PartyId, Standing, edit};
use serde_json::json;

use super::{TenantArguments, changed_copies, not_edited, not_restricted, print_unchanged_copies};
use crate::command::suspended::SuspendedByHand;
use crate::command::{ExitStatus, complain};

/// Suspend a tenant: refuse all its calls, or all but its reads.
#[derive(Args)]
pub(crate) struct TenantSuspend {
    /// The tenant.
    #[arg(value_parser = PartyId::parse)]
    id: PartyId,
    /// Allow reads.
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    arguments: TenantArguments,
}

/// Resume a suspended tenant. A suspension by hand (`POST /-/suspend`) stays in force.
#[derive(Args)]
pub(crate) struct TenantResume {
    /// The tenant.
    #[arg(value_parser = PartyId::parse)]
    id: PartyId,
    #[command(flatten)]
    arguments: TenantArguments,
}

impl TenantSuspend {
    pub(super) fn run(self) -> ExitStatus {
        let standing = if self.read_only {
            Standing::ReadOnly
        } else {
            Standing::Suspended
        };
        stand(&self.arguments, &self.id, standing)
    }
}

impl TenantResume {
    pub(super) fn run(self) -> ExitStatus {
        let exit = stand(&self.arguments, &self.id, Standing::Active);
        let (configuration, _) = self.arguments.load();
        let suspended = SuspendedByHand::in_folder(configuration.settings.state_dir.as_deref());
        suspended
            .notes(std::iter::once(&self.id))
            .iter()
            .for_each(complain);
        exit
    }
}

fn stand(arguments: &TenantArguments, id: &PartyId, standing: Standing) -> ExitStatus {
    let stood = match edit::set_standing(&arguments.files(), id, standing) {
        Ok(stood) => stood,
        Err(error) if standing < Standing::Active => return not_restricted(error, id),
        Err(error) => return not_edited(error),
    };
    let word = standing.as_str();
    let json = json!({
        "id": id.as_str(),
        "standing": word,
        "tenant_file": stood.file,
        "also_changed": stood.copies.edited,
        "changed": stood.changed,
    });
    let file = stood.file.display();
    let mut lines = vec![if stood.changed {
        format!("changed {file}: {id} is {word}")
    } else {
        format!("{file}: {id} is {word} already")
    }];
    lines.extend(changed_copies(&stood.copies, id));
    arguments.print_other_problems(
        &stood.problems,
        id,
        "the file is changed, and a running proxy suspends at once; other changes wait until the configuration is corrected, which has",
    );
    let exit = arguments.print(&json, &lines);
    print_unchanged_copies(stood.copies, id, exit)
}
