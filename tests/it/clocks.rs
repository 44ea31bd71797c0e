//! Processes whose clock differs from the clock of the database.

use std::sync::Arc;

use chrono::Utc;
use saas::services::{housekeeping, session_uses::flush};
use serde_json::json;
use totp_rs::Totp;

use crate::support::{
    TestApp, User,
    app::PASSWORD,
    process::{production_command, run, start_server},
    records::column,
    servers::{TestDatabase, unique},
};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Creates a database whose clock is `seconds` ahead of the clock of this process, or behind if negative. Functions in the
/// schema `public` hide `now` and `clock_timestamp` of PostgreSQL.
async fn database_ahead_by(seconds: i64) -> Arc<TestDatabase> {
    let database = TestDatabase::migrated().await;
    let shift = format!(
        "CREATE FUNCTION public.now() RETURNS timestamptz STABLE LANGUAGE sql
             AS 'SELECT pg_catalog.now() + {seconds} * interval ''1 second''';
         CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
             AS 'SELECT pg_catalog.clock_timestamp() + {seconds} * interval ''1 second''';
         DO $$
         DECLARE col record;
         BEGIN
             FOR col IN
                 SELECT table_name, column_name, column_default FROM information_schema.columns
                 WHERE table_schema = 'public' AND column_default IN ('now()', 'clock_timestamp()')
             LOOP
                 EXECUTE format('ALTER TABLE public.%I ALTER %I SET DEFAULT public.%s',
                     col.table_name, col.column_name, col.column_default);
             END LOOP;
             EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
         END $$"
    );
    database.sql(&shift).await;
    let is_shifted = "SELECT abs(extract(epoch FROM now() - pg_catalog.now())) > 60";
    assert_eq!(column(&database, is_shifted).await, ["t"]);
    Arc::new(database)
}

async fn is_true(app: &TestApp, condition: &str) -> bool {
    column(&app.database, &format!("SELECT {condition}")).await == ["t"]
}

async fn assert_sessions_use_database_clock(app: &TestApp, user: &User) {
    assert!(app.is_signed_in(user).await);
    assert!(app.app.session_uses.all().is_empty(), "the session was seen just now");
    let refreshed = app.refresh(&user.refresh_token).await;
    assert_eq!((refreshed.status.as_u16(), &refreshed.body["refresh_expires_in"]), (200, &json!(2_592_000)));
    assert_eq!(app.get("/users/me/sessions", Some(user)).await.body.as_array().unwrap().len(), 1);
    let lifetime =
        "expires_at - now() BETWEEN 89 * interval '24 hours' AND 90 * interval '24 hours' FROM sessions";
    assert!(is_true(app, lifetime).await);

    app.sql("UPDATE sessions SET last_seen_at = now() - interval '1 hour'").await;
    assert!(app.is_signed_in(user).await);
    flush(&app.app).await.unwrap();
    assert!(is_true(app, "last_seen_at BETWEEN now() - interval '5 minutes' AND now() FROM sessions").await);

    app.sql("UPDATE sessions SET last_seen_at = now() - 30 * interval '24 hours'").await;
    assert!(!app.is_signed_in(user).await);
    app.sql("UPDATE sessions SET last_seen_at = now(), expires_at = now()").await;
    assert!(!app.is_signed_in(user).await);
}

async fn assert_links_use_database_clock(app: &TestApp, user: &User) {
    assert_eq!(app.post("/auth/forgot-password", None, json!({ "email": user.email })).await.status, 202);
    let reset = json!({ "token": app.mailed_token(&user.email).await, "password": PASSWORD });
    let minutes =
        "expires_at - now() BETWEEN interval '25 minutes' AND interval '30 minutes' FROM one_time_tokens";
    assert!(is_true(app, minutes).await);
    assert_eq!(app.post("/auth/reset-password", None, reset).await.status, 204);
}

async fn assert_codes_use_database_clock(app: &TestApp, user: &User, ahead: i64) {
    let path = "/users/me/two-factor";
    let setup = app.post(path, Some(user), json!({ "password": PASSWORD })).await;
    let totp = Totp::from_url(setup.body["otpauth_uri"].as_str().unwrap()).unwrap();
    let now = (Utc::now().timestamp() + ahead).unsigned_abs();
    let code = totp.generate(now).to_string();
    let confirmed = app.post(&format!("{path}/confirm"), Some(user), json!({ "code": code })).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text);

    app.sql("UPDATE two_factor SET failures = 10, failures_since = now()").await;
    let body = json!({ "password": PASSWORD, "code": code });
    let refused = app.post(&format!("{path}/disable"), Some(user), body).await;
    refused.is_some_problem(429, "too_many_attempts");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((600..=900).contains(&wait), "{wait}");
}

async fn assert_deletion_uses_database_clock(app: &TestApp, user: &User) {
    let deletion = app.post("/users/me/deletion", Some(user), json!({ "password": PASSWORD })).await;
    assert_eq!(deletion.status, 202, "{}", deletion.text);
    let due =
        "deletion_due_at - now() BETWEEN 13 * interval '24 hours' AND 14 * interval '24 hours' FROM users";
    assert!(is_true(app, due).await);
    housekeeping::run(&app.app).await.unwrap();
    assert!(is_true(app, "count(*) = 1 FROM users").await);
    app.sql("UPDATE users SET deletion_due_at = now()").await;
    housekeeping::run(&app.app).await.unwrap();
    assert!(is_true(app, "count(*) = 0 FROM users").await);
}

#[tokio::test]
async fn smoke_sessions_links_codes_and_deletions_use_the_clock_of_the_database() {
    for ahead in [-40 * DAY, -HOUR, -300, 300, 100 * DAY] {
        let app = TestApp::on(database_ahead_by(ahead).await, &[]).await;
        let user = app.user().await;
        assert_sessions_use_database_clock(&app, &user).await;
        assert_links_use_database_clock(&app, &user).await;
        let user = app.signed_in_again(&user).await;
        assert_codes_use_database_clock(&app, &user, ahead).await;
        assert_deletion_uses_database_clock(&app, &user).await;
    }
}

#[tokio::test]
async fn a_server_warns_once_of_a_clock_that_differs() {
    for (ahead, expected) in [(-HOUR, 1), (HOUR, 1), (0, 0)] {
        let database = match ahead {
            0 => Arc::new(TestDatabase::migrated().await),
            ahead => database_ahead_by(ahead).await,
        };
        let command =
            production_command(&["serve", "--port", "0"], &database, &format!("c{}", unique())).await;
        let (server, address) = start_server(command).await;
        let ready = reqwest::get(format!("http://{address}/api/v1/health/ready")).await.unwrap();
        assert_eq!(ready.status(), 200);
        let warnings =
            server.output().matches("the clock of this machine differs from the database's by").count();
        assert_eq!(warnings, expected, "{}", server.output());
        let doctor = run(production_command(&["doctor"], &database, "c").await).await;
        let line = if expected == 0 { "ok    clock" } else { "FAIL  clock" };
        assert!(doctor.stdout.contains(line), "{}", doctor.stdout);
    }
}
