//! `store`: the store that instances share.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gatepay_proxy::cluster::connection::StoreConnection;
use gatepay_proxy::process::clock::Clock;
use gatepay_store::check::{FindingSeverity, StoreCheck};
use gatepay_store::engine::Store;
use gatepay_tenancy::load::load;
use serde_json::json;
use tokio::runtime::Builder;

use super::config_file::ConfigFile;
use super::from::SecretFrom;
use super::{ExitStatus, complain, environment, fail, say, say_json};

/// Prepare, check or distrust the store that instances share.
#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    Migrate(StoreMigrate),
    Check(StoreCheckCommand),
    Distrust(StoreDistrust),
}

/// Make the store's tables, or bring them to this version.
/// Run it before the first instance starts and before each upgrade that needs a newer schema. Instances go on serving
/// meanwhile. It sets and lifts no guard, and changes nothing if the tables are those of this version.
/// Exits with 0 if the tables are there, 1 if not, 64 for a wrong configuration.
#[derive(Args)]
#[command(after_help = MIGRATE_EXAMPLES)]
pub(crate) struct StoreMigrate {
    #[command(flatten)]
    file: StoreOfFile,
    /// Connect as this database user, the owner of the tables, instead of the one in the configuration.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A file that holds the password of `--user`.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Let this database user serve: execute the functions and read the tables, and nothing else.
    #[arg(long, value_name = "USER")]
    serve_role: Option<String>,
}

/// Ask the store for everything that instances depend on: server, rights, settings, schema, clock, standbys, guard, halts.
/// It changes nothing. Exits with 0 if instances can serve, 1 if not, 64 for a wrong configuration.
#[derive(Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub(crate) struct StoreCheckCommand {
    #[command(flatten)]
    file: StoreOfFile,
    /// Print the findings as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Refuse every stamp that the store may have admitted before: run it after a backup or a snapshot was put back.
/// Instances answer `starting` for `timestamp.future_ms` and `store.max_skew_ms`, 11 s by default. A SQLite file that was
/// put back refuses money until this command has accepted it; stop the process that serves first.
/// Exits with 0 if stamps are refused now, 1 if not, 64 for a wrong configuration.
#[derive(Args)]
#[command(after_help = DISTRUST_EXAMPLES)]
pub(crate) struct StoreDistrust {
    #[command(flatten)]
    file: StoreOfFile,
}

/// The configuration that names the store.
#[derive(Args)]
struct StoreOfFile {
    #[command(flatten)]
    config: ConfigFile,
}

const MIGRATE_EXAMPLES: &str = "\
Examples:
  gatepay-proxy store migrate --config /etc/gatepay-proxy/proxy.toml \\
    --user gatepay_owner --password-file owner.key --serve-role gatepay_serve
  gatepay-proxy store migrate        # as the user in the configuration; or of a file";
const CHECK_EXAMPLES: &str = "\
Examples:
  gatepay-proxy store check --config /etc/gatepay-proxy/proxy.toml
  gatepay-proxy store check --json | jq '.findings[] | select(.severity != \"fine\")'";
const DISTRUST_EXAMPLES: &str = "\
Example:
  gatepay-proxy store distrust --config /etc/gatepay-proxy/proxy.toml";

impl StoreCommand {
    pub(crate) fn run(self) -> ExitStatus {
        self.done().unwrap_or_else(|exit| exit)
    }

    fn done(self) -> Result<ExitStatus, ExitStatus> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| fail(format_args!("store: {error}")))?;
        match self {
            Self::Migrate(migrate) => {
                let connection = migrate.connection()?;
                let store = open(&connection)?;
                say(connection.place());
                let serve_role = migrate.serve_role.as_deref();
                Ok(runtime.block_on(migrate_store(&store, serve_role)))
            }
            Self::Check(check) => {
                let connection = check.file.connection()?;
                exists(&connection)?;
                let store = open(&connection)?;
                let clock = Clock::system();
                let checked = store.check(connection.terms(), || clock.unix_ms());
                let found = runtime.block_on(checked);
                Ok(print_findings(&connection.place(), &found, check.json))
            }
            Self::Distrust(distrust) => {
                let connection = distrust.file.connection()?;
                exists(&connection)?;
                let store = open(&connection)?;
                say(connection.place());
                Ok(runtime.block_on(distrust_store(&store)))
            }
        }
    }
}

impl StoreOfFile {
    fn connection(&self) -> Result<StoreConnection, ExitStatus> {
        let configuration = load(self.config.path(), &environment).map_err(|problems| {
            problems.iter().for_each(complain);
            ExitStatus::Usage
        })?;
        let settings = configuration.settings;
        let (Some(store), Some(state_dir)) = (&settings.store, &settings.state_dir) else {
            complain(format_args!(
                "{}: there is no [store]",
                self.config.path().display()
            ));
            return Err(ExitStatus::Usage);
        };
        StoreConnection::in_folder(store, settings.window, state_dir)
            .map_err(|error| fail(format_args!("store: {error}")))
    }
}

impl StoreMigrate {
    fn connection(&self) -> Result<StoreConnection, ExitStatus> {
        let connection = self.file.connection()?;
        if self.user.is_none() && self.serve_role.is_none() {
            return Ok(connection);
        }
        if connection.file().is_some() {
            complain("--user and --serve-role are for PostgreSQL: a SQLite file has no users");
            return Err(ExitStatus::Usage);
        }
        let Some(user) = &self.user else {
            return Ok(connection);
        };
        let password = self.password_file.as_deref().map(SecretFrom::file);
        let password = password.map(|file| file.text()).transpose();
        Ok(connection.as_user(user, password.map_err(fail)?))
    }
}

fn open(connection: &StoreConnection) -> Result<Store, ExitStatus> {
    let opened = connection.open();
    opened.map_err(|error| fail(format_args!("store: {error}")))
}

/// Fails if the store is a file that is missing: opening it would make an empty one.
fn exists(connection: &StoreConnection) -> Result<(), ExitStatus> {
    match connection.file() {
        Some(path) if !path.exists() => Err(fail(format_args!(
            "store: {} is missing; run `gatepay-proxy store migrate`",
            path.display()
        ))),
        _ => Ok(()),
    }
}

async fn migrate_store(store: &Store, serve_role: Option<&str>) -> ExitStatus {
    let migrated = match store {
        Store::Postgres(server) => server
            .migrate(serve_role)
            .await
            .map(|report| (report.before, report.now)),
        Store::Sqlite(file) => match file.migrate().await {
            Ok(before) => file.schema().await.map(|now| (before, now)),
            Err(error) => Err(error),
        },
    };
    let (before, now) = match migrated {
        Ok(schemas) => schemas,
        Err(error) => return fail(format_args!("store: {error}")),
    };
    match before {
        0 => say(format_args!(
            "schema {now} is made; the first instance refuses stamps for timestamp.future_ms and store.max_skew_ms"
        )),
        _ if before == now => say(format_args!("schema {now}; nothing changes")),
        _ => say(format_args!("schema {before} became {now}")),
    }
    if let Some(role) = serve_role {
        say(format_args!(
            "{role} may execute the functions and read the tables"
        ));
    }
    ExitStatus::Fine
}

fn print_findings(place: &str, found: &StoreCheck, as_json: bool) -> ExitStatus {
    let word = |severity| match severity {
        FindingSeverity::Fine => "fine",
        FindingSeverity::Warning => "warning",
        FindingSeverity::Problem => "problem",
    };
    if as_json {
        let findings = found.findings.iter();
        let findings: Vec<_> = findings
            .map(|finding| json!({ "severity": word(finding.severity), "text": finding.text }))
            .collect();
        say_json(
            &json!({ "store": place, "severity": word(found.severity()), "findings": findings }),
        );
    } else {
        say(place);
        for finding in &found.findings {
            let line = format!("{}: {}", word(finding.severity), finding.text);
            match finding.severity {
                FindingSeverity::Fine | FindingSeverity::Warning => say(line),
                FindingSeverity::Problem => complain(line),
            }
        }
    }
    match found.severity() {
        FindingSeverity::Problem => ExitStatus::Failed,
        FindingSeverity::Fine | FindingSeverity::Warning => ExitStatus::Fine,
    }
}

async fn distrust_store(store: &Store) -> ExitStatus {
    let guarded_until = match store {
        Store::Postgres(server) => server.distrust().await,
        Store::Sqlite(file) => file.distrust().await,
    };
    match guarded_until {
        Ok(until) => {
            let left = until.saturating_sub(Clock::system().unix_ms());
            say(format_args!("stamps are refused for the next {left} ms"));
            ExitStatus::Fine
        }
        Err(error) => fail(format_args!("store: {error}")),
    }
}
