//! Signed-in users accept and decline invitations.

use serde_json::json;

use super::*;

#[tokio::test]
async fn only_an_account_with_the_verified_address_may_accept_a_mailed_invitation() {
    let app = TestApp::start().await;
    let (org, other) = (Org::create(&app).await, app.user().await);
    let id = org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    let refused = accept(&app, &other, &token).await;
    let text = "This invitation is for b***@example.com; sign in with the account of that address";
    refused.is_problem(403, "invitation_other_address", text);
    accept_by_id(&app, &other, id).await.is_problem(404, "not_found", "Invitation not found");

    let bob = register(&app, BOB, "a password of ours").await;
    accept(&app, &bob, &token).await.is_some_problem(403, "email_not_verified");
    accept_by_id(&app, &bob, id).await.is_some_problem(404, "not_found");
    assert!(list_mine(&app, &bob).await.is_empty());
    let path = format!("/users/me/invitations/{id}/decline");
    app.call(Method::POST, &path, &bob).await.is_some_problem(404, "not_found");
    assert_eq!(org.members(&app).await.len(), 1);
    assert_eq!(org.states(&app).await, ["bob@example.com pending"]);

    app.sql(&format!("UPDATE users SET email_verified_at = now() WHERE id = {}", bob.id)).await;
    assert_eq!(list_mine(&app, &bob).await, [org.id]);
    assert_status(&accept(&app, &bob, &token).await, 200);
    assert_eq!(org.members(&app).await[1], format!("{} member", bob.id));
}

#[tokio::test]
async fn an_invitation_is_for_every_spelling_of_its_address() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let user = user_with(&app, "ada@xn--bcher-kva.example").await;
    let id = org.invite(&app, "\"Ada\"@BÜCHER.example").await;
    assert_eq!(list_mine(&app, &user).await, [org.id]);
    assert_status(&accept_by_id(&app, &user, id).await, 200);
}

#[tokio::test]
async fn an_expired_invitation_is_refused() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let id = org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    let lifetime = "SELECT extract(epoch FROM expires_at - created_at) / 86400 FROM invitations";
    assert_eq!(column(&app.database, lifetime).await[0].parse::<f64>().unwrap(), 7.0);
    app.sql("UPDATE invitations SET expires_at = now() - interval '1 second'").await;
    assert_refused(&app, &org, &bob, &token, "invitation_expired").await;
    accept_by_id(&app, &bob, id).await.is_some_problem(400, "invitation_expired");
    assert!(list_mine(&app, &bob).await.is_empty());
    app.sql("UPDATE invitations SET expires_at = now() + interval '1 hour'").await;
    assert_status(&accept(&app, &bob, &token).await, 200);
}

#[tokio::test]
async fn an_invitation_is_accepted_only_once() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let id = org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    assert_status(&accept(&app, &bob, &token).await, 200);
    assert_refused(&app, &org, &bob, &token, "invitation_invalid").await;
    accept_by_id(&app, &bob, id).await.is_some_problem(400, "invitation_invalid");
    // The token stays invalid after the member has left.
    assert_status(&app.call(Method::DELETE, &org.path("/members/me"), &bob).await, 204);
    assert_refused(&app, &org, &bob, &token, "invitation_invalid").await;
}

#[tokio::test]
async fn an_unknown_token_is_refused_and_a_get_request_never_accepts_an_invitation() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    for wrong in ["", "x", &"0".repeat(64), &token.to_uppercase(), &format!("{token} "), &bob.refresh_token] {
        assert_refused(&app, &org, &bob, wrong, "invitation_invalid").await;
    }
    for path in ["accept", "decline", "preview", "register"] {
        let opened = app.get(&format!("/invitations/{path}?token={token}"), Some(&bob)).await;
        opened.is_some_problem(405, "method_not_allowed");
    }
    for path in ["/auth/accept-invite", "/auth/reset-password"] {
        let body = json!({ "token": token, "password": PASSWORD });
        app.post(path, None, body).await.is_some_problem(400, "invalid_link");
    }
    let anonymous = app.post("/invitations/accept", None, json!({ "token": token })).await;
    anonymous.is_some_problem(401, "not_authenticated");
    assert_status(&accept(&app, &bob, &token).await, 200);
}

#[tokio::test]
async fn a_declined_invitation_cannot_be_accepted() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let id = org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    let path = format!("/users/me/invitations/{id}/decline");
    let stranger = app.user().await;
    app.call(Method::POST, &path, &stranger).await.is_some_problem(404, "not_found");
    assert_status(&app.call(Method::POST, &path, &bob).await, 204);
    assert_refused(&app, &org, &bob, &token, "invitation_invalid").await;
    app.call(Method::POST, &path, &bob).await.is_some_problem(400, "invitation_invalid");
    let notice = app.mails().await.pop().unwrap();
    assert_eq!((&*notice.to, &*notice.subject), (&*org.owner.email, "Your invitation was declined"));
    assert_eq!(org.trail(&app).await, ["invitation.created", "invitation.declined"]);
    // The address can be invited again.
    org.invite(&app, BOB).await;
    assert_eq!(org.states(&app).await, ["bob@example.com pending", "bob@example.com declined"]);
}

#[tokio::test]
async fn a_member_who_accepts_an_invitation_keeps_the_role_and_the_suspension() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let made = org.invite_as(&app, &org.owner, BOB, "admin").await;
    assert_status(&made, 201);
    let token = app.mailed_token(BOB).await;
    // The member changes to the invited address after the invitation.
    let member = org.member(&app, "viewer").await;
    app.sql(&format!(
        "UPDATE users SET email = '{BOB}', email_key = '{BOB}' WHERE id = {id};
         UPDATE memberships SET suspended_at = now() WHERE user_id = {id}",
        id = member.id
    ))
    .await;
    let members = org.members(&app).await;
    assert!(members[1].ends_with("viewer suspended"), "{members:?}");
    let answer = accept(&app, &member, &token).await;
    assert_eq!((answer.status.as_u16(), &answer.body["role"]), (200, &json!("viewer")), "{}", answer.text);
    assert_eq!(answer.body["membership_suspended"], true);
    assert_eq!(org.members(&app).await, members);
    assert_refused(&app, &org, &member, &token, "invitation_invalid").await;
}

#[tokio::test]
async fn the_limits_of_seats_and_memberships_are_checked_when_an_invitation_is_accepted() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    app.sql(&format!(
        "WITH made AS (INSERT INTO organizations (name) SELECT 'n' FROM generate_series(1, 101) RETURNING id)
         INSERT INTO memberships (org_id, user_id, role) SELECT id, {}, 'viewer' FROM made",
        bob.id
    ))
    .await;
    accept(&app, &bob, &token).await.is_some_problem(409, "membership_limit_reached");
    app.sql(&format!("DELETE FROM memberships WHERE user_id = {}", bob.id)).await;

    // The number of seats is lower than before.
    let lower = TestApp::on(app.database.clone(), &["--max-organization-seats=1"]).await;
    accept(&lower, &bob, &token).await.is_some_problem(409, "seat_limit_reached");
    assert_eq!(org.states(&app).await, ["bob@example.com pending"]);
    assert_status(&accept(&app, &bob, &token).await, 200);
}

#[tokio::test]
async fn a_user_lists_their_own_pending_invitations() {
    let app = TestApp::start().await;
    let (one, two) = (Org::create(&app).await, Org::create(&app).await);
    let bob = user_with(&app, BOB).await;
    let id = one.invite(&app, BOB).await;
    two.invite(&app, BOB).await;
    two.invite(&app, "eve@example.com").await;
    let list = app.get("/users/me/invitations?limit=1", Some(&bob)).await;
    assert_eq!(list.body["items"][0]["org_id"], two.id);
    let next = list.body["next_cursor"].as_str().unwrap();
    let list = app.get(&format!("/users/me/invitations?limit=1&cursor={next}"), Some(&bob)).await;
    let item = &list.body["items"][0];
    let found = ["id", "org_id", "organization", "inviter", "role"].map(|name| &item[name]);
    assert_eq!(found, [&json!(id), &json!(one.id), &json!("Acme"), &json!("Ada Lovelace"), &json!("member")]);
    assert!(list.body["next_cursor"].is_null());
    assert_status(&accept_by_id(&app, &bob, id).await, 200);
    assert_eq!(list_mine(&app, &bob).await, [two.id]);
}
