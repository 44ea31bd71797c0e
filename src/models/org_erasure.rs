//! The queries that erase organizations and find organizations without an owner. The erasure finds the tables by their foreign
//! keys to `organizations`, so a new table needs no line here.

use diesel::{
    QueryResult, QueryableByName,
    sql_types::{BigInt, Bool, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// A table whose rows are deleted with their organization.
#[derive(Clone, Debug, QueryableByName)]
pub struct OrgTable {
    /// The name of the table, quoted if necessary.
    #[diesel(sql_type = Text)]
    name: String,
    /// The name of the column with the id of the organization, quoted if necessary.
    #[diesel(sql_type = Text)]
    org_column: String,
}

/// Selects the tables with a foreign key of one column to `organizations` that cascades deletions, and this column.
const ORG_TABLES: &str = "
    SELECT c.conrelid::regclass::text AS name, quote_ident(a.attname) AS org_column
    FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
    WHERE c.contype = 'f' AND c.confrelid = 'organizations'::regclass AND c.confdeltype = 'c'
          AND cardinality(c.conkey) = 1
    ORDER BY 1";

/// Returns the tables whose rows are deleted with their organization.
pub async fn org_tables(mut conn: &AsyncPgConnection) -> QueryResult<Vec<OrgTable>> {
    diesel::sql_query(ORG_TABLES).load(&mut conn).await
}

impl OrgTable {
    /// Deletes at most `limit` rows of an organization. Returns how many. Deletes nothing unless the deletion of the
    /// organization is due.
    pub async fn delete_rows_of_due(
        &self,
        mut conn: &AsyncPgConnection,
        org_id: i64,
        limit: i64,
    ) -> QueryResult<usize> {
        let Self { name, org_column } = self;
        let sql = format!(
            "DELETE FROM {name} WHERE ctid = ANY (ARRAY(
                SELECT t.ctid FROM {name} t JOIN organizations o ON o.id = t.{org_column}
                WHERE t.{org_column} = $1 AND o.deletion_due_at <= now() LIMIT $2
            ))"
        );
        let query = diesel::sql_query(sql).bind::<BigInt, _>(org_id).bind::<BigInt, _>(limit);
        query.execute(&mut conn).await
    }
}

/// A row of [`OWNERSHIPS`].
#[derive(QueryableByName)]
struct Ownership {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Bool)]
    has_owner: bool,
    #[diesel(sql_type = Bool)]
    has_members: bool,
}

/// Selects the next organizations in the order of their ids. `has_owner` is true also if the deletion of the organization is
/// scheduled, because such an organization needs no owner.
const OWNERSHIPS: &str = "
    SELECT id,
        deletion_due_at IS NOT NULL
            OR EXISTS (SELECT FROM memberships WHERE org_id = o.id AND role = 'owner') AS has_owner,
        EXISTS (SELECT FROM memberships WHERE org_id = o.id) AS has_members
    FROM organizations o WHERE id > $1 ORDER BY id LIMIT $2";

/// Examines the next `limit` organizations whose ids are greater than `after`. Returns the last examined id, and the ids of the
/// organizations without an owner, each with whether it has members. Leaves out organizations whose deletion is scheduled.
/// `None` if there are no more organizations.
pub async fn find_ownerless(
    mut conn: &AsyncPgConnection,
    after: i64,
    limit: i64,
) -> QueryResult<Option<(i64, Vec<(i64, bool)>)>> {
    let query = diesel::sql_query(OWNERSHIPS).bind::<BigInt, _>(after).bind::<BigInt, _>(limit);
    let rows: Vec<Ownership> = query.load(&mut conn).await?;
    let Some(last) = rows.last().map(|row| row.id) else { return Ok(None) };
    let found = rows.into_iter().filter(|row| !row.has_owner).map(|row| (row.id, row.has_members));
    Ok(Some((last, found.collect())))
}
