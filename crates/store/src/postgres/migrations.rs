//! Migrations: forward only and additive, each in a transaction of its own, one program at a time.

use std::fmt;

use super::PostgresStore;
use super::session::PgSession;
use crate::error::StoreError;

/// The schema that this version makes, and works with best.
pub const NEWEST_SCHEMA: u32 = 1;
/// The oldest schema that this version works with.
pub const OLDEST_SCHEMA: u32 = 1;

/// The scripts of each schema, from 1 on. A script that was released never changes: a later change is a new schema. Its
/// functions keep the older ones' names and arguments, or have a new version in their name.
const SCHEMAS: [&[&str]; NEWEST_SCHEMA as usize] = [&[
    include_str!("../../sql/0001_clock.sql"),
    include_str!("../../sql/0001_replay.sql"),
    include_str!("../../sql/0001_instances.sql"),
    include_str!("../../sql/0001_limits.sql"),
    include_str!("../../sql/0001_caps.sql"),
    include_str!("../../sql/0001_spends.sql"),
    include_str!("../../sql/0001_approvals.sql"),
    include_str!("../../sql/0001_destinations.sql"),
    include_str!("../../sql/0001_statements.sql"),
    include_str!("../../sql/0001_admit_v1.sql"),
    include_str!("../../sql/0001_notifications.sql"),
    include_str!("../../sql/0001_delivery.sql"),
]];

/// The lock that lets one migration run at a time.
const LOCK: &str = "SELECT pg_advisory_lock(1734437989, 2)";
const BASE: &str = "CREATE SCHEMA IF NOT EXISTS gatepay;
    CREATE TABLE IF NOT EXISTS gatepay.schema_version (
        version integer PRIMARY KEY,
        applied timestamptz NOT NULL DEFAULT clock_timestamp()
    )";
const VERSION: &str = "SELECT coalesce(max(version), 0) FROM gatepay.schema_version";
const ROLE: &str = "SELECT quote_ident($1)";
/// The functions that `serve` calls; the functions called by these run as their owner.
const CALLED: &str = "SELECT coalesce(string_agg(p.oid::regprocedure::text, ', '), '')
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'gatepay' AND p.proname ~ '_v[0-9]+$'";

/// The result of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// The schema before; 0 if there was none.
    pub before: u32,
    /// The schema now.
    pub now: u32,
    /// The role that may execute the functions and read the tables.
    pub granted_to: Option<String>,
}

impl PostgresStore {
    /// Brings the schema to [`NEWEST_SCHEMA`], and lets a role serve: execute the functions and read the tables. Run as
    /// the role that owns the schema. Older schemas are left alone by [`serve`'s](Self::join) own check; a guard is
    /// neither set nor lifted.
    ///
    /// Migrations may take longer than one call: there is no time limit.
    pub async fn migrate(&self, serve_role: Option<&str>) -> Result<MigrationReport, StoreError> {
        let mut session = self.connector.connect().await?;
        session.query(LOCK, &[]).await?;
        session.execute_script(BASE).await?;
        let before = version(&mut session).await?;
        let behind = usize::try_from(before).unwrap_or(usize::MAX);
        for (scripts, number) in SCHEMAS.iter().zip(1_u32..).skip(behind) {
            let script = scripts.join("\n");
            let applied = format!(
                "BEGIN; SET LOCAL search_path = gatepay; {script};
                INSERT INTO gatepay.schema_version (version) VALUES ({number}); COMMIT"
            );
            session.execute_script(&applied).await?;
        }
        session
            .execute_script("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA gatepay FROM PUBLIC")
            .await?;
        if let Some(role) = serve_role {
            grant(&mut session, role).await?;
        }
        Ok(MigrationReport {
            before,
            now: version(&mut session).await?,
            granted_to: serve_role.map(str::to_owned),
        })
    }

    /// The schema of the store, if this version works with it: its own, and one newer.
    pub(crate) async fn usable_schema(&self) -> Result<u32, StoreError> {
        let found = self.schema().await?;
        let newest = NEWEST_SCHEMA + 1;
        if (OLDEST_SCHEMA..=newest).contains(&found) {
            Ok(found)
        } else if found == 0 {
            Err(StoreError::NotMigrated)
        } else {
            Err(StoreError::Schema {
                found,
                oldest: OLDEST_SCHEMA,
                newest,
            })
        }
    }

    /// The schema of the store; 0 if there is none.
    pub(super) async fn schema(&self) -> Result<u32, StoreError> {
        match self.control(VERSION, &[]).await {
            Ok(rows) => number(&rows),
            // No such schema, or no such table.
            Err(StoreError::Refused { code, .. }) if code == "3F000" || code == "42P01" => Ok(0),
            Err(error) => Err(error),
        }
    }
}

async fn version(session: &mut PgSession) -> Result<u32, StoreError> {
    number(&session.query(VERSION, &[]).await?)
}

fn number(rows: &[tokio_postgres::Row]) -> Result<u32, StoreError> {
    let number: i32 = super::admit::cell(
        rows.first()
            .ok_or_else(|| StoreError::Unexpected("no version".to_owned()))?,
        "coalesce",
    )?;
    Ok(number.unsigned_abs())
}

async fn grant(session: &mut PgSession, role: &str) -> Result<(), StoreError> {
    let text = |rows: Vec<tokio_postgres::Row>| rows.first().map(|row| row.get::<_, String>(0));
    let role = text(session.query(ROLE, &[&role]).await?).unwrap_or_default();
    let called = text(session.query(CALLED, &[]).await?).unwrap_or_default();
    let script = format!(
        "GRANT USAGE ON SCHEMA gatepay TO {role};
        GRANT SELECT ON ALL TABLES IN SCHEMA gatepay TO {role};
        GRANT EXECUTE ON FUNCTION {called} TO {role}"
    );
    session.execute_script(&script).await
}

impl fmt::Display for MigrationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            before,
            now,
            granted_to,
        } = self;
        if before == now {
            writeln!(f, "schema {now}: nothing to do")?;
        } else {
            writeln!(f, "schema {before} -> {now}")?;
        }
        if let Some(role) = granted_to {
            writeln!(
                f,
                "granted to {role}: execute the functions, read the tables"
            )?;
        }
        if *before == 0 {
            writeln!(
                f,
                "the first start refuses stamps for future_ms + max_skew_ms: an instance without this store may have \
                 admitted them"
            )?;
        }
        Ok(())
    }
}
