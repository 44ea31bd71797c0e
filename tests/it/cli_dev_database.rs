//! `saas dev` with a database that it has not created, and logins with the default password.

use std::process::Command;

use saas::config::DEFAULT_ADMIN_PASSWORD;

use crate::support::{
    process::{Running, TempDir, run, run_with_input, saas},
    records::{column, tables},
    servers::{TestDatabase, servers, unique},
};

const OWN_PASSWORD: [&str; 2] = ["--first-superuser-password", "a password of ours"];

fn dev_command(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = saas(&[&["dev", "--port", "0", "--bcrypt-cost", "4"], args].concat());
    command.current_dir(dir.path());
    command
}

/// Returns a `saas dev` command that uses a test database and the Redis of the tests, so that it starts neither PostgreSQL
/// nor Redis.
async fn external_command(dir: &TempDir, database: &TestDatabase, args: &[&str]) -> Command {
    let mut command = dev_command(dir, args);
    command
        .env("DATABASE_URL", &database.url)
        .env("REDIS_URL", servers().await.redis_url())
        .env("REDIS_KEY_PREFIX", format!("e{}", unique()));
    command
}

/// Starts a process of `saas dev`. Returns the process and the URL of its API.
async fn start(command: Command) -> (Running, String) {
    let mut process = Running::start(command);
    let api = process.wait_for_output("API       ").await;
    process.wait_for_output("worker started").await;
    (process, api)
}

async fn list_admins(database: &TestDatabase) -> Vec<String> {
    column(database, "SELECT email FROM users WHERE role = 'admin' ORDER BY id").await
}

async fn login(api: &str, email: &str, password: &str) -> u16 {
    let login = reqwest::Client::new().post(format!("{api}/auth/login"));
    login.form(&[("username", email), ("password", password)]).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn dev_refuses_an_external_database_with_pending_migrations() {
    let database = TestDatabase::empty().await;
    let refused = ["pending migrations", "2026-11-22-000000_users", "saas dev --migrate", "saas migrate up"];
    let url = database.url.strip_prefix("postgres://").unwrap();
    let (login, rest) = url.split_once('@').unwrap();
    let ((user, password), (address, name)) = (login.split_once(':').unwrap(), rest.split_once('/').unwrap());
    let (host, port) = address.split_once(':').unwrap();

    let dir = TempDir::new();
    let by_variable = external_command(&dir, &database, &[]).await;
    let by_flag = dev_command(&dir, &["--database-url", &database.url]);
    let mut by_parts = dev_command(&dir, &[]);
    by_parts.env("POSTGRES_SERVER", host).env("POSTGRES_PORT", port).env("POSTGRES_USER", user);
    by_parts.env("POSTGRES_PASSWORD", password).env("POSTGRES_DB", name);
    // With `--reset`, the command is refused too and deletes nothing.
    let reset = external_command(&dir, &database, &["--reset"]).await;
    for command in [by_variable, by_flag, by_parts, reset] {
        let ended = run(command).await.failed(1, &refused);
        assert!(ended.stderr.contains(&format!("{name} on {address}")), "{}", ended.stderr);
        assert!(!ended.stderr.contains(password));
    }
    std::fs::write(dir.path().join(".env"), format!("DATABASE_URL={}\n", database.url)).unwrap();
    run(dev_command(&dir, &[])).await.failed(1, &refused);
    assert!(!dir.path().join(".saas").exists());
    assert_eq!(tables(&database).await, "");
    assert_eq!(
        column(&database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'").await,
        [""; 0]
    );
}

#[tokio::test]
async fn an_external_database_gets_no_admin_with_the_default_password() {
    let database = TestDatabase::empty().await;
    let dir = TempDir::new();
    let (mut process, api) = start(external_command(&dir, &database, &["--migrate"]).await).await;
    process.wait_for_output("no admin was created: run `saas create-admin --email").await;
    assert_eq!(list_admins(&database).await, [""; 0]);
    assert_eq!(login(&api, "admin@example.com", DEFAULT_ADMIN_PASSWORD).await, 401);
    process.signal("INT");
    process.end().await;

    // No migration is pending now, so `--migrate` is not needed. The default password creates no admin, even
    // if it is set explicitly.
    let mut explicit = external_command(&dir, &database, &[]).await;
    explicit.env("FIRST_SUPERUSER_PASSWORD", DEFAULT_ADMIN_PASSWORD);
    let (mut process, _) = start(explicit).await;
    process.wait_for_output("no admin was created").await;
    assert_eq!(list_admins(&database).await, [""; 0]);
}

#[tokio::test]
async fn an_external_database_without_an_admin_gets_one_with_a_chosen_password() {
    let database = TestDatabase::migrated().await;
    let dir = TempDir::new();
    let (mut process, api) = start(external_command(&dir, &database, &OWN_PASSWORD).await).await;
    process.wait_for_output("admin@example.com / the value of FIRST_SUPERUSER_PASSWORD").await;
    assert_eq!(login(&api, "admin@example.com", OWN_PASSWORD[1]).await, 200);
    process.signal("INT");
    process.end().await;

    let mut second = external_command(&dir, &database, &OWN_PASSWORD).await;
    second.env("FIRST_SUPERUSER_EMAIL", "second@example.com");
    let (mut process, _) = start(second).await;
    process.wait_for_output("no admin was created").await;
    assert_eq!(list_admins(&database).await, ["admin@example.com"]);
}

#[tokio::test]
async fn other_machines_cannot_log_in_with_the_default_password() {
    let dir = TempDir::new();
    let refused = ["default password", "set FIRST_SUPERUSER_PASSWORD"];
    for host in ["0.0.0.0", "::", "192.0.2.1", "fe80::1", "::ffff:192.0.2.1"] {
        run(dev_command(&dir, &["--host", host])).await.failed(1, &refused);
        let mut by_variable = dev_command(&dir, &[]);
        by_variable.env("HOST", host).env("FIRST_SUPERUSER_PASSWORD", DEFAULT_ADMIN_PASSWORD);
        run(by_variable).await.failed(1, &refused);
    }
    assert!(!dir.path().join(".saas").exists());

    // The admin of an earlier run still has the default password. So `saas dev` refuses to serve other machines. Here
    // `--reset` deletes this admin.
    let (mut process, _) = start(dev_command(&dir, &[])).await;
    process.signal("INT");
    process.end().await;
    let on_all_addresses =
        |args: &[&str]| dev_command(&dir, &[&["--host", "0.0.0.0"], &OWN_PASSWORD[..], args].concat());
    run(on_all_addresses(&[])).await.failed(1, &["default password", "admin@example.com", "--reset"]);
    let (mut process, api) = start(on_all_addresses(&["--reset"])).await;
    assert!(api.starts_with("http://localhost:"), "{api}");
    assert_eq!(login(&api, "admin@example.com", OWN_PASSWORD[1]).await, 200);
    let host = |host: &'static str| reqwest::Client::new().get(format!("{api}/health")).header("host", host);
    assert_eq!(host("0.0.0.0:8000").send().await.unwrap().status(), 200);
    assert_eq!(host("rebind.example").send().await.unwrap().status(), 421);
    process.signal("INT");
    process.end().await;
}

#[tokio::test]
async fn a_database_whose_admin_has_the_default_password_is_not_served_to_other_machines() {
    let database = TestDatabase::migrated().await;
    let hash = bcrypt::hash(DEFAULT_ADMIN_PASSWORD, 4).unwrap();
    database
        .sql(&format!(
            "INSERT INTO users (email, hashed_password, role) VALUES ('a@b.example', '{hash}', 'admin')"
        ))
        .await;
    let dir = TempDir::new();
    let command = external_command(&dir, &database, &["--host", "0.0.0.0"]).await;
    run(command).await.failed(1, &["default password", "a@b.example", "--set-password"]);
    let (mut process, _) = start(external_command(&dir, &database, &[]).await).await;
    process.wait_for_output("default password, which is public").await;
}

#[tokio::test]
async fn the_banner_shows_the_default_password_only_while_it_is_valid() {
    let dir = TempDir::new();
    let (mut process, _) = start(dev_command(&dir, &[])).await;
    let url = process.wait_for_output("Database  ").await;
    let args = ["create-admin", "--set-password", "--password-stdin", "--email", "admin@example.com"];
    let mut replace = saas(&args);
    replace.env("DATABASE_URL", url).env("DEBUG", "true");
    run_with_input(replace, OWN_PASSWORD[1]).await.succeeded();
    process.signal("INT");
    process.end().await;
    let (mut process, _) = start(dev_command(&dir, &[])).await;
    process.wait_for_output("admin@example.com / the password that was set for it").await;
    process.signal("INT");
    process.end().await;
}
