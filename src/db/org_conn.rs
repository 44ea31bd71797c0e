//! The connection for the data of one organization.
//!
//! All statements on it run in one transaction, in the role `saas_tenant` and with the id of the organization in the setting
//! `app.org_id`. For this role, the policies of the tables show and accept only rows of this organization: a query without
//! `WHERE org_id = ..` finds no rows of other organizations. The role and the setting end with the transaction, so the next
//! user of a pooled connection does not have them.

use std::ops::Deref;

use diesel::{
    QueryResult,
    query_builder::{AsQuery, QueryFragment, QueryId},
};
use diesel_async::{AsyncConnectionCore, AsyncPgConnection, SimpleAsyncConnection};
use futures_util::future::join;

use super::{Db, OrgScope, STATEMENT_TIMEOUT, Tx, discard};
use crate::error::Result;

/// Runs the queries of one organization, and gives no other access to its connection.
///
/// The models of an organization's data take an `OrgConn`. Only [`Db::in_org`] and [`enter_org`] create it. Both need an
/// [`OrgScope`], which only a check of the membership returns. Code outside of this crate cannot create a scope:
///
/// ```compile_fail,E0624
/// let forged = saas::db::OrgScope::verified(7, 1, saas::db::Via::Session);
/// ```
pub struct OrgConn<'a> {
    conn: &'a AsyncPgConnection,
    org_id: i64,
}

impl OrgConn<'_> {
    /// Returns the id of the organization. Queries compare `org_id` with this id, although the policies do too: a missing policy
    /// then does not show the rows of other organizations.
    pub fn org_id(&self) -> i64 {
        self.org_id
    }
}

/// An [`OrgConn`] for a change. The transaction has locked the organization and then checked the membership. The audit entry
/// and the jobs of the change belong to the same transaction.
pub struct OrgTx<'a> {
    conn: OrgConn<'a>,
    tx: &'a Tx<'a>,
}

impl<'a> OrgTx<'a> {
    /// Returns the transaction, for an audit entry, a job or a stored answer. The role `saas_tenant` may insert into the tables
    /// `audit_log`, `job_outbox` and `idempotency_keys`, but not read them.
    pub fn tx(&self) -> &'a Tx<'a> {
        self.tx
    }
}

impl<'a> Deref for OrgTx<'a> {
    type Target = OrgConn<'a>;
    fn deref(&self) -> &OrgConn<'a> {
        &self.conn
    }
}

impl Db {
    /// Reads the data of an organization, in a transaction. `work` may run more than once, as in [`Db::transaction`].
    ///
    /// For a change, call `services::transaction::change_in_org` instead, which checks the membership again: the
    /// membership may have ended since it was read for `scope`.
    ///
    /// # Errors
    /// As [`Db::run`]; [`Error::Unavailable`](crate::error::Error::Unavailable) or
    /// [`Error::Internal`](crate::error::Error::Internal) also if the role cannot be set, or BEGIN or COMMIT fails.
    pub async fn in_org<T>(
        &self,
        scope: &OrgScope,
        work: impl AsyncFnOnce(&OrgConn<'_>) -> Result<T> + Clone,
    ) -> Result<T> {
        let org_id = scope.org_id();
        self.run(async |conn| read_once(conn, org_id, work.clone()).await).await
    }
}

/// Sets the role `saas_tenant` and the organization until the end of an open transaction, and runs `work`. For
/// `services::transaction`, which has checked the membership in this transaction.
///
/// # Errors
/// Those of `work`; [`Error::Unavailable`](crate::error::Error::Unavailable) or
/// [`Error::Internal`](crate::error::Error::Internal) if the role cannot be set.
pub async fn enter_org<T>(
    tx: &Tx<'_>,
    scope: &OrgScope,
    work: impl AsyncFnOnce(&OrgTx<'_>) -> Result<T>,
) -> Result<T> {
    let org = OrgTx { conn: OrgConn { conn: tx.conn(), org_id: scope.org_id() }, tx };
    run_behind(tx.conn(), &enter_sql(scope.org_id()), work(&org)).await
}

/// Makes the rows of an organization visible to the role of the product until the end of the transaction, without a check of a
/// membership. If this role owns the tables or bypasses row-level security, it sees all rows in any case. For jobs that no member
/// has enqueued: the erasure of organizations, and the deletion of rows of `org_jobs` that are older than 30 days.
///
/// # Errors
/// If the query fails, for example because PostgreSQL does not answer.
pub async fn show_org(mut conn: &AsyncPgConnection, org_id: i64) -> QueryResult<()> {
    conn.batch_execute(&set_org_sql(org_id)).await
}

/// Runs `work` in a transaction of its own. This does not use the transaction manager of diesel, which waits for the answer to
/// BEGIN.
async fn read_once<T>(
    conn: &mut AsyncPgConnection,
    org_id: i64,
    work: impl AsyncFnOnce(&OrgConn<'_>) -> Result<T>,
) -> Result<T> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {}; {}",
        STATEMENT_TIMEOUT.as_millis(),
        enter_sql(org_id)
    );
    let org = OrgConn { conn, org_id };
    let result = run_behind(org.conn, &begin, work(&org)).await;
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = conn.batch_execute(end).await;
    if ended.is_err() {
        // The transaction may be open, and the next user of the connection would be in it.
        discard(conn);
    }
    let value = result?;
    ended?;
    Ok(value)
}

/// Returns the statements that set the role `saas_tenant` and the organization until the end of the transaction.
fn enter_sql(org_id: i64) -> String {
    format!("SET LOCAL ROLE saas_tenant; {}", set_org_sql(org_id))
}

fn set_org_sql(org_id: i64) -> String {
    format!("SELECT set_config('app.org_id', '{org_id}', true)")
}

/// Sends statements that begin or change a transaction, and runs `work` without waiting for their answer, which saves a round
/// trip.
///
/// PostgreSQL runs the statements of a connection in the order in which they were sent. After a failed statement, it refuses
/// all others until the end of the transaction. So if `statements` fail in the transaction, no statement of `work` runs.
async fn run_behind<T>(
    mut conn: &AsyncPgConnection,
    statements: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    // `join` polls its futures in this order, and the first poll of a batch sends it.
    let (begun, done) = join(conn.batch_execute(statements), work).await;
    begun?;
    done
}

impl SimpleAsyncConnection for &OrgConn<'_> {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        let mut conn = self.conn;
        conn.batch_execute(query).await
    }
}

impl<'a> AsyncConnectionCore for &'a OrgConn<'_> {
    type LoadFuture<'conn, 'query> =
        <&'a AsyncPgConnection as AsyncConnectionCore>::LoadFuture<'conn, 'query>;
    type ExecuteFuture<'conn, 'query> =
        <&'a AsyncPgConnection as AsyncConnectionCore>::ExecuteFuture<'conn, 'query>;
    type Stream<'conn, 'query> = <&'a AsyncPgConnection as AsyncConnectionCore>::Stream<'conn, 'query>;
    type Row<'conn, 'query> = <&'a AsyncPgConnection as AsyncConnectionCore>::Row<'conn, 'query>;
    type Backend = diesel::pg::Pg;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        let mut conn: &'a AsyncPgConnection = self.conn;
        AsyncConnectionCore::load(&mut conn, source)
    }

    fn execute_returning_count<'conn, 'query, T>(
        &'conn mut self,
        source: T,
    ) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        let mut conn: &'a AsyncPgConnection = self.conn;
        AsyncConnectionCore::execute_returning_count(&mut conn, source)
    }
}
