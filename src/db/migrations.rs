//! The migrations, embedded in the binary and run one process at a time.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow};
use diesel::{migration::Migration, pg::Pg, prelude::*, sql_types::Text};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::{config::Database, db};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
/// Any constant will do, as long as every process of the product uses the same one.
const LOCK: i64 = 0x7361_6173;

/// A migration and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    pub state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Applied,
    Pending,
    /// Applied to the database by a build that had it; this one does not.
    Unknown,
}

type Embedded = Vec<Box<dyn Migration<Pg>>>;

fn embedded() -> anyhow::Result<Embedded> {
    use diesel::migration::MigrationSource;
    let mut all: Embedded = MIGRATIONS.migrations().map_err(|e| anyhow!(e))?;
    all.sort_by_key(|migration| migration.name().version().as_owned());
    Ok(all)
}

/// The version of the newest one in this binary.
///
/// # Errors
/// When they cannot be read.
pub fn latest() -> anyhow::Result<String> {
    Ok(embedded()?.last().map(|migration| migration.name().version().to_string()).unwrap_or_default())
}

/// Applies what is pending and returns the names.
pub async fn up(settings: &Database) -> anyhow::Result<Vec<String>> {
    locked(settings, |harness| {
        let pending = harness.pending_migrations(MIGRATIONS).map_err(|e| anyhow!(e))?;
        pending.iter().map(|migration| apply(harness, &**migration)).collect()
    })
    .await
}

/// Reverts the `count` newest and returns their names.
pub async fn down(settings: &Database, count: usize) -> anyhow::Result<Vec<String>> {
    locked(settings, move |harness| newest(harness, count)?.iter().map(|m| revert(harness, &**m)).collect())
        .await
}

/// Reverts the newest migration and applies it again.
pub async fn redo(settings: &Database) -> anyhow::Result<Vec<String>> {
    locked(settings, |harness| {
        let newest = newest(harness, 1)?;
        newest.iter().map(|m| revert(harness, &**m).and_then(|_| apply(harness, &**m))).collect()
    })
    .await
}

/// Every migration known to this build or to the database, oldest first.
pub async fn status(mut conn: &AsyncPgConnection) -> anyhow::Result<Vec<Status>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        version: String,
    }
    // Looking must not write, so the table may be missing: a database that no migration has touched.
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

/// The names of the migrations that this build has and the database has not.
pub async fn pending(conn: &AsyncPgConnection) -> anyhow::Result<Vec<String>> {
    let all = status(conn).await?;
    Ok(all.into_iter().filter(|m| m.state == State::Pending).map(|m| m.name).collect())
}

type Harness = AsyncMigrationHarness<AsyncPgConnection>;

/// Runs `work` on a connection of its own that holds the migration lock; the lock goes with the connection.
async fn locked<T: Send + 'static>(
    settings: &Database,
    work: impl FnOnce(&mut Harness) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let mut conn = db::connect(settings).await?;
    // A migration may take its time, and so may the wait for another process that is migrating.
    conn.batch_execute(&format!("SET statement_timeout = 0; SELECT pg_advisory_lock({LOCK})"))
        .await
        .context("cannot take the migration lock")?;
    // The harness blocks its thread, so it must not have one of the runtime's own.
    tokio::task::spawn_blocking(move || work(&mut Harness::new(conn))).await?
}

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
