//! `tenant`: the files of tenants.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gatepay_proxy::clock;
use gatepay_tenancy::onboard::{self, AddError, NewTenant, Random};
use gatepay_tenancy::{PartyId, SubAccount};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Exit, complain, fail, say};

/// Add tenants.
#[derive(Subcommand)]
pub(crate) enum Tenant {
    Add(Add),
}

/// Add a tenant: a client id, a secret, and the two files that hold them.
///
/// The secret is printed once; afterwards it is only in its file, which nobody but you can read. The tenant is served
/// after the proxy's next start.
#[derive(Args)]
pub(crate) struct Add {
    /// Its name in logs, metrics and files: a-z, 0-9, `.`, `_` and `-`.
    #[arg(value_parser = PartyId::parse)]
    id: PartyId,
    /// The sub-account GatePay gave it; requests are made on its behalf.
    #[arg(long, value_parser = SubAccount::parse)]
    sub_account: SubAccount,
    /// The folder of tenant files.
    #[arg(long, value_name = "FOLDER", default_value = "tenants.d")]
    tenants: PathBuf,
    /// The folder of secrets, if it is not `secrets` beside the tenants' folder.
    #[arg(long, value_name = "FOLDER")]
    secrets: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Tenant {
    pub(crate) fn run(self) -> Exit {
        match self {
            Self::Add(add) => add.run(),
        }
    }
}

impl Add {
    fn run(self) -> Exit {
        let tenant = NewTenant {
            id: &self.id,
            sub_account: &self.sub_account,
            tenants: &self.tenants,
            secrets: self.secrets.as_deref(),
        };
        let random = Random {
            client_id: clock::random(),
            secret: Zeroizing::new(clock::random()),
        };
        let added = match onboard::add(&tenant, &random) {
            Ok(added) => added,
            Err(
                error @ (AddError::Id { .. }
                | AddError::SubAccount { .. }
                | AddError::NotAFolder(_)),
            ) => {
                complain(error);
                return Exit::Usage;
            }
            Err(error) => return fail(error),
        };
        if self.json {
            say(json!({
                "id": self.id.as_str(),
                "sub_account": self.sub_account.as_str(),
                "client_id": added.client_id.as_str(),
                "secret": added.secret.as_str(),
                "tenant_file": added.tenant_file,
                "secret_file": added.secret_file,
            }));
            return Exit::Fine;
        }
        say(format_args!("wrote {}", added.tenant_file.display()));
        say(format_args!("wrote {}", added.secret_file.display()));
        say("");
        say(format_args!(
            "tell {} its credential, by a way that keeps it secret; it is not shown again:",
            self.id
        ));
        say(format_args!("  client id  {}", added.client_id));
        say(format_args!("  secret     {}", added.secret.as_str()));
        Exit::Fine
    }
}
