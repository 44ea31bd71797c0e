//! The start of a process while PostgreSQL is unavailable or has no free connection, and the limits of connections.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::{
    TestApp,
    process::{Running, production_command, run},
    proxy::{Link, Proxy},
    records::column,
    servers::{TestDatabase, servers, unique},
};

/// Each entry: the arguments of a process, and the text that it logs when it has started.
const PROCESSES: [(&[&str], &str); 2] =
    [(&["serve", "--port", "0"], "\"address\":\""), (&["worker"], "worker started")];

/// A role without superuser privileges. Connection limits do not apply to superusers.
struct Role {
    name: String,
    url: String,
}

impl Role {
    async fn create(database: &TestDatabase, limit: u32) -> Self {
        let name = format!("limited_{}", unique());
        servers().await.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'x' CONNECTION LIMIT {limit}")).await;
        for what in ["ALL TABLES", "ALL SEQUENCES"] {
            database.sql(&format!("GRANT ALL ON {what} IN SCHEMA public TO {name}")).await;
        }
        database.sql(&format!("GRANT saas_tenant TO {name}")).await;
        let (_, place) = database.url.split_once('@').unwrap();
        Self { url: format!("postgres://{name}:x@{place}"), name }
    }

    async fn set_connection_limit(&self, limit: u32) {
        servers().await.sql(&format!("ALTER ROLE {} CONNECTION LIMIT {limit}", self.name)).await;
    }
}

#[tokio::test]
async fn a_process_waits_at_start_for_an_unreachable_server() {
    let database = TestDatabase::migrated().await;
    let (proxy, url) = Proxy::before(&database.url).await;
    for (args, started) in PROCESSES {
        proxy.set(Link::Cut);
        let mut command = production_command(args, &database, "p").await;
        command.env("DATABASE_URL", &url);
        let mut process = Running::start(command);
        process.wait_for_output("cannot use PostgreSQL, retrying").await;
        proxy.set(Link::Up);
        process.wait_for_output(started).await;
        process.signal("TERM");
        assert!(process.end().await.success());
    }
    // While it waits, a process exits at once on SIGTERM. Without SIGTERM, it fails after DATABASE_WAIT_SECONDS.
    proxy.set(Link::Cut);
    for args in PROCESSES.map(|(args, _)| args) {
        let mut command = production_command(args, &database, "p").await;
        command.env("DATABASE_URL", &url).env("DATABASE_WAIT_SECONDS", "3600");
        let mut process = Running::start(command);
        process.wait_for_output("cannot use PostgreSQL, retrying").await;
        process.signal("TERM");
        assert!(process.end().await.success());
        let mut command = production_command(args, &database, "p").await;
        command.env("DATABASE_URL", &url).env("DATABASE_WAIT_SECONDS", "1");
        run(command).await.failed(1, &["cannot reach PostgreSQL", "DATABASE_URL"]);
    }
}

#[tokio::test]
async fn a_connection_that_ends_during_the_checks_at_start_is_replaced() {
    let database = TestDatabase::migrated().await;
    let (proxy, url) = Proxy::before(&database.url).await;
    // The proxy recognizes the results of two checks by the name of a column: the check of the encoding, and the check of
    // the connection limits.
    for (column, logged) in [
        ("value", "cannot use PostgreSQL, retrying"),
        ("usable", "cannot read how many connections PostgreSQL has"),
    ] {
        for (args, started) in PROCESSES {
            proxy.lose_answer(column);
            let mut command = production_command(args, &database, "p").await;
            command.env("DATABASE_URL", &url);
            let mut process = Running::start(command);
            process.wait_for_output(logged).await;
            process.wait_for_output(started).await;
            assert!(proxy.has_lost_answer(), "{column}");
        }
    }
}

#[tokio::test]
async fn a_process_waits_at_start_for_a_free_connection_and_fails_with_a_wrong_password() {
    let database = TestDatabase::migrated().await;
    let role = Role::create(&database, 0).await;
    let with_url = async |args: &[&str], url: &str| {
        let mut command = production_command(args, &database, "p").await;
        command.env("DATABASE_URL", url);
        command
    };
    let mut waiting = Vec::new();
    for (args, started) in PROCESSES {
        waiting.push((Running::start(with_url(args, &role.url).await), started));
    }
    for (process, _) in &mut waiting {
        process.wait_for_output("cannot use PostgreSQL, retrying").await;
    }
    let full = ["too many connections", "raise max_connections"];
    run(with_url(&["migrate", "status"], &role.url).await).await.failed(1, &full);
    role.set_connection_limit(30).await;
    for (process, started) in &mut waiting {
        process.wait_for_output(started).await;
    }
    let wrong = role.url.replace(":x@", ":wrong@");
    for (args, _) in PROCESSES {
        let ended = run(with_url(args, &wrong).await).await.failed(1, &["28P01", "Correct the user"]);
        assert!(!ended.stdout.contains("retrying"), "{ended:?}");
    }
}

#[tokio::test]
async fn doctor_and_start_compare_the_pool_with_the_limits() {
    let database = TestDatabase::migrated().await;
    let role = Role::create(&database, 5).await;
    for (size, line) in [
        ("10", "FAIL  connections 5 for the product (the limit of the role), 5 of them free"),
        ("4", "ok    connections 5 for the product (the limit of the role), 5 of them free"),
    ] {
        let mut doctor = production_command(&["doctor"], &database, "p").await;
        doctor.env("DATABASE_URL", &role.url).env("DATABASE_POOL_SIZE", size);
        let found = run(doctor).await;
        assert!(found.stdout.contains(line), "{line} is not in {}", found.stdout);
    }
    let mut serve = production_command(&["serve", "--port", "0"], &database, "p").await;
    serve.env("DATABASE_URL", &role.url);
    let mut process = Running::start(serve);
    let warning = process.wait_for_output("PostgreSQL connections: 5 for the product").await;
    assert!(warning.contains("lower DATABASE_POOL_SIZE"), "{warning}");
}

/// The pool closes idle connections, so that other processes can use them.
#[tokio::test]
#[ignore = "waits for a minute and a half"]
async fn the_pool_closes_idle_connections() {
    const LIMIT: Duration = Duration::from_secs(180);
    let app = TestApp::start().await;
    for conn in join_all((0..10).map(|_| app.app.db.get())).await {
        conn.unwrap();
    }
    let count = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'saas'";
    assert_eq!(column(&app.database, count).await, ["10"]);
    let begun = Instant::now();
    // Occasional requests of one client need only one connection.
    while column(&app.database, count).await != ["1"] {
        assert!(begun.elapsed() < LIMIT, "the connections are kept");
        assert_eq!(app.get("/health/db", None).await.status, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
