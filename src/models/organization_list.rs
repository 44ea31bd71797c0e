//! The query for a page of all organizations, for admins of the platform.

use diesel::{
    dsl::sql,
    pg::Pg,
    prelude::*,
    sql_types::{BigInt, Bool, Nullable, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{organization::Organization, user_list::ESCAPED};
use crate::schema::organizations;

/// SQL before the search text: the condition that the text is a part of the name and the slug, joined by a space. The left side
/// must be the expression of the index `organizations_search_idx`. [`ESCAPED`] follows the text.
const CONTAINS: &str = "search_fold(name || ' ' || coalesce(slug, '')) LIKE
    '%' || replace(replace(replace(search_fold(";
const OWNER_ID: &str =
    "(SELECT m.user_id FROM memberships m WHERE m.org_id = organizations.id AND m.role = 'owner')";
const MEMBER_COUNT: &str = "(SELECT count(*) FROM memberships m WHERE m.org_id = organizations.id)";

/// An organization as an admin of the platform sees it: without its data, such as products.
#[derive(Clone, Debug)]
pub struct OrganizationOverview {
    pub org: Organization,
    pub owner_id: Option<i64>,
    /// The number of members, including suspended members.
    pub members: i64,
}

/// A query for a page of organizations, the newest first. `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct OrganizationListing<'a> {
    /// Only the organization with this id.
    pub id: Option<i64>,
    /// A part of the name or the slug, ignoring case.
    pub search: Option<&'a str>,
    pub is_suspended: Option<bool>,
    /// Only organizations with a lower id, which are older.
    pub before: Option<i64>,
    pub limit: i64,
}

impl OrganizationListing<'_> {
    /// Returns the organizations of the page.
    pub async fn load(&self, mut conn: &AsyncPgConnection) -> QueryResult<Vec<OrganizationOverview>> {
        let owner = sql::<Nullable<BigInt>>(OWNER_ID);
        let members = sql::<BigInt>(MEMBER_COUNT);
        let mut query =
            organizations::table.select((Organization::as_select(), owner, members)).into_boxed::<Pg>();
        if let Some(id) = self.id {
            query = query.filter(organizations::id.eq(id));
        }
        if let Some(search) = self.search {
            query = query.filter(sql::<Bool>(CONTAINS).bind::<Text, _>(search.trim()).sql(ESCAPED));
        }
        match self.is_suspended {
            Some(true) => query = query.filter(organizations::suspended_at.is_not_null()),
            Some(false) => query = query.filter(organizations::suspended_at.is_null()),
            None => {}
        }
        if let Some(before) = self.before {
            query = query.filter(organizations::id.lt(before));
        }
        let page = query.order(organizations::id.desc()).limit(self.limit);
        let rows: Vec<(Organization, Option<i64>, i64)> = page.load(&mut conn).await?;
        let overview = |(org, owner_id, members)| OrganizationOverview { org, owner_id, members };
        Ok(rows.into_iter().map(overview).collect())
    }
}
