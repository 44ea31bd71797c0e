//! Runs the scripts of migrations, and records them in the database.

use std::time::Duration;

use anyhow::Context;
use diesel::{QueryResult, result::Error as DieselError, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use super::{query::texts, source::Migration};
use crate::{config::Database, db};

/// Key of the PostgreSQL advisory lock of migrations. The value is arbitrary ("saas"), but must not change.
const ADVISORY_LOCK_KEY: i64 = 0x7361_6173;
/// Time between two attempts to acquire the lock.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The table in which diesel records migrations.
const CREATE_TABLE: &str = "CREATE TABLE __diesel_schema_migrations (
    version VARCHAR(50) PRIMARY KEY NOT NULL,
    run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
)";

/// A script of a migration.
#[derive(Clone, Copy)]
pub(super) struct Script<'a> {
    pub migration: &'a Migration,
    pub direction: Direction,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// A script that failed.
pub(super) struct Failed<'a> {
    pub script: Script<'a>,
    pub error: DieselError,
    /// Where in the script the server found the error: the number of a character, from 1.
    pub position: Option<usize>,
    pub effect: Effect,
}

/// What a script that failed has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: its transaction was rolled back.
    Nothing,
    /// The part before a COMMIT in the script.
    Part,
    /// The script has no transaction, or the connection was lost.
    Unknown,
}

/// Why a step failed, and the position of the error in the script if the script failed.
type StepError = (DieselError, Option<usize>);

/// Opens a connection that holds the advisory lock. Closing it releases the lock.
///
/// # Errors
/// If the server cannot be reached.
pub(super) async fn lock(settings: &Database) -> anyhow::Result<AsyncPgConnection> {
    let mut conn = db::connect(settings).await?;
    let failed = "cannot acquire the lock for migrations";
    // A migration may take long.
    conn.batch_execute("SET statement_timeout = 0").await.context(failed)?;
    // A statement that waits for the lock would have a snapshot, and CREATE INDEX CONCURRENTLY waits for snapshots.
    let sql = format!("SELECT pg_try_advisory_lock({ADVISORY_LOCK_KEY})::text AS value");
    while texts(&conn, &sql).await.context(failed)? != ["true"] {
        tokio::time::sleep(LOCK_RETRY_INTERVAL).await;
    }
    Ok(conn)
}

/// Returns the versions of the applied migrations, newest first.
pub(super) async fn applied_versions(conn: &AsyncPgConnection) -> QueryResult<Vec<String>> {
    // The table is missing in an empty database. It is not created here, because a status query must not write.
    if !has_table(conn).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT version AS value FROM __diesel_schema_migrations ORDER BY version COLLATE \"C\" DESC";
    texts(conn, sql).await
}

async fn has_table(conn: &AsyncPgConnection) -> QueryResult<bool> {
    let sql = "SELECT 'x' AS value WHERE to_regclass('__diesel_schema_migrations') IS NOT NULL";
    Ok(!texts(conn, sql).await?.is_empty())
}

impl<'a> Script<'a> {
    pub fn up(migration: &'a Migration) -> Self {
        Self { migration, direction: Direction::Up }
    }

    pub fn down(migration: &'a Migration) -> Self {
        Self { migration, direction: Direction::Down }
    }

    pub fn file(self) -> &'static str {
        match self.direction {
            Direction::Up => "up.sql",
            Direction::Down => "down.sql",
        }
    }

    pub fn sql(self) -> &'a str {
        match self.direction {
            Direction::Up => &self.migration.up,
            Direction::Down => &self.migration.down,
        }
    }

    /// Runs the script and records it, in a transaction unless the migration has none.
    pub async fn run(self, mut conn: &AsyncPgConnection) -> Result<(), Failed<'a>> {
        let failed = |(error, position): StepError, effect| Failed { script: self, error, position, effect };
        if !self.migration.in_transaction {
            return self.execute(conn).await.map_err(|error| failed(error, Effect::Unknown));
        }
        let transaction = begin(conn).await.map_err(|error| failed((error, None), Effect::Nothing))?;
        let mut result = self.execute(conn).await;
        if result.is_ok() {
            result = conn.batch_execute("COMMIT").await.map_err(|error| (error, None));
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) => Err(failed(error, roll_back(conn, &transaction).await)),
        }
    }

    /// Runs the script and records it, in the transaction of the caller if there is one.
    async fn execute(self, mut conn: &AsyncPgConnection) -> Result<(), StepError> {
        let elsewhere = |error: DieselError| -> StepError { (error, None) };
        if self.direction == Direction::Up && !has_table(conn).await.map_err(elsewhere)? {
            conn.batch_execute(CREATE_TABLE).await.map_err(elsewhere)?;
        }
        conn.batch_execute(self.sql()).await.map_err(|error| {
            let at = position(&error);
            (error, at)
        })?;
        let record = match self.direction {
            Direction::Up => "INSERT INTO __diesel_schema_migrations (version) VALUES ($1)",
            Direction::Down => "DELETE FROM __diesel_schema_migrations WHERE version = $1",
        };
        let record = diesel::sql_query(record).bind::<Text, _>(self.migration.version());
        record.execute(&mut conn).await.map_err(elsewhere)?;
        Ok(())
    }
}

/// Begins a transaction and returns its id.
async fn begin(mut conn: &AsyncPgConnection) -> QueryResult<String> {
    conn.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    Ok(texts(conn, "SELECT pg_current_xact_id()::text AS value").await?.concat())
}

/// Rolls back a transaction that failed. Returns what it has changed, since a script can contain a COMMIT.
async fn roll_back(mut conn: &AsyncPgConnection, transaction: &str) -> Effect {
    let sql = format!("SELECT coalesce(pg_xact_status('{transaction}'), '') AS value");
    let status = match conn.batch_execute("ROLLBACK").await {
        Ok(()) => texts(conn, &sql).await.unwrap_or_default().concat(),
        Err(_) => return Effect::Unknown,
    };
    match status.as_str() {
        "aborted" => Effect::Nothing,
        "committed" => Effect::Part,
        _ => Effect::Unknown,
    }
}

/// Applies migrations in one transaction and rolls it back. Returns the first that fails, also if it waits 2 s for a lock or
/// a statement runs for 10 s.
pub(super) async fn rehearse<'a>(
    mut conn: &AsyncPgConnection,
    migrations: impl Iterator<Item = &'a Migration>,
) -> QueryResult<Option<Failed<'a>>> {
    conn.batch_execute("BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '10s'").await?;
    let mut failed = None;
    for migration in migrations.take_while(|migration| migration.in_transaction) {
        let script = Script::up(migration);
        if let Err((error, position)) = script.execute(conn).await {
            failed = Some(Failed { script, error, position, effect: Effect::Nothing });
            break;
        }
    }
    conn.batch_execute("ROLLBACK").await?;
    Ok(failed)
}

fn position(error: &DieselError) -> Option<usize> {
    let DieselError::DatabaseError(_, info) = error else { return None };
    info.statement_position()?.try_into().ok()
}
