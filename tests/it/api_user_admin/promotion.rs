//! Promotion of a user to an admin, by an admin or by a command, and the reset of an admin's password by a command.

use serde_json::{Value, json};

use super::{assert_signed_out, delete, patch};
use crate::support::{
    TestApp, User,
    app::PASSWORD,
    authenticator::{challenge, enable_two_factor},
    process::{Ended, run_with_input, saas},
    records::column,
};

const NEW_ADMIN: &str = "There is a new administrator";

/// Runs `saas create-admin` with the password `battery staple` on standard input.
async fn create_admin(app: &TestApp, args: &[&str]) -> Ended {
    let mut command = saas(&[&["create-admin", "--password-stdin"], args].concat());
    command.env("DATABASE_URL", &app.database.url).env("DEBUG", "true").env("BCRYPT_COST", "4");
    command.env("FIRST_SUPERUSER_PASSWORD", "the password of the first admin");
    run_with_input(command, "battery staple\n").await
}

/// Returns the address, the role and the password hash of each user.
async fn list_users(app: &TestApp) -> Vec<String> {
    let sql = "SELECT email || ' ' || role || ' ' || coalesce(hashed_password, '') FROM users ORDER BY id";
    column(&app.database, sql).await
}

/// Returns the recipient and the subject of each mail.
async fn list_sent(app: &TestApp) -> Vec<(String, String)> {
    app.mails().await.into_iter().map(|mail| (mail.to, mail.subject)).collect()
}

/// The credentials that a user has before an action revokes them: a session, a login challenge with a recovery code, and the
/// tokens of the links that reset the password and confirm a new address.
struct Credentials {
    user: User,
    challenge: String,
    code: String,
    reset_token: String,
    new_email_token: String,
}

impl Credentials {
    async fn of(app: &TestApp) -> Self {
        let user = app.user().await;
        let authenticator = enable_two_factor(app, &user).await;
        let email = format!("other-{}", user.email);
        let change = json!({ "email": email, "password": PASSWORD });
        assert_eq!(app.post("/users/me/email", Some(&user), change).await.status, 202);
        let new_email_token = app.mailed_token(&email).await;
        let reset_token = app.reset_token(&user.email).await;
        Self {
            challenge: challenge(app, &user).await,
            code: authenticator.recovery_codes[0].clone(),
            user,
            reset_token,
            new_email_token,
        }
    }

    /// Asserts that none of the credentials is accepted.
    async fn assert_revoked(&self, app: &TestApp) {
        assert_signed_out(app, &self.user).await;
        let code = json!({ "challenge_token": self.challenge, "code": self.code });
        app.post("/auth/login/two-factor", None, code).await.is_some_problem(400, "invalid_code");
        app.reset_password(&self.reset_token, "battery staple").await.is_some_problem(400, "invalid_link");
        let confirm = json!({ "token": self.new_email_token });
        app.post("/auth/confirm-email", None, confirm).await.is_some_problem(400, "invalid_link");
    }
}

#[tokio::test]
async fn a_promotion_revokes_sessions_and_links_and_notifies_all_admins() {
    let app = TestApp::with(&["--identity-cache-ms=0"]).await;
    let (admin, other) = (app.admin().await, app.admin().await);
    for by_command in [false, true] {
        let before = Credentials::of(&app).await;
        let (id, email) = (before.user.id, before.user.email.clone());
        let earlier = app.mails().await.len();
        if by_command {
            create_admin(&app, &["--promote", "--email", &email]).await.succeeded();
        } else {
            assert_eq!(patch(&app, &admin, id, json!({ "role": "admin" })).await.status, 200);
        }
        before.assert_revoked(&app).await;
        assert_eq!(app.login(&email, PASSWORD).await.status, 403, "the password is kept");
        let mails = &app.mails().await[earlier..];
        let notice = |to: &User| mails.iter().find(|mail| mail.to == to.email).unwrap();
        assert_eq!((mails.len(), &*notice(&before.user).subject), (3, "You are an administrator now"));
        for admin in [&admin, &other] {
            assert_eq!(notice(admin).subject, NEW_ADMIN);
        }
        let by = if by_command { "by the operator of the server" } else { admin.email.as_str() };
        let text = &notice(&other).text;
        assert!(text.contains(&email) && text.contains(by), "{text}");
        // Demotes the user, so that the next round has the same two admins.
        assert_eq!(patch(&app, &admin, id, json!({ "role": "user" })).await.status, 200);
    }
}

#[tokio::test]
async fn reactivating_an_admin_requires_a_verified_address_and_notifies_the_admins() {
    let app = TestApp::start().await;
    let (admin, other) = (app.admin().await, app.admin().await);
    patch(&app, &admin, other.id, json!({ "is_active": false })).await;
    app.sql("UPDATE users SET email_verified_at = NULL WHERE NOT is_active").await;
    let refused = patch(&app, &admin, other.id, json!({ "is_active": true })).await;
    refused.is_some_problem(409, "user_not_verified");
    app.sql("UPDATE users SET email_verified_at = now()").await;
    assert_eq!(patch(&app, &admin, other.id, json!({ "is_active": true })).await.status, 200);
    assert!(list_sent(&app).await.contains(&(admin.email.clone(), NEW_ADMIN.into())));
}

#[tokio::test]
async fn admins_are_notified_of_an_invited_and_of_a_created_admin() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let invite = async |body: Value| assert_eq!(app.post("/users", Some(&admin), body).await.status, 201);
    invite(json!({ "email": "user@example.com" })).await;
    invite(json!({ "email": "invited@example.com", "role": "admin" })).await;
    create_admin(&app, &["--email", "created@example.com"]).await.succeeded();
    let mails = app.mails().await;
    let notices: Vec<_> = mails.iter().filter(|mail| mail.subject == NEW_ADMIN).collect();
    assert_eq!(notices.len(), 2, "{mails:#?}");
    for email in ["invited@example.com", "created@example.com"] {
        assert!(
            notices.iter().any(|notice| notice.to == admin.email && notice.text.contains(email)),
            "{email}"
        );
    }
}

#[tokio::test]
async fn smoke_an_unverified_user_does_not_become_an_admin() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let register = json!({ "email": "cfo@example.com", "password": PASSWORD });
    let id = app.post("/auth/register", None, register).await.body["id"].as_i64().unwrap();
    let before = list_users(&app).await;
    for change in [
        json!({ "role": "admin" }),
        json!({ "role": "admin", "is_active": true, "full_name": "Ada" }),
        json!({ "role": "admin", "is_active": false }),
    ] {
        let refused = patch(&app, &admin, id, change).await;
        refused.is_some_problem(409, "user_not_verified");
    }
    let refused = create_admin(&app, &["--promote", "--email", "cfo@example.com"]).await;
    refused.failed(
        1,
        &["cfo@example.com", "not confirmed", "Confirm your email address", "nothing was changed"],
    );
    assert_eq!(list_users(&app).await, before);

    let token = json!({ "token": app.mailed_token("cfo@example.com").await });
    assert_eq!(app.post("/auth/verify-email", None, token).await.status, 204);
    create_admin(&app, &["--promote", "--email", "CFO@Example.com"]).await.succeeded();
    assert_eq!(delete(&app, &admin, id).await.status, 204);
}

#[tokio::test]
async fn promotion_changes_only_an_existing_active_user() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql("UPDATE users SET is_active = false").await;
    let before = list_users(&app).await;
    for (email, words) in [
        ("ghost@example.com", &["ghost@example.com", "without --promote", "nothing was changed"]),
        (&*user.email, &[&*user.email, "is deactivated", "nothing was changed"]),
    ] {
        create_admin(&app, &["--promote", "--email", email]).await.failed(1, words);
    }
    assert_eq!(list_users(&app).await, before);
}

#[tokio::test]
async fn an_account_that_is_scheduled_for_deletion_does_not_become_an_admin() {
    let app = TestApp::start().await;
    let (user, admin, other) = (app.user().await, app.admin().await, app.admin().await);
    let due = format!("deletion_due_at = now() + interval '1 day' WHERE id IN ({}, {})", user.id, other.id);
    app.sql(&format!("UPDATE users SET is_active = (role = 'user'), {due}")).await;
    let before = list_users(&app).await;
    let refused = patch(&app, &admin, user.id, json!({ "role": "admin" })).await;
    refused.is_some_problem(409, "conflict");
    let refused = create_admin(&app, &["--promote", "--email", &user.email]).await;
    refused.failed(1, &[&user.email, "nothing was changed", "scheduled for deletion"]);
    assert_eq!(list_users(&app).await, before);
    // A deactivated admin can be activated, which is necessary to cancel the deletion.
    assert_eq!(patch(&app, &admin, other.id, json!({ "is_active": true })).await.status, 200);

    // A login cancels the deletion of the user, and a new password cancels the deletion of the admin.
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    assert_eq!(patch(&app, &admin, user.id, json!({ "role": "admin" })).await.status, 200);
    let done = create_admin(&app, &["--set-password", "--email", &other.email]).await.succeeded();
    assert!(done.stdout.contains("deletion of the account was canceled"), "{}", done.stdout);
    let scheduled = "SELECT email FROM users WHERE deletion_due_at IS NOT NULL";
    assert!(column(&app.database, scheduled).await.is_empty());
    let canceled = "SELECT target_id FROM audit_log WHERE action = 'user.deletion_cancelled' ORDER BY id";
    assert_eq!(column(&app.database, canceled).await, [user.id.to_string(), other.id.to_string()]);
}

#[tokio::test]
async fn the_operator_resets_the_password_of_an_admin() {
    let app = TestApp::with(&["--identity-cache-ms=0"]).await;
    for args in [&["--set-password"][..], &["--set-password", "--disable-two-factor"]] {
        let before = Credentials::of(&app).await;
        let email = before.user.email.clone();
        app.sql(&format!("UPDATE users SET role = 'admin' WHERE id = {}", before.user.id)).await;
        let done = create_admin(&app, &[args, &["--email", &*email]].concat()).await.succeeded();
        before.assert_revoked(&app).await;
        app.login(&email, PASSWORD).await.is_some_problem(401, "bad_credentials");
        let expected = if args.len() == 1 { 403 } else { 200 };
        assert_eq!(app.login(&email, "battery staple").await.status, expected);
        assert_eq!(done.stdout.contains("two-factor authentication was turned off"), args.len() == 2);
        let last: Vec<_> = list_sent(&app).await.into_iter().filter(|(to, _)| *to == email).collect();
        assert!(last.iter().any(|(_, subject)| subject == "Your password was changed"), "{last:?}");
        let disabled = last.iter().any(|(_, subject)| subject == "Two-factor sign-in was switched off");
        assert_eq!(disabled, args.len() == 2, "{last:?}");
        let action = format!("SELECT action FROM audit_log WHERE target_id = '{}'", before.user.id);
        assert!(column(&app.database, &action).await.contains(&"password.changed".to_owned()));
    }

    // Without `--password-stdin` and without a terminal, the command fails. It does not use FIRST_SUPERUSER_PASSWORD.
    let mut command = saas(&["create-admin", "--set-password", "--email", "root@example.com"]);
    command.env("DATABASE_URL", &app.database.url).env("DEBUG", "true").env("BCRYPT_COST", "4");
    command.env("FIRST_SUPERUSER_PASSWORD", "the password of the first admin");
    create_admin(&app, &["--email", "root@example.com"]).await.succeeded();
    run_with_input(command, "").await.failed(1, &["no password", "--password-stdin"]);
    assert_eq!(app.login("root@example.com", "battery staple").await.status, 200);
}
