//! `operations`: the catalogue as a table.

use clap::Args;
use gatepay_core::Catalogue;
use gatepay_core::operation::{Operation, OperationScope};
use gatepay_proxy::admin::operation_list;

use super::{ExitStatus, say, say_json};

/// Print every operation in the catalogue: its merchant path and its institution path.
#[derive(Args)]
pub(crate) struct OperationsCommand {
    /// Print JSON: one array of objects.
    #[arg(long)]
    json: bool,
    /// Print only operations that tenants may call by default.
    #[arg(long)]
    tenant: bool,
}

impl OperationsCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let catalogue = Catalogue::standard();
        let rows: Vec<_> = catalogue
            .rows()
            .iter()
            .filter(|row| {
                !self.tenant || (row.scope == OperationScope::Tenant && row.off().is_none())
            })
            .collect();
        if self.json {
            say_json(&serde_json::Value::Array(
                rows.iter().map(|row| operation_list::object(row)).collect(),
            ));
            return ExitStatus::Fine;
        }
        say("name | kind | module | tenant calls | goes to | key | default");
        say("--- | --- | --- | --- | --- | --- | ---");
        for row in rows {
            let merchant = row
                .merchant_path
                .as_deref()
                .map_or_else(|| "-".to_owned(), |path| format!("{} {path}", row.method));
            let institution = institution(row);
            let default = operation_list::state(row);
            let (name, kind, module, key) = (&row.name, row.kind, row.module, &row.key);
            say(format_args!(
                "{name} | {kind} | {module} | {merchant} | {institution} | {key} | {default}"
            ));
        }
        ExitStatus::Fine
    }
}

fn institution(row: &Operation) -> String {
    row.institution_path.as_deref().map_or_else(
        || "-".to_owned(),
        |path| format!("{} {path}", row.institution_method),
    )
}
