//! The lines of `check` about GatePay's notifications.

use gatepay_proxy::process::clock::Clock;
use gatepay_tenancy::notifications::NotificationSettings;
use gatepay_tenancy::settings::Settings;
use gatepay_tenancy::{PartyRef, Registry, Tenant};

use super::super::say;

/// Prints where notifications come in, and the settings that an operator should look at again.
pub(super) fn report(settings: &Settings, registry: &Registry) {
    let mut tenants = registry.tenants().iter();
    let has_table = |tenant: &Tenant| tenant.notifications().is_some();
    let Some(notifications) = &settings.notifications else {
        if tenants.any(|tenant| has_table(tenant)) || registry.notified_operator().is_some() {
            say(
                "note: tenants or operators have [notifications], and proxy.toml has none: no notification comes through",
            );
        }
        return;
    };
    let has_url = |tenant: &Tenant| {
        let table = tenant.notifications();
        table.is_some_and(|table| table.url.is_some())
    };
    let delivered = tenants.filter(|tenant| has_url(tenant)).count();
    say(format_args!(
        "notifications on {}, for GatePay {}; {delivered} of {} tenants have an endpoint, the others pull",
        notifications.address,
        notifications.public_url,
        registry.tenants().len()
    ));
    say(of_institution(registry));
    warnings(notifications).iter().for_each(say);
    for party in crowded(registry, Clock::system().unix_ms()) {
        say(format_args!(
            "note: the {} {} has more than two credentials in force at once: a delivery carries two signatures, so another one verifies none. Let two overlap at most",
            party.word(),
            party.party().id
        ));
    }
}

/// The parties of which more than two credentials are in force at once, now or later.
fn crowded(registry: &Registry, now_ms: u64) -> impl Iterator<Item = PartyRef<'_>> {
    let notified = registry
        .parties()
        .filter(|party| party.notifications().is_some());
    notified.filter(move |party| {
        let credentials = &party.party().credentials;
        let mut begins = credentials
            .iter()
            .map(|dated| dated.not_before.map_or(now_ms, |begin| begin.max(now_ms)));
        begins.any(|at| credentials.iter().filter(|it| it.valid_at(at)).count() > 2)
    })
}

fn of_institution(registry: &Registry) -> String {
    let Some(operator) = registry.notified_operator() else {
        return "note: no operator has [notifications]: news about the institution itself is only listed, and no event of the proxy's own is sent"
            .to_owned();
    };
    let id = &operator.party.id;
    let table = operator.notifications.as_ref();
    match table.and_then(|table| table.url.as_ref()) {
        Some(url) => {
            format!("news about the institution itself goes to the operator {id}, at {url}")
        }
        None => format!("news about the institution itself waits until the operator {id} pulls it"),
    }
}

fn warnings(settings: &NotificationSettings) -> Vec<String> {
    let mut warnings = Vec::new();
    if settings.tls.is_none() && !settings.address.ip().is_loopback() {
        warnings.push(
            "note: notifications.listen is plain HTTP beyond this machine; GatePay needs https: put TLS in front, or set notifications.tls"
                .to_owned(),
        );
    }
    if settings.ask {
        warnings.push(
            "note: notifications.ask has an effect only with a proof that GatePay keeps accounts apart; without one, notifications without a certain owner stay in quarantine. `gatepay-proxy probe isolation --kept` shows the proof"
                .to_owned(),
        );
    }
    if settings.addresses.is_empty() && !settings.address.ip().is_loopback() {
        warnings.push(
            "note: notifications may come from any address; the signature decides. notifications.addresses can name GatePay's networks"
                .to_owned(),
        );
    }
    let (path, url) = (&settings.path, &settings.public_url);
    if !url.ends_with(path.as_str()) {
        warnings.push(format!(
            "note: notifications.public_url does not end with notifications.path, {path:?}: something in front has to rewrite the path"
        ));
    }
    if !settings.endpoints.allow_networks.is_empty() {
        warnings.push(
            "note: tenants' endpoints may lie in notifications.allow_networks, where they reach machines of yours"
                .to_owned(),
        );
    }
    warnings
}
