//! The table `organizations`.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::db::Tx;
use crate::schema::organizations;

/// A row of `organizations`.
#[derive(Clone, Debug, HasQuery, Identifiable)]
pub struct Organization {
    pub id: i64,
    pub name: String,
    /// A unique name for URLs.
    pub slug: Option<String>,
    /// The user whose personal organization this is.
    pub personal_of: Option<i64>,
    /// When an admin of the platform has suspended the organization.
    pub suspended_at: Option<DateTime<Utc>>,
    /// When the organization is erased, unless its owner restores it before.
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

/// Changes to an organization. `None` keeps a column.
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
    /// Locks an organization against changes of itself and of its members until the transaction ends, and returns the latest
    /// version of the row.
    pub async fn lock(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(organizations::id.eq(id)).for_update().first(&mut conn).await.optional()
    }

    /// As [`Self::lock`], but several transactions may hold this lock at the same time.
    pub async fn lock_shared(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(organizations::id.eq(id)).for_share().first(&mut conn).await.optional()
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

    /// Inserts organizations with one statement, except the personal ones of users who have one. Returns the new rows.
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
