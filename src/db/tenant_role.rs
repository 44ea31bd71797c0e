//! The role `saas_tenant`: whether the product can use it, and whether its privileges are sufficient and restricted.

use diesel::{QueryResult, QueryableByName, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

/// Selects why `SET ROLE saas_tenant` fails or may not restrict the product.
const ROLE_PROBLEMS: &str = "
SELECT value FROM (
    SELECT CASE
        WHEN t.oid IS NULL THEN format('the role saas_tenant does not exist: as a superuser, run CREATE ROLE saas_tenant NOLOGIN; '
            'GRANT saas_tenant TO %I;', current_user)
        WHEN NOT pg_has_role(t.oid,
                CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
            THEN format('the role %I may not use the role saas_tenant: as a superuser, run GRANT saas_tenant TO %I;',
                current_user, current_user)
        WHEN t.rolsuper OR t.rolbypassrls OR EXISTS (SELECT FROM pg_auth_members WHERE member = t.oid)
            THEN 'row-level security does not restrict the role saas_tenant: as a superuser, run ALTER ROLE saas_tenant '
                'NOSUPERUSER NOBYPASSRLS; and revoke the roles that it is a member of'
    END AS value
    FROM (SELECT to_regrole('saas_tenant') AS oid) r LEFT JOIN pg_roles t ON t.oid = r.oid
) problems
WHERE value IS NOT NULL";

/// Selects the tables that the role cannot find or use, and those without row-level security, for example after a restore
/// without roles and privileges. The query runs as `saas_tenant`.
const TABLE_PROBLEMS: &str = "
WITH tenant AS (
    SELECT c.oid, nspname, relrowsecurity, format('%I.%I', nspname, relname) AS name,
           has_schema_privilege(n.oid, 'USAGE') AS in_schema
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE to_regrole('saas_tenant')::oid = ANY (p.polroles)
)
SELECT format('the role saas_tenant may not use the table %s: as its owner, run GRANT USAGE ON SCHEMA %I TO saas_tenant; '
              'GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO saas_tenant;', name, nspname, name) AS value
    FROM tenant
    WHERE NOT (in_schema AND has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
          AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
UNION ALL
SELECT format('the role saas_tenant does not find the table %s: run ALTER ROLE %I SET search_path = %I;',
              name, session_user, nspname)
    FROM tenant WHERE in_schema AND NOT pg_table_is_visible(oid)
UNION ALL
SELECT format('the table %s has no row-level security: as its owner, run ALTER TABLE %s ENABLE ROW LEVEL SECURITY;', name, name)
    FROM tenant WHERE NOT relrowsecurity
UNION ALL
SELECT format('the role saas_tenant may not insert into the table %s: as its owner, run GRANT INSERT ON %s TO saas_tenant;',
              name, name)
    FROM unnest(ARRAY['audit_log', 'job_outbox', 'idempotency_keys']) name
    WHERE NOT has_table_privilege(to_regclass(name), 'INSERT')";

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    value: String,
}

/// Returns why the data of organizations cannot be used or is not isolated, with the fix of each problem. The
/// connection must not be in a transaction.
///
/// # Errors
/// If a query fails, for example because PostgreSQL does not answer.
pub async fn tenant_role_problems(mut conn: &AsyncPgConnection) -> QueryResult<Vec<String>> {
    let unusable = rows(conn, ROLE_PROBLEMS).await?;
    if !unusable.is_empty() {
        return Ok(unusable);
    }
    let entered = conn.batch_execute("BEGIN; SET LOCAL ROLE saas_tenant").await;
    let missing = rows(conn, TABLE_PROBLEMS).await;
    conn.batch_execute("ROLLBACK").await?;
    entered?;
    missing
}

async fn rows(mut conn: &AsyncPgConnection, sql: &str) -> QueryResult<Vec<String>> {
    let rows = diesel::sql_query(sql).load::<Row>(&mut conn).await?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}
