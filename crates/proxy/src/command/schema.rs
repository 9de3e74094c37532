//! `schema`: the JSON Schemas of the configuration files, for editors.

use clap::{Args, ValueEnum};
use gatepay_tenancy::schema;

use super::{ExitStatus, say};

/// Print the JSON Schema of a configuration file, so that an editor completes and checks it.
/// In TOML, name the schema in a comment at the top: `#:schema ./schema/tenant.schema.json`; in JSON, in the key
/// "$schema". Rules between keys or files are not in the schema: `check` checks them.
#[derive(Args)]
pub(crate) struct SchemaCommand {
    /// The kind of file.
    of: SchemaOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SchemaOf {
    /// proxy.toml.
    Proxy,
    /// A tenant's file, or a file of many tenants.
    Tenant,
    /// An operator's file, or a file of many operators.
    Operator,
}

impl SchemaCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let schema = match self.of {
            SchemaOf::Proxy => schema::proxy(),
            SchemaOf::Tenant => schema::tenant(),
            SchemaOf::Operator => schema::operator(),
        };
        say(format_args!("{schema:#}"));
        ExitStatus::Fine
    }
}
