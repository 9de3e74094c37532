//! The lines of `check` about money caps.

use gatepay_core::Catalogue;
use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::MoneyRow;
use gatepay_tenancy::Configuration;
use gatepay_tenancy::caps::Cap;
use gatepay_tenancy::settings::Settings;

use super::super::say;

/// Prints how many caps there are, and those that an operator should look at again.
pub(super) fn report(configuration: &Configuration) {
    let Configuration {
        settings,
        registry,
        catalogue,
    } = configuration;
    let capped = registry.tenants().iter().filter(|it| !it.caps().is_empty());
    let capped: Vec<_> = capped.collect();
    if !settings.caps.all.is_empty() || !capped.is_empty() {
        say(format_args!(
            "money caps: {} over all tenants; {} of {} tenants have some; days begin at midnight of {}, raises hold after {} h",
            settings.caps.all.len(),
            capped.len(),
            registry.tenants().len(),
            settings.caps.time_zone.name(),
            settings.caps.raise_after.as_secs() / 3_600
        ));
    }
    of_caps("caps.all", &settings.caps.all, settings);
    for tenant in capped {
        let id = tenant.party.id.as_str();
        of_caps(id, tenant.caps(), settings);
        for cap in tenant.caps() {
            let may_call = |name: &&&str| {
                let row = MoneyRow::counted_as(name);
                let position = row.and_then(|row| position(catalogue, row.operation));
                position.is_some_and(|at| tenant.party.permissions.allows(at))
            };
            if !cap.calls.counted.iter().any(|name| may_call(&name)) {
                say(format_args!(
                    "note: {id}: a cap covers only calls that the tenant may not make: {}",
                    words(cap)
                ));
            }
        }
    }
}

fn position(catalogue: &Catalogue, operation: &str) -> Option<usize> {
    catalogue.position(operation)
}

fn words(cap: &Cap) -> String {
    let words = cap.calls.words.iter().map(|word| word.text.as_str());
    words.collect::<Vec<_>>().join(", ")
}

fn of_caps(whose: &str, caps: &[Cap], settings: &Settings) {
    for cap in caps {
        for note in notes(cap) {
            say(format_args!(
                "note: {whose}: the cap of {} in {}: {note}",
                words(cap),
                cap.currency_text()
            ));
        }
        if cap.approve_above.is_some() {
            say(format_args!(
                "note: {whose}: approve_above has no effect yet"
            ));
        }
    }
    if !caps.is_empty() && settings.caps.raise_after.is_zero() {
        say("note: caps.raise_after is 0: a cap that is raised in a file is raised at once");
    }
}

/// The limits of a cap that another one of its limits never lets be met.
fn notes(cap: &Cap) -> Vec<String> {
    let pairs: [(&str, Option<ExactAmount>, &str, Option<ExactAmount>); 5] = [
        ("per_call", cap.per_call, "per_hour", cap.per_hour),
        ("per_call", cap.per_call, "per_24h", cap.per_24h),
        ("per_call", cap.per_call, "per_day", cap.per_day),
        ("per_hour", cap.per_hour, "per_24h", cap.per_24h),
        ("per_day", cap.per_day, "per_24h", cap.per_24h),
    ];
    let notes = pairs.into_iter().filter_map(|(short, less, long, more)| {
        let (less, more) = (less?, more?);
        (less > more).then(|| format!("{short} {less} is never met, for {long} is {more}"))
    });
    notes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_tenancy::caps::CappedCalls;
    use std::collections::BTreeSet;

    #[test]
    fn a_limit_that_a_longer_window_never_lets_be_met_is_a_note() {
        let amount = |text| ExactAmount::parse(text).ok();
        let cap = Cap {
            calls: CappedCalls {
                words: Vec::new(),
                counted: BTreeSet::new(),
            },
            currency: None,
            per_call: amount("5"),
            per_hour: amount("20"),
            per_24h: amount("60"),
            per_day: amount("61"),
            count_per_hour: None,
            approve_above: None,
            shadow: false,
        };
        assert_eq!(notes(&cap), ["per_day 61 is never met, for per_24h is 60"]);
    }
}
