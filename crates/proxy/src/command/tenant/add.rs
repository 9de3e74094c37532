//! `tenant add`.

use std::path::{Path, PathBuf};

use clap::Args;
use gatepay_tenancy::edit::EditMode;
use gatepay_tenancy::edit::bulk::{self, AddedTenants, BulkError, TenantList};
use gatepay_tenancy::edit::onboard::{self, AddError, NewTenant, TenantDestination};
use gatepay_tenancy::{PartyId, SubAccount};
use serde_json::json;

use super::{TenantArguments, credential_lines, not_edited, random};
use crate::command::from::read;
use crate::command::{ExitStatus, complain, fail};

/// Add a tenant, or all of a list: a client id, a secret, and the files that hold them.
/// The client id is a UUID, the secret has 256 random bits. The secret is printed once; afterwards it is only in its file,
/// which only your user can read: if the proxy runs as another user, give that user access (chown, or chgrp and chmod g+r).
/// With --from, the first line of the CSV file names keys of a tenant's file: id, `sub_account`, `limits.burst`,
/// addresses, operations.allow, notifications.url, contact, note … An empty cell leaves a key out; the words of a list are
/// separated by spaces. All tenants go to one file named after the list. Either all of them are added or none, also if
/// the command is killed.
#[derive(Args)]
pub(crate) struct TenantAdd {
    /// The tenant's id in logs, metrics and files: a-z, 0-9, `.`, `_` and `-`.
    #[arg(value_parser = PartyId::parse, required_unless_present = "from", requires = "sub_account")]
    id: Option<PartyId>,
    /// The tenant's sub-account at GatePay; its calls are made on behalf of this account.
    #[arg(long, value_parser = SubAccount::parse, requires = "id")]
    sub_account: Option<SubAccount>,
    /// Add all tenants of this CSV file, or of standard input if it is `-`.
    #[arg(long, value_name = "CSV", conflicts_with_all = ["id", "sub_account", "tenants"])]
    from: Option<PathBuf>,
    /// Check the list and write nothing.
    #[arg(long, requires = "from")]
    dry_run: bool,
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
        match (&self.from, &self.id, &self.sub_account) {
            (Some(list), _, _) => self.add_all(list),
            (None, Some(id), Some(sub_account)) => self.add_one(id, sub_account),
            _ => fail("name a tenant and its --sub-account, or a list with --from"),
        }
    }

    fn add_one(&self, id: &PartyId, sub_account: &SubAccount) -> ExitStatus {
        let tenant = NewTenant {
            id,
            sub_account,
            place: match &self.tenants {
                Some(folder) => TenantDestination::Folder(folder),
                None => TenantDestination::Configuration(self.arguments.files()),
            },
            secrets: self.secrets.as_deref(),
        };
        let added = match onboard::add(&tenant, &random()) {
            Ok(added) => added,
            Err(error) => return not_added(error),
        };
        let arguments = json!({
            "id": id.as_str(),
            "sub_account": sub_account.as_str(),
            "client_id": added.client_id.as_str(),
            "secret": added.secret.as_str(),
            "tenant_file": added.tenant_file,
            "secret_file": added.secret_file,
        });
        let wrote = [
            format!("wrote {}", added.tenant_file.display()),
            format!("wrote {}", added.secret_file.display()),
        ];
        let credential = credential_lines(id, &added.client_id, &added.secret);
        self.arguments
            .print(&arguments, &[&wrote[..], &credential].concat())
    }

    fn add_all(&self, path: &Path) -> ExitStatus {
        let name = if path.as_os_str() == "-" {
            Path::new("standard input")
        } else {
            path
        };
        let bytes = match read(path) {
            Ok(bytes) => bytes,
            Err(text) => return fail(text),
        };
        let list = match TenantList::read(name, &bytes) {
            Ok(list) => list,
            Err(problems) => return not_listed(&BulkError::List(problems)),
        };
        let mode = if self.dry_run {
            EditMode::DryRun
        } else {
            EditMode::Make
        };
        let secrets = self.secrets.as_deref();
        match bulk::add(&self.arguments.files(), &list, secrets, random, mode) {
            Ok(added) => self.print_all(&list, &added),
            Err(BulkError::Add(error)) => not_added(error),
            Err(error) => not_listed(&error),
        }
    }

    fn print_all(&self, list: &TenantList, added: &AddedTenants) -> ExitStatus {
        let file = added.tenant_file.display();
        let number = list.tenants().len();
        let tenants = list.tenants().enumerate().map(|(at, (id, sub_account))| {
            let mut tenant = json!({"id": id.as_str(), "sub_account": sub_account.as_str()});
            if let Some(credential) = added.credentials.get(at) {
                tenant["client_id"] = credential.client_id.as_str().into();
                tenant["secret"] = credential.secret.as_str().into();
                tenant["secret_file"] = json!(credential.secret_file);
            }
            tenant
        });
        let json = json!({
            "tenants": tenants.collect::<Vec<_>>(),
            "tenant_file": added.tenant_file,
            "dry_run": self.dry_run,
        });
        let mut lines = if self.dry_run {
            let line = |(id, sub_account)| format!("  {id}  sub-account {sub_account}");
            let head = format!("would add {number} tenants to {file}; nothing was written");
            std::iter::once(head)
                .chain(list.tenants().map(line))
                .collect()
        } else {
            vec![
                format!("added {number} tenants: wrote {file} and a secret for each"),
                "tell each tenant its credential, by a way that keeps it secret; it is not shown again:".to_owned(),
            ]
        };
        lines.extend(added.credentials.iter().map(|credential| {
            let (id, client_id) = (&credential.id, &credential.client_id);
            format!(
                "  {id}  client id {client_id}  secret {}",
                &*credential.secret
            )
        }));
        self.arguments.print(&json, &lines)
    }
}

fn not_added(error: AddError) -> ExitStatus {
    match error {
        AddError::Edit(error) => not_edited(error),
        AddError::Id { .. } | AddError::SubAccount { .. } | AddError::NotAFolder(_) => {
            complain(error);
            ExitStatus::Usage
        }
        error => fail(error),
    }
}

fn not_listed(error: &BulkError) -> ExitStatus {
    if let BulkError::List(problems) = error {
        problems.iter().for_each(complain);
    }
    complain(format_args!("no tenant was added: the list has {error}"));
    ExitStatus::Usage
}
