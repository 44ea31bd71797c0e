//! Failed, empty and concurrent migrations.

use std::fs;

use futures_util::future::join_all;
use saas::db::{
    self,
    migrations::{Migrations, State},
};
use tokio_postgres::NoTls;

use crate::support::{
    migrations::{Folder, migrate, states},
    process::{production_command, run},
    records::column,
    servers::{TestDatabase, database_settings, unique},
};

#[tokio::test]
async fn a_failed_migration_reports_the_place_and_the_fix() {
    for (up, words) in [
        (
            "CREATE TABLE a (id INT);\nCREATE TABEL b ();",
            ["at line 2 of up.sql", "SQLSTATE 42601", "Line 2: CREATE TABEL b ();"],
        ),
        (
            "-- Größe\n\nALTER TABLE first\n    ADD COLUMN x nosuch;",
            ["at line 4", "42704", "earlier migration"],
        ),
        ("CREATE TABLE first ();", ["42P07", "already exists", "VALUES ('2')"]),
        ("ALTER TABLE first ADD COLUMN x INT NOT NULL;", ["23502", "\"x\"", "correct them in the same file"]),
        (
            "CREATE INDEX CONCURRENTLY i ON first (id)",
            ["25001", "CONCURRENTLY", "run_in_transaction = false"],
        ),
        ("CREATE EXTENSION nosuch", ["nosuch", "Fix: the extension nosuch", "not available on the server"]),
        // The script succeeds, but recording the migration fails.
        (
            "SELECT set_config('search_path', '', false)",
            ["2_second failed: ", "42P01", "\"__diesel_schema_migrations\""],
        ),
        ("DO $$\nBEGIN\n    EXECUTE 'SELECT nosuch';\nEND $$", ["2_second failed: ", "42703", "nosuch"]),
    ] {
        let database = TestDatabase::empty().await;
        let migrations = Folder::with_second(up).migrations();
        let error = format!("{:#}", migrations.up(&database.settings()).await.unwrap_err());
        for word in words.iter().chain(&["2_second", "Nothing of it was applied; applied before it: 1_first"])
        {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
        assert_eq!(states(&migrations, &database).await, [State::Applied, State::Pending], "{up}");
        assert_eq!(column(&database, "SELECT 1 WHERE to_regclass('a') IS NULL").await, ["1"]);
    }
}

#[tokio::test]
async fn a_migration_that_waits_for_a_lock_respects_lock_timeout() {
    let database = TestDatabase::empty().await;
    database.sql("CREATE TABLE other ()").await;
    let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE other").await.unwrap();
    let up = "SET LOCAL lock_timeout = '5ms'; ALTER TABLE other ADD COLUMN x INT";
    let migrations = Folder::with_second(up).migrations();
    let error = migrations.up(&database.settings()).await.unwrap_err().to_string();
    assert!(error.contains("55P03") && error.contains("pg_stat_activity"), "{error}");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(migrations.up(&database.settings()).await.unwrap(), ["2_second"]);
}

#[tokio::test]
async fn a_failed_migration_reports_parts_that_are_in_effect() {
    let database = TestDatabase::empty().await;
    let folder = Folder::with_second("CREATE TABLE a (id INT); COMMIT; SELECT nosuch;");
    let error = folder.migrations().up(&database.settings()).await.unwrap_err().to_string();
    assert!(error.contains("before its COMMIT is in effect"), "{error}");
    assert_eq!(column(&database, "SELECT to_regclass('a')").await, ["a"]);

    folder.write("2_second/up.sql", "SELECT pg_terminate_backend(pg_backend_pid())");
    let error = folder.migrations().up(&database.settings()).await.unwrap_err().to_string();
    assert!(error.contains("2_second failed") && error.contains("connection was lost"), "{error}");

    folder.write("2_second/up.sql", "CREATE UNIQUE INDEX CONCURRENTLY i ON first (id);");
    folder.write("2_second/metadata.toml", "# For CONCURRENTLY.\nrun_in_transaction = false\n");
    let error = folder.migrations().up(&database.settings()).await.unwrap_err().to_string();
    assert!(error.contains("23505") && error.contains("such as an invalid index"), "{error}");
    assert_eq!(states(&folder.migrations(), &database).await, [State::Applied, State::Pending]);
}

/// CREATE INDEX CONCURRENTLY waits for older snapshots in other sessions. So a process that waits for the advisory lock
/// must poll, not block in a statement.
#[tokio::test]
async fn concurrent_processes_can_create_an_index_concurrently() {
    let database = TestDatabase::empty().await;
    let folder = Folder::with_second("CREATE INDEX CONCURRENTLY i ON first (id);");
    folder.write("2_second/metadata.toml", "run_in_transaction = false");
    let (migrations, settings) = (folder.migrations(), database.settings());
    let results = join_all((0..4).map(|_| migrations.up(&settings))).await;
    let applied: Vec<_> = results.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(applied, ["1_first", "2_second"]);
}

#[tokio::test]
async fn a_migration_error_names_the_missing_privilege() {
    let database = TestDatabase::empty().await;
    let role = format!("limited_{}", unique());
    database
        .sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'; REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        .await;
    let url = format!("postgres://{role}:x@{}", database.url.split_once('@').unwrap().1);
    let as_role = async |args: &[&str]| {
        let mut command = production_command(args, &database, "p").await;
        command.env("DATABASE_URL", &url);
        run(command).await
    };
    let grant = |what: &str| format!("GRANT {what} TO {role};");
    for (problem, fix) in [
        (grant("CREATE ON SCHEMA public"), grant("CREATE ON SCHEMA public")),
        // Some hosting providers install extensions into a separate schema.
        (
            "CREATE EXTENSION pg_trgm;".to_owned(),
            "CREATE SCHEMA extensions; CREATE EXTENSION pg_trgm SCHEMA extensions".to_owned(),
        ),
        (grant("USAGE ON SCHEMA extensions"), grant("USAGE ON SCHEMA extensions")),
        // `saas_tenant` exists already, because roles belong to the server. The role of this test is not a member yet.
        (grant("saas_tenant"), grant("saas_tenant")),
    ] {
        let doctor = as_role(&["doctor"]).await.stdout;
        assert!(
            doctor.contains("FAIL  migrations") && doctor.contains(&problem),
            "{problem} is not in {doctor}"
        );
        assert!(!doctor.contains("run `saas migrate up`"), "{doctor}");
        as_role(&["migrate", "up"])
            .await
            .failed(1, &[problem.as_str(), "42501", "Nothing of it was applied"]);
        database.sql(&fix).await;
    }
    assert!(as_role(&["doctor"]).await.stdout.contains("run `saas migrate up`"));
    as_role(&["migrate", "up"]).await.succeeded();
    assert!(as_role(&["doctor"]).await.stdout.contains("ok    migrations"));
    let index =
        column(&database, "SELECT indexdef FROM pg_indexes WHERE indexname = 'users_search_idx'").await;
    assert!(index.concat().contains("extensions.gin_trgm_ops"), "{index:?}");
    let count = Migrations::embedded().names().count().to_string();
    as_role(&["migrate", "down", "--yes", "-n", count.as_str()]).await.succeeded();
}

#[tokio::test]
async fn a_migration_error_names_a_table_of_another_role() {
    let database = TestDatabase::migrated().await;
    let role = format!("limited_{}", unique());
    database
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT CREATE ON SCHEMA public TO {role};
             GRANT ALL ON __diesel_schema_migrations TO {role}"
        ))
        .await;
    let settings =
        database_settings(&format!("postgres://{role}:x@{}", database.url.split_once('@').unwrap().1));
    let folder = Folder::new(&[["9999_x", "ALTER TABLE users ADD COLUMN x INT;", "SELECT 1;"]]);
    let conn = db::connect(&settings).await.unwrap();
    let obstacle = folder.migrations().obstacle(&conn).await.unwrap().unwrap();
    let error = folder.migrations().up(&settings).await.unwrap_err().to_string();
    for text in [obstacle, error] {
        assert!(text.contains("the table users belongs to the role") && text.contains("GRANT"), "{text}");
    }
}

/// `saas doctor` applies the migrations to an empty database in a transaction, and rolls the transaction back.
#[tokio::test]
async fn doctor_does_not_recommend_a_migration_that_would_fail() {
    let database = TestDatabase::empty().await;
    let doctor = async || run(production_command(&["doctor"], &database, "p").await).await.stdout;
    assert!(doctor().await.contains("run `saas migrate up`"));
    let conn = db::connect(&database.settings()).await.unwrap();
    for end in ["COMMIT", "end", "ROLLBACK", "/* x */ PREPARE TRANSACTION 'x'"] {
        let migrations =
            Folder::with_second(&format!("CREATE TABLE b ();\n{end};\nCREATE TABLE c ();")).migrations();
        assert_eq!(migrations.obstacle(&conn).await.unwrap(), None);
        let tables = column(&database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'").await;
        assert_eq!(tables, [""; 0], "{end}");
    }
    // Another product has created a table with the name of a table of this product.
    database.sql("CREATE TABLE sessions ()").await;
    let found = doctor().await;
    assert!(found.contains("2026-11-22-100000_sessions failed") && found.contains("42P07"), "{found}");
    assert!(!found.contains("run `saas migrate up`"), "{found}");
}

/// The rehearsal stops at a migration without a transaction. The role `saas_tenant` is needed by a later one.
#[tokio::test]
async fn doctor_checks_the_privileges_for_migrations_that_it_does_not_rehearse() {
    let database = TestDatabase::empty().await;
    let role = format!("owner_{}", unique());
    let name = column(&database, "SELECT quote_ident(current_database())").await.concat();
    database
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'x'; ALTER DATABASE {name} OWNER TO {role};
             ALTER SCHEMA public OWNER TO {role}"
        ))
        .await;
    let settings =
        database_settings(&format!("postgres://{role}:x@{}", database.url.split_once('@').unwrap().1));
    let conn = db::connect(&settings).await.unwrap();
    let obstacle = Migrations::embedded().obstacle(&conn).await.unwrap().unwrap();
    assert!(obstacle.contains(&format!("GRANT saas_tenant TO {role}")), "{obstacle}");
}

#[tokio::test]
async fn an_empty_migration_is_not_applied() {
    let database = TestDatabase::empty().await;
    let settings = database.settings();
    let folder = Folder::with_second("-- add products\n");
    let dir = ["--dir", folder.path()];
    let with_dir = |action: &'static str| migrate(&database, &[&[action], &dir[..]].concat());
    run(with_dir("up")).await.failed(1, &["2_second is empty", "write the SQL", "delete its folder"]);
    assert_eq!(states(&folder.migrations(), &database).await, [State::Pending; 2]);
    let status = run(with_dir("status")).await;
    assert!(status.stdout.contains("2_second  pending, but empty"), "{status:?}");
    let conn = db::connect(&settings).await.unwrap();
    let obstacle = folder.migrations().obstacle(&conn).await.unwrap();
    assert!(obstacle.is_some_and(|text| text.contains("2_second is empty")));

    folder.write("2_second/up.sql", "-- add products\nCREATE TABLE products ();");
    assert_eq!(folder.migrations().up(&settings).await.unwrap(), ["1_first", "2_second"]);
    // An empty down.sql would leave the table, while the migration would count as reverted.
    folder.write("2_second/down.sql", "-- Undo up.sql, in reverse order.\n");
    for _ in ["an empty file", "a missing file"] {
        run(migrate(&database, &["down", "--yes", "--dir", folder.path()]))
            .await
            .failed(1, &["2_second", "down.sql is missing or empty"]);
        let _ = fs::remove_file(format!("{}/2_second/down.sql", folder.path()));
    }
    // The older migration cannot be reverted either, because the newer one must be reverted first.
    assert!(folder.migrations().plan(&settings, 2).await.is_err());
    assert_eq!(states(&folder.migrations(), &database).await, [State::Applied; 2]);
}

#[tokio::test]
async fn two_migrations_with_the_same_version_are_refused() {
    let database = TestDatabase::empty().await;
    let folder = Folder::new(&[
        ["2030-01-01-000000_one", "CREATE TABLE one ();", ""],
        ["2030-01-01-000000_two", "CREATE TABLE two ();", ""],
    ]);
    let error = folder.migrations().up(&database.settings()).await.unwrap_err().to_string();
    assert!(error.contains("2030-01-01-000000_one") && error.contains("2030-01-01-000000_two"), "{error}");
    assert_eq!(
        column(&database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'").await,
        [""; 0]
    );
}

#[tokio::test]
async fn concurrent_processes_revert_a_migration_once() {
    let database = TestDatabase::migrated().await;
    let (settings, migrations) = (database.settings(), Migrations::embedded());
    let plan = migrations.plan(&settings, 1).await.unwrap();
    let results = join_all((0..3).map(|_| migrations.down(&settings, &plan))).await;
    let (done, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 2));
    for error in refused {
        assert!(error.unwrap_err().to_string().contains("another process"));
    }
    let states = states(&migrations, &database).await;
    assert_eq!(states.iter().filter(|state| **state == State::Pending).count(), 1);
}

#[tokio::test]
async fn a_redo_that_fails_reports_what_was_reverted() {
    let database = TestDatabase::empty().await;
    let settings = database.settings();
    let folder = Folder::with_second("CREATE TABLE b ();");
    folder.write("2_second/down.sql", "DROP TABLE b;");
    folder.migrations().up(&settings).await.unwrap();
    folder.write("2_second/up.sql", "CREATE TABEL b ();");
    let plan = folder.migrations().plan(&settings, 1).await.unwrap();
    let error = format!("{:#}", folder.migrations().redo(&settings, &plan).await.unwrap_err());
    assert!(error.contains("2_second was reverted and could not be applied again"), "{error}");
    assert_eq!(states(&folder.migrations(), &database).await, [State::Applied, State::Pending]);
    // A down.sql that fails changes nothing.
    folder.write("1_first/down.sql", "DROP TABLE first;\nDROP TABLE nosuch;");
    let plan = folder.migrations().plan(&settings, 1).await.unwrap();
    let error = folder.migrations().down(&settings, &plan).await.unwrap_err().to_string();
    assert!(
        error.contains("reverting the migration 1_first failed")
            && error.contains("Nothing of it was reverted")
    );
    assert_eq!(column(&database, "SELECT count(*) FROM first").await, ["2"]);
}
