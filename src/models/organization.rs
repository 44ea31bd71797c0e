//! The table `organizations`.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{exists, not, sql},
    prelude::*,
    sql_types::Bool,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{now, user::User};
use crate::db::Tx;
use crate::schema::{organizations, users};

/// The longest name of an organization. A CHECK of the table has the same limit.
pub const MAX_NAME_CHARS: usize = 100;
/// The shortest and the longest slug. A CHECK of the table has the same limits.
pub const MIN_SLUG_CHARS: usize = 3;
pub const MAX_SLUG_CHARS: usize = 50;

/// A row of `organizations`.
#[derive(Clone, Debug, HasQuery, Identifiable)]
pub struct Organization {
    pub id: i64,
    pub name: String,
    /// A unique name for URLs.
    pub slug: Option<String>,
    /// The user whose personal organization this is.
    pub personal_of: Option<i64>,
    /// When an admin of the platform has suspended the organization. `None` if it is not suspended.
    pub suspended_at: Option<DateTime<Utc>>,
    /// When the organization becomes due for erasure. `None` if no deletion is scheduled.
    pub deletion_due_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// An organization to insert.
#[derive(Insertable)]
#[diesel(table_name = organizations)]
pub struct NewOrganization<'a> {
    pub name: &'a str,
    pub slug: Option<&'a str>,
    pub personal_of: Option<i64>,
}

/// Changes to an organization. `None` keeps a column; `Some(None)` sets it to NULL.
#[derive(AsChangeset, Default)]
#[diesel(table_name = organizations)]
pub struct OrganizationChanges<'a> {
    pub name: Option<&'a str>,
    pub slug: Option<Option<&'a str>>,
    pub personal_of: Option<Option<i64>>,
    pub suspended_at: Option<Option<DateTime<Utc>>>,
    pub deletion_due_at: Option<Option<DateTime<Utc>>>,
}

impl Organization {
    /// Returns an organization by id.
    pub async fn find(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(organizations::id.eq(id)).first(&mut conn).await.optional()
    }

    /// Locks an organization until the transaction ends, and returns the latest version of the row.
    pub async fn lock(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(organizations::id.eq(id)).for_update().first(&mut conn).await.optional()
    }

    /// Like [`Self::lock`], but several transactions may hold this lock at the same time.
    pub async fn lock_shared(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(organizations::id.eq(id)).for_share().first(&mut conn).await.optional()
    }

    /// Returns whether the migration that creates the tables of organizations is applied.
    pub async fn has_tables(mut conn: &AsyncPgConnection) -> QueryResult<bool> {
        diesel::select(sql::<Bool>("to_regclass('memberships') IS NOT NULL")).get_result(&mut conn).await
    }

    /// Examines the next `limit` users whose ids are greater than `after`. Returns the last examined id, and the users without
    /// a personal organization, locked against deletion. `None` if there are no more users.
    pub async fn missing_personal(
        mut conn: &AsyncPgConnection,
        after: i64,
        limit: i64,
    ) -> QueryResult<Option<(i64, Vec<User>)>> {
        let next = users::table.filter(users::id.gt(after)).order(users::id).limit(limit);
        let ids: Vec<i64> = next.select(users::id).load(&mut conn).await?;
        let Some(last) = ids.last().copied() else { return Ok(None) };
        let personal = organizations::table.filter(organizations::personal_of.eq(users::id.nullable()));
        let missing = User::query()
            .filter(users::id.gt(after))
            .filter(users::id.le(last))
            .filter(not(exists(personal)))
            .order(users::id)
            .for_key_share()
            .load(&mut conn)
            .await?;
        Ok(Some((last, missing)))
    }

    /// Returns the ids of at most `limit` organizations whose ids are greater than `after`.
    pub async fn ids_after(mut conn: &AsyncPgConnection, after: i64, limit: i64) -> QueryResult<Vec<i64>> {
        let next = organizations::table.filter(organizations::id.gt(after)).order(organizations::id);
        next.limit(limit).select(organizations::id).load(&mut conn).await
    }

    /// Returns the ids of at most `limit` organizations whose deletion is due and whose ids are greater than `after`.
    pub async fn due_for_deletion(
        mut conn: &AsyncPgConnection,
        after: i64,
        limit: i64,
    ) -> QueryResult<Vec<i64>> {
        organizations::table
            .filter(organizations::deletion_due_at.le(now().nullable()))
            .filter(organizations::id.gt(after))
            .order(organizations::id)
            .limit(limit)
            .select(organizations::id)
            .load(&mut conn)
            .await
    }

    /// Deletes an organization, and by the foreign keys also its memberships, invitations, API keys and data. The audit entries
    /// stay.
    pub async fn delete(tx: &Tx<'_>, id: i64) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::delete(organizations::table.find(id)).execute(&mut conn).await
    }

    /// Updates an organization and returns the new row.
    pub async fn update(tx: &Tx<'_>, id: i64, changes: &OrganizationChanges<'_>) -> QueryResult<Self> {
        let mut conn = tx.conn();
        diesel::update(organizations::table.find(id))
            .set(changes)
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
    }
}

impl NewOrganization<'_> {
    /// Inserts the organization and returns the row.
    pub async fn insert(&self, tx: &Tx<'_>) -> QueryResult<Organization> {
        let mut conn = tx.conn();
        diesel::insert_into(organizations::table)
            .values(self)
            .returning(Organization::as_returning())
            .get_result(&mut conn)
            .await
    }

    /// Inserts organizations with one statement. Skips a personal organization if the user already has one. Returns the new
    /// rows.
    pub async fn insert_all(rows: &[Self], tx: &Tx<'_>) -> QueryResult<Vec<Organization>> {
        let mut conn = tx.conn();
        diesel::insert_into(organizations::table)
            .values(rows)
            .on_conflict(organizations::personal_of)
            .do_nothing()
            .returning(Organization::as_returning())
            .get_results(&mut conn)
            .await
    }
}
