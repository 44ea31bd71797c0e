//! The default password of the first admin. It is public, so `saas serve` does not start in production while an active
//! admin has this password.

use std::process::Command;

use saas::config::DEFAULT_ADMIN_PASSWORD;
use serde_json::json;

use crate::support::{
    TestApp, eventually,
    process::{production_command, run, run_with_input, saas, start_server},
    records::column,
    servers::{TestDatabase, unique},
};

/// The words of the error about an admin with the default password.
const PASSWORD_ERROR: &[&str] =
    &["default password", "planted@example.com", "saas create-admin", "--set-password"];

/// Inserts an active admin with the default password, as earlier releases did.
async fn insert_admin_with_default_password(database: &TestDatabase) {
    let hash = bcrypt::hash(DEFAULT_ADMIN_PASSWORD, 4).unwrap();
    database
        .sql(&format!(
            "INSERT INTO users (email, hashed_password, role, email_verified_at)
             VALUES ('planted@example.com', '{hash}', 'admin', now())"
        ))
        .await;
}

async fn serve_command(database: &TestDatabase, args: &[&str]) -> Command {
    production_command(&[&["serve", "--port", "0"], args].concat(), database, &format!("d{}", unique())).await
}

async fn login(address: &str, email: &str, password: &str) -> u16 {
    let form = [("username", email), ("password", password)];
    let login = reqwest::Client::new().post(format!("http://{address}/api/v1/auth/login")).form(&form);
    login.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn serve_refuses_an_admin_with_the_default_password_until_it_is_replaced() {
    let database = TestDatabase::migrated().await;
    let prefix = format!("d{}", unique());
    let start = async || production_command(&["serve", "--port", "0"], &database, &prefix).await;
    let (mut first, _) = start_server(start().await).await;
    first.signal("TERM");
    first.end().await;
    insert_admin_with_default_password(&database).await;
    // The second start reads the result of the password check from the cache.
    for _ in 0..2 {
        run(start().await).await.failed(1, PASSWORD_ERROR);
    }

    let args = ["create-admin", "--email", "planted@example.com", "--set-password", "--password-stdin"];
    let replace =
        async |input| run_with_input(production_command(&args, &database, &prefix).await, input).await;
    replace("ChangeThis123").await.failed(1, &["published default"]);
    run(start().await).await.failed(1, PASSWORD_ERROR);
    assert!(replace("correct horse").await.succeeded().stdout.contains("has a new password"));
    let (_server, address) = start_server(start().await).await;
    assert_eq!(login(&address, "planted@example.com", "correct horse").await, 200);
}

#[tokio::test]
async fn serve_accepts_inactive_admins_and_plain_users_with_the_default_password() {
    let database = TestDatabase::migrated().await;
    insert_admin_with_default_password(&database).await;
    for change in ["is_active = false", "is_active = true, role = 'user'"] {
        database.sql(&format!("UPDATE users SET {change} WHERE email = 'planted@example.com'")).await;
        start_server(serve_command(&database, &[]).await).await;
    }
}

#[tokio::test]
async fn serve_with_debug_warns_of_the_default_password_and_listens_on_loopback_only() {
    let database = TestDatabase::migrated().await;
    insert_admin_with_default_password(&database).await;
    let mut debug = serve_command(&database, &["--debug", "--log-format=json"]).await;
    debug.env("FIRST_SUPERUSER_PASSWORD", "");
    let (mut server, address) = start_server(debug).await;
    server.wait_for_output("default password, which is public").await;
    assert_eq!(login(&address, "planted@example.com", DEFAULT_ADMIN_PASSWORD).await, 200);
    for host in ["0.0.0.0", "::"] {
        run(serve_command(&database, &["--debug", "--host", host]).await).await.failed(1, PASSWORD_ERROR);
    }
}

#[tokio::test]
async fn a_running_server_refuses_the_login_of_an_admin_with_the_default_password() {
    let database = TestDatabase::migrated().await;
    let (server, address) = start_server(serve_command(&database, &[]).await).await;
    insert_admin_with_default_password(&database).await;
    assert_eq!(login(&address, "planted@example.com", DEFAULT_ADMIN_PASSWORD).await, 401);
    eventually("the reason is logged", || async {
        server.output().contains("this admin has the default password").then_some(())
    })
    .await;
    assert_eq!(column(&database, "SELECT count(*)::text FROM sessions").await, ["0"]);
}

#[tokio::test]
async fn doctor_reports_an_admin_with_the_default_password() {
    let database = TestDatabase::migrated().await;
    let doctor = async |args: &[&str]| {
        run(production_command(&[&["doctor"], args].concat(), &database, "p").await).await
    };
    assert!(doctor(&[]).await.succeeded().stdout.contains("ok    admins"));
    insert_admin_with_default_password(&database).await;
    let found = doctor(&[]).await;
    assert_eq!(found.code, Some(1));
    for word in PASSWORD_ERROR.iter().chain(&["FAIL  admins"]) {
        assert!(found.stdout.contains(word), "{word} is not in {}", found.stdout);
    }
    let debug = doctor(&["--debug"]).await.succeeded();
    assert!(debug.stdout.contains("warn  admins") && debug.stdout.contains("planted@example.com"));
}

#[tokio::test]
async fn no_operation_accepts_the_default_password_as_a_new_password() {
    let app = TestApp::start().await;
    let refused = |field: &str, answer: &crate::support::app::Answer| {
        assert_eq!(answer.invalid_fields(), [(format!("body.{field}"), "value_error".to_owned())]);
        assert!(answer.text.contains("published default"), "{}", answer.text);
    };
    for password in [DEFAULT_ADMIN_PASSWORD, "CHANGETHIS123"] {
        let new = json!({ "email": "a@example.com", "password": password });
        refused("password", &app.post("/auth/register", None, new).await);
        for path in ["/auth/reset-password", "/auth/accept-invite"] {
            refused("password", &app.post(path, None, json!({ "token": "x", "password": password })).await);
        }
        let user = app.user().await;
        let change = json!({ "current_password": "correct horse", "new_password": password });
        refused("new_password", &app.post("/users/me/password", Some(&user), change).await);
    }

    let create = |args: &[&'static str]| {
        let mut command = saas(&[&["create-admin", "--email", "a@example.com"], args].concat());
        command.env("DATABASE_URL", &app.database.url).env("DEBUG", "true").env("BCRYPT_COST", "4");
        command
    };
    run_with_input(create(&["--password-stdin"]), "changethis123\n").await.failed(1, &["published default"]);
    let mut environment = create(&[]);
    environment.env("FIRST_SUPERUSER_PASSWORD", DEFAULT_ADMIN_PASSWORD);
    run(environment).await.failed(1, &["no password"]);
    let admins = column(&app.database, "SELECT count(*)::text FROM users WHERE role = 'admin'").await;
    assert_eq!(admins, ["0"]);
}

#[tokio::test]
async fn set_password_changes_the_passwords_of_admins_only() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for (email, words) in
        [(&*user.email, "is not an admin"), ("unknown@example.com", "no admin has the address")]
    {
        let mut command = saas(&["create-admin", "--set-password", "--password-stdin", "--email", email]);
        command.env("DATABASE_URL", &app.database.url).env("DEBUG", "true").env("BCRYPT_COST", "4");
        run_with_input(command, "another password\n").await.failed(1, &[words, "nothing was changed"]);
    }
    assert_eq!(app.get("/users/me", Some(&user)).await.status, 200);
    app.sql(&format!("UPDATE users SET role = 'admin' WHERE id = {}", user.id)).await;
    let mut command = saas(&["create-admin", "--set-password", "--password-stdin", "--email", &user.email]);
    command.env("DATABASE_URL", &app.database.url).env("DEBUG", "true").env("BCRYPT_COST", "4");
    run_with_input(command, "another password\n").await.succeeded();
    eventually("the sessions are revoked", || async {
        (app.get("/users/me", Some(&user)).await.status == 401).then_some(())
    })
    .await;
    assert_eq!(app.login(&user.email, "another password").await.status, 200);
    let mails = app.mails().await;
    assert!(mails.iter().any(|mail| mail.to == user.email), "{mails:#?}");
}
