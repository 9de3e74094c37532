//! `[notifications]` of `proxy.toml` and of a tenant's file.

use gatepay_core::delivery_schedule::AckRule;
use gatepay_core::destination::DestinationUrl;
use gatepay_tenancy::notifications::{DeliveredClientId, EndpointBounds};
use gatepay_tenancy::settings::FixedAddressCallback;

use crate::support::{Folder, folder};

const STORE: &str = "state_dir = 'state'\nstore = { path = 'a.db' }\n";
const REQUIRED: &str =
    "listen = '127.0.0.1:8443'\npublic_url = 'https://notify.example.com/gatepay'";

/// A folder with a store and this table.
fn with(table: &str) -> Folder {
    folder().proxy(&format!("{STORE}[notifications]\n{table}\n"))
}

/// The problems of a folder, without file and line.
fn texts(folder: &Folder) -> Vec<String> {
    let problems = folder.problems();
    let text = |problem: &String| problem.split_once(": ").map(|(_, text)| text.to_owned());
    problems.iter().filter_map(text).collect()
}

#[test]
fn notifications_have_the_documented_defaults() {
    let loaded = with(REQUIRED).tenant("acme", "notifications = {}").loads();
    let settings = loaded.settings.notifications.unwrap();
    assert_eq!(settings.address.to_string(), "127.0.0.1:8443");
    assert_eq!(settings.path, "/gatepay");
    assert_eq!(settings.public_url, "https://notify.example.com/gatepay");
    assert_eq!(
        settings.url_of_token("t"),
        "https://notify.example.com/gatepay/n/t"
    );
    assert_eq!(settings.endpoints, EndpointBounds::default());
    assert_eq!(settings.endpoints.ports, [443, 8_443]);
    assert!(!settings.ask && settings.tls.is_none() && settings.addresses.is_empty());
    assert_eq!(settings.deadline.as_secs(), 15);
    assert_eq!(settings.attempts_at_once.get(), 256);
    assert_eq!(settings.keep_days.get(), 90);
    let relay = FixedAddressCallback::Relay;
    assert_eq!(loaded.settings.fixed_address_callback, relay);
    let tenant = loaded.registry.tenants()[0]
        .notifications()
        .cloned()
        .unwrap();
    assert!(tenant.url.is_none() && tenant.urls.is_empty());
    assert_eq!(tenant.client_id, DeliveredClientId::Tenant);
    assert_eq!(tenant.ack, AckRule::ReturnCode);
    assert_eq!(tenant.at_once.get(), 4);

    let plain = folder().tenant("acme", "").loads();
    assert!(plain.settings.notifications.is_none());
    let refuse = FixedAddressCallback::Refuse;
    assert_eq!(plain.settings.fixed_address_callback, refuse);
    assert!(plain.registry.tenants()[0].notifications().is_none());
}

#[test]
fn notifications_need_a_store() {
    let folder = folder().proxy(&format!("[notifications]\n{REQUIRED}"));
    assert_eq!(
        texts(&folder),
        [
            "notifications: requires [store], which keeps them: set store.path (one process) or store.postgres (several)"
        ]
    );
}

#[test]
fn a_callback_url_is_relayed_only_with_notifications() {
    let folder = folder().proxy("fixed_address_callback = 'relay'");
    assert_eq!(
        texts(&folder),
        ["fixed_address_callback: \"relay\" requires [notifications], which is not set"]
    );
    let refuses = "fixed_address_callback = 'refuse'\n";
    let text = format!("{refuses}{STORE}[notifications]\n{REQUIRED}");
    let loaded = self::folder().proxy(&text).loads();
    let refuse = FixedAddressCallback::Refuse;
    assert_eq!(loaded.settings.fixed_address_callback, refuse);
}

#[test]
fn each_problem_of_the_table_is_told() {
    let told = texts(&with("ask = 1\naddresses = []\nports = []"));
    for problem in [
        "notifications.listen: is required",
        "notifications.public_url: is required",
        "notifications.addresses: allows no address; omit it to allow all",
        "notifications.ports: allows no port; omit it for the default",
        "notifications.ask: must be true or false",
    ] {
        assert!(told.iter().any(|it| it == problem), "{problem}: {told:?}");
    }
    assert_eq!(told.len(), 5, "{told:?}");
    for (key, value, problem) in [
        (
            "path",
            "'gatepay'",
            "must be a path of letters, digits and -._~, like \"/gatepay\"",
        ),
        (
            "path",
            "'/a//b'",
            "must be a path of letters, digits and -._~, like \"/gatepay\"",
        ),
        (
            "path",
            "'/a/../b'",
            "must be a path of letters, digits and -._~, like \"/gatepay\"",
        ),
        ("keep_days", "0", "must be at least 1"),
        ("attempts_at_once", "5_000", "must be at most 4096"),
    ] {
        let folder = with(&format!("{REQUIRED}\n{key} = {value}"));
        assert_eq!(
            texts(&folder),
            [format!("notifications.{key}: {problem}")],
            "{value}"
        );
    }
    for (url, problem) in [
        ("http://notify.example.com", "must begin with https://"),
        (
            "https://notify.example.com/a?b=c",
            "must not have a query (?)",
        ),
        (
            "https://me@notify.example.com",
            "must not have a user or password (@)",
        ),
    ] {
        let folder = with(&format!("listen = '127.0.0.1:8443'\npublic_url = '{url}'"));
        assert_eq!(
            texts(&folder),
            [format!("notifications.public_url: {problem}")],
            "{url}"
        );
    }
    let busy = with("listen = '127.0.0.1:8080'\npublic_url = 'https://notify.example.com:9443/'");
    assert_eq!(
        texts(&busy),
        ["notifications.listen: must differ from listen.address"]
    );
}

#[test]
fn a_path_and_a_url_lose_their_final_slash() {
    let table = "listen = '127.0.0.1:8443'\npath = '/'\npublic_url = 'https://n.example:9443/'";
    let settings = with(table).loads().settings.notifications.unwrap();
    assert_eq!(settings.path, "");
    assert_eq!(settings.url_of_token("t"), "https://n.example:9443/n/t");
}

#[test]
fn an_endpoint_of_a_tenant_is_judged_by_the_rules_for_destinations() {
    for (table, key, problem) in [
        (
            "url = 'http://shop.example'",
            "url",
            "must begin with https://",
        ),
        (
            "url = 'https://127.0.0.1/hook'",
            "url",
            "names a host that is not on the public Internet (loopback); notifications.allow_networks can allow it",
        ),
        (
            "url = 'https://shop.example:9443'",
            "url",
            "has a port that notifications.ports does not list",
        ),
        (
            "url = 'https://0x7f.1/'",
            "url",
            "spells an address in an unusual way",
        ),
        (
            "urls = ['https://shop.example/path']",
            "urls[0]",
            "must end after the host and port",
        ),
        (
            "credential = 'another'",
            "credential",
            "must be the client_id of one of this tenant's credentials",
        ),
        (
            "client_certificate = { certificate = 'a.pem' }",
            "client_certificate.key",
            "is required",
        ),
        ("at_once = 65", "at_once", "must be at most 64"),
    ] {
        let folder = with(REQUIRED).tenant("acme", &format!("[notifications]\n{table}"));
        assert_eq!(texts(&folder), [format!("notifications.{key}: {problem}")]);
    }
    let table = format!("{REQUIRED}\nports = [9443]\nallow_networks = ['127.0.0.0/8']");
    let url = "[notifications]\nurl = 'https://127.0.0.1:9443/hook'";
    let loaded = with(&table).tenant("acme", url).loads();
    let endpoint = loaded.registry.tenants()[0]
        .notifications()
        .cloned()
        .unwrap();
    assert_eq!(endpoint.url.as_ref().unwrap().path_and_query(), "/hook");
}

#[test]
fn a_callback_url_is_the_tenants_own_by_its_whole_url_or_by_a_listed_origin() {
    let table =
        "[notifications]\nurl = 'https://shop.example/hook'\nurls = ['https://b.example:8443']";
    let loaded = with(REQUIRED).tenant("acme", table).loads();
    let (settings, tenants) = (loaded.settings, loaded.registry);
    let bounds = settings.notifications.unwrap().endpoints;
    let tenant = tenants.tenants()[0].notifications().cloned().unwrap();
    for (url, is_own) in [
        ("https://shop.example/hook", true),
        ("https://SHOP.example:443/hook", true),
        ("https://shop.example/other", false),
        ("https://b.example:8443/any?thing=1", true),
        ("https://b.example/any", false),
        ("https://c.b.example:8443/any", false),
    ] {
        let parsed = bounds
            .with_rules(|rules| DestinationUrl::parse(url, rules))
            .unwrap();
        assert_eq!(tenant.owns(&parsed), is_own, "{url}");
    }
}

#[test]
fn facts_show_no_path_of_an_endpoint() {
    let table = "[notifications]\nurl = 'https://shop.example/hook?key=hunter22'";
    let loaded = with(REQUIRED).tenant("acme", table).loads();
    let side = gatepay_tenancy::ConfigSnapshot::of(&loaded);
    let tenant = loaded.registry.parties().next().unwrap();
    let facts = gatepay_tenancy::facts::of_party(tenant, side);
    let url = facts["notifications.url"].as_str().unwrap();
    assert!(url.starts_with("https://shop.example/.. "), "{url}");
    assert!(!url.contains("hunter22"));
    let facts = gatepay_tenancy::facts::of_settings(&loaded.settings);
    assert_eq!(facts["notifications.listen"], "127.0.0.1:8443");
    assert_eq!(facts["fixed_address_callback"], "relay");
}

/// A folder with a store, notifications and a folder of operators.
fn with_operators() -> Folder {
    let table = format!("{STORE}operators = 'operators.d'\n[notifications]\n{REQUIRED}\n");
    folder().proxy(&table)
}

#[test]
fn one_operator_gets_the_notifications_about_the_institution() {
    let url = "[notifications]\nurl = 'https://office.example/news'";
    let one = with_operators()
        .operator("office", url)
        .operator("desk", "");
    let loaded = one.loads();
    let office = loaded.registry.notified_operator().unwrap();
    assert_eq!(office.party.id.as_str(), "office");
    let table = office.notifications.clone().unwrap();
    assert_eq!(table.client_id, DeliveredClientId::AsSent);
    let side = gatepay_tenancy::ConfigSnapshot::of(&loaded);
    let office = loaded.registry.parties().last().unwrap();
    let facts = gatepay_tenancy::facts::of_party(office, side);
    let told = facts["notifications.url"].as_str().unwrap();
    assert!(told.starts_with("https://office.example/.. "), "{told}");

    let two = with_operators()
        .operator("desk", url)
        .operator("office", "[notifications]");
    let told = texts(&two);
    assert!(
        told[0].starts_with("notifications: is already set at ")
            && told[0].ends_with(": news about the institution goes to one operator"),
        "{told:?}"
    );
    for (table, problem) in [
        (
            "urls = ['https://b.example']",
            "notifications: unknown key \"urls\"",
        ),
        (
            "client_id = 'tenant'",
            "notifications: unknown key \"client_id\"",
        ),
        (
            "credential = 'another'",
            "notifications.credential: must be the client_id of one of this operator's credentials",
        ),
    ] {
        let folder = with_operators().operator("office", &format!("[notifications]\n{table}"));
        let told = texts(&folder);
        assert!(told[0].starts_with(problem), "{told:?}");
    }
}
