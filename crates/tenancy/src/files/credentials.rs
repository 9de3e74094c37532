//! The `[[credential]]` tables of the institution, of tenants and of operators.

use gatepay_core::{ClientId, Credential, SigningKey};

use crate::files::secrets::{self, SecretSources};
use crate::model::claims::{UniqueClaim, UniqueClaims};
use crate::model::party::DatedCredential;
use crate::syntax::table_reader::{SourceLocation, TableReader};
use crate::syntax::value;

/// The institution's. One client id may stand in several: GatePay can change the secret and keep the id.
pub(crate) fn of_institution(
    reader: &mut TableReader<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Vec<DatedCredential> {
    all(reader, |table| {
        let client_id = table.required("client_id", value::text(ClientId::parse));
        if let Some(id) = &client_id {
            let taken_before = || UniqueClaim::ClientId(id.clone());
            claims.stake(taken_before, || table.location("client_id"));
        }
        let key = key(table, sources, claims);
        let not_before = table.optional("not_before", value::time);
        Some(DatedCredential {
            credential: Credential {
                client_id: client_id?,
                key: key?,
            },
            not_before,
            not_after: None,
        })
    })
}

/// A party's. A client id is looked up to find the one credential that a request was signed with.
pub(crate) fn of_party(
    reader: &mut TableReader<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Vec<DatedCredential> {
    all(reader, |table| {
        let client_id = table.required("client_id", value::text(ClientId::parse));
        if let Some(id) = &client_id
            && let Some(place) = claims.stake(
                || UniqueClaim::ClientId(id.clone()),
                || table.location("client_id"),
            )
        {
            table.problem("client_id", format!("is already used at {place}"));
        }
        let key = key(table, sources, claims);
        let not_before = table.optional("not_before", value::time);
        let not_after = table.optional("not_after", value::time);
        if let (Some(begin), Some(end)) = (not_before, not_after)
            && begin >= end
        {
            table.problem("not_after", "must be later than not_before");
        }
        Some(DatedCredential {
            credential: Credential {
                client_id: client_id?,
                key: key?,
            },
            not_before,
            not_after,
        })
    })
}

fn all(
    reader: &mut TableReader<'_>,
    mut read: impl FnMut(&mut TableReader<'_>) -> Option<DatedCredential>,
) -> Vec<DatedCredential> {
    const NEEDED: &str = "is required: at least one credential";
    reader.need("credential", NEEDED);
    let Some(tables) = reader.tables("credential") else {
        return Vec::new();
    };
    if tables.is_empty() && reader.has("credential") {
        reader.problem("credential", NEEDED);
    }
    // Exact: there can be a hundred thousand tenants, and a vector that grows keeps room for four.
    let mut credentials = Vec::with_capacity(tables.len());
    for mut table in tables {
        credentials.extend(read(&mut table));
        table.finish();
    }
    credentials
}

fn key(
    table: &mut TableReader<'_>,
    sources: SecretSources<'_>,
    claims: &mut UniqueClaims<SourceLocation>,
) -> Option<SigningKey> {
    let secret = secrets::required(table, "secret", sources)?;
    let key = SigningKey::new(&secret);
    let claim = || UniqueClaim::Secret(key.fingerprint());
    if let Some(place) = claims.stake(claim, || table.location("secret")) {
        let text = format!("same secret as at {place}; every credential needs its own");
        table.problem("secret", text);
    }
    Some(key)
}
