//! The lines of `check` about money caps.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::Catalogue;
use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::MoneyRow;
use gatepay_tenancy::Configuration;
use gatepay_tenancy::caps::Cap;
use gatepay_tenancy::destinations::{DestinationMode, TenantDestinations};
use gatepay_tenancy::facts::PlainPeriod;
use gatepay_tenancy::settings::Settings;
use gatepay_tenancy::{PartyId, PartyRef};

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
        let limits = capped.iter().flat_map(|it| it.caps());
        let limits: usize = limits.map(|cap| limit_keys(cap).len()).sum();
        say(format_args!(
            "money caps: {} over all tenants; {} of {} tenants have some, with {limits} limits; days begin at midnight of {}, raises hold after {}",
            settings.caps.all.len(),
            capped.len(),
            registry.tenants().len(),
            settings.caps.time_zone.name(),
            PlainPeriod(settings.caps.raise_after)
        ));
    }
    of_destinations(configuration);
    of_caps("caps.all", &settings.caps.all, settings);
    of_approvers(configuration);
    for cap in &settings.caps.all {
        let tenants = registry.tenants().iter().map(|tenant| {
            let may_call = |name: &&&'static str| {
                let row = MoneyRow::counted_as(name);
                let position = row.and_then(|row| position(catalogue, row.operation));
                position.is_some_and(|at| tenant.party.permissions.allows(at))
            };
            let names = cap.calls.counted.iter().filter(may_call).copied();
            (tenant.party.id.as_str(), names.collect(), tenant.caps())
        });
        let uncapped = uncapped(cap, tenants);
        if !uncapped.is_empty() {
            say(format_args!(
                "note: caps.all: one tenant alone can use up the cap of {} in {}, even by calls that move no money: set a [[cap]] for {}",
                words(cap),
                cap.currency_text(),
                uncapped.join(", ")
            ));
        }
    }
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

/// Prints whose money goes to listed destinations only, and what no list bounds.
fn of_destinations(configuration: &Configuration) {
    let tenants = configuration.registry.tenants();
    let gift_cards = position(&configuration.catalogue, "create_gift_card");
    for tenant in tenants {
        let (id, Some(destinations)) = (tenant.party.id.as_str(), tenant.destinations()) else {
            continue;
        };
        let TenantDestinations { mode, hold, listed } = destinations;
        let (number, hold_text) = (listed.len(), PlainPeriod(*hold));
        say(match mode {
            DestinationMode::Listed => format!(
                "destinations: {id}: money goes to {number} listed ones only; a new one is held {hold_text}"
            ),
            DestinationMode::Any => format!(
                "destinations: {id}: money goes anywhere; the hold of {number} listed ones, {hold_text}, is counted already"
            ),
        });
        let may_give = gift_cards.is_some_and(|at| tenant.party.permissions.allows(at));
        if *mode == DestinationMode::Listed && may_give {
            say(format_args!(
                "note: {id}: the code of a gift card is its money, and no list bounds where codes go: deny create_gift_card in [operations]"
            ));
        }
        if *mode == DestinationMode::Listed && hold.is_zero() {
            say(format_args!(
                "note: {id}: destinations.hold is 0: a destination that is added to the file is usable at once"
            ));
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
        for (currency, lacking) in lacking(cap, caps) {
            say(format_args!(
                "note: {whose}: the cap of {} in * does not bind {currency}, which has caps of its own, and these have no {}",
                words(cap),
                lacking.join(", ")
            ));
        }
    }
    if !caps.is_empty() && settings.caps.raise_after.is_zero() {
        say("note: caps.raise_after is 0: a cap that is raised in a file is raised at once");
    }
}

/// The limits of a cap of `"*"`, which binds no currency with an enforced cap of its own, that such currencies lack for some call.
fn lacking<'a>(every: &Cap, caps: &'a [Cap]) -> BTreeMap<&'a str, Vec<&'static str>> {
    let mut lacking: BTreeMap<&str, Vec<&'static str>> = BTreeMap::new();
    if every.currency.is_some() {
        return lacking;
    }
    let own = || {
        caps.iter()
            .filter(|cap| !cap.shadow && cap.currency.is_some())
    };
    for name in &every.calls.counted {
        let covers = |cap: &&Cap| cap.calls.counted.contains(name);
        let currencies: BTreeSet<&str> = own().filter(covers).map(Cap::currency_text).collect();
        for currency in currencies {
            let of = |cap: &&Cap| covers(cap) && cap.currency_text() == currency;
            for key in limit_keys(every) {
                let mut own = own().filter(of);
                let found = lacking.entry(currency).or_default();
                if !own.any(|cap| limit_keys(cap).contains(&key)) && !found.contains(&key) {
                    found.push(key);
                }
            }
        }
    }
    lacking.retain(|_, keys| !keys.is_empty());
    lacking
}

/// The keys of the limits that a cap sets.
fn limit_keys(cap: &Cap) -> Vec<&'static str> {
    let more = [
        ("count_per_hour", cap.count_per_hour.is_some()),
        ("approve_above", cap.approve_above.is_some()),
    ];
    let more = more.into_iter().filter(|(_, is_set)| *is_set);
    let more = more.map(|(key, _)| key);
    cap.amounts().map(|(key, _)| key).chain(more).collect()
}

/// Prints whose calls above `approve_above` nothing can approve.
fn of_approvers(configuration: &Configuration) {
    let Configuration {
        settings, registry, ..
    } = configuration;
    let asks = |caps: &[Cap]| {
        caps.iter()
            .any(|cap| !cap.shadow && cap.approve_above.is_some())
    };
    let needed = settings.approvals.count();
    let approvers = settings.admin.operators.iter().filter(|it| it.approves);
    let approvers = approvers.count();
    let mut tenants = registry.tenants().iter();
    if approvers < needed as usize
        && (asks(&settings.caps.all) || tenants.any(|tenant| asks(tenant.caps())))
    {
        say(format_args!(
            "note: approve_above asks for {needed} of [[admin.operator]] with approve = true, and there are {approvers}: such calls are always refused"
        ));
        return;
    }
    for found in registry.parties() {
        let own = match found {
            PartyRef::Tenant(tenant) => tenant.caps(),
            PartyRef::Operator(_) => &[],
        };
        let (id, holders) = (
            &found.party().id,
            found.admin_operators().unwrap_or_default(),
        );
        let independent = independent(settings, id, holders);
        if (asks(own) || asks(&settings.caps.all)) && independent < needed as usize {
            say(format_args!(
                "note: {id}: approve_above asks for {needed} of [[admin.operator]] with approve = true that do not hold its secret, and there are {independent}: such calls are always refused"
            ));
        }
    }
}

/// The number of operators that may approve calls of a party.
fn independent(settings: &Settings, id: &PartyId, holders: &[PartyId]) -> usize {
    let operators = settings.admin.operators.iter();
    let may = operators.filter(|it| it.approves && it.name != *id && !holders.contains(&it.name));
    may.count()
}

/// The tenants that may make a call of a cap over all that no cap of their own bounds.
fn uncapped<'a>(
    all: &Cap,
    tenants: impl Iterator<Item = (&'a str, Vec<&'static str>, &'a [Cap])>,
) -> Vec<&'a str> {
    let uncapped = tenants.filter(|(_, calls, caps)| {
        let is_bounded = |name: &&'static str| {
            let mut caps = caps.iter().filter(|cap| !cap.shadow);
            caps.any(|cap| cap.calls.counted.contains(name))
        };
        !all.shadow && !calls.iter().all(is_bounded)
    });
    uncapped.map(|(id, ..)| id).collect()
}

/// The limits of a cap that cannot be reached, because another limit of it is lower.
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
    use gatepay_core::money::CurrencyCode;
    use gatepay_tenancy::caps::CappedCalls;

    #[test]
    fn a_tenant_without_a_cap_of_its_own_for_a_call_can_use_up_the_one_over_all() {
        let cap = |counted: &[&'static str], shadow| Cap {
            calls: CappedCalls {
                words: Vec::new(),
                counted: counted.iter().copied().collect(),
            },
            currency: None,
            per_call: None,
            per_hour: None,
            per_24h: None,
            per_day: ExactAmount::parse("1").ok(),
            count_per_hour: None,
            approve_above: None,
            shadow,
        };
        let both = ["create_payout", "refund_order"];
        let tenants = [
            (
                "capped",
                vec![cap(&both[..1], false), cap(&both[1..], false)],
            ),
            ("partly", vec![cap(&both[..1], false)]),
            ("shadowed", vec![cap(&both, true)]),
            ("bare", vec![]),
        ];
        let tenants = || {
            let tenants = tenants.iter();
            tenants
                .map(|(id, caps)| (*id, both.to_vec(), &caps[..]))
                .chain([("may call neither", Vec::new(), &[][..])])
        };
        assert_eq!(
            uncapped(&cap(&both, false), tenants()),
            ["partly", "shadowed", "bare"]
        );
        assert!(uncapped(&cap(&both, true), tenants()).is_empty());
    }

    #[test]
    fn a_limit_of_every_currency_that_one_with_caps_of_its_own_lacks_is_a_note() {
        let amount = |text| ExactAmount::parse(text).ok();
        let cap = |currency: &str, counted: &[&'static str]| Cap {
            calls: CappedCalls {
                words: Vec::new(),
                counted: counted.iter().copied().collect(),
            },
            currency: CurrencyCode::parse(currency).filter(|_| currency != "*"),
            per_call: None,
            per_hour: None,
            per_24h: None,
            per_day: None,
            count_per_hour: None,
            approve_above: None,
            shadow: false,
        };
        let every = Cap {
            per_day: amount("50"),
            approve_above: amount("10"),
            ..cap("*", &["create_payout"])
        };
        let mut usdt = Cap {
            per_day: amount("900"),
            count_per_hour: Some(9),
            ..cap("USDT", &["create_payout", "refund_order"])
        };
        let elsewhere = cap("BTC", &["refund_order"]);
        let told = |usdt: &Cap| {
            let caps = [every.clone(), usdt.clone(), elsewhere.clone()];
            let told = lacking(&every, &caps).into_iter();
            let told = told.map(|(currency, keys)| format!("{currency} {}", keys.join(" ")));
            told.collect::<Vec<_>>()
        };
        assert_eq!(told(&usdt), ["USDT approve_above"]);
        usdt.approve_above = amount("100");
        assert_eq!(told(&usdt), [""; 0]);
        usdt.shadow = true;
        assert_eq!(told(&usdt), [""; 0], "it lifts nothing of the real one");
    }

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
