//! `store`: the store that instances share.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gatepay_proxy::cluster::connection::StoreConnection;
use gatepay_proxy::process::clock::Clock;
use gatepay_store::check::FindingSeverity;
use gatepay_store::engine::Store;
use gatepay_tenancy::load::load;
use tokio::runtime::Builder;

use super::{ExitStatus, complain, environment, fail, say};

/// Prepare, check or distrust the store that instances share.
#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    Migrate(StoreMigrate),
    Check(StoreOfFile),
    Distrust(StoreOfFile),
}

/// Make the store's tables, or bring them to this version.
/// Run it as the database user that owns the tables. A store in use goes on meanwhile, and no guard is lifted. Exits with
/// 0 if the tables are there, 1 if not, 64 for a wrong configuration.
#[derive(Args)]
pub(crate) struct StoreMigrate {
    #[command(flatten)]
    file: StoreOfFile,
    /// Let this database user serve: execute the functions and read the tables.
    #[arg(long, value_name = "USER")]
    serve_role: Option<String>,
}

/// Ask the store for all that instances depend on (`check`), or refuse every stamp that it may have admitted before, as
/// after a restore (`distrust`).
/// Exits with 0 if it was done, 1 if not or if instances cannot serve, 64 for a wrong configuration.
#[derive(Args)]
pub(crate) struct StoreOfFile {
    /// The process's configuration; its `[store]` names the store.
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

impl StoreCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let file = match &self {
            Self::Migrate(migrate) => &migrate.file,
            Self::Check(file) | Self::Distrust(file) => file,
        };
        let connection = match file.connection() {
            Ok(connection) => connection,
            Err(exit) => return exit,
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let opened = runtime.map_err(|error| error.to_string());
        let opened = opened.and_then(|runtime| Ok((runtime, connection.open()?)));
        let (runtime, store) = match opened {
            Ok(opened) => opened,
            Err(error) => return fail(format_args!("store: {error}")),
        };
        runtime.block_on(async {
            match self {
                Self::Migrate(migrate) => {
                    migrate_store(&store, migrate.serve_role.as_deref()).await
                }
                Self::Check(_) => check_store(&store, &connection).await,
                Self::Distrust(_) => distrust_store(&store).await,
            }
        })
    }
}

impl StoreOfFile {
    fn connection(&self) -> Result<StoreConnection, ExitStatus> {
        let configuration = load(&self.config, &environment).map_err(|problems| {
            problems.iter().for_each(complain);
            ExitStatus::Usage
        })?;
        let settings = configuration.settings;
        let (Some(store), Some(state_dir)) = (&settings.store, &settings.state_dir) else {
            complain(format_args!(
                "{}: there is no [store]",
                self.config.display()
            ));
            return Err(ExitStatus::Usage);
        };
        StoreConnection::in_folder(store, settings.window, state_dir)
            .map_err(|error| fail(format_args!("store: {error}")))
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
    match migrated {
        Ok((before, now)) if before == now => say(format_args!("schema {now}; nothing changes")),
        Ok((0, now)) => say(format_args!(
            "schema {now}; the first instance that joins waits for timestamp.future_ms and max_skew_ms"
        )),
        Ok((before, now)) => say(format_args!("schema {before} became {now}")),
        Err(error) => return fail(error),
    }
    ExitStatus::Fine
}

async fn check_store(store: &Store, connection: &StoreConnection) -> ExitStatus {
    let found = store
        .check(connection.terms(), Clock::system().unix_ms())
        .await;
    for finding in &found.findings {
        let text = &finding.text;
        match finding.severity {
            FindingSeverity::Fine => say(format_args!("fine: {text}")),
            FindingSeverity::Warning => say(format_args!("warning: {text}")),
            FindingSeverity::Problem => complain(format_args!("problem: {text}")),
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
        Err(error) => fail(error),
    }
}
