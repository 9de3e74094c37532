//! The settings in force, with defaults: every key with its value, `null` if it has none. A secret's fact says only
//! whether the secret is set.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepay_core::StampWindow;
use ipnet::IpNet;
use serde_json::Value;

use crate::model::caps::CapSettings;
use crate::model::facts::ConfigFacts;
use crate::model::notifications::NotificationSettings;
use crate::model::party::PartyId;
use crate::model::settings::{
    AcceptEncoding, AdminSettings, ApprovalRule, AuditSettings, BreakerSettings, ClockSource,
    DrainSettings, EgressSettings, FixedAddressCallback, ListenSettings, ListenTls, LogFormat,
    LogSettings, MetricsSettings, QuotaSettings, QuotaShadow, RefusalStatus, SecretText, Settings,
    StoreEngine, StoreFailover, StoreSettings, UpstreamSettings,
};
use crate::model::url::UpstreamUrl;
use crate::plan::cap_facts::of_cap;

/// Of the process. The institution has facts of its own.
///
/// Each struct is destructured in full, so that the compiler reports a new key that has no fact.
pub fn of_settings(settings: &Settings) -> ConfigFacts {
    let Settings {
        tenants,
        operators,
        state_dir,
        poll,
        reload_guard,
        refusal_status,
        ratelimit_headers,
        checks,
        fixed_address_callback,
        balance_currencies,
        clock,
        secret_text,
        listen,
        admin,
        upstream,
        egress,
        institution: _,
        window,
        drain,
        audit,
        store,
        notifications,
        approvals,
        caps,
        metrics,
        log,
        written: _,
    } = settings;
    let callback = word(FixedAddressCallback::WORDS, fixed_address_callback);
    let mut facts = named([
        ("tenants", path(tenants)),
        ("operators", maybe_path(operators.as_ref())),
        ("state_dir", maybe_path(state_dir.as_ref())),
        ("poll_ms", millis(*poll)),
        ("reload_guard", (*reload_guard).into()),
        ("refusal_status", word(RefusalStatus::WORDS, refusal_status)),
        ("ratelimit_headers", (*ratelimit_headers).into()),
        ("checks", checks.as_str().into()),
        ("fixed_address_callback", callback),
        ("balance.currencies", balance_currencies.clone().into()),
        ("clock", word(ClockSource::WORDS, clock)),
        ("secret_text", word(SecretText::WORDS, secret_text)),
    ]);
    for (table, entries) in [
        ("listen", of_listen(listen)),
        ("admin", of_admin(admin)),
        ("timestamp", of_window(*window)),
        ("upstream", of_upstream(upstream, egress.as_ref())),
        ("drain", of_drain(drain)),
        ("audit", of_audit(audit.as_ref())),
        ("store", of_store(store.as_ref())),
        ("notifications", of_notifications(notifications.as_ref())),
        ("caps", of_caps(*approvals, caps)),
        ("metrics", of_metrics(metrics)),
        ("log", of_log(log)),
    ] {
        below(&mut facts, table, entries);
    }
    facts
}

fn of_caps(approvals: ApprovalRule, caps: &CapSettings) -> Vec<(&'static str, Value)> {
    let CapSettings {
        time_zone,
        raise_after,
        all,
    } = caps;
    vec![
        ("approvals", approvals.count().into()),
        ("timezone", time_zone.name().into()),
        ("raise_after", format!("{}s", raise_after.as_secs()).into()),
        ("all", all.iter().map(of_cap).collect()),
    ]
}

fn of_listen(listen: &ListenSettings) -> Vec<(&'static str, Value)> {
    let ListenSettings {
        address,
        threads,
        tls,
        trusted_proxies,
        proxy_protocol,
        head_timeout,
        body_timeout,
        body_bytes_per_second,
        answer_timeout,
        idle_timeout,
        connection_age,
        body_limit,
        max_connections,
        max_connections_per_address,
        max_requests,
    } = listen;
    let tls = tls.as_ref();
    let file = |of: fn(&ListenTls) -> Option<&PathBuf>| maybe_path(tls.and_then(of));
    vec![
        ("address", address.to_string().into()),
        ("threads", threads.map(NonZero::get).into()),
        ("tls.certificate", file(|tls| Some(&tls.certificate))),
        ("tls.key", file(|tls| Some(&tls.key))),
        ("tls.client_ca", file(|tls| tls.client_ca.as_ref())),
        (
            "trusted_proxies",
            trusted_proxies.iter().map(ToString::to_string).collect(),
        ),
        ("proxy_protocol", (*proxy_protocol).into()),
        ("head_timeout_ms", millis(*head_timeout)),
        ("body_timeout_ms", millis(*body_timeout)),
        ("body_bytes_per_second", body_bytes_per_second.get().into()),
        ("answer_timeout_ms", millis(*answer_timeout)),
        ("idle_timeout_ms", millis(*idle_timeout)),
        ("connection_age_ms", millis(*connection_age)),
        ("body_limit_bytes", (*body_limit).into()),
        ("max_connections", max_connections.get().into()),
        (
            "max_connections_per_address",
            max_connections_per_address.get().into(),
        ),
        ("max_requests", max_requests.get().into()),
    ]
}

fn of_admin(admin: &AdminSettings) -> Vec<(&'static str, Value)> {
    let AdminSettings {
        address,
        token,
        operators,
    } = admin;
    let operators = operators.iter().map(|operator| operator.name.as_str());
    vec![
        ("address", address.to_string().into()),
        ("token", secret(token.is_some())),
        ("operator", operators.collect()),
    ]
}

fn of_window(window: StampWindow) -> Vec<(&'static str, Value)> {
    let StampWindow { past_ms, future_ms } = window;
    vec![("past_ms", past_ms.into()), ("future_ms", future_ms.into())]
}

fn of_upstream(
    upstream: &UpstreamSettings,
    egress: Option<&EgressSettings>,
) -> Vec<(&'static str, Value)> {
    let UpstreamSettings {
        url,
        ca,
        max_connections,
        max_idle_connections,
        idle_timeout,
        connect_timeout,
        plaintext,
        accept_encoding,
        deadline,
        resolve,
        repeat_budget,
        breaker: BreakerSettings { failures, ratio },
        quota,
    } = upstream;
    let mut facts = vec![
        ("url", written(url)),
        ("ca", maybe_path(ca.as_ref())),
        ("max_connections", max_connections.get().into()),
        ("max_idle_connections", (*max_idle_connections).into()),
        ("idle_ms", millis(*idle_timeout)),
        ("connect_timeout_ms", millis(*connect_timeout)),
        ("plaintext", (*plaintext).into()),
        (
            "accept_encoding",
            word(AcceptEncoding::WORDS, accept_encoding),
        ),
        ("deadline_ms", millis(*deadline)),
        ("resolve_ms", millis(*resolve)),
        ("repeat_budget", (*repeat_budget).into()),
        ("breaker.failures", (*failures).into()),
        ("breaker.ratio", (*ratio).into()),
    ];
    facts.extend(of_quota(quota));
    facts.extend(of_egress(egress));
    facts
}

fn of_quota(quota: &QuotaSettings) -> [(&'static str, Value); 7] {
    let QuotaSettings {
        rate,
        reserve,
        floor,
        in_flight,
        pushback_codes,
        shadow,
    } = quota;
    let QuotaShadow {
        shares,
        in_flight: shadow_in_flight,
        rate: shadow_rate,
    } = *shadow;
    let shadow = [
        (shares, "shares"),
        (shadow_in_flight, "in_flight"),
        (shadow_rate, "rate_at_own_risk"),
    ];
    let shadow = shadow.into_iter().filter(|(on, _)| *on);
    [
        ("quota.requests_per_second", rate.per_second.get().into()),
        ("quota.burst", rate.burst.get().into()),
        ("quota.reserve", (*reserve).into()),
        ("quota.floor", floor.map(NonZero::get).into()),
        ("quota.in_flight", in_flight.map(NonZero::get).into()),
        ("quota.pushback_codes", pushback_codes.clone().into()),
        ("quota.shadow", shadow.map(|(_, word)| word).collect()),
    ]
}

fn of_egress(egress: Option<&EgressSettings>) -> Vec<(&'static str, Value)> {
    let authorized = egress.is_some_and(|egress| egress.authorization.is_some());
    vec![
        ("proxy", egress.map(|egress| written(&egress.url)).into()),
        ("proxy_credentials", secret(authorized)),
    ]
}

fn of_audit(audit: Option<&AuditSettings>) -> Vec<(&'static str, Value)> {
    const HOUR: u64 = 3_600;
    vec![
        ("dir", maybe_path(audit.map(|audit| &audit.dir))),
        ("key", secret(audit.is_some())),
        ("file_bytes", audit.map(|audit| audit.file_bytes).into()),
        (
            "file_hours",
            audit.map(|audit| audit.file_age.as_secs() / HOUR).into(),
        ),
    ]
}

fn of_store(store: Option<&StoreSettings>) -> Vec<(&'static str, Value)> {
    let (server, file) = match store.map(|store| &store.engine) {
        Some(StoreEngine::Postgres(server)) => (Some(&**server), None),
        Some(StoreEngine::File(path)) => (None, Some(path)),
        None => (None, None),
    };
    let client = server.and_then(|server| server.client.as_ref());
    let has_password = server.is_some_and(|server| server.password.is_some());
    vec![
        ("path", maybe_path(file)),
        (
            "postgres",
            server.map(|server| server.conninfo.as_str()).into(),
        ),
        ("password", secret(has_password)),
        (
            "ca",
            maybe_path(server.and_then(|server| server.ca.as_ref())),
        ),
        (
            "client.certificate",
            maybe_path(client.map(|client| &client.certificate)),
        ),
        ("client.key", maybe_path(client.map(|client| &client.key))),
        ("plaintext", server.map(|server| server.plaintext).into()),
        (
            "failover",
            store.map_or(Value::Null, |store| {
                word(StoreFailover::WORDS, &store.failover)
            }),
        ),
        (
            "timeout_ms",
            store.map_or(Value::Null, |store| millis(store.timeout)),
        ),
        ("max_skew_ms", store.map(|store| store.max_skew_ms).into()),
        (
            "instances_max",
            store.map(|store| store.instances_max.get()).into(),
        ),
        (
            "reads_without_store",
            store.map(|store| store.reads_without_store).into(),
        ),
    ]
}

fn of_notifications(notifications: Option<&NotificationSettings>) -> Vec<(&'static str, Value)> {
    let tls = notifications.and_then(|settings| settings.tls.as_ref());
    let file = |of: fn(&ListenTls) -> Option<&PathBuf>| maybe_path(tls.and_then(of));
    let set = |of: fn(&NotificationSettings) -> Value| notifications.map_or(Value::Null, of);
    let networks = |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect();
    vec![
        ("listen", set(|it| it.address.to_string().into())),
        ("tls.certificate", file(|tls| Some(&tls.certificate))),
        ("tls.key", file(|tls| Some(&tls.key))),
        ("tls.client_ca", file(|tls| tls.client_ca.as_ref())),
        ("path", set(|it| it.path.as_str().into())),
        ("public_url", set(|it| it.public_url.as_str().into())),
        (
            "addresses",
            notifications.map_or(Value::Null, |it| networks(&it.addresses)),
        ),
        ("ports", set(|it| it.endpoints.ports.clone().into())),
        (
            "allow_networks",
            notifications.map_or(Value::Null, |it| networks(&it.endpoints.allow_networks)),
        ),
        ("ask", set(|it| it.ask.into())),
        ("deadline_ms", set(|it| millis(it.deadline))),
        (
            "attempts_at_once",
            set(|it| it.attempts_at_once.get().into()),
        ),
        ("keep_days", set(|it| it.keep_days.get().into())),
    ]
}

fn of_drain(drain: &DrainSettings) -> Vec<(&'static str, Value)> {
    let DrainSettings { grace, deadline } = drain;
    vec![
        ("grace_ms", millis(*grace)),
        ("deadline_ms", millis(*deadline)),
    ]
}

fn of_metrics(metrics: &MetricsSettings) -> Vec<(&'static str, Value)> {
    let MetricsSettings {
        max_tenants,
        pinned,
        operation_histograms,
    } = metrics;
    vec![
        ("max_tenants", (*max_tenants).into()),
        ("pinned", pinned.iter().map(PartyId::as_str).collect()),
        ("operation_histograms", (*operation_histograms).into()),
    ]
}

fn of_log(log: &LogSettings) -> Vec<(&'static str, Value)> {
    let LogSettings {
        format,
        sample_successes,
    } = log;
    vec![
        ("format", word(LogFormat::WORDS, format)),
        ("sample_successes", (*sample_successes).into()),
    ]
}

fn named<const N: usize>(entries: [(&str, Value); N]) -> ConfigFacts {
    entries.map(|(key, value)| (key.to_owned(), value)).into()
}

fn below(facts: &mut ConfigFacts, table: &str, entries: Vec<(&'static str, Value)>) {
    let entries = entries.into_iter();
    facts.extend(entries.map(|(key, value)| (format!("{table}.{key}"), value)));
}

/// Shows only whether the secret is set.
fn secret(set: bool) -> Value {
    if set { "(set)".into() } else { Value::Null }
}

fn millis(duration: Duration) -> Value {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .into()
}

fn path(path: &Path) -> Value {
    path.to_string_lossy().into()
}

fn maybe_path(maybe: Option<&PathBuf>) -> Value {
    maybe.map(|found| path(found)).into()
}

fn written(url: &UpstreamUrl) -> Value {
    let scheme = if url.tls { "https" } else { "http" };
    format!("{scheme}://{}", url.authority()).into()
}

/// The word that stands for the value in a file.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> Value {
    let named = words.iter().find(|(_, of)| of == value);
    named.map(|(word, _)| *word).into()
}
