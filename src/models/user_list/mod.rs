//! The query for a page of users with search, filters and sort order.

use diesel::{
    dsl::sql,
    pg::Pg,
    prelude::*,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{BigInt, Bool, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::user::{Role, User};
use crate::schema::users;

/// The highest total that a page reports. Further users are not counted, because counting takes as long as
/// reading them.
pub const MAX_COUNTED_USERS: i64 = 10_000;

/// The column that a list of users is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    CreatedAt,
    Email,
    FullName,
}

/// SQL before the search text: the condition that the address or the name contains it.
///
/// PostgreSQL folds the case of both sides with `search_fold`, so they agree in every locale of the database.
/// The left side must be the expression of the index `users_search_idx`.
const CONTAINS: &str = "search_fold(email || ' ' || coalesce(full_name, '')) LIKE
    '%' || replace(replace(replace(search_fold(";
/// SQL after the search text: it escapes the wildcards of LIKE, so that they match themselves. This happens
/// after the folding, which can produce wildcards: a full-width `％` becomes `%`.
const ESCAPED: &str = r"), '\', '\\'), '%', '\%'), '_', '\_') || '%'";

/// A query for a page of users. `None` does not filter.
#[derive(Debug, Clone)]
pub struct Listing<'a> {
    /// A part of the email address or the name, ignoring case.
    pub search: Option<&'a str>,
    pub role: Option<Role>,
    pub is_active: Option<bool>,
    pub sort: Sort,
    pub descending: bool,
    pub offset: i64,
    pub limit: i64,
}

impl Listing<'_> {
    fn filtered(&self) -> users::BoxedQuery<'_, Pg> {
        let mut query = users::table.into_boxed();
        if let Some(search) = self.search {
            query = query.filter(sql::<Bool>(CONTAINS).bind::<Text, _>(search.trim()).sql(ESCAPED));
        }
        if let Some(role) = self.role {
            query = query.filter(users::role.eq(role));
        }
        if let Some(is_active) = self.is_active {
            query = query.filter(users::is_active.eq(is_active));
        }
        query
    }

    /// Returns whether the query has a search or a filter.
    pub fn is_filtered(&self) -> bool {
        self.search.is_some() || self.role.is_some() || self.is_active.is_some()
    }

    /// Returns the number of users on all pages, at most [`MAX_COUNTED_USERS`].
    pub async fn count(&self, mut conn: &AsyncPgConnection) -> QueryResult<i64> {
        let users = self.filtered().select(users::id).order(users::id).limit(MAX_COUNTED_USERS);
        CountRows(users).get_result(&mut conn).await
    }

    /// Returns the users of the page.
    pub async fn load(&self, mut conn: &AsyncPgConnection) -> QueryResult<Vec<User>> {
        let query = self.filtered().offset(self.offset).limit(self.limit);
        let query = match (self.sort, self.descending) {
            (Sort::CreatedAt, false) => query.order((users::created_at.asc(), users::id.asc())),
            (Sort::CreatedAt, true) => query.order((users::created_at.desc(), users::id.desc())),
            // Uses the unique index, which is on `lower(email)`.
            (Sort::Email, false) => query.order(sql::<Text>("lower(email)")),
            (Sort::Email, true) => query.order(sql::<Text>("lower(email) DESC")),
            (Sort::FullName, false) => query.order((users::full_name.asc().nulls_last(), users::id.asc())),
            (Sort::FullName, true) => query.order((users::full_name.desc().nulls_last(), users::id.desc())),
        };
        query.select(User::as_select()).load(&mut conn).await
    }
}

/// `SELECT count(*)` over a subquery, which diesel cannot express.
#[derive(QueryId)]
struct CountRows<T>(T);

impl<T: Query> Query for CountRows<T> {
    type SqlType = BigInt;
}

impl<T: QueryFragment<Pg>> QueryFragment<Pg> for CountRows<T> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT count(*) FROM (");
        self.0.walk_ast(out.reborrow())?;
        out.push_sql(") AS counted");
        Ok(())
    }
}
