//! `tenant add`.

use std::path::PathBuf;

use clap::Args;
use gatepay_tenancy::edit::onboard::{self, AddError, NewTenant, TenantDestination};
use gatepay_tenancy::{PartyId, SubAccount};
use serde_json::json;

use super::{TenantArguments, credential_lines, not_edited, random};
use crate::command::{ExitStatus, complain, fail};

/// Add a tenant: a client id, a secret, and the two files that hold them.
/// The client id is a UUID, the secret has 256 random bits. The secret is printed once; afterwards it is only in its file,
/// which only your user can read: if the proxy runs as another user, give that user access (chown, or chgrp and chmod g+r).
#[derive(Args)]
pub(crate) struct TenantAdd {
    /// The tenant's id in logs, metrics and files: a-z, 0-9, `.`, `_` and `-`.
    #[arg(value_parser = PartyId::parse)]
    id: PartyId,
    /// The tenant's sub-account at GatePay; its calls are made on behalf of this account.
    #[arg(long, value_parser = SubAccount::parse)]
    sub_account: SubAccount,
    /// A folder of tenant files to write to, without a proxy.toml.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["config", "without_secrets"])]
    tenants: Option<PathBuf>,
    /// The folder of secrets [default: `secrets` beside the tenants' folder]
    #[arg(long, value_name = "FOLDER")]
    secrets: Option<PathBuf>,
    #[command(flatten)]
    arguments: TenantArguments,
}

impl TenantAdd {
    pub(super) fn run(self) -> ExitStatus {
        let tenant = NewTenant {
            id: &self.id,
            sub_account: &self.sub_account,
            place: match &self.tenants {
                Some(folder) => TenantDestination::Folder(folder),
                None => TenantDestination::Configuration(self.arguments.files()),
            },
            secrets: self.secrets.as_deref(),
        };
        let added = match onboard::add(&tenant, &random()) {
            Ok(added) => added,
            Err(AddError::Edit(error)) => return not_edited(error),
            Err(
                error @ (AddError::Id { .. }
                | AddError::SubAccount { .. }
                | AddError::NotAFolder(_)),
            ) => {
                complain(error);
                return ExitStatus::Usage;
            }
            Err(error) => return fail(error),
        };
        let arguments = json!({
            "id": self.id.as_str(),
            "sub_account": self.sub_account.as_str(),
            "client_id": added.client_id.as_str(),
            "secret": added.secret.as_str(),
            "tenant_file": added.tenant_file,
            "secret_file": added.secret_file,
        });
        let wrote = [
            format!("wrote {}", added.tenant_file.display()),
            format!("wrote {}", added.secret_file.display()),
        ];
        let credential = credential_lines(&self.id, &added.client_id, &added.secret);
        self.arguments
            .print(&arguments, &[&wrote[..], &credential].concat())
    }
}
