//! `[notifications]` of `proxy.toml` and of a tenant's file, as written.

use std::num::NonZeroU32;
use std::time::Duration;

use gatepay_core::ClientId;
use gatepay_core::delivery_schedule::AckRule;
use gatepay_core::destination::{DestinationError, DestinationRules, DestinationUrl};

use crate::files::listener_keys::{address, collide, listen_tls};
use crate::files::secrets::SecretSources;
use crate::files::store_file;
use crate::model::notifications::{
    DeliveredClientId, EndpointBounds, NotificationSettings, TenantNotifications,
};
use crate::model::party::DatedCredential;
use crate::model::settings::{FixedAddressCallback, Settings};
use crate::syntax::document::ConfigValue;
use crate::syntax::table_reader::{TableReader, ValueFault};
use crate::syntax::value;

/// Ten years: events are rows of a database.
const MOST_DAYS: u64 = 3_650;
/// As many connections as one process has for GatePay by default.
const MOST_AT_ONCE: u64 = 4_096;
/// One tenant's part.
const MOST_OF_A_TENANT: u64 = 64;

/// Reads the table of `proxy.toml`.
pub(crate) fn read(
    mut reader: TableReader<'_>,
    sources: SecretSources<'_>,
) -> Option<NotificationSettings> {
    let address = reader.required("listen", address);
    let path = reader.or(
        "path",
        NotificationSettings::PATH.to_owned(),
        value::text(path),
    );
    let public_url = reader.required("public_url", value::text(public_url));
    let tls = reader.table("tls");
    let tls = tls.and_then(|tls| listen_tls(tls, sources));
    let addresses = reader.list("addresses", value::network);
    if addresses.as_ref().is_some_and(Vec::is_empty) {
        reader.problem("addresses", "allows no address; omit it to allow all");
    }
    let endpoints = endpoints(&mut reader);
    let ask = reader.or("ask", false, value::flag);
    let deadline = NotificationSettings::DEADLINE;
    let deadline = reader.or("deadline_ms", deadline, attempt_millis);
    let attempts_at_once = reader.or(
        "attempts_at_once",
        NotificationSettings::ATTEMPTS_AT_ONCE,
        |value| whole(value, MOST_AT_ONCE),
    );
    let keep_days = reader.or("keep_days", NotificationSettings::KEEP_DAYS, |value| {
        whole(value, MOST_DAYS)
    });
    reader.finish();
    Some(NotificationSettings {
        address: address?,
        tls,
        path,
        public_url: public_url?,
        addresses: addresses.unwrap_or_default(),
        endpoints,
        ask,
        deadline,
        attempts_at_once,
        keep_days,
    })
}

fn endpoints(reader: &mut TableReader<'_>) -> EndpointBounds {
    let default = EndpointBounds::default();
    let ports = reader.list("ports", |value| {
        let number = value::number(value, 1..=u16::MAX.into())?;
        Ok(u16::try_from(number).expect("the bounds are the type's"))
    });
    if ports.as_ref().is_some_and(Vec::is_empty) {
        reader.problem("ports", "allows no port; omit it for the default");
    }
    let allow_networks = reader.list("allow_networks", value::network);
    EndpointBounds {
        ports: ports.unwrap_or(default.ports),
        allow_networks: allow_networks.unwrap_or(default.allow_networks),
    }
}

/// Reports the settings that do not go together.
pub(crate) fn check(reader: &TableReader<'_>, settings: &Settings) {
    if reader.has("notifications") && settings.store.is_none() {
        let text = "requires [store], which keeps them: set store.path (one process) or store.postgres (several)";
        reader.problem("notifications", text);
    }
    let relays = settings.fixed_address_callback == FixedAddressCallback::Relay;
    if relays && !reader.has("notifications") {
        let text = "\"relay\" requires [notifications], which is not set";
        reader.problem("fixed_address_callback", text);
    }
    let Some(notifications) = &settings.notifications else {
        return;
    };
    for (key, other) in [
        ("listen.address", settings.listen.address),
        ("admin.address", settings.admin.address),
    ] {
        if collide(notifications.address, other) {
            reader.problem("notifications.listen", format!("must differ from {key}"));
        }
    }
}

/// Reads the table of a tenant's file.
pub(crate) fn of_tenant(
    mut reader: TableReader<'_>,
    bounds: &EndpointBounds,
    credentials: &[DatedCredential],
    sources: SecretSources<'_>,
) -> TenantNotifications {
    let mut notifications = of_party(&mut reader, bounds, (credentials, "tenant"), sources);
    let origin = |text: &str| match destination(bounds, text) {
        Ok(url) if url.is_origin() => Ok(url),
        Ok(_) => Err("must end after the host and port".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let urls = reader.list("urls", value::text(origin));
    notifications.urls = urls.unwrap_or_default();
    let most = TenantNotifications::MOST_ORIGINS;
    if notifications.urls.len() > most {
        reader.problem("urls", format!("must have at most {most} origins"));
    }
    notifications.client_id = reader.or(
        "client_id",
        DeliveredClientId::Tenant,
        value::word(DeliveredClientId::WORDS),
    );
    reader.finish();
    notifications
}

/// Reads the table of an operator's file. An operator names no callback URLs, and its bodies have the institution's own
/// client id.
pub(crate) fn of_operator(
    mut reader: TableReader<'_>,
    bounds: &EndpointBounds,
    credentials: &[DatedCredential],
    sources: SecretSources<'_>,
) -> TenantNotifications {
    let notifications = of_party(&mut reader, bounds, (credentials, "operator"), sources);
    reader.finish();
    notifications
}

/// The keys that tenants and operators have.
fn of_party(
    reader: &mut TableReader<'_>,
    bounds: &EndpointBounds,
    (credentials, word): (&[DatedCredential], &str),
    sources: SecretSources<'_>,
) -> TenantNotifications {
    let url = reader.optional("url", value::text(|text| destination(bounds, text)));
    let credential = reader.optional("credential", value::text(ClientId::parse));
    let is_own = |id: &ClientId| credentials.iter().any(|it| it.credential.client_id == *id);
    if credential.as_ref().is_some_and(|id| !is_own(id)) {
        let text = format!("must be the client_id of one of this {word}'s credentials");
        reader.problem("credential", text);
    }
    let client = reader.table("client_certificate");
    TenantNotifications {
        url,
        urls: Vec::new(),
        credential,
        ca: reader.optional("ca", value::path(sources.folder)),
        client_certificate: client.and_then(|table| store_file::client(table, sources)),
        client_id: DeliveredClientId::AsSent,
        ack: reader.or(
            "ack",
            AckRule::default(),
            value::one_of(AckRule::ALL, AckRule::as_str),
        ),
        at_once: reader.or("at_once", TenantNotifications::AT_ONCE, |value| {
            whole(value, MOST_OF_A_TENANT)
        }),
    }
}

fn destination(bounds: &EndpointBounds, text: &str) -> Result<DestinationUrl, DestinationError> {
    bounds.with_rules(|rules| DestinationUrl::parse(text, rules))
}

/// The time for one attempt, in milliseconds.
fn attempt_millis(value: &ConfigValue) -> Result<Duration, ValueFault> {
    let longest = NotificationSettings::LONGEST_DEADLINE.as_millis();
    let longest = u64::try_from(longest).unwrap_or(u64::MAX);
    value::number(value, 1..=longest).map(Duration::from_millis)
}

fn whole(value: &ConfigValue, most: u64) -> Result<NonZeroU32, ValueFault> {
    let number = value::number(value, 1..=most)?;
    let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
    Ok(number.expect("the bounds are within the type's"))
}

/// A path without its final slash.
fn path(text: &str) -> Result<String, &'static str> {
    let path = text.strip_suffix('/').unwrap_or(text);
    let is_segment = |segment: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain)
    };
    match path.strip_prefix('/') {
        Some(segments) if segments.split('/').all(is_segment) => Ok(path.to_owned()),
        None if text == "/" => Ok(String::new()),
        _ => Err("must be a path of letters, digits and -._~, like \"/gatepay\""),
    }
}

/// The proxy's own URL, without its final slash. It may be any of the institution's machines.
fn public_url(text: &str) -> Result<String, String> {
    let ports: Vec<u16> = (1..=u16::MAX).collect();
    let rules = DestinationRules {
        ports: &ports,
        allows: &|_| true,
    };
    let url = DestinationUrl::parse(text, &rules).map_err(|error| error.to_string())?;
    let path = url.path_and_query();
    if path.contains('?') {
        return Err("must not have a query (?)".to_owned());
    }
    Ok(format!("{url}{}", path.strip_suffix('/').unwrap_or(path)))
}
