//! The query for a page of members with search and filters.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::sql,
    pg::Pg,
    prelude::*,
    sql_types::{Bool, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{
    membership::OrgRole,
    user_list::{CONTAINS, ESCAPED},
};
use crate::schema::{memberships, users};

/// A member of an organization, with the data of the account that other members may see.
#[derive(Clone, Debug, Queryable)]
pub struct Member {
    pub user_id: i64,
    pub email: String,
    pub full_name: Option<String>,
    pub role: OrgRole,
    pub suspended_at: Option<DateTime<Utc>>,
    /// When the user joined.
    pub created_at: DateTime<Utc>,
}

/// The columns of [`Member`].
const COLUMNS: (
    memberships::user_id,
    users::email,
    users::full_name,
    memberships::role,
    memberships::suspended_at,
    memberships::created_at,
) = (
    memberships::user_id,
    users::email,
    users::full_name,
    memberships::role,
    memberships::suspended_at,
    memberships::created_at,
);

/// A query for a page of the members of an organization, in the order of the ids of the users. `None` does not filter.
#[derive(Debug, Clone)]
pub struct MemberListing<'a> {
    pub org_id: i64,
    /// A part of the email address or the name, ignoring case.
    pub search: Option<&'a str>,
    pub role: Option<OrgRole>,
    pub is_suspended: Option<bool>,
    /// Only users with a greater id.
    pub after: Option<i64>,
    pub limit: i64,
}

impl MemberListing<'_> {
    /// Returns the members of the page.
    pub async fn load(&self, mut conn: &AsyncPgConnection) -> QueryResult<Vec<Member>> {
        let members = memberships::table.inner_join(users::table).select(COLUMNS);
        let mut query = members.filter(memberships::org_id.eq(self.org_id)).into_boxed::<Pg>();
        if let Some(search) = self.search {
            query = query.filter(sql::<Bool>(CONTAINS).bind::<Text, _>(search.trim()).sql(ESCAPED));
        }
        if let Some(role) = self.role {
            query = query.filter(memberships::role.eq(role));
        }
        match self.is_suspended {
            Some(true) => query = query.filter(memberships::suspended_at.is_not_null()),
            Some(false) => query = query.filter(memberships::suspended_at.is_null()),
            None => {}
        }
        if let Some(after) = self.after {
            query = query.filter(memberships::user_id.gt(after));
        }
        query.order(memberships::user_id).limit(self.limit).load(&mut conn).await
    }
}

impl Member {
    /// Returns a member by the ids of the organization and the user.
    pub async fn find(mut conn: &AsyncPgConnection, org_id: i64, user_id: i64) -> QueryResult<Option<Self>> {
        memberships::table
            .inner_join(users::table)
            .filter(memberships::org_id.eq(org_id))
            .filter(memberships::user_id.eq(user_id))
            .select(COLUMNS)
            .first(&mut conn)
            .await
            .optional()
    }
}
