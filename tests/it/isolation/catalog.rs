//! Checks of the PostgreSQL catalog for the isolation of organizations: policies, privileges, keys and views.

use crate::support::{records::column, servers::TestDatabase};

/// The tables of organizations that the product reads before the organization is known, or for several organizations. They
/// have no row-level policy. The test `only_listed_files_use_control_tables` lists the files that may use them.
pub const CONTROL_TABLES: &[&str] = &["api_keys", "audit_log", "invitations", "memberships"];

/// The state of a table after the SQL function `tenant_table` has isolated it.
const ISOLATED: &str = "rls=t force=f policies=tenant(all, permissive, saas_tenant): \
     (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) / \
     (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) \
     grants=DELETE,INSERT,SELECT,UPDATE required=t";

/// Selects the tables that belong to organizations: those with a column `org_id`, or with a foreign key to `organizations`.
const TABLES_OF_ORGANIZATIONS: &str = "
    SELECT c.oid FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND (
        EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'org_id' AND NOT attisdropped)
        OR EXISTS (SELECT FROM pg_constraint
                   WHERE conrelid = c.oid AND contype = 'f' AND confrelid = 'organizations'::regclass))";

/// Returns SQL that selects the name of each table of organizations, and its isolation in the format of [`ISOLATED`].
fn isolation_query() -> String {
    format!(
        "SELECT format('%s rls=%s force=%s policies=%s grants=%s required=%s', relname, relrowsecurity, relforcerowsecurity,
             (SELECT string_agg(format('%s(%s, %s, %s): %s / %s', polname,
                  CASE polcmd WHEN '*' THEN 'all' ELSE polcmd::text END,
                  CASE WHEN polpermissive THEN 'permissive' ELSE 'restrictive' END,
                  (SELECT string_agg(role::regrole::text, ' ') FROM unnest(polroles) role),
                  pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)), '; ' ORDER BY polname)
              FROM pg_policy WHERE polrelid = t.oid),
             (SELECT string_agg(privilege_type, ',' ORDER BY privilege_type)
              FROM aclexplode(relacl) WHERE grantee = 'saas_tenant'::regrole),
             (SELECT attnotnull FROM pg_attribute WHERE attrelid = t.oid AND attname = 'org_id'))
         FROM ({TABLES_OF_ORGANIZATIONS}) t JOIN pg_class c ON c.oid = t.oid ORDER BY relname"
    )
}

/// Returns each table of organizations that is neither isolated nor in [`CONTROL_TABLES`], with its actual state.
async fn tables_without_isolation(database: &TestDatabase) -> Vec<String> {
    let found = column(database, &isolation_query()).await;
    let rows = found.iter().map(|row| row.split_once(' ').unwrap());
    let unlisted = rows.filter(|(table, _)| !CONTROL_TABLES.contains(table));
    unlisted.filter(|(_, how)| *how != ISOLATED).map(|(table, how)| format!("{table}: {how}")).collect()
}

/// Selects the keys of isolated tables that cross organizations: unique indexes that do not begin with `org_id`, and foreign
/// keys between isolated tables that do not contain `org_id` of both tables. These keys reveal rows of other organizations by a
/// conflict, or by an accepted reference. Also selects isolated tables whose rows are not deleted with their organization.
const KEYS_ACROSS_ORGANIZATIONS: &str = "
    WITH isolated AS (SELECT oid, relname FROM pg_class WHERE relrowsecurity),
    org AS (SELECT attrelid, attnum FROM pg_attribute WHERE attname = 'org_id')
    SELECT format('%s: the unique index %s has to begin with org_id', relname, i.indexrelid::regclass)
    FROM isolated t JOIN pg_index i ON i.indrelid = t.oid JOIN org ON org.attrelid = t.oid
    WHERE i.indisunique AND i.indkey[0] <> org.attnum
    UNION ALL
    SELECT format('%s: the foreign key %s has to contain org_id of both tables', t.relname, f.conname)
    FROM pg_constraint f JOIN isolated t ON t.oid = f.conrelid JOIN isolated other ON other.oid = f.confrelid
    JOIN org mine ON mine.attrelid = f.conrelid JOIN org theirs ON theirs.attrelid = f.confrelid
    WHERE f.contype = 'f' AND NOT EXISTS (
        SELECT FROM unnest(f.conkey, f.confkey) pair (a, b) WHERE a = mine.attnum AND b = theirs.attnum)
    UNION ALL
    SELECT format('%s: org_id has to reference organizations with ON DELETE CASCADE', relname)
    FROM isolated t JOIN org ON org.attrelid = t.oid
    WHERE NOT EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = t.oid AND contype = 'f' AND confdeltype = 'c'
            AND confrelid = 'organizations'::regclass AND conkey = ARRAY[org.attnum])
    ORDER BY 1";

/// Selects the privileges of the role `saas_tenant`, except SELECT, INSERT, UPDATE and DELETE on isolated tables. Of the
/// privileges that the role has through `PUBLIC`, includes those on tables, columns and sequences, CREATE in schemas, and EXECUTE
/// of `tenant_table` and of functions that run with the rights of their owner.
const OTHER_PRIVILEGES: &str = "
    WITH own AS (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
    SELECT format('%s on %s', privilege, relname)
    FROM pg_class c JOIN own ON own.oid = relnamespace
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) privilege
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege('saas_tenant', c.oid, privilege)
        AND NOT (relrowsecurity AND privilege IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
    UNION ALL
    SELECT format('%s on a column of %s', privilege, relname)
    FROM pg_class c JOIN own ON own.oid = relnamespace
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) privilege
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT has_table_privilege('saas_tenant', c.oid, privilege)
        AND has_any_column_privilege('saas_tenant', c.oid, privilege)
    UNION ALL
    SELECT format('%s on the sequence %s', privilege, relname)
    FROM pg_class c JOIN own ON own.oid = relnamespace CROSS JOIN unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) privilege
    WHERE relkind = 'S' AND has_sequence_privilege('saas_tenant', c.oid, privilege)
    UNION ALL
    SELECT format('CREATE in the schema %s', oid::regnamespace) FROM own
    -- Before PostgreSQL 15, every role may create objects in `public`.
    WHERE has_schema_privilege('saas_tenant', oid, 'CREATE') AND current_setting('server_version_num')::int >= 150000
    UNION ALL
    SELECT format('EXECUTE of %s with the rights of its owner', p.oid::regprocedure)
    FROM pg_proc p WHERE prosecdef AND has_function_privilege('saas_tenant', p.oid, 'EXECUTE')
    UNION ALL
    SELECT format('EXECUTE of %s', p.oid::regprocedure)
    FROM pg_proc p CROSS JOIN aclexplode(proacl) WHERE grantee = 'saas_tenant'::regrole
    UNION ALL
    SELECT format('EXECUTE of %s', p.oid::regprocedure)
    FROM pg_proc p WHERE proname = 'tenant_table' AND has_function_privilege('saas_tenant', p.oid, 'EXECUTE')
    UNION ALL
    SELECT format('member of %s', roleid::regrole) FROM pg_auth_members WHERE member = 'saas_tenant'::regrole
    UNION ALL
    SELECT 'a special right' FROM pg_roles
    WHERE rolname = 'saas_tenant'
        AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolreplication)
    UNION ALL
    SELECT format('default privileges on new objects of %s', defaclrole::regrole)
    FROM pg_default_acl CROSS JOIN aclexplode(defaclacl) WHERE grantee IN ('saas_tenant'::regrole, 0)
    ORDER BY 1";

/// The rows of [`OTHER_PRIVILEGES`] that are intended: the role may insert rows into these tables, which have no policy.
const PERMITTED_INSERTS: &[&str] =
    &["INSERT on audit_log", "INSERT on idempotency_keys", "INSERT on job_outbox"];

/// Selects views that bypass the policies: those that read with the rights of their owner, except views of extensions, and
/// materialized views.
const VIEWS_THAT_BYPASS_POLICIES: &str = "
    SELECT format('%s: add WITH (security_invoker = true)', c.oid::regclass) FROM pg_class c
    WHERE relkind = 'v' AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
        AND NOT EXISTS (SELECT FROM pg_options_to_table(reloptions)
                        WHERE option_name = 'security_invoker' AND option_value::boolean)
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e')
    UNION ALL
    SELECT format('%s: a materialized view has no policies', oid::regclass) FROM pg_class WHERE relkind = 'm'
    ORDER BY 1";

#[tokio::test]
async fn smoke_every_table_of_organizations_is_isolated() {
    let database = TestDatabase::migrated().await;
    let problems = tables_without_isolation(&database).await;
    assert!(
        problems.is_empty(),
        "the migration of each table calls `SELECT tenant_table('..');`, unless the table is read before an organization is known \
         and is in CONTROL_TABLES of {}: {problems:#?}",
        file!()
    );
    let isolated = format!(
        "SELECT count(*) FROM ({TABLES_OF_ORGANIZATIONS}) t JOIN pg_class USING (oid) WHERE relrowsecurity"
    );
    assert_ne!(column(&database, &isolated).await, ["0"]);
    assert_eq!(column(&database, KEYS_ACROSS_ORGANIZATIONS).await, [""; 0]);
    let listed = format!(
        "SELECT relname FROM ({TABLES_OF_ORGANIZATIONS}) t JOIN pg_class USING (oid) WHERE NOT relrowsecurity ORDER BY relname"
    );
    assert_eq!(column(&database, &listed).await, CONTROL_TABLES, "tables without a policy");
}

#[tokio::test]
async fn the_role_saas_tenant_has_only_the_expected_privileges() {
    let database = TestDatabase::migrated().await;
    assert_eq!(column(&database, OTHER_PRIVILEGES).await, PERMITTED_INSERTS);
    assert_eq!(column(&database, VIEWS_THAT_BYPASS_POLICIES).await, [""; 0]);
}

#[tokio::test]
async fn mistakes_that_break_the_isolation_are_detected() {
    let database = TestDatabase::migrated().await;
    database
        .sql(
            "CREATE TABLE notes (id BIGINT PRIMARY KEY, owner BIGINT REFERENCES organizations);
             CREATE TABLE tags (org_id BIGINT NOT NULL REFERENCES organizations ON DELETE CASCADE, id BIGINT,
                 product_id BIGINT, PRIMARY KEY (org_id, id), name TEXT UNIQUE);
             SELECT tenant_table('tags');
             ALTER TABLE tags DROP CONSTRAINT tags_org_id_fkey;
             CREATE TABLE files (org_id BIGINT NOT NULL, id BIGINT UNIQUE, tag_id BIGINT, PRIMARY KEY (org_id, id));
             SELECT tenant_table('files');
             ALTER TABLE tags ADD UNIQUE (id);
             ALTER TABLE files ADD FOREIGN KEY (tag_id) REFERENCES tags (id);
             ALTER TABLE files DISABLE ROW LEVEL SECURITY;
             ALTER POLICY tenant ON products WITH CHECK (true);
             GRANT TRUNCATE ON products TO saas_tenant;
             GRANT SELECT (email) ON users TO saas_tenant;
             GRANT USAGE ON SEQUENCE products_id_seq TO PUBLIC;
             CREATE VIEW all_products AS SELECT * FROM products;
             CREATE VIEW own_products WITH (security_invoker = on) AS SELECT * FROM products;
             CREATE MATERIALIZED VIEW copied AS SELECT * FROM products;
             GRANT SELECT ON all_products TO saas_tenant;
             CREATE FUNCTION all_users() RETURNS BIGINT LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM users'",
        )
        .await;
    let problems = tables_without_isolation(&database).await;
    let tables: Vec<_> = problems.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    assert_eq!(tables, ["files", "notes", "products"], "{problems:#?}");
    database.sql("ALTER TABLE files ENABLE ROW LEVEL SECURITY").await;
    assert_eq!(
        column(&database, KEYS_ACROSS_ORGANIZATIONS).await,
        [
            "files: org_id has to reference organizations with ON DELETE CASCADE",
            "files: the foreign key files_tag_id_fkey has to contain org_id of both tables",
            "files: the unique index files_id_key has to begin with org_id",
            "tags: org_id has to reference organizations with ON DELETE CASCADE",
            "tags: the unique index tags_id_key has to begin with org_id",
            "tags: the unique index tags_name_key has to begin with org_id",
        ]
    );
    let mut rights = column(&database, OTHER_PRIVILEGES).await;
    rights.retain(|right| !PERMITTED_INSERTS.contains(&right.as_str()));
    assert_eq!(
        rights,
        [
            "EXECUTE of all_users() with the rights of its owner",
            "SELECT on a column of users",
            "SELECT on all_products",
            "TRUNCATE on products",
            "USAGE on the sequence products_id_seq",
        ]
    );
    assert_eq!(
        column(&database, VIEWS_THAT_BYPASS_POLICIES).await,
        ["all_products: add WITH (security_invoker = true)", "copied: a materialized view has no policies"]
    );
}
