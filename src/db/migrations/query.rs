//! Queries that return one column of text.

use diesel::{QueryResult, QueryableByName, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// A row with a text in the column `value`.
#[derive(QueryableByName)]
pub(super) struct Row {
    #[diesel(sql_type = Text)]
    pub value: String,
}

/// Returns the column `value` of a query.
pub(super) async fn texts(mut conn: &AsyncPgConnection, sql: &str) -> QueryResult<Vec<String>> {
    let rows = diesel::sql_query(sql).load::<Row>(&mut conn).await?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}
