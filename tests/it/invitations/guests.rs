//! Holders of an invitation link who are not signed in: they register, sign in or decline.

use serde_json::json;

use super::*;
use crate::support::app::fields;

const ATTACKER_PASSWORD: &str = "a password of Mallory";

#[tokio::test]
async fn smoke_a_person_without_an_account_registers_with_an_invitation() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    org.invite(&app, "Bob@Example.com").await;
    let token = app.mailed_token(BOB).await;
    let seen = preview(&app, &token).await;
    assert_status(&seen, 200);
    let found = ["organization", "inviter", "email", "role", "account"].map(|name| &seen.body[name]);
    let wanted = ["Acme", "Ada Lovelace", "b***@example.com", "member", "new"].map(|text| json!(text));
    assert_eq!(found, wanted.each_ref());

    let joined = sign_up(&app, &token, PASSWORD).await;
    assert_status(&joined, 200);
    assert_eq!((&joined.body["id"], &joined.body["role"]), (&json!(org.id), &json!("member")));
    let bob = User::signed_in(0, BOB, &app.login(BOB, PASSWORD).await);
    let me = app.get("/users/me", Some(&bob)).await.body;
    let found = ["email", "full_name", "email_verified"].map(|name| &me[name]);
    assert_eq!(found, [&json!(BOB), &json!("Bob"), &json!(true)]);
    assert_eq!(app.get(&org.path("/members"), Some(&bob)).await.status, 200);
    let verification = app.mails().await.into_iter().filter(|mail| mail.subject.contains("Confirm")).count();
    assert_eq!(verification, 0, "the invitation has verified the address");
    let actor = "SELECT actor_id FROM audit_log WHERE action = 'invitation.accepted'";
    assert_eq!(column(&app.database, actor).await, [me["id"].to_string()]);
    assert_refused(&app, &org, &bob, &token, "invitation_invalid").await;
}

#[tokio::test]
async fn a_refused_password_does_not_use_up_the_invitation() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    for bad in ["iloveyou", "short", BOB, &"x".repeat(73)] {
        let refused = sign_up(&app, &token, bad).await;
        assert_eq!(refused.invalid_fields(), fields(&[("body.password", "value_error")]), "{bad}");
    }
    assert_eq!(org.members(&app).await.len(), 1);
    assert_status(&sign_up(&app, &token, PASSWORD).await, 200);
}

#[tokio::test]
async fn an_invited_user_with_a_verified_account_signs_in_instead_of_registering() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    assert_eq!(preview(&app, &token).await.body["account"], "existing");
    sign_up(&app, &token, "another password").await.is_some_problem(400, "email_taken");
    assert_status(&app.login(BOB, PASSWORD).await, 200);
    app.sql("UPDATE users SET is_active = false WHERE email = 'bob@example.com'").await;
    sign_up(&app, &token, "another password").await.is_some_problem(400, "email_taken");
    app.sql("UPDATE users SET is_active = true").await;
    assert_status(&accept(&app, &bob, &token).await, 200);
}

/// The attack is known as account pre-hijacking.
#[tokio::test]
async fn an_attacker_who_registered_the_invited_address_first_gains_no_access() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let mallory = register(&app, BOB, ATTACKER_PASSWORD).await;
    let move_away = json!({ "email": "mallory@example.com", "password": ATTACKER_PASSWORD });
    assert_status(&app.post("/users/me/email", Some(&mallory), move_away).await, 202);
    let to_change = app.mailed_token("mallory@example.com").await;
    let id = org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;

    // First, the attacker has only the session of the unverified account. Then the attacker also has the token.
    assert!(list_mine(&app, &mallory).await.is_empty());
    accept_by_id(&app, &mallory, id).await.is_some_problem(404, "not_found");
    accept(&app, &mallory, &token).await.is_some_problem(403, "email_not_verified");
    assert_eq!(org.members(&app).await.len(), 1);

    assert_eq!(preview(&app, &token).await.body["account"], "new");
    assert_status(&sign_up(&app, &token, PASSWORD).await, 200);
    app.assert_signed_out(&mallory).await;
    app.login(BOB, ATTACKER_PASSWORD).await.is_some_problem(401, "bad_credentials");
    let confirm = app.post("/auth/confirm-email", None, json!({ "token": to_change })).await;
    confirm.is_some_problem(400, "invalid_link");
    let bob = User::signed_in(mallory.id, BOB, &app.login(BOB, PASSWORD).await);
    let me = app.get("/users/me", Some(&bob)).await.body;
    let found = ["email", "full_name", "email_verified"].map(|name| &me[name]);
    assert_eq!(found, [&json!(BOB), &json!("Bob"), &json!(true)]);
    assert_eq!(org.members(&app).await[1], format!("{} member", bob.id));
    let mails = app.mails().await;
    assert!(mails.iter().any(|mail| mail.to == BOB && mail.subject == "Your password was reset"));
}

/// The attacker has registered the address, and has created an API key and an invitation. The owner of the address takes the
/// account over by an invitation or by a reset of the password.
#[tokio::test]
async fn keys_and_invitations_of_an_attacker_are_revoked_when_the_owner_of_the_address_takes_over() {
    for by_invitation in [true, false] {
        let app = TestApp::start().await;
        let mallory = register(&app, BOB, ATTACKER_PASSWORD).await;
        let made = app.post("/orgs", Some(&mallory), json!({ "name": "Trap" })).await;
        assert_status(&made, 201);
        let trap = made.body["id"].as_i64().unwrap();
        let key = json!({ "name": "CI", "scopes": ["product:read"] });
        let key = app.post(&format!("/orgs/{trap}/api-keys"), Some(&mallory), key).await;
        assert_status(&key, 201);
        let secret = key.body["secret"].as_str().unwrap();
        let read = async || {
            Answer::of(app.request(Method::GET, &format!("/orgs/{trap}/products")).bearer_auth(secret)).await
        };
        assert_status(&read().await, 200);
        let eve = json!({ "email": "eve@example.com", "role": "admin" });
        assert_status(&app.post(&format!("/orgs/{trap}/invitations"), Some(&mallory), eve).await, 201);
        let to_eve = app.mailed_token("eve@example.com").await;
        assert_status(&preview(&app, &to_eve).await, 200);

        if by_invitation {
            Org::create(&app).await.invite(&app, BOB).await;
            assert_status(&sign_up(&app, &app.mailed_token(BOB).await, PASSWORD).await, 200);
        } else {
            let forgot = app.post("/auth/forgot-password", None, json!({ "email": BOB })).await;
            assert!(forgot.status.is_success(), "{}", forgot.text);
            let reset = json!({ "token": app.mailed_token(BOB).await, "password": PASSWORD });
            assert!(app.post("/auth/reset-password", None, reset).await.status.is_success());
        }
        read().await.is_some_problem(401, "invalid_token");
        preview(&app, &to_eve).await.is_some_problem(400, "invitation_invalid");
        let revoked = format!(
            "SELECT action FROM audit_log WHERE org_id = {trap} AND after ->> 'reason' = 'account_taken_over'
             ORDER BY action"
        );
        assert_eq!(column(&app.database, &revoked).await, ["api_key.revoked", "invitation.revoked"]);
    }
}

/// A statement of PostgreSQL has at most 65,535 parameters. An attacker must not prevent the take-over with more keys or
/// invitations than one statement can record.
#[tokio::test]
async fn any_number_of_keys_and_invitations_of_an_attacker_are_revoked_except_expired_ones() {
    let app = TestApp::start().await;
    let mallory = register(&app, BOB, ATTACKER_PASSWORD).await;
    let made = app.post("/orgs", Some(&mallory), json!({ "name": "Trap" })).await;
    let (trap, id) = (made.body["id"].as_i64().unwrap(), mallory.id);
    app.sql(&format!(
        "INSERT INTO api_keys (org_id, created_by, name, scopes, hash, hint, lifetime_days, expires_at)
         SELECT {trap}, {id}, 'x', 'job:read', sha256(n::text::bytea), 'x', 90,
             now() + sign(n) * interval '1 day'
         FROM generate_series(-5, 10000) n"
    ))
    .await;
    app.sql(&format!(
        "INSERT INTO invitations
             (org_id, email, email_key, role, invited_by, link_id, token_hash, link_shown, expires_at)
         SELECT {trap}, n || '@example.com', n || '@example.com', 'member', {id}, gen_random_uuid(),
             sha256(n::text::bytea), false, now() + sign(n) * interval '1 day'
         FROM generate_series(-5, 10000) n"
    ))
    .await;
    let forgot = app.post("/auth/forgot-password", None, json!({ "email": BOB })).await;
    assert!(forgot.status.is_success(), "{}", forgot.text);
    let reset = json!({ "token": app.mailed_token(BOB).await, "password": PASSWORD });
    let reset = app.post("/auth/reset-password", None, reset).await;
    assert!(reset.status.is_success(), "{}", reset.text);
    let revoked = format!(
        "SELECT action || ' ' || count(*) FROM audit_log
         WHERE org_id = {trap} AND after ->> 'reason' = 'account_taken_over' GROUP BY action ORDER BY action"
    );
    let expected = ["api_key.revoked 10000", "invitation.revoked 10000"];
    assert_eq!(column(&app.database, &revoked).await, expected);
}

/// The inviter has seen the link, so the link does not prove that a person who has it owns the address.
#[tokio::test]
async fn a_link_that_was_not_mailed_does_not_verify_the_address() {
    let app = TestApp::with(&[WITHOUT_MAIL]).await;
    let org = Org::create(&app).await;
    let link = async |email: &str| {
        token_of(&org.invite_as(&app, &org.owner, email, "member").await.body["invite_url"])
    };
    let token = link(BOB).await;
    assert_eq!(preview(&app, &token).await.body["account"], "new");
    assert_status(&sign_up(&app, &token, PASSWORD).await, 200);
    let bob = User::signed_in(0, BOB, &app.login(BOB, PASSWORD).await);
    let me = app.get("/users/me", Some(&bob)).await.body;
    assert_eq!((&me["email_verified"], org.members(&app).await.len()), (&json!(false), 2));

    // A link that was not mailed does not replace the password of an account. Only the invited account can accept the
    // invitation.
    let eve = register(&app, "eve@example.com", ATTACKER_PASSWORD).await;
    let token = link(&eve.email).await;
    assert_eq!(preview(&app, &token).await.body["account"], "existing");
    sign_up(&app, &token, PASSWORD).await.is_some_problem(400, "email_taken");
    accept(&app, &bob, &token).await.is_some_problem(403, "invitation_other_address");
    assert!(list_mine(&app, &eve).await.is_empty());
    assert_status(&accept(&app, &eve, &token).await, 200);
    assert_eq!(app.get("/users/me", Some(&eve)).await.body["email_verified"], false);
}

#[tokio::test]
async fn a_person_without_an_account_can_decline_an_invitation() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, app.user().await);
    org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    assert_status(&decline(&app, &token).await, 204);
    assert_refused(&app, &org, &bob, &token, "invitation_invalid").await;
    assert_eq!(org.states(&app).await, ["bob@example.com declined"]);
    let notice = app.mails().await.pop().unwrap();
    assert_eq!((&*notice.to, &*notice.subject), (&*org.owner.email, "Your invitation was declined"));
}
