//! `proxy.toml`, as written.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use gatepay_core::check::Strictness;
use gatepay_core::{SigningKey, StampWindow};

use serde_json::json;

use crate::files::caps_file;
use crate::files::credentials;
use crate::files::listener_keys::{address, collide, listen_tls};
use crate::files::notifications_file;
use crate::files::secrets::{self, SecretSources};
use crate::files::store_file;
use crate::model::claims::UniqueClaims;
use crate::model::facts::ConfigFacts;
use crate::model::party::{DEFAULT_WINDOW, PartyId, Rate};
use crate::model::settings::{
    AcceptEncoding, AdminOperator, AdminSettings, ApprovalRule, AuditSettings, BreakerSettings,
    ClockSource, DrainSettings, EgressCredentials, EgressSettings, FixedAddressCallback,
    Institution, ListenSettings, LogFormat, LogSettings, MetricsSettings, QuotaSettings,
    QuotaShadow, RefusalStatus, SecretText, Settings, StoreSettings, UpstreamSettings,
};
use crate::model::tenant::SubAccount;
use crate::model::url::{UpstreamUrl, UrlError};
use crate::syntax::document::ConfigValue;
use crate::syntax::table_reader::{SourceLocation, TableReader, ValueFault};
use crate::syntax::value;

/// GatePay's base URL (protocol.md 1.1).
const GATEPAY: &str = "https://openplatform.gateapi.io";
/// An hour: replay memory holds every nonce for as long.
const LONGEST_PAST_MS: u64 = 3_600_000;

/// A file holds some calls at least, and can still be opened by an editor.
const FILE_BYTES: RangeInclusive<u64> = 65_536..=(1 << 32);
/// An hour to a month.
const FILE_HOURS: RangeInclusive<u64> = 1..=744;

/// Reads the whole file. After a problem a default stands in, so the result is good only if there was none.
pub(crate) fn read(
    reader: &mut TableReader<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Settings {
    let path = || value::path(sources.folder);
    // First, because the sections below read secrets.
    let text = secret_text(reader);
    let sources = SecretSources { text, ..sources };
    let institution = institution(reader.section("institution"), sources, claims);
    let (upstream, egress) = upstream(reader.section("upstream"), sources);
    let default = Settings::new(upstream.url.clone(), institution);
    let audit = reader.table("audit");
    let audit = audit.and_then(|table| self::audit(table, sources));
    let store = reader.table("store");
    let store = store.map(|table| store_file::read(table, sources));
    let notifications = reader.table("notifications");
    let notifications = notifications.and_then(|table| notifications_file::read(table, sources));
    let (approvals, caps) = caps_file::read(reader.section("caps"));
    let settings = Settings {
        tenants: reader.or("tenants", sources.folder.join(default.tenants), path()),
        operators: reader.optional("operators", path()),
        state_dir: reader.optional("state_dir", path()),
        poll: reader.or("poll_ms", default.poll, value::millis),
        reload_guard: reader.or("reload_guard", default.reload_guard, value::flag),
        ratelimit_headers: reader.or("ratelimit_headers", default.ratelimit_headers, value::flag),
        refusal_status: reader.or(
            "refusal_status",
            default.refusal_status,
            value::word(RefusalStatus::WORDS),
        ),
        checks: reader.or(
            "checks",
            default.checks,
            value::one_of(Strictness::ALL, Strictness::as_str),
        ),
        fixed_address_callback: callback(reader, default.fixed_address_callback),
        balance_currencies: balance(reader.section("balance"), default.balance_currencies),
        clock: reader.or("clock", default.clock, value::word(ClockSource::WORDS)),
        listen: listen(reader.section("listen"), sources),
        admin: admin(reader.section("admin"), sources),
        upstream,
        egress,
        institution: default.institution,
        window: window(reader.section("timestamp")),
        drain: drain(reader.section("drain")),
        secret_text: text,
        audit,
        store,
        notifications,
        approvals,
        caps,
        metrics: metrics(reader.section("metrics")),
        log: log(reader.section("log")),
        written: ConfigFacts::new(),
    };
    if settings.store.is_some() && settings.state_dir.is_none() {
        let text = "requires state_dir, which remembers the last contact with the store";
        reader.problem("store", text);
    }
    check_together(reader, &settings);
    settings
}

/// Reports the settings that do not go together.
fn check_together(reader: &mut TableReader<'_>, settings: &Settings) {
    shared_burst(reader, settings);
    if settings.approvals == ApprovalRule::Two && settings.admin.operators.len() < 2 {
        let text = "2 requires two [[admin.operator]]: an order needs two different ones";
        reader.problem("caps.approvals", text);
    }
    if !settings.caps.all.is_empty() && settings.store.is_none() {
        reader.problem("caps.all", caps_file::WITHOUT_STORE);
    }
    notifications_file::check(reader, settings);
    if collide(settings.listen.address, settings.admin.address) {
        reader.problem("admin.address", "must differ from listen.address");
    }
}

/// Instances share the institution's burst, and one with less than one request of it would never admit.
fn shared_burst(reader: &mut TableReader<'_>, settings: &Settings) {
    let sharing = settings.store.as_ref().and_then(StoreSettings::sharing);
    if let Some(most) = sharing.filter(|most| settings.upstream.quota.rate.burst <= *most) {
        let text = format!(
            "must be more than store.instances_max, {most}: instances share it, and each needs one request of it"
        );
        reader.problem("upstream.quota.burst", text);
    }
}

/// Only with notifications does a call to a URL of the proxy's find its way to the tenant.
fn callback(reader: &mut TableReader<'_>, without: FixedAddressCallback) -> FixedAddressCallback {
    let default = if reader.has("notifications") {
        FixedAddressCallback::Relay
    } else {
        without
    };
    let word = value::word(FixedAddressCallback::WORDS);
    reader.or("fixed_address_callback", default, word)
}

fn secret_text(reader: &mut TableReader<'_>) -> SecretText {
    let default = SecretText::default();
    reader.or("secret_text", default, value::word(SecretText::WORDS))
}

fn listen(mut reader: TableReader<'_>, sources: SecretSources<'_>) -> ListenSettings {
    let default = ListenSettings::default();
    let max_connections = reader.or("max_connections", default.max_connections, value::count);
    let listen = ListenSettings {
        address: reader.or("address", default.address, address),
        threads: reader.optional("threads", value::count),
        tls: reader.table("tls").and_then(|tls| listen_tls(tls, sources)),
        trusted_proxies: reader
            .list("trusted_proxies", value::network)
            .unwrap_or_default(),
        proxy_protocol: reader.or("proxy_protocol", default.proxy_protocol, value::flag),
        head_timeout: reader.or("head_timeout_ms", default.head_timeout, value::millis),
        body_timeout: reader.or("body_timeout_ms", default.body_timeout, value::millis),
        body_bytes_per_second: reader.or(
            "body_bytes_per_second",
            default.body_bytes_per_second,
            value::bytes_per_second,
        ),
        answer_timeout: reader.or("answer_timeout_ms", default.answer_timeout, value::millis),
        idle_timeout: reader.or("idle_timeout_ms", default.idle_timeout, value::millis),
        connection_age: reader.or("connection_age_ms", default.connection_age, value::millis),
        body_limit: reader.or("body_limit_bytes", default.body_limit, value::body_bytes),
        max_connections,
        max_connections_per_address: reader.or(
            "max_connections_per_address",
            ListenSettings::share(max_connections),
            value::count,
        ),
        max_requests: reader.or(
            "max_requests",
            ListenSettings::requests(max_connections),
            value::count,
        ),
    };
    if listen.proxy_protocol && listen.trusted_proxies.is_empty() {
        let text = "requires trusted_proxies: the addresses that send the header";
        reader.problem("proxy_protocol", text);
    }
    reader.finish();
    listen
}

fn admin(mut reader: TableReader<'_>, sources: SecretSources<'_>) -> AdminSettings {
    let default = AdminSettings::default();
    let address = reader.or("address", default.address, address);
    let token = secrets::optional(&mut reader, "token", sources);
    let token = token.as_ref().map(SigningKey::new);
    let operators = admin_operators(&mut reader, token.as_ref(), sources);
    reader.finish();
    AdminSettings {
        address,
        token,
        operators,
    }
}

/// Each name and each token is one operator's: otherwise the journal would not name the one that acted.
fn admin_operators(
    reader: &mut TableReader<'_>,
    shared: Option<&SigningKey>,
    sources: SecretSources<'_>,
) -> Vec<AdminOperator> {
    let tables = reader.tables("operator").unwrap_or_default();
    let mut operators: Vec<AdminOperator> = Vec::with_capacity(tables.len());
    for mut table in tables {
        let name = table.required("name", value::text(PartyId::parse));
        let token = secrets::required(&mut table, "token", sources);
        let token = token.as_ref().map(SigningKey::new);
        let reserved = [AdminSettings::SHARED_TOKEN, AdminSettings::LOOPBACK];
        if let Some(name) = &name {
            if reserved.contains(&name.as_str()) {
                let text =
                    "is reserved for journal entries without a named operator; choose another name";
                table.problem("name", text);
            }
            if operators.iter().any(|other| other.name == *name) {
                table.problem("name", "is already used by another operator");
            }
        }
        let same = |other: &SigningKey| token.as_ref().is_some_and(|own| own.same_secret(other));
        if shared.is_some_and(same) {
            table.problem("token", "is the same as admin.token; it needs its own");
        }
        if operators.iter().any(|other| same(&other.token)) {
            table.problem(
                "token",
                "is already used by another operator; it needs its own",
            );
        }
        let approves = table.or("approve", false, value::flag);
        table.finish();
        if let (Some(name), Some(token)) = (name, token) {
            operators.push(AdminOperator {
                name,
                token,
                approves,
            });
        }
    }
    operators
}

fn upstream(
    mut reader: TableReader<'_>,
    sources: SecretSources<'_>,
) -> (UpstreamSettings, Option<EgressSettings>) {
    let gatepay = UpstreamUrl::parse(GATEPAY).expect("the documented URL is one");
    let url = value::text(UpstreamUrl::parse);
    let default = UpstreamSettings::new(reader.or("url", gatepay, &url));
    let upstream = UpstreamSettings {
        url: default.url,
        ca: reader.optional("ca", value::path(sources.folder)),
        max_connections: reader.or("max_connections", default.max_connections, value::count),
        max_idle_connections: reader.or(
            "max_idle_connections",
            default.max_idle_connections,
            |value| {
                let number = value::number(value, 0..=u32::MAX.into())?;
                Ok(usize::try_from(number).expect("the bounds are within the type's"))
            },
        ),
        idle_timeout: reader.or("idle_ms", default.idle_timeout, value::millis),
        connect_timeout: reader.or("connect_timeout_ms", default.connect_timeout, value::millis),
        plaintext: reader.or("plaintext", default.plaintext, value::flag),
        accept_encoding: reader.or(
            "accept_encoding",
            default.accept_encoding,
            value::word(AcceptEncoding::WORDS),
        ),
        deadline: reader.or("deadline_ms", default.deadline, value::millis),
        resolve: reader.or("resolve_ms", default.resolve, value::millis_or_none),
        repeat_budget: reader.or("repeat_budget", default.repeat_budget, fraction),
        breaker: breaker(reader.section("breaker")),
        quota: quota(reader.section("quota")),
    };
    if !upstream.url.tls && !upstream.url.is_loopback() && !upstream.plaintext {
        let text =
            "plain HTTP to another machine is not allowed; if intended, set plaintext = true";
        reader.problem("url", text);
    }
    let egress = egress(&mut reader, sources);
    reader.finish();
    (upstream, egress)
}

/// A proxy on the way out. Between it and us all is plain, so a password crosses the network as it is.
fn egress(reader: &mut TableReader<'_>, sources: SecretSources<'_>) -> Option<EgressSettings> {
    let parse = |text: &str| match UpstreamUrl::parse(text) {
        Ok(url) if url.tls => {
            Err("must begin with http://; the tunnel through the proxy is encrypted")
        }
        Ok(url) => Ok(url),
        Err(UrlError::User) => Err("must have no user or password; set proxy_credentials"),
        Err(UrlError::Path) => Err("must end after the host and port"),
        Err(_) => Err("must be the address of a proxy, like \"http://egress:3128\""),
    };
    let url = reader.optional("proxy", value::text(parse));
    let credentials = secrets::optional(reader, "proxy_credentials", sources);
    let authorization = credentials.as_ref().and_then(|credentials| {
        let authorization = EgressCredentials::basic(credentials);
        // The stand-in for a secret of another machine has no colon.
        if authorization.is_none() && !sources.elsewhere {
            reader.problem("proxy_credentials", "must be USER:PASSWORD");
        }
        authorization
    });
    if credentials.is_some() && !reader.has("proxy") {
        reader.problem("proxy_credentials", "requires proxy, which is not set");
    }
    url.map(|url| EgressSettings { url, authorization })
}

fn breaker(mut reader: TableReader<'_>) -> BreakerSettings {
    let default = BreakerSettings::default();
    let breaker = BreakerSettings {
        failures: reader.or("failures", default.failures, |value| {
            let number = value::number(value, 0..=u32::MAX.into())?;
            Ok(u32::try_from(number).expect("the bounds are the type's"))
        }),
        ratio: reader.or("ratio", default.ratio, fraction),
    };
    reader.finish();
    breaker
}

fn quota(mut reader: TableReader<'_>) -> QuotaSettings {
    let default = QuotaSettings::default();
    let per_second = reader.or(
        "requests_per_second",
        default.rate.per_second,
        value::requests,
    );
    // As in the default: one second's worth.
    let burst = reader.or("burst", per_second, value::requests);
    let reserve = reader.or("reserve", default.reserve, fraction);
    let floor: Option<NonZeroU32> = reader.optional("floor", value::requests);
    if floor.is_some_and(|floor| floor > per_second) {
        let text = format!("may be at most requests_per_second, {per_second}");
        reader.problem("floor", text);
    }
    let in_flight = reader.optional("in_flight", value::requests);
    let pushback_codes = reader.list("pushback_codes", value::text(code));
    let shadow = reader.list("shadow", value::word(QUOTA_SHADOWS));
    let shadow = shadow.unwrap_or_default();
    reader.finish();
    QuotaSettings {
        rate: Rate { per_second, burst },
        reserve,
        floor,
        in_flight,
        pushback_codes: pushback_codes.unwrap_or_default(),
        shadow: QuotaShadow {
            shares: shadow.contains(&QuotaLimit::Shares),
            in_flight: shadow.contains(&QuotaLimit::InFlight),
            rate: shadow.contains(&QuotaLimit::Rate),
        },
    }
}

/// The parts of the institution's quota that can be in shadow. The rate's name is not written by accident: without it
/// GatePay refuses payments.
const QUOTA_SHADOWS: &[(&str, QuotaLimit)] = &[
    ("shares", QuotaLimit::Shares),
    ("in_flight", QuotaLimit::InFlight),
    ("rate_at_own_risk", QuotaLimit::Rate),
];

#[derive(Clone, Copy, PartialEq)]
enum QuotaLimit {
    Shares,
    InFlight,
    Rate,
}

/// A code as it stands in an envelope.
fn code(text: &str) -> Result<String, &'static str> {
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match text {
        "000000" | "SUCCESS" | "0" => Err("means success"),
        _ if plain && (1..=64).contains(&text.len()) => Ok(text.to_owned()),
        _ => Err("must be a code of GatePay's, like \"400603\""),
    }
}

fn institution(
    mut reader: TableReader<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Institution {
    // Both go into headers, like a sub-account.
    let mut header = |key| {
        let value = reader.optional(key, value::text(SubAccount::parse));
        value.map(|value| value.as_str().to_owned())
    };
    let account_id = header("account_id");
    let merchant_id = header("merchant_id");
    let credentials = credentials::of_institution(&mut reader, sources, claims);
    reader.finish();
    Institution {
        account_id,
        merchant_id,
        credentials,
    }
}

fn window(mut reader: TableReader<'_>) -> StampWindow {
    let window = StampWindow {
        past_ms: reader.or("past_ms", DEFAULT_WINDOW.past_ms, |value| {
            value::number(value, 1..=LONGEST_PAST_MS)
        }),
        future_ms: reader.or("future_ms", DEFAULT_WINDOW.future_ms, |value| {
            value::number(value, 0..=Settings::LONGEST_FUTURE_MS)
        }),
    };
    reader.finish();
    window
}

fn drain(mut reader: TableReader<'_>) -> DrainSettings {
    let default = DrainSettings::default();
    let drain = DrainSettings {
        grace: reader.or("grace_ms", default.grace, value::millis),
        deadline: reader.or("deadline_ms", default.deadline, value::millis),
    };
    if drain.deadline < drain.grace {
        reader.problem(
            "deadline_ms",
            "must be at least grace_ms, which it includes",
        );
    }
    reader.finish();
    drain
}

fn balance(mut reader: TableReader<'_>, default: Vec<String>) -> Vec<String> {
    let currencies = reader.list("currencies", value::text(currency));
    if currencies.as_ref().is_some_and(Vec::is_empty) {
        reader.problem(
            "currencies",
            "must have at least one currency; omit it for the default",
        );
    }
    reader.finish();
    currencies.unwrap_or(default)
}

fn audit(mut reader: TableReader<'_>, sources: SecretSources<'_>) -> Option<AuditSettings> {
    let dir = reader.required("dir", value::path(sources.folder));
    let key = secrets::required(&mut reader, "key", sources);
    let file_bytes = reader.or("file_bytes", AuditSettings::FILE_BYTES, |value| {
        value::number(value, FILE_BYTES)
    });
    let hours = AuditSettings::FILE_AGE.as_secs() / 3_600;
    let file_hours = reader.or("file_hours", hours, |value| {
        value::number(value, FILE_HOURS)
    });
    reader.finish();
    Some(AuditSettings {
        dir: dir?,
        key: SigningKey::new(&key?),
        file_bytes,
        file_age: Duration::from_hours(file_hours),
    })
}

fn metrics(mut reader: TableReader<'_>) -> MetricsSettings {
    let default = MetricsSettings::default();
    let max_tenants = reader.or("max_tenants", default.max_tenants, |value| {
        let number = value::number(value, 0..=u32::MAX.into())?;
        Ok(usize::try_from(number).expect("the bounds are within the type's"))
    });
    let pinned = reader.list("pinned", value::text(PartyId::parse));
    let pinned = pinned.unwrap_or_default();
    if pinned.len() > max_tenants {
        reader.problem("pinned", "has more tenants than max_tenants");
    }
    let operation_histograms = reader.or(
        "operation_histograms",
        default.operation_histograms,
        value::flag,
    );
    reader.finish();
    MetricsSettings {
        max_tenants,
        pinned,
        operation_histograms,
    }
}

fn log(mut reader: TableReader<'_>) -> LogSettings {
    let default = LogSettings::default();
    let log = LogSettings {
        format: reader.or("format", default.format, value::word(LogFormat::WORDS)),
        sample_successes: reader.or("sample_successes", default.sample_successes, part),
    };
    reader.finish();
    log
}

fn currency(text: &str) -> Result<String, &'static str> {
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    if plain && (1..=16).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must be a currency: 1 to 16 of A-Z and 0-9, like \"USDT\"")
    }
}

fn fraction(value: &ConfigValue) -> Result<f64, ValueFault> {
    value.record(|| json!({ "type": "number", "minimum": 0, "maximum": 0.5 }));
    match value {
        ConfigValue::Float(part) if (0.0..=0.5).contains(part) => Ok(*part),
        ConfigValue::Integer(0) => Ok(0.0),
        _ => Err("must be a fraction from 0.0 to 0.5".into()),
    }
}

/// A fraction from 0 to 1.
fn part(value: &ConfigValue) -> Result<f64, ValueFault> {
    value.record(|| json!({ "type": "number", "minimum": 0, "maximum": 1 }));
    match value {
        ConfigValue::Integer(1) => Ok(1.0),
        ConfigValue::Float(part) if (0.0..=1.0).contains(part) => Ok(*part),
        ConfigValue::Integer(0) => Ok(0.0),
        _ => Err("must be a fraction from 0 to 1".into()),
    }
}
