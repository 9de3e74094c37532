//! Operation list: catalogue rows as JSON, as `operations --json` prints them and the admin listener answers.

use gatepay_core::operation::OperationScope;
use gatepay_core::{Kind, Operation};
use serde_json::json;

/// The callers that may call a row: `operators`, or for a tenant row `on` or `off`.
pub fn state(row: &Operation) -> &'static str {
    match (row.scope, row.off()) {
        (OperationScope::Institution, _) => "operators",
        (OperationScope::Tenant, None) => "on",
        (OperationScope::Tenant, Some(_)) => "off",
    }
}

/// A whole row as a JSON object. Fields are only ever added.
pub fn object(row: &Operation) -> serde_json::Value {
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
