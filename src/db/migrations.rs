//! Applies and reverts the migrations that are embedded in the binary. A lock allows one process at a time.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow};
use diesel::{migration::Migration, pg::Pg, prelude::*, sql_types::Text};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::{config::Database, db};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
/// Key of the PostgreSQL advisory lock of migrations. The value is arbitrary ("saas"), but must not change.
const ADVISORY_LOCK_KEY: i64 = 0x7361_6173;

/// A migration and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    pub state: State,
}

/// The state of a migration in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Applied,
    Pending,
    /// Applied by another build; this build does not contain it.
    Unknown,
}

type Embedded = Vec<Box<dyn Migration<Pg>>>;

/// Returns the migrations of this build, oldest first.
fn embedded() -> anyhow::Result<Embedded> {
    use diesel::migration::MigrationSource;
    let mut all: Embedded = MIGRATIONS.migrations().map_err(|e| anyhow!(e))?;
    all.sort_by_key(|migration| migration.name().version().as_owned());
    Ok(all)
}

/// Returns the version of the newest migration of this build.
///
/// # Errors
/// If the embedded migrations cannot be read.
pub fn latest() -> anyhow::Result<String> {
    Ok(embedded()?.last().map(|migration| migration.name().version().to_string()).unwrap_or_default())
}

/// Applies the pending migrations and returns their names.
///
/// # Errors
/// If the server cannot be reached or a migration fails. Those before it stay applied.
pub async fn up(settings: &Database) -> anyhow::Result<Vec<String>> {
    with_lock(settings, |harness| {
        let pending = harness.pending_migrations(MIGRATIONS).map_err(|e| anyhow!(e))?;
        pending.iter().map(|migration| apply(harness, &**migration)).collect()
    })
    .await
}

/// Reverts the `count` newest migrations and returns their names.
///
/// # Errors
/// If the server cannot be reached, a migration fails, or one of them is not part of this build.
pub async fn down(settings: &Database, count: usize) -> anyhow::Result<Vec<String>> {
    with_lock(settings, move |harness| {
        newest(harness, count)?.iter().map(|m| revert(harness, &**m)).collect()
    })
    .await
}

/// Reverts the newest migration and applies it again. Returns its name.
///
/// # Errors
/// As [`down`] and [`up`].
pub async fn redo(settings: &Database) -> anyhow::Result<Vec<String>> {
    with_lock(settings, |harness| {
        let newest = newest(harness, 1)?;
        newest.iter().map(|m| revert(harness, &**m).and_then(|_| apply(harness, &**m))).collect()
    })
    .await
}

/// Returns the migrations of this build, oldest first, followed by those that only the database has.
///
/// # Errors
/// If PostgreSQL does not answer.
pub async fn status(mut conn: &AsyncPgConnection) -> anyhow::Result<Vec<Status>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        version: String,
    }
    // The table is missing in an empty database. It is not created here, because a status query must not write.
    let exists = diesel::sql_query(
        "SELECT 'x' AS version WHERE to_regclass('__diesel_schema_migrations') IS NOT NULL",
    )
    .load::<Row>(&mut conn)
    .await?;
    let mut applied = BTreeSet::new();
    if !exists.is_empty() {
        let rows = diesel::sql_query("SELECT version FROM __diesel_schema_migrations")
            .load::<Row>(&mut conn)
            .await?;
        applied.extend(rows.into_iter().map(|row| row.version));
    }
    let mut list = Vec::new();
    for migration in embedded()? {
        let known = applied.remove(&migration.name().version().to_string());
        let state = if known { State::Applied } else { State::Pending };
        list.push(Status { name: migration.name().to_string(), state });
    }
    list.extend(applied.into_iter().map(|name| Status { name, state: State::Unknown }));
    Ok(list)
}

/// Returns the names of the migrations that are not applied yet.
///
/// # Errors
/// If PostgreSQL does not answer.
pub async fn pending(conn: &AsyncPgConnection) -> anyhow::Result<Vec<String>> {
    let all = status(conn).await?;
    Ok(all.into_iter().filter(|m| m.state == State::Pending).map(|m| m.name).collect())
}

type Harness = AsyncMigrationHarness<AsyncPgConnection>;

/// Runs `work` on a new connection that holds the advisory lock. Closing the connection releases the lock.
async fn with_lock<T: Send + 'static>(
    settings: &Database,
    work: impl FnOnce(&mut Harness) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let mut conn = db::connect(settings).await?;
    // Neither a long migration nor the wait for another process must time out.
    conn.batch_execute(&format!("SET statement_timeout = 0; SELECT pg_advisory_lock({ADVISORY_LOCK_KEY})"))
        .await
        .context("cannot acquire the lock for migrations")?;
    // The harness blocks its thread, so it must not run on a worker thread of the runtime.
    tokio::task::spawn_blocking(move || work(&mut Harness::new(conn))).await?
}

/// Returns the `count` migrations that were applied last, newest first.
fn newest(harness: &mut Harness, count: usize) -> anyhow::Result<Embedded> {
    let applied = harness.applied_migrations().map_err(|e| anyhow!(e))?;
    let mut all = embedded()?;
    let wanted: Vec<_> = applied.into_iter().take(count).collect();
    for version in &wanted {
        if !all.iter().any(|m| m.name().version() == *version) {
            return Err(anyhow!(
                "migration {version} was applied by another build; revert it with the build that has it"
            ));
        }
    }
    all.retain(|m| wanted.contains(&m.name().version().as_owned()));
    all.reverse();
    Ok(all)
}

fn apply(harness: &mut Harness, migration: &dyn Migration<Pg>) -> anyhow::Result<String> {
    let name = migration.name().to_string();
    harness
        .run_migration(migration)
        .map_err(|e| anyhow!(e))
        .with_context(|| format!("migration {name} failed"))?;
    Ok(name)
}

fn revert(harness: &mut Harness, migration: &dyn Migration<Pg>) -> anyhow::Result<String> {
    let name = migration.name().to_string();
    harness
        .revert_migration(migration)
        .map_err(|e| anyhow!(e))
        .with_context(|| format!("reverting {name} failed"))?;
    Ok(name)
}
