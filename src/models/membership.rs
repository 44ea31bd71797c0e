//! The table `memberships`.

use chrono::{DateTime, Utc};
use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::{AsExpression, ValidGrouping, is_aggregate},
    pg::{Pg, PgValue},
    prelude::*,
    query_builder::{AstPass, QueryFragment, QueryId},
    sql_types::Json,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{organization::Organization, text_enum, user::User};
use crate::{
    db::Tx,
    schema::{memberships, organizations, users},
};

text_enum! {
    /// The role of a member in an organization, from the lowest to the highest.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, AsExpression, FromSqlRow, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum OrgRole {
        Viewer = "viewer",
        Member = "member",
        Admin = "admin",
        Owner = "owner",
    }
}

/// A user in an organization.
#[derive(Clone, Debug, HasQuery, Identifiable)]
#[diesel(primary_key(org_id, user_id))]
pub struct Membership {
    pub org_id: i64,
    pub user_id: i64,
    pub role: OrgRole,
    pub suspended_at: Option<DateTime<Utc>>,
    /// When the user joined.
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A membership to insert.
#[derive(Insertable)]
#[diesel(table_name = memberships)]
pub struct NewMembership {
    pub org_id: i64,
    pub user_id: i64,
    pub role: OrgRole,
}

/// Changes to a membership. `None` keeps a column; `Some(None)` sets it to NULL.
#[derive(AsChangeset, Default)]
#[diesel(table_name = memberships)]
pub struct MembershipChanges {
    pub role: Option<OrgRole>,
    pub suspended_at: Option<Option<DateTime<Utc>>>,
}

/// The part of a membership that the product checks at each request in the organization. An
/// [`Identity`](super::session::Identity) has one value for each membership of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct IdentityMembership {
    pub org_id: i64,
    pub role: OrgRole,
    /// Whether the member is suspended.
    pub suspended: bool,
    pub org_suspended: bool,
    /// Whether the deletion of the organization is scheduled.
    pub org_deleting: bool,
}

impl IdentityMembership {
    /// Returns the part of a membership and its organization that is checked at each request in the organization.
    pub fn of(org: &Organization, membership: &Membership) -> Self {
        Self {
            org_id: org.id,
            role: membership.role,
            suspended: membership.suspended_at.is_some(),
            org_suspended: org.suspended_at.is_some(),
            org_deleting: org.deletion_due_at.is_some(),
        }
    }
}

/// The memberships of one user, from a column of JSON.
#[derive(Debug, FromSqlRow, serde::Deserialize)]
#[serde(transparent)]
pub struct IdentityMemberships(pub Vec<IdentityMembership>);

impl FromSql<Json, Pg> for IdentityMemberships {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(serde_json::from_slice(value.as_bytes())?)
    }
}

/// The SQL expression that selects [`IdentityMemberships`] in a query on `users`. It is a subquery, so one statement reads the
/// user and the memberships.
#[derive(Clone, Copy, Debug, QueryId)]
pub(super) struct MembershipsOfUser;

/// A subquery for each membership reads the organization by its primary key. A join could read all organizations while
/// PostgreSQL has no statistics of `memberships`, as after the creation of many personal organizations.
const MEMBERSHIPS_OF_USER: &str = "(
    SELECT coalesce(json_agg((
        SELECT json_build_object(
            'org_id', m.org_id,
            'role', m.role,
            'suspended', m.suspended_at IS NOT NULL,
            'org_suspended', o.suspended_at IS NOT NULL,
            'org_deleting', o.deletion_due_at IS NOT NULL
        )
        FROM organizations o WHERE o.id = m.org_id
    )), '[]')
    FROM memberships m WHERE m.user_id = users.id
)";

impl Expression for MembershipsOfUser {
    type SqlType = Json;
}

impl QueryFragment<Pg> for MembershipsOfUser {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(MEMBERSHIPS_OF_USER);
        Ok(())
    }
}

impl<QS> AppearsOnTable<QS> for MembershipsOfUser {}
impl<QS> SelectableExpression<QS> for MembershipsOfUser {}
impl<GroupBy> ValidGrouping<GroupBy> for MembershipsOfUser {
    type IsAggregate = is_aggregate::No;
}

impl Membership {
    /// Returns the membership of a user in an organization.
    pub async fn find(mut conn: &AsyncPgConnection, org_id: i64, user_id: i64) -> QueryResult<Option<Self>> {
        let row = memberships::org_id.eq(org_id).and(memberships::user_id.eq(user_id));
        Self::query().filter(row).first(&mut conn).await.optional()
    }

    /// Returns an organization and the membership of a user in it. `None` if the user is not a member, is deactivated, or has
    /// scheduled the deletion of the account. The membership or the organization may be suspended.
    pub async fn find_active(
        mut conn: &AsyncPgConnection,
        org_id: i64,
        user_id: i64,
    ) -> QueryResult<Option<(Organization, Self)>> {
        memberships::table
            .inner_join(organizations::table)
            .inner_join(users::table)
            .filter(memberships::org_id.eq(org_id))
            .filter(memberships::user_id.eq(user_id))
            .filter(users::is_active)
            .filter(users::deletion_due_at.is_null())
            .select((Organization::as_select(), Self::as_select()))
            .first(&mut conn)
            .await
            .optional()
    }

    /// Returns the organizations of a user, each with the membership. The personal organization comes first; the others are
    /// sorted by name.
    pub async fn list_of_user(
        mut conn: &AsyncPgConnection,
        user_id: i64,
    ) -> QueryResult<Vec<(Organization, Self)>> {
        let mut list: Vec<(Organization, Self)> = memberships::table
            .inner_join(organizations::table)
            .filter(memberships::user_id.eq(user_id))
            .order((organizations::name, organizations::id))
            .select((Organization::as_select(), Self::as_select()))
            .load(&mut conn)
            .await?;
        list.sort_by_key(|(org, _)| org.personal_of != Some(user_id));
        Ok(list)
    }

    /// Returns the number of organizations that a user owns, without personal organizations.
    pub async fn count_owned(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<i64> {
        memberships::table
            .inner_join(organizations::table)
            .filter(memberships::user_id.eq(user_id))
            .filter(memberships::role.eq(OrgRole::Owner))
            .filter(organizations::personal_of.is_null())
            .count()
            .get_result(&mut conn)
            .await
    }

    /// Locks the organizations that a user owns, in the order of their ids, and returns the latest versions of the rows. Leaves
    /// out organizations whose deletion is scheduled.
    ///
    /// The caller must have locked the user. A transfer also locks the old and the new owner, so the owner does not change.
    pub async fn lock_owned(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<Vec<Organization>> {
        let owned = memberships::table
            .filter(memberships::user_id.eq(user_id))
            .filter(memberships::role.eq(OrgRole::Owner))
            .select(memberships::org_id);
        Organization::query()
            .filter(organizations::id.eq_any(owned))
            .filter(organizations::deletion_due_at.is_null())
            .order(organizations::id)
            .for_update()
            .load(&mut conn)
            .await
    }

    /// Returns the number of memberships of a user.
    pub async fn count_of_user(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<i64> {
        memberships::table.filter(memberships::user_id.eq(user_id)).count().get_result(&mut conn).await
    }

    /// Returns the number of members of an organization, including suspended members.
    pub async fn count_of_org(mut conn: &AsyncPgConnection, org_id: i64) -> QueryResult<i64> {
        memberships::table.filter(memberships::org_id.eq(org_id)).count().get_result(&mut conn).await
    }

    /// Returns the owner and the admins of an organization. Leaves out suspended members, and users who are deactivated or
    /// scheduled for deletion.
    pub async fn active_admins(mut conn: &AsyncPgConnection, org_id: i64) -> QueryResult<Vec<User>> {
        memberships::table
            .inner_join(users::table)
            .filter(memberships::org_id.eq(org_id))
            .filter(memberships::role.eq_any([OrgRole::Owner, OrgRole::Admin]))
            .filter(memberships::suspended_at.is_null())
            .filter(users::is_active)
            .filter(users::deletion_due_at.is_null())
            .order(users::id)
            .select(User::as_select())
            .load(&mut conn)
            .await
    }

    /// Returns the owner of an organization and the member `user_id`. Leaves out suspended members, and users who are
    /// deactivated or scheduled for deletion.
    pub async fn active_owner_and(
        mut conn: &AsyncPgConnection,
        org_id: i64,
        user_id: i64,
    ) -> QueryResult<Vec<User>> {
        memberships::table
            .inner_join(users::table)
            .filter(memberships::org_id.eq(org_id))
            .filter(memberships::role.eq(OrgRole::Owner).or(memberships::user_id.eq(user_id)))
            .filter(memberships::suspended_at.is_null())
            .filter(users::is_active)
            .filter(users::deletion_due_at.is_null())
            .order(users::id)
            .select(User::as_select())
            .load(&mut conn)
            .await
    }

    /// Updates a membership and returns the new row. `None` if the membership no longer exists.
    pub async fn update(
        tx: &Tx<'_>,
        org_id: i64,
        user_id: i64,
        changes: &MembershipChanges,
    ) -> QueryResult<Option<Self>> {
        let mut conn = tx.conn();
        diesel::update(memberships::table.find((org_id, user_id)))
            .set(changes)
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
            .optional()
    }

    /// Deletes a membership. Returns how many were deleted, 0 or 1.
    pub async fn delete(tx: &Tx<'_>, org_id: i64, user_id: i64) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::delete(memberships::table.find((org_id, user_id))).execute(&mut conn).await
    }
}

impl NewMembership {
    /// Inserts the membership and returns the row.
    pub async fn insert(&self, tx: &Tx<'_>) -> QueryResult<Membership> {
        let mut conn = tx.conn();
        diesel::insert_into(memberships::table)
            .values(self)
            .returning(Membership::as_returning())
            .get_result(&mut conn)
            .await
    }

    /// Inserts memberships with one statement.
    pub async fn insert_all(rows: &[Self], tx: &Tx<'_>) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::insert_into(memberships::table).values(rows).execute(&mut conn).await
    }
}
