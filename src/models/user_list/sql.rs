//! The SQL of the list of users.
//!
//! diesel's query builder cannot express most of these queries. A query with a search or a filter is not cached as a prepared
//! statement: after a few executions, PostgreSQL may plan a prepared statement without its parameters, and the best plan
//! depends on the search text.

use diesel::{
    dsl::AsSelect,
    pg::Pg,
    prelude::*,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{BigInt, Bool, Text, Timestamptz},
};

use super::{Filter, Listing, Sort, position::Range};
use crate::models::user::{Role, User};

/// SQL before the search text: the condition that the text is a part of the address and the name, joined by a space.
///
/// PostgreSQL folds the case of both sides with `search_fold`, so they agree in every locale of the database.
/// The left side must be the expression of the index `users_search_idx`.
pub(in crate::models) const CONTAINS: &str = "search_fold(email || ' ' || coalesce(full_name, '')) LIKE
    '%' || replace(replace(replace(search_fold(";
/// SQL after the search text: it escapes the wildcards of LIKE, so that they match themselves. This happens
/// after the folding, which can produce wildcards: a full-width `％` becomes `%`.
pub(in crate::models) const ESCAPED: &str = r"), '\', '\\'), '%', '\%'), '_', '\_') || '%'";

/// Users of a range in the order of the list, at most `limit` after the first `offset`.
pub(super) struct Rows<'a> {
    listing: &'a Listing<'a>,
    range: &'a Range<'a>,
    is_filtered: bool,
    limit: i64,
    offset: i64,
    columns: AsSelect<User, Pg>,
}

/// Reads the users of `rows` in the order of the list, until `limit` of them match. Returns the users that match, and also
/// the user with the number `rows.limit` if it is reached. Each row has the user, whether the user matches, and the number
/// of the user from 1.
pub(super) struct Walk<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) limit: i64,
}

/// Finds candidates, at most `size`, with an index that does not have the order of the list. Returns the first `limit` candidates
/// that match and are in the ranges, in the order of the list. Each row has the user, the number of candidates, and the number
/// of candidates that match and are in the ranges. If the index finds `size` candidates, there may be more. The only row then
/// has one of the candidates.
pub(super) struct Candidates<'a> {
    pub(super) listing: &'a Listing<'a>,
    pub(super) ranges: &'a [Range<'a>],
    pub(super) size: i64,
    pub(super) limit: i64,
    columns: AsSelect<User, Pg>,
}

/// Counts the users that match, up to `limit`: among the newest `rows` users, or among all users if `rows` is `None`.
pub(super) struct Count<'a> {
    pub(super) filter: &'a Filter<'a>,
    pub(super) rows: Option<i64>,
    pub(super) limit: i64,
}

impl<'a> Rows<'a> {
    /// Selects the users of the range who match.
    pub(super) fn matching(listing: &'a Listing<'a>, range: &'a Range<'a>, limit: i64, offset: i64) -> Self {
        let columns = User::as_select();
        Self { listing, range, is_filtered: true, limit, offset, columns }
    }

    /// Selects the users of the range, whether they match or not.
    pub(super) fn all(listing: &'a Listing<'a>, range: &'a Range<'a>, limit: i64) -> Self {
        Self { is_filtered: false, ..Self::matching(listing, range, limit, 0) }
    }
}

impl<'a> Candidates<'a> {
    pub(super) fn new(listing: &'a Listing<'a>, ranges: &'a [Range<'a>], size: i64, limit: i64) -> Self {
        Self { listing, ranges, size, limit, columns: User::as_select() }
    }
}

impl QueryFragment<Pg> for Rows<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // Without a filter, a scan of the index with the order of the list is a good plan for all parameters.
        if self.listing.filter.has_condition() {
            out.unsafe_to_cache_prepared();
        }
        out.push_sql("SELECT ");
        self.columns.walk_ast(out.reborrow())?;
        out.push_sql(" FROM users WHERE ");
        self.range.push(self.listing.descending, &mut out)?;
        if self.is_filtered {
            out.push_sql(" AND ");
            self.listing.filter.push(&mut out)?;
        }
        push_order(self.listing, &mut out);
        out.push_sql(" LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        if self.offset > 0 {
            out.push_sql(" OFFSET ");
            out.push_bind_param::<BigInt, _>(&self.offset)?;
        }
        Ok(())
    }
}

impl QueryFragment<Pg> for Walk<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT * FROM (SELECT users.*, (");
        self.rows.listing.filter.push(&mut out)?;
        out.push_sql(") AS is_match, row_number() OVER () AS number FROM (");
        self.rows.walk_ast(out.reborrow())?;
        // PostgreSQL reads the rows one by one, until this limit.
        out.push_sql(") AS users) AS walked WHERE is_match OR number = ");
        out.push_bind_param::<BigInt, _>(&self.rows.limit)?;
        out.push_sql(" LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

impl QueryFragment<Pg> for Candidates<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        let filter = &self.listing.filter;
        let by_text = filter.has_indexed_text();
        // PostgreSQL plans a materialized query as if all its rows were read. Otherwise, it would scan the table for a text
        // of which it expects many matches. That takes long if there are few matches, or if they are far from the beginning.
        out.push_sql("WITH found AS ");
        out.push_sql(if by_text { "MATERIALIZED" } else { "NOT MATERIALIZED" });
        out.push_sql(" (SELECT id, email, full_name, created_at, role, is_active FROM users WHERE ");
        if by_text {
            filter.push(&mut out)?;
        } else {
            // At least one of these conditions has a partial index, which is sorted by id.
            filter.push_flags(&mut out);
            out.push_sql(" ORDER BY id");
        }
        out.push_sql("), candidates AS MATERIALIZED (SELECT * FROM found LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.size)?;
        out.push_sql(
            "), counted AS (SELECT count(*) AS number FROM candidates), \
             page AS ((SELECT candidates.id, count(*) OVER () AS total FROM candidates, counted WHERE number < ",
        );
        out.push_bind_param::<BigInt, _>(&self.size)?;
        out.push_sql(" AND (");
        for (index, range) in self.ranges.iter().enumerate() {
            out.push_sql(if index == 0 { "(" } else { " OR (" });
            range.push(self.listing.descending, &mut out)?;
            out.push_sql(")");
        }
        out.push_sql(")");
        if !by_text {
            out.push_sql(" AND ");
            filter.push(&mut out)?;
        }
        push_order(self.listing, &mut out);
        out.push_sql(" LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        // One row, from which the caller sees that there are too many candidates.
        out.push_sql(") UNION ALL (SELECT candidates.id, 0 FROM candidates, counted WHERE number = ");
        out.push_bind_param::<BigInt, _>(&self.size)?;
        out.push_sql(" LIMIT 1)) SELECT ");
        self.columns.walk_ast(out.reborrow())?;
        out.push_sql(", number, total FROM page JOIN users USING (id), counted");
        push_order(self.listing, &mut out);
        Ok(())
    }
}

impl QueryFragment<Pg> for Count<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        out.push_sql("SELECT count(*) FROM (SELECT FROM ");
        if let Some(rows) = &self.rows {
            out.push_sql("(SELECT email, full_name, role, is_active FROM users ORDER BY id DESC LIMIT ");
            out.push_bind_param::<BigInt, _>(rows)?;
            out.push_sql(") AS users WHERE ");
            self.filter.push(&mut out)?;
        } else {
            out.push_sql("users WHERE ");
            self.filter.push(&mut out)?;
            out.push_sql(" ORDER BY id");
        }
        out.push_sql(" LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        out.push_sql(") AS counted");
        Ok(())
    }
}

/// Implements `Query` for a fragment of SQL, with the given type of rows.
macro_rules! query {
    ($name:ident, $row:ty) => {
        impl Query for $name<'_> {
            type SqlType = $row;
        }

        impl QueryId for $name<'_> {
            type QueryId = ();
            const HAS_STATIC_QUERY_ID: bool = false;
        }
    };
}

query!(Rows, AsSelect<User, Pg>);
query!(Walk, (AsSelect<User, Pg>, Bool, BigInt));
query!(Candidates, (AsSelect<User, Pg>, BigInt, BigInt));
query!(Count, BigInt);

impl Filter<'_> {
    /// Writes the condition that a user matches.
    fn push<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.push_flags(out);
        if let Some(text) = self.search {
            out.push_sql(" AND ");
            out.push_sql(CONTAINS);
            out.push_bind_param::<Text, str>(text)?;
            out.push_sql(ESCAPED);
        }
        Ok(())
    }

    /// Writes the conditions on the role and the state, without parameters: PostgreSQL has to see that they imply the
    /// conditions of partial indexes.
    fn push_flags(&self, out: &mut AstPass<'_, '_, Pg>) {
        out.push_sql(match self.role {
            None => "true",
            Some(Role::User) => "role = 'user'",
            Some(Role::Admin) => "role = 'admin'",
        });
        out.push_sql(match self.is_active {
            None => "",
            Some(true) => " AND is_active",
            Some(false) => " AND NOT is_active",
        });
    }
}

impl Range<'_> {
    /// Writes the condition that a user is in the range.
    fn push<'b>(&'b self, descending: bool, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let after = if descending { " < " } else { " > " };
        match self {
            Self::All => out.push_sql("true"),
            Self::CreatedAfter(at, id) => {
                out.push_sql("(created_at, id)");
                out.push_sql(after);
                out.push_sql("(");
                out.push_bind_param::<Timestamptz, _>(at)?;
                out.push_sql(", ");
                out.push_bind_param::<BigInt, _>(id)?;
                out.push_sql(")");
            }
            // Addresses are unique, so the order does not need the id.
            Self::EmailAfter(email) => {
                out.push_sql("lower(email)");
                out.push_sql(after);
                out.push_sql("lower(");
                out.push_bind_param::<Text, str>(email)?;
                out.push_sql(")");
            }
            Self::NameAfter(name, id) => {
                out.push_sql("(full_name, id)");
                out.push_sql(after);
                out.push_sql("(");
                out.push_bind_param::<Text, str>(name)?;
                out.push_sql(", ");
                out.push_bind_param::<BigInt, _>(id)?;
                out.push_sql(")");
            }
            Self::Nameless => out.push_sql("full_name IS NULL"),
            Self::NamelessAfter(id) => {
                out.push_sql("full_name IS NULL AND id");
                out.push_sql(after);
                out.push_bind_param::<BigInt, _>(id)?;
            }
        }
        Ok(())
    }
}

fn push_order(listing: &Listing<'_>, out: &mut AstPass<'_, '_, Pg>) {
    out.push_sql(" ORDER BY ");
    out.push_sql(order(listing));
}

/// Returns the columns of an order. Each order has an index, and users without a name come last in both directions.
fn order(listing: &Listing<'_>) -> &'static str {
    match (listing.sort, listing.descending) {
        (Sort::CreatedAt, false) => "created_at, id",
        (Sort::CreatedAt, true) => "created_at DESC, id DESC",
        (Sort::Email, false) => "lower(email)",
        (Sort::Email, true) => "lower(email) DESC",
        (Sort::FullName, false) => "full_name NULLS LAST, id",
        (Sort::FullName, true) => "full_name DESC NULLS LAST, id DESC",
    }
}
