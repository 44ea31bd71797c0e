//! Errors of PostgreSQL: their classification, retries, and connections and databases that are not used.

use diesel::{QueryableByName, sql_types::Integer};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::future::join_all;
use saas::{
    db::Db,
    error::{Error, Result},
};
use tokio::sync::Barrier;

use crate::support::{
    TEST_TIMEOUT, TestApp, eventually,
    process::{production_command, run},
    records::column,
    servers::TestDatabase,
};

#[derive(QueryableByName)]
struct Backend {
    #[diesel(sql_type = Integer)]
    pid: i32,
}

/// Returns the id of the PostgreSQL process that serves a pooled connection.
async fn backend_pid(db: &Db) -> i32 {
    let pid = "SELECT pg_backend_pid() AS pid";
    let get =
        async |conn: &mut AsyncPgConnection| Ok(diesel::sql_query(pid).get_result::<Backend>(conn).await?);
    db.run(get).await.unwrap().pid
}

async fn raise_error(db: &Db, code: &str) -> Error {
    let sql = format!("DO $$ BEGIN RAISE EXCEPTION 'Störung' USING ERRCODE = '{code}'; END $$");
    let run = async |conn: &mut AsyncPgConnection| -> Result<()> { Ok(conn.batch_execute(&sql).await?) };
    db.run(run).await.unwrap_err()
}

#[tokio::test]
async fn transient_errors_of_the_server_are_reported_as_unavailable() {
    let app = TestApp::with(&["--database-pool-size=1"]).await;
    for code in ["25006", "40001", "40P01", "53300", "55P03", "57014", "57P01", "57P03", "08006"] {
        let error = raise_error(&app.app.db, code).await;
        assert!(matches!(error, Error::Unavailable { what: "Database", .. }), "{code}: {error:?}");
    }
    for code in ["22012", "42P01", "XX000", "P0001"] {
        let error = raise_error(&app.app.db, code).await;
        assert!(matches!(error, Error::Internal(_)), "{code}: {error:?}");
    }
}

#[tokio::test]
async fn an_unusable_connection_is_replaced() {
    let app = TestApp::with(&["--database-pool-size=1"]).await;
    let mut last = backend_pid(&app.app.db).await;
    for code in ["25006", "0A000", "26000", "42P05", "57P01"] {
        let error = raise_error(&app.app.db, code).await;
        let names_fix = saas::error::chain(&error).contains("max_prepared_statements");
        assert_eq!(names_fix, ["26000", "42P05"].contains(&code), "{error:?}");
        let now = backend_pid(&app.app.db).await;
        assert_ne!(now, last, "{code}");
        last = now;
    }
    raise_error(&app.app.db, "57014").await;
    assert_eq!(backend_pid(&app.app.db).await, last, "a canceled statement leaves its connection usable");
}

/// A migration of the next release may change the type of a column while this release still runs.
#[tokio::test]
async fn no_request_fails_when_a_column_changes_its_type() {
    let app = TestApp::with(&["--database-pool-size=4", "--identity-cache-ms=0"]).await;
    let user = app.user().await;
    let ask = || async { app.get("/users/me", Some(&user)).await.status.as_u16() };
    for (length, at_once) in [(300, 1), (301, 40)] {
        assert_eq!(join_all((0..12).map(|_| ask())).await, [200; 12]);
        app.database.sql(&format!("ALTER TABLE users ALTER full_name TYPE varchar({length})")).await;
        assert_eq!(join_all((0..at_once).map(|_| ask())).await, vec![200; at_once], "{at_once} at once");
    }
}

#[tokio::test]
async fn a_transaction_is_retried_after_a_deadlock() {
    let app = TestApp::start().await;
    app.database.sql("CREATE TABLE locked (id int PRIMARY KEY, changes int NOT NULL); INSERT INTO locked VALUES (1, 0), (2, 0)").await;
    let both = Barrier::new(2);
    let change = async |first: i32, second: i32| {
        let work = async |conn: &mut AsyncPgConnection| -> Result<()> {
            let update = |id: i32| format!("UPDATE locked SET changes = changes + 1 WHERE id = {id}");
            conn.batch_execute(&update(first)).await?;
            // In the first attempt, both transactions meet here, and each holds the row that the other needs. The retry waits
            // in vain, so the wait has a time limit.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(500), both.wait()).await;
            Ok(conn.batch_execute(&update(second)).await?)
        };
        app.app.db.transaction(work).await
    };
    let (one, other) = tokio::join!(change(1, 2), change(2, 1));
    one.unwrap();
    other.unwrap();
    assert_eq!(column(&app.database, "SELECT changes FROM locked ORDER BY id").await, ["2", "2"]);
}

/// Locks row 1, waits until the opponent (another connection) waits for that row, and then locks row 2, which the
/// opponent holds. The `deadlock_timeout` of the opponent is an hour, so PostgreSQL cancels this statement. On the
/// retry, the opponent has committed.
const DEADLOCK: &str = "DO $$ BEGIN
    UPDATE locked SET changes = changes + 1 WHERE id = 1;
    WHILE EXISTS (SELECT FROM pg_locks WHERE pid = {opponent})
        AND NOT EXISTS (SELECT FROM pg_locks WHERE pid = {opponent} AND NOT granted)
    LOOP PERFORM pg_sleep(0.01); END LOOP;
    UPDATE locked SET changes = changes + 1 WHERE id = 2;
END $$";

#[derive(Clone, Copy, Debug)]
enum QueryKind {
    Statement,
    LongStatement,
    Transaction,
    CommandTransaction,
}

#[tokio::test]
async fn every_kind_of_query_is_retried_after_a_deadlock() {
    let app = TestApp::start().await;
    app.database.sql("CREATE TABLE locked (id int PRIMARY KEY, changes int NOT NULL); INSERT INTO locked VALUES (1, 0), (2, 0)").await;
    let kinds = [
        QueryKind::Statement,
        QueryKind::LongStatement,
        QueryKind::Transaction,
        QueryKind::CommandTransaction,
    ];
    for (round, kind) in kinds.into_iter().enumerate() {
        let (opponent, connection) =
            tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let pid: i32 = opponent.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let begin =
            "SET deadlock_timeout = '1h'; BEGIN; UPDATE locked SET changes = changes + 1 WHERE id = 2";
        opponent.batch_execute(begin).await.unwrap();
        let sql = DEADLOCK.replace("{opponent}", &pid.to_string());
        let work = async |conn: &mut AsyncPgConnection| -> Result<()> { Ok(conn.batch_execute(&sql).await?) };
        let db = &app.app.db;
        let victim = async {
            match kind {
                QueryKind::Statement => db.run(work).await,
                QueryKind::LongStatement => db.run_for(TEST_TIMEOUT, work).await,
                QueryKind::Transaction => db.transaction(work).await,
                QueryKind::CommandTransaction => {
                    let mut conn = saas::db::connect(&app.database.settings()).await.unwrap();
                    saas::db::transaction(&mut conn, work).await
                }
            }
        };
        let attack = async {
            let sleeping = "SELECT pid FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event = 'PgSleep'";
            eventually("the victim holds row 1", || async {
                (!column(&app.database, sleeping).await.is_empty()).then_some(())
            })
            .await;
            opponent.batch_execute("UPDATE locked SET changes = changes + 1 WHERE id = 1; COMMIT").await
        };
        let (victim, attack) = tokio::join!(victim, attack);
        victim.unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        attack.unwrap();
        let changes = (2 * (round + 1)).to_string();
        let found = column(&app.database, "SELECT changes FROM locked ORDER BY id").await;
        assert_eq!(found, [changes.clone(), changes], "{kind:?}");
    }
}

#[tokio::test]
async fn a_closed_connection_is_not_handed_out() {
    let app = TestApp::with(&["--database-pool-size=4", "--identity-cache-ms=0"]).await;
    let user = app.user().await;
    let ask = || async { app.get("/users/me", Some(&user)).await.status.as_u16() };
    assert_eq!(join_all((0..12).map(|_| ask())).await, [200; 12]);
    let others = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'saas'";
    app.database.sql(&format!("SELECT pg_terminate_backend(pid) {others}")).await;
    eventually("the connections are closed", || async {
        (column(&app.database, &format!("SELECT count(*) {others}")).await == ["0"]).then_some(())
    })
    .await;
    assert_eq!(join_all((0..12).map(|_| ask())).await, [200; 12]);
}

#[tokio::test]
async fn a_read_only_server_is_not_used_by_default() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.database.sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$").await;
    let replica = TestApp::on(app.database.clone(), &["--database-timeout-ms=300"]).await;
    replica.get("/users/me", Some(&user)).await.is_some_problem(503, "unavailable");
    let url = format!("{}?target_session_attrs=any", app.database.url);
    let reader = TestApp::on(app.database.clone(), &[&format!("--database-url={url}")]).await;
    assert_eq!(reader.get("/users/me", Some(&user)).await.status, 200);
}

#[tokio::test]
async fn a_database_that_cannot_store_all_text_is_refused() {
    let database = TestDatabase::create("TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").await;
    let statement = "CREATE DATABASE name ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0";
    for command in [&["migrate", "up"][..], &["serve", "--port", "0"], &["serve", "--port", "0", "--migrate"]]
    {
        run(production_command(command, &database, "p").await).await.failed(1, &["LATIN1", statement]);
    }
    let doctor = run(production_command(&["doctor"], &database, "p").await).await;
    assert!(
        doctor.stdout.contains("FAIL  database") && doctor.stdout.contains(statement),
        "{}",
        doctor.stdout
    );
}
