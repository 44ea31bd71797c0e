//! Migrations, the schema, constraints and transactions.

use std::path::Path;

use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::join_all;
use saas::{
    db::{
        self,
        migrations::{Migrations, State, schema_file},
    },
    security::Passwords,
    services::admins::{EnsureAdminOutcome, ensure_admin},
};
use tokio_postgres::NoTls;

use crate::support::{TestApp, app::PASSWORD, servers::TestDatabase};

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn states(database: &TestDatabase) -> Vec<State> {
    let conn = db::connect(&database.settings()).await.unwrap();
    let status = Migrations::embedded().status(&conn).await.unwrap();
    status.into_iter().map(|migration| migration.state).collect()
}

#[tokio::test]
async fn smoke_migrations_are_applied_reverted_and_applied_again() {
    let database = TestDatabase::empty().await;
    let (settings, migrations) = (database.settings(), Migrations::embedded());
    let down = async |count| {
        let plan = migrations.plan(&settings, count).await.unwrap();
        migrations.down(&settings, &plan).await.unwrap()
    };
    assert!(states(&database).await.iter().all(|state| *state == State::Pending));
    assert!(down(1).await.is_empty(), "nothing is applied");
    let applied = migrations.up(&settings).await.unwrap();
    assert!(!applied.is_empty());
    assert!(states(&database).await.iter().all(|state| *state == State::Applied));
    assert!(migrations.up(&settings).await.unwrap().is_empty());

    assert_eq!(down(1).await, applied[applied.len() - 1..]);
    assert_eq!(states(&database).await.last(), Some(&State::Pending));
    let rest = down(applied.len() - 1).await;
    assert_eq!(
        rest.iter().rev().collect::<Vec<_>>(),
        applied[..applied.len() - 1].iter().collect::<Vec<_>>()
    );
    let tables =
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '\\_\\_diesel%'";
    let left: i64 = connect(&database.url).await.query_one(tables, &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "a down.sql leaves a table behind");

    assert_eq!(migrations.up(&settings).await.unwrap(), applied);
    let plan = migrations.plan(&settings, 1).await.unwrap();
    assert_eq!(migrations.redo(&settings, &plan).await.unwrap(), applied[applied.len() - 1..]);
}

#[tokio::test]
async fn concurrent_migrations_all_succeed() {
    let database = TestDatabase::empty().await;
    let (settings, migrations) = (database.settings(), Migrations::embedded());
    let results = join_all((0..6).map(|_| migrations.up(&settings))).await;
    let applied: Vec<_> = results.into_iter().map(Result::unwrap).filter(|names| !names.is_empty()).collect();
    assert_eq!(applied.len(), 1, "one process applies the migrations");
}

#[tokio::test]
async fn a_migration_of_another_build_is_listed_and_not_reverted() {
    let database = TestDatabase::migrated().await;
    database.sql("INSERT INTO __diesel_schema_migrations (version) VALUES ('99991231235959')").await;
    assert_eq!(states(&database).await.last(), Some(&State::Unknown));
    let error = Migrations::embedded().plan(&database.settings(), 1).await.unwrap_err().to_string();
    assert!(error.contains("another build"), "{error}");
    assert!(states(&database).await.contains(&State::Applied));
}

#[tokio::test]
async fn a_failed_migration_is_rolled_back() {
    let database = TestDatabase::empty().await;
    database.sql("CREATE TABLE users (id int)").await;
    let error = format!("{:#}", Migrations::embedded().up(&database.settings()).await.unwrap_err());
    assert!(error.contains("users") && error.contains("already exists"), "{error}");
    let function = "SELECT count(*) FROM pg_proc WHERE proname = 'set_updated_at'";
    let left: i64 = connect(&database.url).await.query_one(function, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn the_schema_file_matches_the_migrations() {
    let database = TestDatabase::migrated().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/schema.rs");
    let expected = schema_file(&db::connect(&database.settings()).await.unwrap()).await.unwrap();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, expected).unwrap();
        return;
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert_eq!(
        written, expected,
        "src/schema.rs does not match the migrations: run ./scripts/migrate schema"
    );
}

#[tokio::test]
async fn the_database_maintains_updated_at() {
    let database = TestDatabase::migrated().await;
    let client = connect(&database.url).await;
    client
        .batch_execute(
            "INSERT INTO users (email, hashed_password, created_at, updated_at)
             VALUES ('a@example.com', 'x', now() - interval '1 day', now() - interval '1 day')",
        )
        .await
        .unwrap();
    let moved = "SELECT updated_at > created_at, updated_at > now() - interval '1 hour' FROM users";
    client.batch_execute("UPDATE users SET full_name = NULL").await.unwrap();
    let row = client.query_one(moved, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (false, false), "the update changes nothing");
    client.batch_execute("UPDATE users SET full_name = 'Ada', updated_at = '2000-01-01'").await.unwrap();
    let row = client.query_one(moved, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (true, true));
}

#[tokio::test]
async fn the_database_refuses_duplicate_and_long_addresses_and_unknown_roles() {
    let database = TestDatabase::migrated().await;
    let client = connect(&database.url).await;
    let insert = |email: &str, role: &str| {
        format!("INSERT INTO users (email, hashed_password, role) VALUES ('{email}', 'x', '{role}')")
    };
    client.batch_execute(&insert("a@example.com", "user")).await.unwrap();
    for (sql, constraint) in [
        (insert("A@Example.com", "user"), "users_email_key"),
        (insert("b@example.com", "owner"), "users_role_check"),
        (insert(&"b".repeat(256), "user"), "users_email_check"),
    ] {
        let error = client.batch_execute(&sql).await.unwrap_err();
        assert_eq!(error.as_db_error().unwrap().constraint(), Some(constraint));
    }
}

#[tokio::test]
async fn concurrent_creations_of_an_admin_create_one_account() {
    let app = TestApp::start().await;
    let passwords = Passwords::new(4);
    let (settings, personal) = (app.database.settings(), &app.app.config.organizations.personal);
    let make = || async {
        let mut conn = db::connect(&settings).await.unwrap();
        let password = Some(PASSWORD.into());
        ensure_admin(&mut conn, &passwords, "Root@Example.com", password, personal).await.unwrap()
    };
    let made = join_all((0..6).map(|_| make())).await;
    assert_eq!(made.iter().filter(|made| **made == EnsureAdminOutcome::Created).count(), 1);
    assert!(made.iter().all(|made| matches!(made, EnsureAdminOutcome::Created | EnsureAdminOutcome::Exists)));
    assert_eq!(app.login("root@example.com", PASSWORD).await.status, 200);
}

/// Checks a connection of the pool and a connection of a command such as `saas migrate`.
#[tokio::test]
async fn each_transaction_sets_its_isolation_level_and_statement_timeout() {
    let app = TestApp::start().await;
    app.sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$").await;
    let settings = "SELECT 1 WHERE current_setting('statement_timeout') = '30s'
                 AND current_setting('transaction_isolation') = 'read committed'";
    let rows = async |conn: &mut AsyncPgConnection| Ok(diesel::sql_query(settings).execute(conn).await?);
    assert_eq!(app.app.db.transaction(rows).await.unwrap(), 1);
    let mut conn = db::connect(&app.database.settings()).await.unwrap();
    assert_eq!(db::transaction(&mut conn, rows).await.unwrap(), 1);
    let after = "SELECT 1 WHERE current_setting('statement_timeout') = '30s'";
    assert_eq!(
        diesel::sql_query(after).execute(&mut conn).await.unwrap(),
        0,
        "the setting ends with the transaction"
    );
}
