//! Applies and reverts migrations. A lock allows one process at a time.
//!
//! | file | concern |
//! |---|---|
//! | `source` | the migrations of this build, or those in a directory |
//! | `run` | the lock, and the harness of diesel, which runs and records the scripts |
//! | `failure` | the message about a failed migration: the reason and the fix |
//! | `privileges` | the privileges that a role needs |
//! | `query` | queries that return one column of text |
//! | `tables` | the text of `src/schema.rs` |
//! | `lint` | finds dangerous statements |

mod failure;
pub mod lint;
mod privileges;
mod query;
mod run;
mod source;
mod tables;

use std::collections::BTreeSet;

use anyhow::{Context, anyhow, bail};
use diesel_async::AsyncPgConnection;

pub use source::Migrations;
pub use tables::schema_file;

use self::{
    query::texts,
    run::{Failed, Script, applied_versions},
    source::Migration,
};
use crate::{
    config::Database,
    db::{self, sqlstate::sqlstate},
};

/// A migration and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    pub state: State,
    /// Whether the migration is pending and has no statement, so that it cannot be applied.
    pub is_empty: bool,
}

/// The state of a migration in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Applied,
    Pending,
    /// Applied, but not one of these migrations, for example because another build has applied it.
    Unknown,
}

/// The migrations to revert. The user can confirm them before they are reverted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub database: String,
    /// The names of the migrations, newest first.
    pub names: Vec<String>,
}

/// Applies the pending migrations of this build and returns their names.
///
/// # Errors
/// As [`Migrations::up`].
pub async fn up(settings: &Database) -> anyhow::Result<Vec<String>> {
    Migrations::embedded().up(settings).await
}

/// Returns the names of the migrations of this build that are not applied yet.
///
/// # Errors
/// If a query fails, for example because PostgreSQL does not answer.
pub async fn pending(conn: &AsyncPgConnection) -> anyhow::Result<Vec<String>> {
    let migrations = Migrations::embedded();
    Ok(migrations.pending(conn).await?.into_iter().map(|migration| migration.name.to_string()).collect())
}

impl Migrations {
    /// Applies the pending migrations and returns their names.
    ///
    /// # Errors
    /// As [`db::connect()`], and if a migration is pending, as [`db::connect_directly`]; also if a query fails, two migrations
    /// have the same version, or a pending migration is empty or fails. Migrations before the failed one stay applied.
    pub async fn up(&self, settings: &Database) -> anyhow::Result<Vec<String>> {
        // Without a pending migration, no lock is needed. So replicas of the product can start through a pooler.
        let conn = db::connect(settings).await?;
        let pending = self.pending(&conn).await?;
        self.check(&pending)?;
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        drop(conn);
        let conn = run::lock(settings).await?;
        let pending = self.pending(&conn).await?;
        self.check(&pending)?;
        Ok(run_all(conn, pending.into_iter().map(Script::up)).await?.1)
    }

    /// Returns the migrations that [`Migrations::down`] reverts: the `count` newest applied migrations, or none if none is
    /// applied.
    ///
    /// # Errors
    /// As [`db::connect()`]; also if a query fails, some migrations are applied but fewer than `count`, or one of the `count`
    /// newest has no statement in its `down.sql` or was applied by another build.
    pub async fn plan(&self, settings: &Database, count: usize) -> anyhow::Result<Plan> {
        let conn = db::connect(settings).await?;
        let newest = self.newest_applied(&conn, count).await?;
        let names = newest.into_iter().map(|migration| migration.name.to_string()).collect();
        let database = texts(&conn, "SELECT current_database()::text AS value").await?.concat();
        Ok(Plan { database, names })
    }

    /// Reverts the migrations of a plan and returns their names.
    ///
    /// # Errors
    /// As [`db::connect_directly`]; also if the migrations of the plan are no longer the newest applied migrations, or one of
    /// them fails. Migrations that were reverted before the failed one stay reverted.
    pub async fn down(&self, settings: &Database, plan: &Plan) -> anyhow::Result<Vec<String>> {
        let conn = run::lock(settings).await?;
        let planned = self.planned(&conn, plan).await?;
        Ok(run_all(conn, planned.into_iter().map(Script::down)).await?.1)
    }

    /// Reverts the migrations of a plan, like [`Migrations::down`], and applies them again. Returns their names, oldest first.
    ///
    /// # Errors
    /// As [`Migrations::down`] and [`Migrations::up`].
    pub async fn redo(&self, settings: &Database, plan: &Plan) -> anyhow::Result<Vec<String>> {
        let conn = run::lock(settings).await?;
        let planned = self.planned(&conn, plan).await?;
        self.check(&planned)?;
        let (conn, mut reverted) = run_all(conn, planned.iter().copied().map(Script::down)).await?;
        let again = run_all(conn, planned.iter().rev().copied().map(Script::up)).await;
        reverted.reverse();
        let failed = || format!("{} was reverted and could not be applied again", reverted.join(", "));
        Ok(again.with_context(failed)?.1)
    }

    /// Returns the migrations, oldest first, followed by the migrations that only the database has ([`State::Unknown`]).
    ///
    /// # Errors
    /// If a query fails, for example because PostgreSQL does not answer.
    pub async fn status(&self, conn: &AsyncPgConnection) -> anyhow::Result<Vec<Status>> {
        let mut applied: BTreeSet<_> = applied_versions(conn).await?.into_iter().collect();
        let mut list = Vec::new();
        for migration in &self.0 {
            let is_applied = applied.remove(&migration.version());
            let state = if is_applied { State::Applied } else { State::Pending };
            let name = migration.name.to_string();
            list.push(Status { name, state, is_empty: !is_applied && migration.is_empty() });
        }
        let unknown = |name| Status { name, state: State::Unknown, is_empty: false };
        list.extend(applied.into_iter().map(unknown));
        Ok(list)
    }

    /// Returns why [`Migrations::up`] would fail in this database, with the fix if it is known. `None` if no reason was found.
    ///
    /// If no migration is applied yet, applies the migrations before the first that a rollback would not undo, in one transaction,
    /// and rolls the transaction back. If migrations are applied, such a rehearsal could lock the tables of a running product. For
    /// all migrations that are not rehearsed, only the list of migrations and the privileges of the role are checked.
    ///
    /// # Errors
    /// If a query fails, for example because PostgreSQL does not answer.
    pub async fn obstacle(&self, conn: &AsyncPgConnection) -> anyhow::Result<Option<String>> {
        let pending = self.pending(conn).await?;
        if let Err(error) = self.check(&pending) {
            return Ok(Some(error.to_string()));
        }
        let mut untried = &pending[..];
        if applied_versions(conn).await?.is_empty() {
            let (applied, failed) = run::rehearse(conn, &pending).await?;
            if let Some(failed) = failed.filter(|failed| !was_interrupted(failed)) {
                return Ok(Some(failure::explain(conn, &failed).await.join(" ").replace('\n', " ")));
            }
            untried = &pending[applied..];
        }
        let scripts = untried.iter().map(|migration| &*migration.up).collect::<Vec<_>>().join("\n");
        let missing = privileges::missing(conn, &scripts).await?;
        Ok((!missing.is_empty()).then(|| missing.join(" ")))
    }

    async fn pending(&self, conn: &AsyncPgConnection) -> anyhow::Result<Vec<&Migration>> {
        let applied = applied_versions(conn).await?;
        Ok(self.0.iter().filter(|migration| !applied.contains(&migration.version())).collect())
    }

    /// Returns the `count` applied migrations with the highest versions, the highest first. The list is empty if no
    /// migration is applied.
    async fn newest_applied(
        &self,
        conn: &AsyncPgConnection,
        count: usize,
    ) -> anyhow::Result<Vec<&Migration>> {
        let versions = applied_versions(conn).await?;
        if !versions.is_empty() && versions.len() < count {
            bail!(
                "cannot revert {count} migrations, because the database has {} applied ones; nothing was reverted",
                versions.len()
            );
        }
        let mut newest = Vec::new();
        for version in versions.iter().take(count) {
            let migration = self.0.iter().find(|migration| migration.version() == *version).with_context(|| {
                format!("migration {version} was applied by another build; revert it with the build that has it")
            })?;
            if !migration.is_revertible() {
                bail!(
                    "the migration {} cannot be reverted, because its down.sql is missing or empty; nothing was reverted. \
                     Write it, with `SELECT 1;` if there is nothing to undo",
                    migration.name
                );
            }
            newest.push(migration);
        }
        Ok(newest)
    }

    /// Returns the migrations of a plan.
    ///
    /// # Errors
    /// If the migrations of the plan are no longer the newest applied migrations.
    async fn planned(&self, conn: &AsyncPgConnection, plan: &Plan) -> anyhow::Result<Vec<&Migration>> {
        let newest = self.newest_applied(conn, plan.names.len()).await;
        match newest {
            Ok(newest) if newest.iter().map(|migration| &*migration.name).eq(&plan.names) => Ok(newest),
            _ => bail!(
                "another process has applied or reverted a migration meanwhile, so nothing was reverted: run `saas migrate \
                 status`"
            ),
        }
    }
}

/// Runs scripts one after the other. Returns the connection and the names of their migrations.
async fn run_all(
    mut conn: AsyncPgConnection,
    scripts: impl Iterator<Item = Script>,
) -> anyhow::Result<(AsyncPgConnection, Vec<String>)> {
    let mut done = Vec::new();
    for script in scripts {
        let name = script.migration.name.to_string();
        let (returned, failed) = script.run_and_record(conn).await?;
        conn = returned;
        if let Some(failed) = failed {
            let mut lines = failure::explain(&conn, &failed).await;
            lines.push(failure::outcome(&failed, &done));
            return Err(anyhow!(lines.join("\n  ")));
        }
        done.push(name);
    }
    Ok((conn, done))
}

/// Returns whether a rehearsal stopped at one of its time limits.
fn was_interrupted(failed: &Failed) -> bool {
    matches!(sqlstate(&failed.error), Some("55P03" | "57014"))
}
