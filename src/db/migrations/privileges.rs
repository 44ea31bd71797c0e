//! The privileges that migrations need, and who can grant them.

use std::collections::BTreeSet;

use diesel::{
    QueryResult,
    sql_types::{Array, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{query::Row, source::without_comments};

/// One row for each checked privilege that the role lacks, and for a missing schema or extension, with the fix. `$1` has the
/// extensions to create, `$2` the words of the script.
const MISSING_PRIVILEGES: &str = "
WITH needed AS (SELECT unnest($1) AS name)
SELECT format('no schema of the search path (%s) exists and may be used by the role %I: run CREATE SCHEMA public; '
              'GRANT USAGE, CREATE ON SCHEMA public TO %I;', current_setting('search_path'), current_user, current_user)
       AS value
    WHERE current_schema() IS NULL
UNION ALL
SELECT format('the role %I may not create objects in the schema %I: as the owner of the schema, run GRANT CREATE ON '
              'SCHEMA %I TO %I;', current_user, current_schema(), current_schema(), current_user)
    WHERE NOT has_schema_privilege(current_schema(), 'CREATE')
UNION ALL
SELECT format('the role %I may not change the table __diesel_schema_migrations: as its owner, run GRANT SELECT, INSERT, '
              'DELETE ON __diesel_schema_migrations TO %I;', current_user, current_user)
    WHERE NOT (has_table_privilege(to_regclass('__diesel_schema_migrations'), 'SELECT')
          AND has_table_privilege(to_regclass('__diesel_schema_migrations'), 'INSERT')
          AND has_table_privilege(to_regclass('__diesel_schema_migrations'), 'DELETE'))
UNION ALL
SELECT format('the extension %I is in the schema %I, which the role %I may not use: as its owner, run GRANT USAGE ON '
              'SCHEMA %I TO %I;', extname, nspname, current_user, nspname, current_user)
    FROM needed JOIN pg_extension ON extname = name JOIN pg_namespace n ON n.oid = extnamespace
    WHERE NOT has_schema_privilege(n.oid, 'USAGE')
UNION ALL
SELECT format('the extension %I is not available on the server: install it there, for example with the package '
              'postgresql-contrib', name)
    FROM needed WHERE name NOT IN (SELECT name FROM pg_available_extensions)
UNION ALL
SELECT format('the role %I may not create the extension %I: in the database %I, as a superuser, run CREATE EXTENSION %I;',
              current_user, name, current_database(), name)
       || CASE WHEN trusted THEN format(' or GRANT CREATE ON DATABASE %I TO %I;', current_database(), current_user)
          ELSE '' END
    FROM needed
    JOIN pg_available_extensions a USING (name)
    JOIN pg_available_extension_versions v USING (name)
    WHERE a.installed_version IS NULL AND v.version = a.default_version
          AND v.superuser AND current_setting('is_superuser') = 'off'
          AND NOT (v.trusted AND has_database_privilege(current_database(), 'CREATE'))
UNION ALL
SELECT format('the table %I belongs to the role %I: run the migrations as that role, or, as a superuser, run GRANT %I '
              'TO %I;', relname, pg_get_userbyid(relowner), pg_get_userbyid(relowner), current_user)
    FROM pg_class
    WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) AND relkind IN ('r', 'p')
          AND relname = ANY ($2) AND NOT pg_has_role(relowner, 'USAGE')
UNION ALL
SELECT format('the role %I has to be a member of the role saas_tenant, and the role %I may not arrange it: as a superuser, run '
              '%sGRANT saas_tenant TO %I;', product, current_user,
              CASE WHEN tenant IS NULL THEN 'CREATE ROLE saas_tenant NOLOGIN; ' ELSE '' END, product)
    FROM (
        -- `run::lock` sets the role of the product. Since PostgreSQL 16, CREATEROLE alone does not allow to grant a role.
        SELECT coalesce((SELECT rolname FROM pg_roles WHERE rolname = current_setting('saas.product_role', true)),
                        current_user) AS product,
               to_regrole('saas_tenant')::oid AS tenant, current_setting('server_version_num')::int >= 160000 AS is_new
    ) roles
    JOIN pg_roles own ON own.rolname = current_user
    WHERE 'saas_tenant' = ANY ($2)
          AND NOT coalesce(pg_has_role(product, tenant, CASE WHEN is_new THEN 'SET' ELSE 'MEMBER' END), false)
          AND NOT (rolsuper OR (rolcreaterole AND (tenant IS NULL OR NOT is_new))
                   OR coalesce(pg_has_role(tenant, 'MEMBER WITH ADMIN OPTION'), false))";

/// Returns the privileges that the role of the connection lacks for a script, the missing schema or extensions, and the missing
/// membership of the product's role in `saas_tenant`, each with the fix.
pub(super) async fn missing(mut conn: &AsyncPgConnection, sql: &str) -> QueryResult<Vec<String>> {
    let text = without_comments(sql).to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric() && !['_', '$'].contains(&c));
    let words: BTreeSet<_> = words.map(str::to_owned).collect();
    let query = diesel::sql_query(MISSING_PRIVILEGES)
        .bind::<Array<Text>, _>(created_extensions(&text))
        .bind::<Array<Text>, _>(words.into_iter().collect::<Vec<_>>());
    Ok(query.load::<Row>(&mut conn).await?.into_iter().map(|row| row.value).collect())
}

/// Returns the extensions that a script creates. The script is in lower case and without comments.
fn created_extensions(text: &str) -> Vec<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == ';');
    let mut words = words.filter(|word| !word.is_empty()).peekable();
    let mut names = Vec::new();
    while let Some(word) = words.next() {
        if word == "create" && words.next_if_eq(&"extension").is_some() {
            let name = words.find(|word| !["if", "not", "exists"].contains(word));
            names.extend(name.map(|name| name.trim_matches('"').to_owned()));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_extensions_are_found() {
        let sql = "create table a (b int);\ncreate extension if not exists pg_trgm;create extension\n\"uuid-ossp\" schema x;";
        assert_eq!(created_extensions(sql), ["pg_trgm", "uuid-ossp"]);
        assert_eq!(created_extensions("create create table extension; create extension"), [""; 0]);
    }
}
