//! `tenant set`.

use clap::Args;
use gatepay_tenancy::PartyId;
use gatepay_tenancy::edit::{self, Assignment, EditMode};
use serde_json::json;

use super::{TenantArguments, not_edited};
use crate::command::ExitStatus;
use crate::command::line_difference::difference;

/// Set or remove keys in a tenant's file, and print the lines that change.
/// A key is written as in the columns of `tenant add --from`: `limits.requests_per_second=80`, `contact='Ada, 555-0100'`,
/// `addresses='203.0.113.0/24 2001:db8::7'`. `limits.burst=` removes the key, so that its default holds.
#[derive(Args)]
pub(crate) struct TenantSet {
    /// The tenant.
    #[arg(value_parser = PartyId::parse)]
    id: PartyId,
    /// Keys and their new values; all of them are set, or none.
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = Assignment::parse)]
    assignments: Vec<Assignment>,
    /// Print the difference and write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    arguments: TenantArguments,
}

impl TenantSet {
    pub(super) fn run(self) -> ExitStatus {
        let mode = if self.dry_run {
            EditMode::DryRun
        } else {
            EditMode::Make
        };
        let files = self.arguments.files();
        let set = match edit::assign(&files, &self.id, &self.assignments, mode) {
            Ok(set) => set,
            Err(error) => return not_edited(error),
        };
        let changed = set.before != set.after;
        let lines = difference(&set.before, &set.after);
        let json = json!({
            "id": self.id.as_str(),
            "tenant_file": set.file,
            "changed": changed && !self.dry_run,
            "dry_run": self.dry_run,
            "difference": lines,
        });
        let (file, id) = (set.file.display(), &self.id);
        let head = match (changed, mode) {
            (false, _) => format!("{file}: {id} has these values already"),
            (true, EditMode::Make) => format!("changed {file}"),
            (true, EditMode::DryRun) => format!("would change {file}; nothing was written"),
        };
        let lines = std::iter::once(head).chain(lines);
        self.arguments.print(&json, &lines.collect::<Vec<_>>())
    }
}
