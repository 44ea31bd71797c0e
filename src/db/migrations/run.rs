//! Runs the scripts of migrations. The harness of diesel adds or deletes the record of the migration in the database, in the
//! transaction of the script if it has one.

use std::{sync::OnceLock, time::Duration};

use anyhow::Context;
use diesel::{
    QueryResult,
    connection::BoxableConnection,
    migration::{self, MigrationMetadata, MigrationName},
    pg::Pg,
    result::Error as DieselError,
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection};
use diesel_migrations::MigrationHarness;

use super::{lint, query::texts, source::Migration};
use crate::{config::Database, db};

/// Key of the PostgreSQL advisory lock of migrations. The value is arbitrary ("saas"), but all releases must have the same.
const ADVISORY_LOCK_KEY: i64 = 0x7361_6173;
/// Time between two attempts to acquire the lock.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Before each script, the session sets `saas.script_committed` to `no`, and then the transaction of the script sets it to
/// `yes`. A rollback restores `no`, so after a failure `yes` remains only if the script has a COMMIT of its own.
const NOT_COMMITTED: &str = "SET saas.script_committed = 'no'";
const COMMITTED: &str = "SET saas.script_committed = 'yes'";
const HAS_COMMITTED: &str = "SELECT current_setting('saas.script_committed') AS value";

/// A script of a migration, in the form that the harness of diesel runs.
pub(super) struct Script {
    pub migration: Migration,
    pub direction: Direction,
    /// The error of the script. If the connection is lost, the harness returns the error of its ROLLBACK instead.
    error: OnceLock<DieselError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// A script that failed.
pub(super) struct Failed {
    pub script: Script,
    pub error: DieselError,
    /// Where in the script the server found the error: the number of a character, from 1.
    pub position: Option<usize>,
    pub effect: Effect,
}

/// The effect of a failed script on the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: its transaction was rolled back.
    Nothing,
    /// The part before a COMMIT in the script.
    Part,
    /// The script has no transaction, or the connection was lost.
    Unknown,
}

/// Opens a connection that holds the advisory lock. Waits without a limit while another connection holds the lock. Closing
/// the connection releases the lock.
///
/// The lock belongs to the session, so the connection must not lead through a pooler in transaction mode: several runs could
/// hold the lock at the same time, and the pooled session would keep it.
///
/// # Errors
/// As [`db::connect_directly`]; also if a query fails.
pub(super) async fn lock(settings: &Database) -> anyhow::Result<AsyncPgConnection> {
    let mut conn = db::connect_directly(settings).await?;
    let failed = "cannot acquire the lock for migrations";
    // A migration may take long, so it has no statement timeout. A statement that waits for a lock can hold up later requests
    // to its table, so that wait has a limit. The harness begins its transactions with the isolation level of the session.
    let session = "SET statement_timeout = 0; SET lock_timeout = '10s'; SET default_transaction_isolation = 'read committed'";
    conn.batch_execute(session).await.context(failed)?;
    // A migration grants `saas_tenant` to the role of the product, which may be another role than that of the migration.
    let product = settings.options()?.connection.get_user().unwrap_or_default().replace('\'', "''");
    let product = format!("SELECT set_config('saas.product_role', '{product}', false)");
    conn.batch_execute(&product).await.context(failed)?;
    // pg_advisory_lock would hold a snapshot while it waits. CREATE INDEX CONCURRENTLY in the process that has the lock would
    // wait for this snapshot.
    let sql = format!("SELECT pg_try_advisory_lock({ADVISORY_LOCK_KEY})::text AS value");
    while texts(&conn, &sql).await.context(failed)? != ["true"] {
        tokio::time::sleep(LOCK_RETRY_INTERVAL).await;
    }
    Ok(conn)
}

/// Returns the versions of the applied migrations, newest first.
pub(super) async fn applied_versions(conn: &AsyncPgConnection) -> QueryResult<Vec<String>> {
    // The table is missing in an empty database. The harness would create it, but a status query must not write.
    let exists = "SELECT 'x' AS value WHERE to_regclass('__diesel_schema_migrations') IS NOT NULL";
    if texts(conn, exists).await?.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT version AS value FROM __diesel_schema_migrations ORDER BY version COLLATE \"C\" DESC";
    texts(conn, sql).await
}

impl Script {
    pub fn up(migration: &Migration) -> Self {
        Self { migration: migration.clone(), direction: Direction::Up, error: OnceLock::new() }
    }

    pub fn down(migration: &Migration) -> Self {
        Self { direction: Direction::Down, ..Self::up(migration) }
    }

    pub fn file(&self) -> &'static str {
        match self.direction {
            Direction::Up => "up.sql",
            Direction::Down => "down.sql",
        }
    }

    pub fn sql(&self) -> &str {
        match self.direction {
            Direction::Up => &self.migration.up,
            Direction::Down => &self.migration.down,
        }
    }

    /// Runs the script and records it. Returns the connection, and the failure if the script has failed.
    ///
    /// # Errors
    /// If the task of the harness panics. A failure of the script is no error.
    pub async fn run_and_record(
        self,
        mut conn: AsyncPgConnection,
    ) -> anyhow::Result<(AsyncPgConnection, Option<Failed>)> {
        // If this fails, the connection is lost, and the script fails too.
        let _ = conn.batch_execute(NOT_COMMITTED).await;
        // The harness blocks its thread, so it must not run on a thread of the runtime.
        let task = tokio::task::spawn_blocking(move || {
            let mut harness = AsyncMigrationHarness::new(conn);
            let script: &dyn migration::Migration<Pg> = &self;
            let result = match self.direction {
                // Reading the applied migrations creates their table if it is missing.
                Direction::Up => harness.applied_migrations().and_then(|_| harness.run_migration(script)),
                Direction::Down => harness.revert_migration(script),
            };
            (harness.into_inner(), self, result)
        });
        let (conn, mut script, result) = task.await?;
        let Err(error) = result else { return Ok((conn, None)) };
        let own = script.error.take();
        let position = own.as_ref().and_then(position);
        let error = own.unwrap_or_else(|| {
            error.downcast::<DieselError>().map_or_else(DieselError::QueryBuilderError, |error| *error)
        });
        let effect = match texts(&conn, HAS_COMMITTED).await {
            Ok(answer) if script.migration.in_transaction && answer == ["yes"] => Effect::Part,
            Ok(_) if script.migration.in_transaction => Effect::Nothing,
            _ => Effect::Unknown,
        };
        Ok((conn, Some(Failed { script, error, position, effect })))
    }

    fn execute(&self, conn: &mut dyn BoxableConnection<Pg>) -> migration::Result<()> {
        if self.migration.in_transaction {
            conn.batch_execute(COMMITTED)?;
        }
        conn.batch_execute(self.sql()).map_err(|error| {
            let _ = self.error.set(error);
            "the script failed".into()
        })
    }
}

impl migration::Migration<Pg> for Script {
    fn run(&self, conn: &mut dyn BoxableConnection<Pg>) -> migration::Result<()> {
        self.execute(conn)
    }

    fn revert(&self, conn: &mut dyn BoxableConnection<Pg>) -> migration::Result<()> {
        self.execute(conn)
    }

    fn metadata(&self) -> &dyn MigrationMetadata {
        &self.migration
    }

    fn name(&self) -> &dyn MigrationName {
        &self.migration
    }
}

/// Applies migrations in one transaction and rolls it back. Returns the number of applied scripts, and the script that fails. A wait of 2 s for a lock and
/// a statement of 10 s count as failures. Stops before the first migration that cannot be rehearsed.
pub(super) async fn rehearse(
    mut conn: &AsyncPgConnection,
    migrations: &[&Migration],
) -> QueryResult<(usize, Option<Failed>)> {
    conn.batch_execute("BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '10s'").await?;
    let (mut applied, mut failed) = (0, None);
    for migration in migrations.iter().take_while(|migration| can_be_rehearsed(migration)) {
        let script = Script::up(migration);
        if let Err(error) = conn.batch_execute(script.sql()).await {
            let position = position(&error);
            failed = Some(Failed { script, error, position, effect: Effect::Nothing });
            break;
        }
        applied += 1;
    }
    conn.batch_execute("ROLLBACK").await?;
    Ok((applied, failed))
}

/// Returns whether a rollback undoes `up.sql`: the script runs in a transaction, and has no statement that ends it.
fn can_be_rehearsed(migration: &Migration) -> bool {
    migration.in_transaction && !lint::ends_transaction(&migration.up)
}

fn position(error: &DieselError) -> Option<usize> {
    let DieselError::DatabaseError(_, info) = error else { return None };
    info.statement_position()?.try_into().ok()
}
