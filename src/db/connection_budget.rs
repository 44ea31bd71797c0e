//! The number of connections that the server has for the processes of the product.

use diesel::{
    QueryResult, QueryableByName,
    sql_types::{BigInt, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// Number of connections that a process may have beside its pool: at start, or for migrations.
const OWN_CONNECTIONS: i64 = 1;

/// Selects the limits that apply to this role, each with the number of connections in use: the limit of the server without
/// the connections that are reserved, for example for superusers, the limit of the role, and the limit of the database. For
/// the server and the database, the connections of other roles count too: every role sees their database and role in
/// `pg_stat_activity`.
const LIMITS_SQL: &str = "
WITH backend AS (SELECT datid, usesysid FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL)
SELECT 'max_connections' AS name,
       current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
           - coalesce(current_setting('reserved_connections', true), '0')::bigint AS usable,
       (SELECT count(*) FROM backend) AS used
UNION ALL
SELECT 'the limit of the role', rolconnlimit::bigint, (SELECT count(*) FROM backend WHERE usesysid = role.oid)
FROM pg_roles role WHERE rolname = current_user AND rolconnlimit >= 0
UNION ALL
SELECT 'the limit of the database', datconnlimit::bigint, (SELECT count(*) FROM backend WHERE datid = base.oid)
FROM pg_database base WHERE datname = current_database() AND datconnlimit >= 0
ORDER BY 2";

/// The connections that the server allows, and those that this process may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionBudget {
    /// The name of the limit of the server, the role or the database that is too low for one process, or else has the fewest free
    /// connections.
    limit: String,
    /// How many connections the limit allows, without the reserved ones.
    usable: i64,
    /// How many of these connections are free. The connection that reads the limits counts as free.
    free: i64,
    /// How many connections this process may open: its pool and [`OWN_CONNECTIONS`].
    needed: i64,
}

#[derive(QueryableByName)]
struct Limit {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    usable: i64,
    #[diesel(sql_type = BigInt)]
    used: i64,
}

impl ConnectionBudget {
    /// Reads the limits from the server. `pool_size` is `DATABASE_POOL_SIZE`.
    ///
    /// # Errors
    /// If the query fails, for example because the server does not answer.
    pub async fn read(mut conn: &AsyncPgConnection, pool_size: u32) -> QueryResult<Self> {
        let limits = diesel::sql_query(LIMITS_SQL).load::<Limit>(&mut conn).await?;
        let free = |limit: &Limit| limit.usable - limit.used + 1;
        let needed = i64::from(pool_size) + OWN_CONNECTIONS;
        // A limit that is too low for one process comes first, because a limit with fewer free connections may become free.
        let order = |limit: &&Limit| (limit.usable >= needed, free(limit));
        let lowest = limits.iter().min_by_key(order).ok_or(diesel::NotFound)?;
        Ok(Self { limit: lowest.name.clone(), usable: lowest.usable, free: free(lowest).max(0), needed })
    }

    /// Describes the numbers in one line.
    pub fn summary(&self) -> String {
        let Self { limit, usable, free, needed } = self;
        format!(
            "{usable} for the product ({limit}), {free} of them free; a process of `serve` or `worker` opens up to {needed}, \
             so {} fit",
            usable / needed
        )
    }

    /// Returns whether the limit is too low for this process, even if no other process is connected.
    pub fn is_too_small(&self) -> bool {
        self.usable < self.needed
    }

    /// Returns the problem and its fix if fewer connections are free than this process may open.
    pub fn problem(&self) -> Option<String> {
        (self.free < self.needed).then(|| {
            format!(
                "{}. Requests and other processes can fail for lack of a connection: lower DATABASE_POOL_SIZE or the number of \
                 processes, raise {}, or use a pooler (docs/scaling.md)",
                self.summary(),
                self.limit
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_connections_are_reported_with_the_numbers() {
        let budget =
            |usable, free| ConnectionBudget { limit: "max_connections".into(), usable, free, needed: 11 };
        assert_eq!(budget(97, 11).problem(), None);
        let problem = budget(97, 10).problem().unwrap();
        assert!(problem.contains("97 for the product (max_connections), 10 of them free"), "{problem}");
        assert!(
            problem.contains("up to 11, so 8 fit") && problem.contains("raise max_connections"),
            "{problem}"
        );
        assert!(budget(10, 10).is_too_small() && !budget(11, 0).is_too_small());
    }
}
