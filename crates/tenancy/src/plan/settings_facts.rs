//! The settings in force, with defaults: every key with its value, `null` if it has none. Of a secret it is
//! said whether there is one.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::model::facts::Facts;
use crate::model::party::PartyId;
use crate::model::settings::{
    AcceptEncoding, Admin, Audit, Breaker, ClockSource, Drain, Egress, FixedAddressCallback,
    Listen, ListenTls, Log, LogFormat, Metrics, Quota, QuotaShadow, RefusalStatus, SecretText,
    Settings, Upstream,
};
use crate::model::url::UpstreamUrl;

/// Of the process. The institution has facts of its own.
pub fn of_settings(settings: &Settings) -> Facts {
    // Taken apart by name, so that a key more cannot be forgotten here.
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
        admin:
            Admin {
                address,
                token,
                operators: admin_operators,
            },
        upstream,
        egress,
        institution: _,
        window,
        drain: Drain { grace, deadline },
        audit,
        metrics: Metrics {
            max_tenants,
            pinned,
        },
        log: Log {
            format,
            sample_successes,
        },
        written: _,
    } = settings;
    let operator_names = admin_operators.iter().map(|one| one.name.as_str());
    let operator_names: Value = operator_names.collect();
    let pinned: Value = pinned.iter().map(PartyId::as_str).collect();
    let mut facts: Facts = [
        ("tenants", path(tenants)),
        ("operators", maybe_path(operators.as_ref())),
        ("state_dir", maybe_path(state_dir.as_ref())),
        ("poll_ms", millis(*poll)),
        ("reload_guard", (*reload_guard).into()),
        ("refusal_status", word(RefusalStatus::WORDS, refusal_status)),
        ("ratelimit_headers", (*ratelimit_headers).into()),
        ("checks", checks.as_str().into()),
        (
            "fixed_address_callback",
            word(FixedAddressCallback::WORDS, fixed_address_callback),
        ),
        ("balance.currencies", balance_currencies.clone().into()),
        ("clock", word(ClockSource::WORDS, clock)),
        ("secret_text", word(SecretText::WORDS, secret_text)),
        ("admin.address", address.to_string().into()),
        ("admin.token", secret(token.is_some())),
        ("admin.operator", operator_names),
        ("timestamp.past_ms", window.past_ms.into()),
        ("timestamp.future_ms", window.future_ms.into()),
        ("drain.grace_ms", millis(*grace)),
        ("drain.deadline_ms", millis(*deadline)),
        ("metrics.max_tenants", (*max_tenants).into()),
        ("metrics.pinned", pinned),
        ("log.format", word(LogFormat::WORDS, format)),
        ("log.sample_successes", (*sample_successes).into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    below(&mut facts, "listen", of_listen(listen));
    below(&mut facts, "upstream", of_upstream(upstream));
    below(&mut facts, "upstream", of_egress(egress.as_ref()));
    below(&mut facts, "audit", of_audit(audit.as_ref()));
    facts
}

fn of_listen(listen: &Listen) -> Vec<(&'static str, Value)> {
    let Listen {
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

fn of_upstream(upstream: &Upstream) -> Vec<(&'static str, Value)> {
    let Upstream {
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
        breaker: Breaker { failures, ratio },
        quota:
            Quota {
                rate,
                reserve,
                floor,
                in_flight,
                pushback_codes,
                shadow,
            },
    } = upstream;
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
    vec![
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
        ("quota.requests_per_second", rate.per_second.get().into()),
        ("quota.burst", rate.burst.get().into()),
        ("quota.reserve", (*reserve).into()),
        ("quota.floor", floor.map(NonZero::get).into()),
        ("quota.in_flight", in_flight.map(NonZero::get).into()),
        ("quota.pushback_codes", pushback_codes.clone().into()),
        ("quota.shadow", shadow.map(|(_, word)| word).collect()),
    ]
}

fn of_egress(egress: Option<&Egress>) -> Vec<(&'static str, Value)> {
    let authorized = egress.is_some_and(|egress| egress.authorization.is_some());
    vec![
        ("proxy", egress.map(|egress| written(&egress.url)).into()),
        ("proxy_credentials", secret(authorized)),
    ]
}

fn of_audit(audit: Option<&Audit>) -> Vec<(&'static str, Value)> {
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

fn below(facts: &mut Facts, table: &str, entries: Vec<(&'static str, Value)>) {
    let entries = entries.into_iter();
    facts.extend(entries.map(|(key, value)| (format!("{table}.{key}"), value)));
}

/// Only whether there is one is shown.
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

/// The word a file has for it.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> Value {
    let named = words.iter().find(|(_, of)| of == value);
    named.map(|(word, _)| *word).into()
}
