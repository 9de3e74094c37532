//! What a configuration says, as plain facts without secrets: a key and a JSON value each. Two sides are compared by
//! them, and a running process tells its own by them.

use std::collections::BTreeMap;

use gatepay_core::Operation;
use gatepay_core::operation::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::document;
use crate::party::{DatedCredential, Limits, Party, Rate};
use crate::permissions::{Audience, Permissions};
use crate::plan::Side;
use crate::registry::Who;
use crate::settings::Institution;
use crate::tenant::Tenant;

mod settings;

pub use settings::of_settings;

/// Keys as in the files, sorted.
pub type Facts = BTreeMap<String, Value>;

/// Of a secret's fingerprint enough to tell two secrets apart, and too little to find a guessable one by.
const FINGERPRINT_BYTES: usize = 4;

/// Of a tenant or an operator.
pub fn of_party(who: Who<'_>, side: Side<'_>) -> Facts {
    let Party {
        id: _,
        standing,
        addresses,
        replay,
        limits,
        permissions,
        window,
        credentials,
    } = who.party();
    let mut facts = Facts::new();
    let mut put = |key: &str, value: Value| facts.insert(key.to_owned(), value);
    let audience = match who {
        Who::Tenant(tenant) => {
            let Tenant {
                party: _,
                sub_account,
                shared_sub_account,
                weight,
            } = &**tenant;
            put("sub_account", sub_account.as_str().into());
            put("shared_sub_account", (*shared_sub_account).into());
            put("weight", weight.get().into());
            Audience::Tenants
        }
        Who::Operator(_) => Audience::Operators,
    };
    put("standing", standing.as_str().into());
    put("replay", replay.as_str().into());
    if !addresses.is_empty() {
        put(
            "addresses",
            addresses.iter().map(ToString::to_string).collect(),
        );
    }
    put("timestamp.past_ms", window.past_ms.into());
    put("timestamp.future_ms", window.future_ms.into());
    let Limits {
        all,
        in_flight,
        read,
        write,
        money,
        shadow,
    } = *limits;
    put("limits.in_flight", in_flight.get().into());
    let rates = [
        ("limits", Some(all)),
        ("limits.read", read),
        ("limits.write", write),
        ("limits.money", money),
    ];
    for (table, rate) in rates {
        if let Some(Rate { per_second, burst }) = rate {
            put(
                &format!("{table}.requests_per_second"),
                per_second.get().into(),
            );
            put(&format!("{table}.burst"), burst.get().into());
        }
    }
    let shadow: Vec<_> = shadow.names().collect();
    if !shadow.is_empty() {
        put("limits.shadow", shadow.into());
    }
    // Whoever may call everything says nothing, so that a row more is one change and not one for each party.
    if *permissions != Permissions::all(side.catalogue, audience) {
        let rows = side.catalogue.rows().iter().enumerate();
        let allowed = rows.filter(|(position, _)| permissions.allows(*position));
        put("operations", allowed.map(|(_, row)| &*row.name).collect());
    }
    facts.extend(of_credentials(credentials));
    facts
}

/// Of the institution itself, as GatePay knows it.
pub fn of_institution(institution: &Institution) -> Facts {
    let Institution {
        account_id,
        merchant_id,
        credentials,
    } = institution;
    let mut facts: Facts = of_credentials(credentials).collect();
    for (key, value) in [("account_id", account_id), ("merchant_id", merchant_id)] {
        if let Some(value) = value {
            facts.insert(key.to_owned(), value.as_str().into());
        }
    }
    facts
}

/// A client id that stands twice, which only the institution's may, has a number from the second time on.
fn of_credentials(credentials: &[DatedCredential]) -> impl Iterator<Item = (String, Value)> {
    let id = |dated: &DatedCredential| dated.credential.client_id.clone();
    credentials.iter().enumerate().map(move |(index, dated)| {
        let client_id = id(dated);
        let before = credentials[..index]
            .iter()
            .filter(|it| id(it) == client_id)
            .count();
        let key = match before {
            0 => format!("credential.{client_id}"),
            more => format!("credential.{client_id}.{}", more + 1),
        };
        let fingerprint = dated.credential.key.fingerprint();
        let value = json!({
            "not_before": dated.not_before.map(time),
            "not_after": dated.not_after.map(time),
            "fingerprint": hex::encode(&fingerprint[..FINGERPRINT_BYTES]),
        });
        (key, value)
    })
}

/// Of a row of the catalogue.
pub(crate) fn of_operation(row: &Operation) -> Facts {
    let line = |method: Method, path: &str| Value::from(format!("{method} {path}"));
    let mut facts = Facts::from([
        ("enabled".to_owned(), row.off().is_none().into()),
        ("scope".to_owned(), row.scope.as_str().into()),
        ("kind".to_owned(), row.kind.as_str().into()),
    ]);
    if let Some(path) = &row.merchant_path {
        facts.insert("merchant".to_owned(), line(row.method, path));
    }
    if let Some(path) = &row.institution_path {
        facts.insert("institution".to_owned(), line(row.institution_method, path));
    }
    if let Some(limit) = row.body_limit {
        facts.insert("body_limit_bytes".to_owned(), limit.into());
    }
    facts
}

/// What `proxy.toml` says of the process, as it is written there. The institution and the operations have facts of their
/// own. No secret can be among them: one that is written down is a problem, and then there is no configuration.
pub(crate) fn as_written(root: &document::Table) -> Facts {
    let mut facts = Facts::new();
    for (key, entry) in root {
        if !["institution", "operation"].contains(&key.as_str()) {
            flatten(key, &entry.node.value, &mut facts);
        }
    }
    facts
}

fn flatten(key: &str, value: &document::Value, facts: &mut Facts) {
    match value {
        document::Value::Table(table) => {
            for (inner, entry) in table {
                flatten(&format!("{key}.{inner}"), &entry.node.value, facts);
            }
        }
        value => {
            facts.insert(key.to_owned(), plain(value));
        }
    }
}

pub(crate) fn plain(value: &document::Value) -> Value {
    match value {
        document::Value::Text(text) | document::Value::Time(text) => text.as_str().into(),
        document::Value::Integer(number) => (*number).into(),
        document::Value::Float(number) => (*number).into(),
        document::Value::Flag(flag) => (*flag).into(),
        document::Value::List(nodes) => nodes.iter().map(|node| plain(&node.value)).collect(),
        document::Value::Table(table) => {
            let entry =
                |(key, entry): (&String, &document::Entry)| (key.clone(), plain(&entry.node.value));
            Value::Object(table.iter().map(entry).collect())
        }
        document::Value::Null | document::Value::Question(_) => Value::Null,
    }
}

/// RFC 3339.
pub fn time(ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}
