//! The revocation of leaked keys: a finder reports a key, or the operator runs a command.

use saas::security::api_key;
use serde_json::{Value, json};

use super::{Key, SCOPES, create_key, create_org, is, member, outcome, read, rotate};
use crate::support::{
    TestApp,
    app::Answer,
    process::{production_command, run, run_with_input},
    records::column,
};

async fn report(app: &TestApp, keys: Value) -> Answer {
    app.post("/secret-scanning/revoke", None, json!({ "keys": keys })).await
}

/// Returns the recipients of the mails about leaked keys, sorted.
async fn recipients(app: &TestApp) -> Vec<String> {
    let mails = app.mails().await.into_iter().filter(|mail| mail.subject == "A leaked API key was revoked");
    let mut recipients: Vec<_> = mails.map(|mail| mail.to).collect();
    recipients.sort();
    recipients
}

#[tokio::test]
async fn smoke_a_reported_key_is_revoked() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let admin = member(&app, org, "admin").await;
    let (leaked, other) =
        (create_key(&app, org, &admin, &SCOPES).await, create_key(&app, org, &admin, &SCOPES).await);
    let unknown = report(&app, json!([api_key::random().unwrap(), "x", "", "saas_"])).await;
    let found = report(
        &app,
        json!(["x", api_key::random().unwrap(), format!(" {}\n", leaked.secret), leaked.secret]),
    )
    .await;
    for answer in [&unknown, &found] {
        assert_eq!((answer.status.as_u16(), &*answer.text), (204, ""));
    }
    assert_eq!(read(&app, &leaked).await, is(401, "invalid_token"));
    assert_eq!(read(&app, &other).await, is(200, ""));
    let mut expected = vec![owner.email.clone(), admin.email.clone()];
    expected.sort();
    assert_eq!(recipients(&app).await, expected);
    let entry = format!(
        "SELECT after ->> 'reason' FROM audit_log WHERE action = 'api_key.revoked' AND target_id = '{}'",
        leaked.id
    );
    assert_eq!(column(&app.database, &entry).await, ["leaked"]);

    // A report of a revoked or expired key has no effect.
    assert_eq!(report(&app, json!([leaked.secret])).await.status, 204);
    app.sql(&format!("UPDATE api_keys SET expires_at = now() WHERE id = {}", other.id)).await;
    assert_eq!(report(&app, json!([other.secret])).await.status, 204);
    assert_eq!(recipients(&app).await.len(), 2);
    assert_eq!(column(&app.database, &entry).await.len(), 1);
}

#[tokio::test]
async fn a_report_of_the_previous_secret_leaves_the_current_secret_valid() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let old = create_key(&app, org, &owner, &SCOPES).await;
    let new = Key::of(org, &rotate(&app, &old, &owner, json!({})).await);
    assert_eq!(report(&app, json!([old.secret])).await.status, 204);
    assert_eq!((read(&app, &old).await, read(&app, &new).await), (is(401, "invalid_token"), is(200, "")));
    assert_eq!(recipients(&app).await, std::slice::from_ref(&owner.email));
    // The second report has no effect, because the first one has ended the overlap.
    assert_eq!(report(&app, json!([old.secret])).await.status, 204);
    assert_eq!(recipients(&app).await.len(), 1);
    assert_eq!(report(&app, json!([old.secret, new.secret])).await.status, 204);
    assert_eq!(read(&app, &new).await, is(401, "invalid_token"));
    let trail = "SELECT action FROM audit_log WHERE after ->> 'reason' = 'leaked' ORDER BY id";
    assert_eq!(column(&app.database, trail).await, ["api_key.overlap_ended", "api_key.revoked"]);
}

#[tokio::test]
async fn a_report_of_leaked_keys_is_validated_and_rate_limited() {
    let app = TestApp::start().await;
    for (keys, field) in [
        (json!([]), "body.keys"),
        (json!(vec!["x"; 101]), "body.keys"),
        (json!("saas_"), "body.keys"),
        (json!([7]), "body.keys.0"),
    ] {
        assert_eq!(report(&app, keys).await.invalid_fields()[0].0, field);
    }
    let many: Vec<_> = (0..100).map(|_| api_key::random().unwrap()).collect();
    assert_eq!(report(&app, json!(many)).await.status, 204);
    let app = TestApp::with(&["--rate-limits=true", "--rate-limit-auth-per-minute=2"]).await;
    app.app.rate_limits.clock().stop_at(std::time::Duration::from_secs(100));
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(outcome(&report(&app, json!(["x"])).await));
    }
    assert_eq!(answers, [is(204, ""), is(204, ""), is(429, "rate_limited")]);
}

#[tokio::test]
async fn the_command_revoke_key_revokes_a_key_by_its_text_or_id() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let command = async |args: &[&str]| {
        let args = [&["revoke-key"][..], args].concat();
        production_command(&args, &app.database, &app.prefix).await
    };
    let (by_text, by_id) =
        (create_key(&app, org, &owner, &SCOPES).await, create_key(&app, org, &owner, &SCOPES).await);
    let ended =
        run_with_input(command(&["--key-stdin"]).await, &format!("{}\n", by_text.secret)).await.succeeded();
    assert!(ended.stdout.contains(&format!("revoked the API key {} ", by_text.id)), "{}", ended.stdout);
    assert!(!format!("{ended:?}").contains(&by_text.secret));
    let id = by_id.id.to_string();
    run(command(&["--id", &id]).await).await.succeeded();
    app.sql("").await;
    for key in [&by_text, &by_id] {
        assert_eq!(read(&app, key).await, is(401, "invalid_token"));
    }
    assert_eq!(recipients(&app).await.len(), 2);

    let not_valid = "not a valid API key";
    let unknown = api_key::random().unwrap();
    for input in [&*by_text.secret, &unknown, "x", ""] {
        let ended = run_with_input(command(&["--key-stdin"]).await, input).await.failed(1, &[not_valid]);
        assert!(input.len() < 2 || !ended.stderr.contains(input), "{}", ended.stderr);
    }
    run(command(&["--id", &id]).await).await.failed(1, &[not_valid]);
    run(command(&["--id", "999"]).await).await.failed(1, &["API key not found"]);
    run(command(&[]).await).await.failed(2, &["--id", "--key-stdin"]);
    run(command(&["--id", &id, "--key-stdin"]).await).await.failed(2, &["--key-stdin"]);
    run(command(&[&by_text.secret]).await).await.failed(2, &[]);
}
