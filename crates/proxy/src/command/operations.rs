//! `operations`: the catalogue as a table.

use clap::Args;
use gatepay_core::operation::{Operation, Scope};
use gatepay_core::{Catalogue, Kind};
use serde_json::json;

use super::{Exit, say};

/// Print every operation the proxy knows: what tenants call, and where it goes.
#[derive(Args)]
pub(crate) struct Operations {
    /// As JSON, one array of objects.
    #[arg(long)]
    json: bool,
    /// Only operations tenants may call by default.
    #[arg(long)]
    tenant: bool,
}

impl Operations {
    pub(crate) fn run(self) -> Exit {
        let catalogue = Catalogue::standard();
        let rows: Vec<_> = catalogue
            .rows()
            .iter()
            .filter(|row| !self.tenant || (row.scope == Scope::Tenant && row.off().is_none()))
            .collect();
        if self.json {
            say(serde_json::Value::Array(
                rows.iter().map(|row| object(row)).collect(),
            ));
            return Exit::Fine;
        }
        say("name | kind | module | tenant calls | goes to | key | default");
        say("--- | --- | --- | --- | --- | --- | ---");
        for row in rows {
            let merchant = row
                .merchant_path
                .as_deref()
                .map_or_else(|| "-".to_owned(), |path| format!("{} {path}", row.method));
            let institution = institution(row);
            let default = state(row);
            let (name, kind, module, key) = (&row.name, row.kind, row.module, &row.key);
            say(format_args!(
                "{name} | {kind} | {module} | {merchant} | {institution} | {key} | {default}"
            ));
        }
        Exit::Fine
    }
}

fn institution(row: &Operation) -> String {
    row.institution_path.as_deref().map_or_else(
        || "-".to_owned(),
        |path| format!("{} {path}", row.institution_method),
    )
}

fn state(row: &Operation) -> &'static str {
    match (row.scope, row.off()) {
        (Scope::Institution, _) => "operators",
        (Scope::Tenant, None) => "on",
        (Scope::Tenant, Some(_)) => "off",
    }
}

fn object(row: &Operation) -> serde_json::Value {
    json!({
        "name": row.name,
        "module": row.module.as_str(),
        "kind": row.kind.as_str(),
        "scope": row.scope.as_str(),
        "method": row.method.as_str(),
        "merchant_path": row.merchant_path,
        "institution_method": row.institution_method.as_str(),
        "institution_path": row.institution_path,
        "key": row.key.fields().collect::<Vec<_>>(),
        "look_up": row.look_up.as_ref().map(|look_up| look_up.operation),
        "confirmed": row.confirmed,
        "default": state(row),
        "repeatable": row.kind == Kind::Read,
    })
}
