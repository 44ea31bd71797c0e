//! A page of users, searched, filtered and sorted.

use diesel::{
    dsl::sql,
    pg::Pg,
    prelude::*,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{BigInt, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::user::{Role, User};
use crate::schema::users;

pub const MAX_COUNTED_USERS: i64 = 10_000;

/// What users are listed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    CreatedAt,
    Email,
    FullName,
}

/// Which users, in what order.
#[derive(Debug, Clone)]
pub struct Listing<'a> {
    /// A part of the address or the name, in any case.
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
            // The expression that the index is on.
            let text = sql::<Text>("(lower(email) || ' ' || lower(coalesce(full_name, '')))");
            query = query.filter(text.like(pattern(search)));
        }
        if let Some(role) = self.role {
            query = query.filter(users::role.eq(role));
        }
        if let Some(is_active) = self.is_active {
            query = query.filter(users::is_active.eq(is_active));
        }
        query
    }

    /// Whether some users are left out on all pages.
    pub fn is_filtered(&self) -> bool {
        self.search.is_some() || self.role.is_some() || self.is_active.is_some()
    }

    /// How many there are, of whom no more than [`MAX_COUNTED_USERS`] are counted: that takes as long as reading them.
    pub async fn count(&self, mut conn: &AsyncPgConnection) -> QueryResult<i64> {
        let some = self.filtered().select(users::id).order(users::id).limit(MAX_COUNTED_USERS);
        Counted(some).get_result(&mut conn).await
    }

    pub async fn load(&self, mut conn: &AsyncPgConnection) -> QueryResult<Vec<User>> {
        let query = self.filtered().offset(self.offset).limit(self.limit);
        let query = match (self.sort, self.descending) {
            (Sort::CreatedAt, false) => query.order((users::created_at.asc(), users::id.asc())),
            (Sort::CreatedAt, true) => query.order((users::created_at.desc(), users::id.desc())),
            // By the index on the address; it is stored in lower case.
            (Sort::Email, false) => query.order(sql::<Text>("lower(email)")),
            (Sort::Email, true) => query.order(sql::<Text>("lower(email) DESC")),
            (Sort::FullName, false) => query.order((users::full_name.asc().nulls_last(), users::id.asc())),
            (Sort::FullName, true) => query.order((users::full_name.desc().nulls_last(), users::id.desc())),
        };
        query.select(User::as_select()).load(&mut conn).await
    }
}

/// The rows of a query, counted.
#[derive(QueryId)]
struct Counted<T>(T);

impl<T: Query> Query for Counted<T> {
    type SqlType = BigInt;
}

impl<T: QueryFragment<Pg>> QueryFragment<Pg> for Counted<T> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT count(*) FROM (");
        self.0.walk_ast(out.reborrow())?;
        out.push_sql(") AS counted");
        Ok(())
    }
}

/// The text anywhere, its own wildcards taken as they are.
fn pattern(text: &str) -> String {
    let escaped = text.trim().to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn wildcards_are_text() {
        assert_eq!(pattern(" A_b%c\\ "), "%a\\_b\\%c\\\\%");
    }
}
