//! A configuration as plain facts without secrets: a key and a JSON value each. Two sides are compared by
//! them, and a running process tells its own by them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::destination::DestinationUrl;
use gatepay_core::operation::{AnswerForm, Method};
use gatepay_core::{Catalogue, Operation};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::model::facts::ConfigFacts;
use crate::model::notifications::TenantNotifications;
use crate::model::operator::Operator;
use crate::model::party::{DatedCredential, Party, PartyId, PartyLimits, Rate};
use crate::model::permissions::{CallerClass, Permissions};
use crate::model::registry::PartyRef;
use crate::model::settings::Institution;
use crate::model::snapshot::ConfigSnapshot;
use crate::model::tenant::{Tenant, TenantOptions, TenantRemarks};

use crate::plan::cap_facts::{of_cap, of_destinations};
pub use crate::plan::settings_facts::of_settings;

/// The length of a secret's fingerprint: enough to tell two secrets apart, too little to find a guessable one by.
const FINGERPRINT_BYTES: usize = 4;

/// The facts of a tenant or an operator.
pub fn of_party(party: PartyRef<'_>, side: ConfigSnapshot<'_>) -> ConfigFacts {
    let Party {
        id: _,
        standing,
        addresses,
        replay,
        limits,
        permissions,
        window,
        credentials,
    } = party.party();
    let mut facts = ConfigFacts::new();
    let audience = match party {
        PartyRef::Tenant(tenant) => {
            facts.extend(of_tenant(tenant));
            CallerClass::Tenants
        }
        PartyRef::Operator(operator) => {
            let Operator {
                party: _,
                notifications,
                admin_operators,
            } = &**operator;
            if let Some(holders) = admin_operators {
                facts.insert("admin_operators".to_owned(), of_names(holders));
            }
            // An operator's file does not have two of the keys.
            let own = notifications.iter().flat_map(|it| of_delivery(it));
            let own = own.filter(|(key, _)| !["urls", "client_id"].contains(key));
            facts.extend(own.map(|(key, value)| (format!("notifications.{key}"), value)));
            CallerClass::Operators
        }
    };
    let mut put = |key: &str, value: Value| facts.insert(key.to_owned(), value);
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
    if let Some(allowed) = of_permissions(permissions, audience, side.catalogue) {
        put("operations", allowed);
    }
    facts.extend(of_limits(*limits));
    facts.extend(of_credentials(credentials));
    facts
}

/// A party that may call everything has no such fact, so that a new row is one change, and not one for each party.
fn of_permissions(
    permissions: &Permissions,
    audience: CallerClass,
    catalogue: &Catalogue,
) -> Option<Value> {
    if *permissions == Permissions::all(catalogue, audience) {
        return None;
    }
    let rows = catalogue.rows().iter().enumerate();
    let allowed = rows.filter(|(position, _)| permissions.allows(*position));
    Some(allowed.map(|(_, row)| &*row.name).collect())
}

/// The facts that only a tenant has.
fn of_tenant(tenant: &Tenant) -> ConfigFacts {
    let mut facts = ConfigFacts::new();
    let mut put = |key: &str, value: Value| facts.insert(key.to_owned(), value);
    let Tenant {
        party: _,
        sub_account,
        shared_sub_account,
        weight,
        options,
    } = tenant;
    put("sub_account", sub_account.as_str().into());
    put("shared_sub_account", (*shared_sub_account).into());
    put("weight", weight.get().into());
    if let Some(options) = options {
        let TenantOptions {
            notifications,
            caps,
            destinations,
            admin_operators,
            remarks,
        } = &**options;
        if !admin_operators.is_empty() {
            put("admin_operators", of_names(admin_operators));
        }
        for (key, text) in of_remarks(remarks) {
            put(key, text.as_str().into());
        }
        for (key, value) in notifications.iter().flat_map(|it| of_delivery(it)) {
            put(&format!("notifications.{key}"), value);
        }
        if !caps.is_empty() {
            put("cap", caps.iter().map(of_cap).collect());
        }
        for (key, value) in destinations.iter().flat_map(of_destinations) {
            put(key, value);
        }
    }
    facts
}

fn of_names(names: &[PartyId]) -> Value {
    names.iter().map(PartyId::as_str).collect()
}

fn of_remarks(remarks: &TenantRemarks) -> impl Iterator<Item = (&'static str, &String)> {
    let TenantRemarks { contact, note } = remarks;
    let remarks = [("contact", contact), ("note", note)].into_iter();
    remarks.filter_map(|(key, text)| Some((key, text.as_ref()?)))
}

/// The facts of a tenant's endpoint. Paths of endpoints often hold a secret, so that a URL is shown by its origin and a digest.
fn of_delivery(notifications: &TenantNotifications) -> Vec<(&'static str, Value)> {
    let TenantNotifications {
        url,
        urls,
        credential,
        ca,
        client_certificate,
        client_id,
        ack,
        at_once,
    } = notifications;
    let path = |path: &PathBuf| Value::from(path.to_string_lossy());
    let client = client_certificate.as_ref();
    let facts = [
        ("url", url.as_ref().map(|url| origin_and_digest(url).into())),
        (
            "urls",
            Some(urls.iter().map(ToString::to_string).collect::<Value>()),
        ),
        (
            "credential",
            credential.as_ref().map(|id| id.as_str().into()),
        ),
        ("ca", ca.as_ref().map(path)),
        (
            "client_certificate.certificate",
            client.map(|files| path(&files.certificate)),
        ),
        (
            "client_certificate.key",
            client.map(|files| path(&files.key)),
        ),
        ("client_id", Some(client_id.as_str().into())),
        ("ack", Some(ack.as_str().into())),
        ("at_once", Some(at_once.get().into())),
    ];
    let set = facts.into_iter();
    set.filter_map(|(key, value)| Some((key, value?))).collect()
}

fn origin_and_digest(url: &DestinationUrl) -> String {
    let digest = Sha256::digest(url.path_and_query());
    format!("{url}/.. {}", hex::encode(&digest[..FINGERPRINT_BYTES]))
}

fn of_limits(limits: PartyLimits) -> ConfigFacts {
    let PartyLimits {
        all,
        in_flight,
        read,
        write,
        money,
        shadow,
    } = limits;
    let mut facts = ConfigFacts::from([("limits.in_flight".to_owned(), in_flight.get().into())]);
    let rates = [
        ("limits", Some(all)),
        ("limits.read", read),
        ("limits.write", write),
        ("limits.money", money),
    ];
    for (table, rate) in rates {
        if let Some(Rate { per_second, burst }) = rate {
            let rate_key = format!("{table}.requests_per_second");
            facts.insert(rate_key, per_second.get().into());
            facts.insert(format!("{table}.burst"), burst.get().into());
        }
    }
    let shadow: Vec<_> = shadow.names().collect();
    if !shadow.is_empty() {
        facts.insert("limits.shadow".to_owned(), shadow.into());
    }
    facts
}

/// The facts of the institution itself, as GatePay knows it.
pub fn of_institution(institution: &Institution) -> ConfigFacts {
    let Institution {
        account_id,
        merchant_id,
        credentials,
    } = institution;
    let mut facts: ConfigFacts = of_credentials(credentials).collect();
    for (key, value) in [("account_id", account_id), ("merchant_id", merchant_id)] {
        if let Some(value) = value {
            facts.insert(key.to_owned(), value.as_str().into());
        }
    }
    facts
}

/// The facts of credentials. A client id that stands again, which only the institution's may, has a number behind it.
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

/// The facts of a row of the catalogue.
pub(crate) fn of_operation(row: &Operation) -> ConfigFacts {
    let line = |method: Method, path: &str| Value::from(format!("{method} {path}"));
    let mut facts = ConfigFacts::from([
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
    if row.answer == AnswerForm::Bare {
        facts.insert("answer".to_owned(), row.answer.as_str().into());
    }
    if let Some(limit) = row.body_limit {
        facts.insert("body_limit_bytes".to_owned(), limit.into());
    }
    facts
}

/// The source of one party's or row's facts.
#[derive(Clone, Copy)]
pub(crate) enum FactSource<'a> {
    Party(PartyRef<'a>, ConfigSnapshot<'a>),
    Row(&'a Operation),
    Outlined(&'a ConfigFacts),
}

impl<'a> FactSource<'a> {
    /// All that is known.
    pub(crate) fn facts(self) -> Cow<'a, ConfigFacts> {
        match self {
            Self::Party(party, side) => Cow::Owned(of_party(party, side)),
            Self::Row(row) => Cow::Owned(of_operation(row)),
            Self::Outlined(facts) => Cow::Borrowed(facts),
        }
    }

    /// Whether both are one in memory, as a reload keeps parties of unchanged files. A catalogue never changes
    /// under a party that is kept.
    pub(crate) fn is_same_in_memory(self, other: Self) -> bool {
        match (self, other) {
            (Self::Party(PartyRef::Tenant(one), _), Self::Party(PartyRef::Tenant(other), _)) => {
                Arc::ptr_eq(one, other)
            }
            (
                Self::Party(PartyRef::Operator(one), _),
                Self::Party(PartyRef::Operator(other), _),
            ) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl<'a> ConfigSnapshot<'a> {
    /// The rows, by name.
    pub(crate) fn operations(self) -> impl Iterator<Item = (&'a str, FactSource<'a>)> {
        let rows = self.catalogue.rows().iter();
        let by_name: BTreeMap<_, _> = rows
            .map(|row| (row.name.as_ref(), FactSource::Row(row)))
            .collect();
        by_name.into_iter()
    }

    /// The tenants, by id.
    pub(crate) fn tenants(self) -> impl Iterator<Item = (&'a str, FactSource<'a>)> {
        self.parties(self.registry.tenants().iter().map(PartyRef::Tenant))
    }

    /// The operators, by id.
    pub(crate) fn operators(self) -> impl Iterator<Item = (&'a str, FactSource<'a>)> {
        self.parties(self.registry.operators().iter().map(PartyRef::Operator))
    }

    fn parties(
        self,
        parties: impl Iterator<Item = PartyRef<'a>>,
    ) -> impl Iterator<Item = (&'a str, FactSource<'a>)> {
        parties.map(move |party| (party.party().id.as_str(), FactSource::Party(party, self)))
    }
}

/// RFC 3339.
pub fn time(ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}

/// A period as files write it: `24h`, `90m`, `1s`, and `0` for none. From two days on it is in days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainPeriod(pub Duration);

impl fmt::Display for PlainPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => f.write_str("0"),
            days if days >= 172_800 && days % 86_400 == 0 => write!(f, "{}d", days / 86_400),
            hours if hours % 3_600 == 0 => write!(f, "{}h", hours / 3_600),
            minutes if minutes % 60 == 0 => write!(f, "{}m", minutes / 60),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

#[cfg(test)]
mod period_tests {
    use super::*;
    use crate::files::caps_file::period;

    #[test]
    fn a_period_is_told_as_files_write_it() {
        for text in [
            "0", "1s", "61s", "1m", "90m", "1h", "24h", "36h", "2d", "90d",
        ] {
            assert_eq!(PlainPeriod(period(text).unwrap()).to_string(), text);
        }
        assert_eq!(PlainPeriod(period("1440m").unwrap()).to_string(), "24h");
    }
}
