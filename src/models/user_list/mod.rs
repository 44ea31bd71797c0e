//! The query for a page of users with search, filters and sort order.
//!
//! [`Listing::page`] has to be fast for any number of users and any search text. No single query plan achieves that, and
//! PostgreSQL cannot choose well between two plans, because its statistics say little about parts of texts:
//!
//! - Reading users in the order of the list and checking each user is fast if many users match. It takes seconds if few
//!   match.
//! - The indexes of the search and of the filters are fast if few users match. Sorting many matches takes long.
//!
//! So [`Listing::page`] begins with the first plan, and uses the second plan if the first finds few users. The number of rows
//! that it reads in the order of the list is limited: a page may have fewer users than requested, and the next page continues
//! after the last row.

mod position;
mod sql;

pub use position::{Position, SortKey};
pub(super) use sql::{CONTAINS, ESCAPED};

use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use self::{
    position::Range,
    sql::{Candidates, Count, Rows, Walk},
};
use super::user::{Role, User};

/// The highest total that is reported for a list. Further users are not counted, because counting users takes as long as
/// reading them.
pub const MAX_COUNTED_USERS: i64 = 10_000;

/// Number of rows of a range that a page reads first in the order of the list. This is enough for a page of 50 users if more
/// than 5 % of these rows match.
const FIRST_ROWS: i64 = 1_000;
/// Maximum number of rows of a [`Range`] that a page reads in the order of the list.
const MAX_ROWS: i64 = 3_500;
/// Maximum number of users that an index may find for a page. If there are more, the page is read in the order of the list.
const MAX_CANDIDATES: i64 = MAX_COUNTED_USERS;
/// Number of the newest users among whom the matches of a search are counted.
const COUNTED_SEARCH_ROWS: i64 = 5_000;
/// Like [`COUNTED_SEARCH_ROWS`], but for filters without an index. Checking a filter takes a fraction of the time of a search.
const COUNTED_FILTER_ROWS: i64 = 50_000;
/// The shortest run of letters and digits that the index of the search can find.
const MIN_INDEXED_CHARS: usize = 3;

/// The column that a list of users is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    CreatedAt,
    Email,
    FullName,
}

/// The conditions that the users of a list meet. `None` does not filter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// A part of the email address or the name, ignoring case.
    pub search: Option<&'a str>,
    pub role: Option<Role>,
    pub is_active: Option<bool>,
}

/// A query for a page of users.
#[derive(Debug, Clone)]
pub struct Listing<'a> {
    pub filter: Filter<'a>,
    pub sort: Sort,
    pub descending: bool,
    /// Maximum number of users of the page.
    pub limit: i64,
}

/// A page of users.
pub struct UserPage {
    /// May be fewer than the limit, although there is a next page.
    pub users: Vec<User>,
    /// The position after which the next page begins. `None` on the last page.
    pub next: Option<Position>,
    /// The number of users on this page and all later pages, up to [`MAX_COUNTED_USERS`]. `None` if the page was found without
    /// counting them. On a page after the first, [`MAX_COUNTED_USERS`] can be too high.
    pub total: Option<i64>,
}

/// Users who were read in the order of the list.
struct Walked {
    users: Vec<User>,
    /// The position of the last row that was read, if the reading ended at its limit of rows.
    end: Option<Position>,
}

impl Walked {
    /// Returns whether at least `wanted` users were found, or all rows were read.
    fn is_complete(&self, wanted: i64) -> bool {
        self.users.len() as i64 >= wanted || self.end.is_none()
    }
}

impl Filter<'_> {
    /// Returns whether there is a search or a filter.
    pub fn has_condition(&self) -> bool {
        self.search.is_some() || self.role.is_some() || self.is_active.is_some()
    }

    /// Returns whether an index finds the users without reading all of them.
    fn has_index(&self) -> bool {
        self.has_indexed_text() || self.role == Some(Role::Admin) || self.is_active == Some(false)
    }

    /// Returns whether the index of the search can find the text. The index is a trigram index, so the text must have three
    /// letters or digits in a row.
    fn has_indexed_text(&self) -> bool {
        let words = |text: &str| {
            text.split(|c: char| !c.is_alphanumeric()).any(|word| word.chars().count() >= MIN_INDEXED_CHARS)
        };
        self.search.is_some_and(words)
    }
}

impl Listing<'_> {
    /// Returns the page after a position, or the first page.
    pub async fn page(&self, conn: &AsyncPgConnection, after: Option<&Position>) -> QueryResult<UserPage> {
        let ranges = after.map_or_else(|| vec![Range::All], |position| position.ranges(self.sort));
        // One more user shows whether there is a next page.
        let wanted = self.limit + 1;
        if !self.filter.has_condition() {
            let users = self.first_rows(conn, &ranges, wanted).await?;
            return Ok(self.make_page(Walked { users, end: None }, None));
        }
        let mut walked = self.walk(conn, &ranges, FIRST_ROWS, Vec::new()).await?;
        // Whether `MAX_ROWS` rows have enough users, if the share of matching rows stays the same.
        let is_dense = walked.users.len() as i64 * MAX_ROWS >= wanted * FIRST_ROWS;
        if is_dense && !walked.is_complete(wanted) {
            walked = self.walk_on(conn, walked).await?;
        }
        if walked.is_complete(wanted) {
            return Ok(self.make_page(walked, None));
        }
        let has_index = self.filter.has_index();
        if has_index && let Some((users, total)) = self.candidates(conn, &ranges).await? {
            return Ok(self.make_page(Walked { users, end: None }, Some(total)));
        }
        if !is_dense {
            walked = self.walk_on(conn, walked).await?;
        }
        Ok(self.make_page(walked, self.filter.has_indexed_text().then_some(MAX_COUNTED_USERS)))
    }

    /// Returns the users after the first `offset`. The time of the query grows with the offset and the number of users.
    pub async fn page_at(&self, mut conn: &AsyncPgConnection, offset: i64) -> QueryResult<UserPage> {
        let rows = Rows::matching(self, &Range::All, self.limit + 1, offset);
        let users: Vec<User> = rows.load(&mut conn).await?;
        Ok(self.make_page(Walked { users, end: None }, None))
    }

    /// Returns the number of users who match, at most [`MAX_COUNTED_USERS`]. With a search, or a filter without an index,
    /// counts only among the newest users, so that the time is bounded.
    pub async fn count(&self, mut conn: &AsyncPgConnection) -> QueryResult<i64> {
        let rows = match self.filter {
            Filter { search: Some(_), .. } => Some(COUNTED_SEARCH_ROWS),
            filter if filter.has_condition() && !filter.has_index() => Some(COUNTED_FILTER_ROWS),
            _ => None,
        };
        Count { filter: &self.filter, rows, limit: MAX_COUNTED_USERS }.get_result(&mut conn).await
    }

    /// Returns the first users who match in the ranges, at most `wanted`.
    async fn first_rows(
        &self,
        mut conn: &AsyncPgConnection,
        ranges: &[Range<'_>],
        wanted: i64,
    ) -> QueryResult<Vec<User>> {
        let mut users: Vec<User> = Vec::new();
        for range in ranges {
            let missing = wanted - users.len() as i64;
            if missing > 0 {
                let more: Vec<User> = Rows::matching(self, range, missing, 0).load(&mut conn).await?;
                users.extend(more);
            }
        }
        Ok(users)
    }

    /// Reads one range after the other, until a page is full or `size` rows of a range were read. Adds the users who match to
    /// `users`.
    async fn walk(
        &self,
        mut conn: &AsyncPgConnection,
        ranges: &[Range<'_>],
        size: i64,
        mut users: Vec<User>,
    ) -> QueryResult<Walked> {
        for range in ranges {
            let limit = self.limit + 1 - users.len() as i64;
            let walk = Walk { rows: Rows::all(self, range, size), limit };
            let rows: Vec<(User, bool, i64)> = walk.load(&mut conn).await?;
            let last = rows.last().filter(|(.., number)| *number == size);
            let end = last.map(|(user, ..)| Position::of(user, self.sort));
            users.extend(rows.into_iter().filter(|(_, is_match, _)| *is_match).map(|(user, ..)| user));
            if end.is_some() || users.len() as i64 > self.limit {
                return Ok(Walked { users, end });
            }
        }
        Ok(Walked { users, end: None })
    }

    /// Continues after the first rows, up to [`MAX_ROWS`] rows of each range.
    async fn walk_on(&self, conn: &AsyncPgConnection, walked: Walked) -> QueryResult<Walked> {
        let Walked { users, end: Some(end) } = walked else { return Ok(walked) };
        self.walk(conn, &end.ranges(self.sort), MAX_ROWS - FIRST_ROWS, users).await
    }

    /// Finds the users of the page with an index of the search or the filters. Returns them, and the number of matching users in
    /// the ranges. `None` if the index finds more than [`MAX_CANDIDATES`] users.
    async fn candidates(
        &self,
        mut conn: &AsyncPgConnection,
        ranges: &[Range<'_>],
    ) -> QueryResult<Option<(Vec<User>, i64)>> {
        let size = MAX_CANDIDATES + 1;
        let query = Candidates::new(self, ranges, size, self.limit + 1);
        let rows: Vec<(User, i64, i64)> = query.load(&mut conn).await?;
        // All rows have the same number of candidates and the same total.
        let (number, total) = match rows.as_slice() {
            [(_, number, total), ..] => (*number, *total),
            [] => (0, 0),
        };
        if number == size {
            return Ok(None);
        }
        Ok(Some((rows.into_iter().map(|(user, ..)| user).collect(), total)))
    }

    /// Makes a page from the users that were read: at most `limit` users, and the position of the next page.
    fn make_page(&self, walked: Walked, total: Option<i64>) -> UserPage {
        let Walked { mut users, mut end } = walked;
        let limit = usize::try_from(self.limit).unwrap_or_default();
        if users.len() > limit {
            users.truncate(limit);
            end = users.last().map(|user| Position::of(user, self.sort));
        }
        UserPage { users, next: end, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_needs_three_letters_in_a_row_for_the_index() {
        for (text, expected) in [
            ("ada", true),
            ("x ada@", true),
            ("山田太", true),
            ("ad", false),
            ("a.d.a", false),
            ("ad %%% ad", false),
            ("", false),
        ] {
            let filter = Filter { search: Some(text), ..Filter::default() };
            assert_eq!(filter.has_indexed_text(), expected, "{text}");
        }
    }
}
