//! Queries in an organization: the rows they see, the roles that the product can sign in as, and the state of the
//! connection afterwards.

use diesel::{QueryableByName, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::{join_all, pending};
use reqwest::Method;
use saas::{
    db::{OrgConn, OrgScope},
    error::{Error, Result, chain},
    services::{org_access, permissions::Permission},
};
use tokio::sync::Notify;

use super::Org;
use crate::support::{
    TestApp,
    pgbouncer::PgBouncer,
    process::{production_command, run},
    records::column,
    servers::{servers, unique},
};

#[derive(QueryableByName)]
struct TextRow {
    #[diesel(sql_type = Text)]
    value: String,
}

/// Selects the role and the organization of the connection.
const SELECT_ROLE_AND_ORG: &str =
    "SELECT current_user || ' ' || coalesce(current_setting('app.org_id', true), '') AS value";

/// Returns the column `value` of a query in an organization.
async fn texts(mut conn: &OrgConn<'_>, sql: &str) -> Result<Vec<String>> {
    let rows = diesel::sql_query(sql).load::<TextRow>(&mut conn).await?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}

async fn execute(mut conn: &OrgConn<'_>, sql: &str) -> Result<usize> {
    Ok(diesel::sql_query(sql).execute(&mut conn).await?)
}

/// Returns the role and the organization of the connection that the pool hands out next.
async fn next_role_and_org(app: &TestApp) -> String {
    let who = async |conn: &mut AsyncPgConnection| {
        let row = diesel::sql_query(SELECT_ROLE_AND_ORG).get_result::<TextRow>(conn).await?;
        Ok::<_, Error>(row.value)
    };
    app.app.db.run(who).await.unwrap()
}

async fn scope(app: &TestApp, org: &Org) -> OrgScope {
    let access = org_access::of_job(&app.app, org.id, org.owner.id, Permission::ProductRead).await.unwrap();
    *access.scope()
}

/// Runs a query in an organization.
async fn query(app: &TestApp, org: &Org, sql: &str) -> Result<Vec<String>> {
    app.app.db.in_org(&scope(app, org).await, async |conn: &OrgConn<'_>| texts(conn, sql).await).await
}

/// Runs a statement in an organization. Returns the number of rows, or the error with its causes.
async fn change(app: &TestApp, org: &Org, sql: &str) -> Result<usize, String> {
    let run = async |conn: &OrgConn<'_>| execute(conn, sql).await;
    app.app.db.in_org(&scope(app, org).await, run).await.map_err(|error| chain(&error))
}

/// Creates a role that may use all tables and the role `saas_tenant`. Then runs the statements, in which `{role}` is replaced
/// by the name of the new role. Returns the database URL of this role.
pub async fn url_for_role(app: &TestApp, statements: &str) -> String {
    let role = format!("product_{}", unique());
    let grants = "CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT saas_tenant TO {role};
                  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};";
    app.database.sql(&format!("{grants}{statements}").replace("{role}", &role)).await;
    format!("postgres://{role}:x@{}", app.database.url.split_once('@').unwrap().1)
}

/// The policies apply if the product signs in as a superuser, as the owner of the table, or as a role that owns no table.
#[tokio::test]
async fn smoke_a_query_without_a_condition_sees_only_its_organization() {
    let first = TestApp::start().await;
    let plain = url_for_role(&first, "").await;
    let owner = url_for_role(&first, "ALTER TABLE products OWNER TO {role};").await;
    for url in [&first.database.url, &plain, &owner] {
        let app = TestApp::on(first.database.clone(), &[&format!("--database-url={url}")]).await;
        let (own, other) = (Org::create(&app, "own").await, Org::create(&app, "other").await);
        assert_eq!(
            query(&app, &own, SELECT_ROLE_AND_ORG).await.unwrap(),
            [format!("saas_tenant {}", own.id)]
        );
        for sql in [
            "SELECT name AS value FROM products",
            "SELECT name AS value FROM products WHERE true OR org_id <> 0",
            "SELECT a.name AS value FROM products a CROSS JOIN (SELECT DISTINCT org_id FROM products) b",
            "WITH gone AS (DELETE FROM products RETURNING name) SELECT name AS value FROM gone",
        ] {
            assert_eq!(query(&app, &own, sql).await.unwrap(), ["own product"], "{sql}");
            assert_eq!(
                query(&app, &other, "SELECT name AS value FROM products").await.unwrap(),
                ["other product"]
            );
        }
        let foreign = format!("SELECT count(*)::text AS value FROM products WHERE org_id = {}", other.id);
        assert_eq!(query(&app, &own, &foreign).await.unwrap(), ["0"]);
        own.add_product(&app, "new").await;
        assert_eq!(change(&app, &own, "UPDATE products SET price = 7").await, Ok(1));
        let refused = |result: Result<usize, String>, why: &str| {
            let error = result.unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        let insert = format!(
            "INSERT INTO products (org_id, sku, name, price, currency) VALUES ({}, 'x', 'x', 1, 'EUR')",
            other.id
        );
        refused(change(&app, &own, &insert).await, "row-level security");
        let moved = format!("UPDATE products SET org_id = {}", other.id);
        refused(change(&app, &own, &moved).await, "row-level security");
        for sql in [
            "SELECT count(*) FROM users",
            "SELECT count(*) FROM organizations",
            "SELECT count(*) FROM audit_log",
            "SELECT count(*) FROM job_outbox",
            "SELECT count(*) FROM idempotency_keys",
            "UPDATE memberships SET role = 'owner'",
            "DELETE FROM sessions",
            "TRUNCATE products",
        ] {
            refused(change(&app, &own, sql).await, "permission denied");
        }
        let prices = format!("SELECT string_agg(price::text, ',') FROM products WHERE org_id = {}", other.id);
        assert_eq!(column(&app.database, &prices).await, ["100"], "the other organization is unchanged");
        app.sql("DELETE FROM organizations").await;
        assert_eq!(column(&app.database, "SELECT count(*) FROM products").await, ["0"], "ON DELETE CASCADE");
    }
}

/// The role and the organization are reset when the transaction ends.
#[tokio::test]
async fn a_pooled_connection_keeps_neither_the_organization_nor_the_role() {
    let app = TestApp::with(&["--database-pool-size=1"]).await;
    let org = Org::create(&app, "own").await;
    let scope = scope(&app, &org).await;
    let role = column(&app.database, "SELECT current_user").await.remove(0);
    let nothing = format!("{role} ");
    assert_eq!(next_role_and_org(&app).await, nothing);

    query(&app, &org, "SELECT name AS value FROM products").await.unwrap();
    assert_eq!(next_role_and_org(&app).await, nothing, "after a commit");

    let refuse = async |conn: &OrgConn<'_>| {
        texts(conn, SELECT_ROLE_AND_ORG).await?;
        Err::<(), _>(Error::Forbidden)
    };
    assert!(matches!(app.app.db.in_org(&scope, refuse).await, Err(Error::Forbidden)));
    assert_eq!(next_role_and_org(&app).await, nothing, "after an error of the caller");

    change(&app, &org, "SELECT 1 / 0").await.unwrap_err();
    assert_eq!(next_role_and_org(&app).await, nothing, "after an error of a statement");

    let caught = async |conn: &OrgConn<'_>| {
        let _ = texts(conn, "SELECT 1 / 0").await;
        Ok::<(), Error>(())
    };
    let _ = app.app.db.in_org(&scope, caught).await;
    assert_eq!(next_role_and_org(&app).await, nothing, "after an error that the caller has caught");

    let entered = Notify::new();
    let never_ends = async |conn: &OrgConn<'_>| {
        texts(conn, SELECT_ROLE_AND_ORG).await?;
        entered.notify_one();
        pending::<Result<()>>().await
    };
    tokio::select! {
        _ = app.app.db.in_org(&scope, never_ends) => panic!("it never ends"),
        () = entered.notified() => {}
    }
    assert_eq!(next_role_and_org(&app).await, nothing, "after the future was dropped");

    let reads_nothing = async |_: &OrgConn<'_>| Ok::<(), Error>(());
    app.app.db.in_org(&scope, reads_nothing).await.unwrap();
    assert_eq!(next_role_and_org(&app).await, nothing, "without a query");
}

#[tokio::test]
async fn organizations_are_isolated_behind_a_pooler() {
    let app = TestApp::start().await;
    let Some(pooler) = PgBouncer::before(&app.database, &["default_pool_size = 2"]).await else { return };
    let app = TestApp::on(app.database.clone(), &[&format!("--database-url={}", pooler.url)]).await;
    let mut orgs = Vec::new();
    for name in ["a", "b", "c"] {
        orgs.push(Org::create(&app, name).await);
    }
    let reads = (0..60).map(|number| {
        let (app, org) = (&app, &orgs[number % orgs.len()]);
        async move {
            let found = query(app, org, "SELECT name AS value FROM products").await.unwrap();
            assert_eq!(found, [format!("{} product", org.name)]);
            let path = format!("/orgs/{}/products", org.id);
            let listed = app.call(Method::GET, &path, &org.owner).await;
            assert_eq!(listed.body["items"][0]["name"], format!("{} product", org.name), "{}", listed.text);
            assert!(next_role_and_org(app).await.ends_with(' '), "a session has kept the organization");
        }
    });
    join_all(reads).await;
}

/// The product signs in as a role that was not granted `saas_tenant`. Queries in an organization then fail, and the connection
/// stays usable for other queries.
#[tokio::test]
async fn without_the_tenant_role_queries_fail_and_doctor_prints_the_statement_that_grants_it() {
    let app = TestApp::start().await;
    let org = Org::create(&app, "own").await;
    let url = url_for_role(&app, "REVOKE saas_tenant FROM {role};").await;
    let product =
        TestApp::on(app.database.clone(), &[&format!("--database-url={url}"), "--database-pool-size=1"])
            .await;
    for _ in 0..2 {
        let error = query(&product, &org, "SELECT name AS value FROM products").await.unwrap_err();
        assert!(chain(&error).contains("saas_tenant"), "{}", chain(&error));
        assert!(next_role_and_org(&product).await.starts_with("product_"));
    }
    let command = async |args: &[&str]| {
        let mut command = production_command(args, &app.database, &app.prefix).await;
        command.env("DATABASE_URL", &url);
        run(command).await
    };
    let ended = command(&["doctor"]).await;
    let line = ended.stdout.lines().find(|line| line.starts_with("FAIL  tenants")).unwrap_or_default();
    let (_, fix) = line.split_once("run ").unwrap_or_else(|| panic!("{ended:?}"));
    for args in [&["serve", "--port", "0"][..], &["worker", "--burst"]] {
        command(args).await.failed(1, &["refusing to start", fix]);
    }
    servers().await.sql(fix).await;
    assert!(command(&["doctor"]).await.stdout.contains("ok    tenants"));
    command(&["worker", "--burst"]).await.succeeded();
    let first = "SELECT name AS value FROM products ORDER BY id LIMIT 1";
    assert_eq!(query(&product, &org, first).await.unwrap(), ["own product"]);

    // As after a restore of a backup without privileges: some privileges are missing.
    app.database
        .sql("REVOKE INSERT ON audit_log FROM saas_tenant; REVOKE UPDATE ON products FROM saas_tenant")
        .await;
    let doctor = command(&["doctor"]).await.stdout;
    for fix in ["GRANT INSERT ON audit_log", "GRANT SELECT, INSERT, UPDATE, DELETE ON public.products"] {
        assert!(doctor.contains(fix), "{fix} is not in {doctor}");
    }
}
