//! Migrations, the schema, constraints and transactions.

use std::{fmt::Write, path::Path};

use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::join_all;
use saas::{
    db::{
        self,
        migrations::{self, State},
    },
    security::Passwords,
    services::admins::{Admin, ensure_admin},
};
use tokio_postgres::NoTls;

use crate::support::{
    TestApp,
    app::PASSWORD,
    process::{TempDir, run, saas},
    servers::TestDatabase,
};

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn states(database: &TestDatabase) -> Vec<State> {
    let conn = db::connect(&database.settings()).await.unwrap();
    migrations::status(&conn).await.unwrap().into_iter().map(|migration| migration.state).collect()
}

#[tokio::test]
async fn smoke_migrations_go_up_down_and_up_again() {
    let database = TestDatabase::empty().await;
    let settings = database.settings();
    assert!(states(&database).await.iter().all(|state| *state == State::Pending));
    let applied = migrations::up(&settings).await.unwrap();
    assert!(!applied.is_empty());
    assert!(states(&database).await.iter().all(|state| *state == State::Applied));
    assert!(migrations::up(&settings).await.unwrap().is_empty());

    assert_eq!(migrations::down(&settings, 1).await.unwrap(), applied[applied.len() - 1..]);
    assert_eq!(states(&database).await.last(), Some(&State::Pending));
    let rest = migrations::down(&settings, 1_000).await.unwrap();
    assert_eq!(rest.len(), applied.len() - 1);
    let tables =
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '\\_\\_diesel%'";
    let left: i64 = connect(&database.url).await.query_one(tables, &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "a down.sql leaves a table behind");

    assert_eq!(migrations::up(&settings).await.unwrap(), applied);
    assert_eq!(migrations::redo(&settings).await.unwrap(), applied[applied.len() - 1..]);
}

#[tokio::test]
async fn concurrent_migrations_all_succeed() {
    let database = TestDatabase::empty().await;
    let settings = database.settings();
    let results = join_all((0..6).map(|_| migrations::up(&settings))).await;
    let applied: Vec<_> = results.into_iter().map(Result::unwrap).filter(|names| !names.is_empty()).collect();
    assert_eq!(applied.len(), 1, "one process applies the migrations");
}

#[tokio::test]
async fn a_migration_of_another_build_is_listed_and_not_reverted() {
    let database = TestDatabase::migrated().await;
    database.sql("INSERT INTO __diesel_schema_migrations (version) VALUES ('99991231235959')").await;
    assert_eq!(states(&database).await.last(), Some(&State::Unknown));
    let error = migrations::down(&database.settings(), 1).await.unwrap_err().to_string();
    assert!(error.contains("another build"), "{error}");
    assert!(states(&database).await.contains(&State::Applied));
}

#[tokio::test]
async fn a_failed_migration_is_rolled_back() {
    let database = TestDatabase::empty().await;
    database.sql("CREATE TABLE users (id int)").await;
    let error = format!("{:#}", migrations::up(&database.settings()).await.unwrap_err());
    assert!(error.contains("users") && error.contains("already exists"), "{error}");
    let function = "SELECT count(*) FROM pg_proc WHERE proname = 'set_updated_at'";
    let left: i64 = connect(&database.url).await.query_one(function, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn migrate_new_creates_both_files() {
    let dir = TempDir::new();
    let folder = dir.path().to_str().unwrap().to_owned();
    let made = run(saas(&["migrate", "new", "Add products!", "--dir", &folder])).await.succeeded();
    let files: Vec<_> = made.stdout.lines().map(Path::new).collect();
    assert_eq!(files.len(), 2);
    for (file, name) in files.iter().zip(["up.sql", "down.sql"]) {
        assert!(file.is_file() && file.ends_with(name));
        let parent = file.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert!(parent.ends_with("_add_products"), "{parent}");
        assert!(parent.chars().take(4).all(|c| c.is_ascii_digit()));
    }
    run(saas(&["migrate", "new", "!!", "--dir", &folder])).await.failed(1, &["description"]);
    run(saas(&["migrate", "new", "x", "--dir", "/nowhere/at/all"]))
        .await
        .failed(1, &["/nowhere/at/all", "--dir"]);
}

/// Returns the `table!` of each table, from the database's own catalog.
async fn tables(url: &str) -> String {
    let client = connect(url).await;
    let columns = client
        .query(
            "SELECT c.table_name, c.column_name, c.udt_name, c.is_nullable = 'YES',
                    (SELECT string_agg(k.column_name, ', ' ORDER BY k.ordinal_position)
                     FROM information_schema.table_constraints t
                     JOIN information_schema.key_column_usage k USING (constraint_schema, constraint_name)
                     WHERE t.table_name = c.table_name AND t.constraint_type = 'PRIMARY KEY')
             FROM information_schema.columns c
             WHERE c.table_schema = 'public' AND c.table_name NOT LIKE '\\_\\_diesel%'
             ORDER BY c.table_name, c.ordinal_position",
            &[],
        )
        .await
        .unwrap();
    let (mut text, mut names) = (String::new(), Vec::<String>::new());
    for column in &columns {
        let (table, key): (String, String) = (column.get(0), column.get(4));
        if names.last() != Some(&table) {
            if !names.is_empty() {
                text.push_str("    }\n}\n");
            }
            write!(text, "\ndiesel::table! {{\n    {table} ({key}) {{\n").unwrap();
            names.push(table);
        }
        let name: String = column.get(2);
        let kind = name[..1].to_uppercase() + &name[1..];
        let kind = if column.get(3) { format!("Nullable<{kind}>") } else { kind };
        writeln!(text, "        {} -> {kind},", column.get::<_, String>(1)).unwrap();
    }
    text.push_str("    }\n}\n");
    if names.len() > 1 {
        // In braces, because rustfmt does not reformat those.
        let names = names.join(",\n    ");
        write!(text, "\ndiesel::allow_tables_to_appear_in_same_query! {{\n    {names},\n}}\n").unwrap();
    }
    text
}

#[tokio::test]
async fn the_schema_file_matches_the_migrations() {
    let database = TestDatabase::migrated().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/schema.rs");
    let written = std::fs::read_to_string(&path).unwrap();
    let head: Vec<_> = written.lines().take_while(|line| line.starts_with("//")).collect();
    let expected = format!("{}\n{}", head.join("\n"), tables(&database.url).await);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, expected).unwrap();
    } else {
        assert_eq!(
            written, expected,
            "src/schema.rs does not match the migrations: run BLESS=1 ./scripts/test schema"
        );
    }
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
async fn the_database_enforces_its_constraints() {
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
async fn concurrent_creations_of_an_admin_create_one() {
    let app = TestApp::start().await;
    let passwords = Passwords::new(4);
    let settings = app.database.settings();
    let make = || async {
        let mut conn = db::connect(&settings).await.unwrap();
        ensure_admin(&mut conn, &passwords, "Root@Example.com", Some(PASSWORD.into())).await.unwrap()
    };
    let made = join_all((0..6).map(|_| make())).await;
    assert_eq!(made.iter().filter(|made| **made == Admin::Created).count(), 1);
    assert!(made.iter().all(|made| matches!(made, Admin::Created | Admin::AlreadyThere)));
    assert_eq!(app.login("root@example.com", PASSWORD).await.status, 200);
}

/// For connections of the pool and for those of commands.
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
