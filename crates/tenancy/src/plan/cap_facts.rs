//! Money caps and destinations as facts.

use serde_json::{Value, json};

use crate::model::caps::Cap;
use crate::model::destinations::TenantDestinations;

/// The facts of a cap, with the keys of a file.
pub(crate) fn of_cap(cap: &Cap) -> Value {
    let Cap {
        calls,
        currency: _,
        per_call: _,
        per_hour: _,
        per_24h: _,
        per_day: _,
        count_per_hour,
        approve_above,
        shadow,
    } = cap;
    let words = calls.words.iter().map(|word| word.text.as_str());
    let mut fact = json!({
        "calls": words.collect::<Vec<_>>(),
        "currency": cap.currency_text(),
    });
    let limits = cap
        .amounts()
        .chain(approve_above.map(|it| ("approve_above", it)));
    for (key, amount) in limits {
        fact[key] = amount.to_string().into();
    }
    if let Some(count) = count_per_hour {
        fact["count_per_hour"] = (*count).into();
    }
    if *shadow {
        fact["shadow"] = true.into();
    }
    fact
}

/// The facts about where a tenant's money may go.
pub(crate) fn of_destinations(
    destinations: &TenantDestinations,
) -> impl Iterator<Item = (&'static str, Value)> {
    let TenantDestinations { mode, hold, listed } = destinations;
    let list = listed.iter().map(|target| Value::from(target.to_string()));
    let list: Vec<Value> = list.collect();
    let facts = [
        ("destinations.mode", mode.as_str().into()),
        ("destinations.hold", format!("{}s", hold.as_secs()).into()),
        ("destination", list.into()),
    ];
    facts.into_iter()
}
