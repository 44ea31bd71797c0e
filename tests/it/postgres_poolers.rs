//! PostgreSQL behind PgBouncer in transaction mode. Each transaction may run in another session.

use futures_util::future::join_all;
use reqwest::Method;
use saas::db::migrations::Migrations;
use serde_json::json;
use tokio_postgres::NoTls;

use crate::support::{
    TestApp, four_at_a_time,
    migrations::Folder,
    pgbouncer::PgBouncer,
    process::{production_command, run, saas},
    records::column,
    servers::{TestDatabase, database_settings},
};

/// Counts advisory locks. A session of the pooler would keep them for its next client.
const COUNT_ADVISORY_LOCKS: &str = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.locktype = 'advisory'";
const SELECT_TIMEOUTS: &str =
    "SELECT DISTINCT current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')";

#[tokio::test]
async fn the_product_works_through_a_pooler() {
    let app = TestApp::start().await;
    let Some(pooler) = PgBouncer::before(&app.database, &[]).await else { return };
    let url = format!("--database-url={}", pooler.url);
    let app = TestApp::on(app.database.clone(), &[&url, "--identity-cache-ms=0"]).await;
    let use_account = || async {
        let user = app.user().await;
        let body = json!({ "full_name": "Ada" });
        let changed =
            app.request(Method::PATCH, "/users/me").bearer_auth(&user.token).json(&body).send().await;
        assert_eq!(changed.unwrap().status(), 200);
        for path in ["/users/me", "/users/me/sessions", "/health/ready"] {
            assert_eq!(app.get(path, Some(&user)).await.status, 200, "{path}");
        }
        assert_eq!(app.call(Method::POST, "/auth/logout", &user).await.status, 204);
        assert_eq!(app.get("/users/me", Some(&user)).await.status, 401);
    };
    four_at_a_time((0..24).map(|_| use_account())).await;
    assert_eq!(column(&app.database, COUNT_ADVISORY_LOCKS).await, ["0"]);
    let (client, connection) = tokio_postgres::connect(&pooler.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..20 {
        let rows = client.simple_query(SELECT_TIMEOUTS).await.unwrap();
        let timeouts = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        assert_eq!(timeouts.as_deref(), Some("0 0"), "a session has kept a time limit");
    }
}

#[tokio::test]
async fn migrations_through_a_pooler_are_refused_and_need_the_direct_url() {
    let database = TestDatabase::empty().await;
    let ignoring: &[&str] = &["ignore_startup_parameters = options,extra_float_digits"];
    for settings in [ignoring, &[]] {
        let Some(pooler) = PgBouncer::before(&database, settings).await else { return };
        let refused = join_all((0..8).map(|_| {
            let mut command = saas(&["migrate", "up"]);
            command.env("DATABASE_URL", &pooler.url);
            run(command)
        }));
        for ended in refused.await {
            ended.failed(1, &["DATABASE_URL is a pooler", "set DATABASE_DIRECT_URL"]);
        }
        let mut doctor = production_command(&["doctor"], &database, "p").await;
        doctor.env("DATABASE_URL", &pooler.url);
        let found = run(doctor).await;
        assert!(
            found.stdout.contains("warn  session") && found.stdout.contains("DATABASE_DIRECT_URL"),
            "{found:?}"
        );
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(column(&database, tables).await, ["0"]);
    assert_eq!(column(&database, COUNT_ADVISORY_LOCKS).await, ["0"]);

    let Some(pooler) = PgBouncer::before(&database, &["max_client_conn = 200"]).await else { return };
    let mut settings = database_settings(&pooler.url);
    settings.database_direct_url = Some(database.url.clone().into());
    let migrations = Migrations::embedded();
    let results = join_all((0..32).map(|_| migrations.up(&settings))).await;
    let applied: Vec<_> = results.into_iter().map(Result::unwrap).filter(|names| !names.is_empty()).collect();
    assert_eq!(applied.len(), 1, "one process applies the migrations");
    assert_eq!(column(&database, COUNT_ADVISORY_LOCKS).await, ["0"]);

    // This statement cannot run in a transaction. Outside of a transaction, a pooler does not keep a session for a
    // client, so the migration needs the direct connection.
    let folder = Folder::new(&[["9999_index", "CREATE INDEX CONCURRENTLY i ON users (full_name)", ""]]);
    folder.write("9999_index/metadata.toml", "run_in_transaction = false");
    folder.migrations().up(&settings).await.unwrap();
    assert_eq!(
        column(&database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass").await,
        ["t"]
    );

    // No migration is pending, so `up` works through the pooler.
    let mut up = saas(&["migrate", "up"]);
    up.env("DATABASE_URL", &pooler.url);
    assert!(run(up).await.succeeded().stdout.contains("nothing to apply"));
    for (direct, line) in [
        (&database.url, "ok    session"),
        (&pooler.url, "FAIL  session"),
        (&TestDatabase::empty().await.url, "name the same database in both"),
    ] {
        let mut doctor = production_command(&["doctor"], &database, "p").await;
        doctor.env("DATABASE_URL", &pooler.url).env("DATABASE_DIRECT_URL", direct);
        let found = run(doctor).await;
        assert!(found.stdout.contains(line), "{line} is not in {}", found.stdout);
    }
}

#[tokio::test]
async fn prepared_statements_that_a_pooler_mixes_up_are_reported_with_the_fix() {
    let database = TestDatabase::migrated().await;
    let settings = ["max_prepared_statements = 0", "default_pool_size = 1"];
    let Some(pooler) = PgBouncer::before(&database, &settings).await else { return };
    // Prepares statements with the names that a new process uses first. The only session of the pooler keeps them.
    let (client, connection) = tokio_postgres::connect(&pooler.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    for number in 0..10 {
        client.batch_execute(&format!("PREPARE s{number} AS SELECT 1")).await.unwrap();
    }
    for args in [&["migrate", "status"][..], &["serve", "--port", "0"], &["doctor"]] {
        let mut command = production_command(args, &database, "p").await;
        command.env("DATABASE_URL", &pooler.url);
        let ended = run(command).await;
        let text = format!("{}{}", ended.stdout, ended.stderr);
        let is_explained = text.contains("PgBouncer 1.21 or newer with max_prepared_statements");
        assert!(ended.code == Some(1) && is_explained, "{args:?}: {ended:?}");
    }
}
