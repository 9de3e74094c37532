//! `tenant remove`.

use clap::Args;
use gatepay_tenancy::{PartyId, edit};
use serde_json::json;

use super::{TenantArguments, not_edited};
use crate::command::ExitStatus;

/// Remove a tenant: its file, or its table in a file of many tenants, and its secrets.
/// There is no question before the removal. A secret file that another file names stays. To stop a tenant's calls only,
/// use `tenant suspend`.
#[derive(Args)]
pub(crate) struct TenantRemove {
    /// The tenant.
    #[arg(value_parser = PartyId::parse)]
    id: PartyId,
    /// Keep the tenant's secret files.
    #[arg(long)]
    keep_secrets: bool,
    #[command(flatten)]
    arguments: TenantArguments,
}

impl TenantRemove {
    pub(super) fn run(self) -> ExitStatus {
        let removed = match edit::remove(&self.arguments.files(), &self.id, self.keep_secrets) {
            Ok(removed) => removed,
            Err(error) => return not_edited(error),
        };
        let left = removed.kept.iter();
        let arguments = json!({
            "id": self.id.as_str(),
            "tenant_file": removed.tenant_file,
            "file_removed": removed.whole_file,
            "secrets_removed": removed.secrets,
            "secrets_left": left.map(|(file, why)| json!({ "file": file, "why": why })).collect::<Vec<_>>(),
        });
        let file = removed.tenant_file.display();
        let mut lines = vec![if removed.whole_file {
            format!("removed {file}")
        } else {
            format!("took {} out of {file}", self.id)
        }];
        let secrets = removed.secrets.iter();
        lines.extend(secrets.map(|secret| format!("removed {}", secret.display())));
        let left = removed.kept.iter();
        lines.extend(left.map(|(secret, why)| format!("left {}: {why}", secret.display())));
        self.arguments.print(&arguments, &lines)
    }
}
