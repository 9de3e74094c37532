//! `[store]` of `proxy.toml`, as written.

use crate::files::secrets::{self, SecretSources};
use crate::model::settings::{
    PostgresServer, StoreClientFiles, StoreEngine, StoreFailover, StorePassword, StoreSettings,
};
use crate::syntax::table_reader::TableReader;
use crate::syntax::value;

/// Reads the table. After a problem a default stands in.
pub(crate) fn read(mut reader: TableReader<'_>, sources: SecretSources<'_>) -> StoreSettings {
    let (in_file, on_server) = (reader.has("path"), reader.has("postgres"));
    let file = reader.optional("path", value::path(sources.folder));
    let server = server(&mut reader, sources);
    if in_file == on_server {
        let text = "must be set, or else path: exactly one of the two";
        reader.problem("postgres", text);
    }
    let engine = match (file, server) {
        (Some(path), _) => Some(StoreEngine::File(path)),
        (None, server) => server.map(|server| StoreEngine::Postgres(Box::new(server))),
    };
    // The engine of the defaults is never looked at.
    let default = StoreSettings::new(StoreEngine::File(sources.folder.into()));
    let settings = StoreSettings {
        failover: reader.or(
            "failover",
            default.failover,
            value::word(StoreFailover::WORDS),
        ),
        timeout: reader.or("timeout_ms", default.timeout, value::millis),
        max_skew_ms: reader.or("max_skew_ms", default.max_skew_ms, |value| {
            value::number(value, 1..=StoreSettings::LONGEST_SKEW_MS)
        }),
        instances_max: reader.or("instances_max", default.instances_max, value::requests),
        reads_without_store: reader.or(
            "reads_without_store",
            default.reads_without_store,
            value::flag,
        ),
        engine: engine.unwrap_or(default.engine),
    };
    reader.finish();
    settings
}

fn server(reader: &mut TableReader<'_>, sources: SecretSources<'_>) -> Option<PostgresServer> {
    let conninfo = reader.optional("postgres", value::text(connection));
    let password = secrets::optional(reader, "password", sources);
    let ca = reader.optional("ca", value::path(sources.folder));
    let client = reader
        .table("client")
        .and_then(|table| client(table, sources));
    let plaintext = reader.or("plaintext", false, value::flag);
    for key in ["password", "ca", "client", "plaintext"] {
        if reader.has(key) && !reader.has("postgres") {
            reader.problem(key, "requires postgres, which is not set");
        }
    }
    Some(PostgresServer {
        conninfo: conninfo?,
        password: password.as_ref().map(StorePassword::new),
        ca,
        client,
        plaintext,
    })
}

pub(super) fn client(
    mut reader: TableReader<'_>,
    sources: SecretSources<'_>,
) -> Option<StoreClientFiles> {
    let certificate = reader.required("certificate", value::path(sources.folder));
    let key = reader.required("key", value::path(sources.folder));
    reader.finish();
    Some(StoreClientFiles {
        certificate: certificate?,
        key: key?,
    })
}

/// A connection string in the form of keys and values. A URL may hold a password in more places than one.
fn connection(text: &str) -> Result<String, &'static str> {
    let lower = text.to_ascii_lowercase();
    let mut after = lower.match_indices("password").map(|(at, key)| {
        let rest = &lower[at + key.len()..];
        rest.trim_start().starts_with('=')
    });
    if after.any(|is_a_key| is_a_key) {
        return Err("must hold no password; set password = { file = \"…\" }");
    }
    if text.contains("://") || !text.contains('=') {
        return Err("must be keys and values, like \"host=db1 dbname=gatepay user=gatepay_serve\"");
    }
    Ok(text.to_owned())
}
