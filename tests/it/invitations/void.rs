//! An invitation is void while its inviter may not invite, or while its organization is suspended or due for deletion.

use serde_json::json;

use super::*;

/// Each entry ends the right to invite: SQL with the ids of the inviter and the organization, and SQL that restores the
/// right. The second text is empty if the right cannot be restored.
const CAUSES: &[(&str, &str)] = &[
    (
        "UPDATE memberships SET role = 'member' WHERE user_id = {by}",
        "UPDATE memberships SET role = 'admin' WHERE user_id = {by}",
    ),
    (
        "UPDATE memberships SET suspended_at = now() WHERE user_id = {by}",
        "UPDATE memberships SET suspended_at = NULL WHERE user_id = {by}",
    ),
    (
        "DELETE FROM memberships WHERE user_id = {by} AND org_id = {org}",
        "INSERT INTO memberships (org_id, user_id, role) VALUES ({org}, {by}, 'admin')",
    ),
    (
        "UPDATE users SET is_active = false WHERE id = {by}",
        "UPDATE users SET is_active = true WHERE id = {by}",
    ),
    (
        "UPDATE users SET deletion_due_at = now() + interval '1 day' WHERE id = {by}",
        "UPDATE users SET deletion_due_at = NULL WHERE id = {by}",
    ),
    (
        "UPDATE organizations SET suspended_at = now() WHERE id = {org}",
        "UPDATE organizations SET suspended_at = NULL WHERE id = {org}",
    ),
    (
        "UPDATE organizations SET deletion_due_at = now() + interval '1 day' WHERE id = {org}",
        "UPDATE organizations SET deletion_due_at = NULL WHERE id = {org}",
    ),
    ("DELETE FROM users WHERE id = {by}", ""),
];

#[tokio::test]
async fn an_invitation_is_void_while_its_inviter_may_not_invite() {
    let app = TestApp::start().await;
    for (cause, cure) in CAUSES {
        let (org, guest) = (Org::create(&app).await, app.user().await);
        let admin = org.member(&app, "admin").await;
        let sql =
            |text: &str| text.replace("{by}", &admin.id.to_string()).replace("{org}", &org.id.to_string());
        let made = org.invite_as(&app, &admin, &guest.email, "member").await;
        assert_status(&made, 201);
        let (id, token) = (made.body["id"].as_i64().unwrap(), app.mailed_token(&guest.email).await);
        app.sql(&sql(cause)).await;
        assert_refused(&app, &org, &guest, &token, "invitation_invalid").await;
        accept_by_id(&app, &guest, id).await.is_some_problem(400, "invitation_invalid");
        assert!(list_mine(&app, &guest).await.is_empty(), "{cause}");
        let state =
            "SELECT accepted_at IS NULL AND declined_at IS NULL AND revoked_at IS NULL FROM invitations
             ORDER BY id DESC LIMIT 1";
        assert_eq!(column(&app.database, state).await, ["t"], "{cause}");
        if cure.is_empty() {
            assert_eq!(org.states(&app).await, [format!("{} void", guest.email)]);
            // The owner sends the invitation again, and so becomes its inviter.
            assert_status(&org.resend(&app, &org.owner, id).await, 200);
            let token = app.mailed_token(&guest.email).await;
            assert_status(&accept(&app, &guest, &token).await, 200);
        } else {
            app.sql(&sql(cure)).await;
            assert_eq!(list_mine(&app, &guest).await, [org.id], "{cause}");
            assert_status(&accept(&app, &guest, &token).await, 200);
        }
    }
}

/// Requests demote and remove the inviter, unlike in `an_invitation_is_void_while_its_inviter_may_not_invite`, which changes
/// the database with SQL.
#[tokio::test]
async fn the_invitations_of_a_removed_member_are_void_at_once() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let (admin, bob) = (org.member(&app, "admin").await, user_with(&app, BOB).await);
    assert_status(&org.invite_as(&app, &admin, BOB, "member").await, 201);
    let token = app.mailed_token(BOB).await;
    let path = org.path(&format!("/members/{}", admin.id));
    let patch = app.request(Method::PATCH, &path).bearer_auth(&org.owner.token);
    assert_status(&Answer::of(patch.json(&json!({ "role": "member" }))).await, 200);
    assert_refused(&app, &org, &bob, &token, "invitation_invalid").await;
    let patch = app.request(Method::PATCH, &path).bearer_auth(&org.owner.token);
    assert_status(&Answer::of(patch.json(&json!({ "role": "admin" }))).await, 200);
    assert_status(&preview(&app, &token).await, 200);
    assert_status(&app.call(Method::DELETE, &path, &org.owner).await, 204);
    assert_refused(&app, &org, &bob, &token, "invitation_invalid").await;
    assert_eq!(org.states(&app).await, ["bob@example.com void"]);
}

#[tokio::test]
async fn invitations_are_deleted_30_days_after_they_expire() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    for email in ["old@example.com", "new@example.com"] {
        org.invite(&app, email).await;
    }
    app.sql(
        "UPDATE invitations SET expires_at = now() - CASE WHEN email = 'old@example.com'
             THEN interval '31 days' ELSE interval '29 days' END",
    )
    .await;
    let removed = saas::services::housekeeping::run(&app.app).await.unwrap();
    assert_eq!(removed.invitations, 1);
    assert_eq!(org.states(&app).await, ["new@example.com expired"]);
}

#[tokio::test]
async fn the_invitation_list_does_not_show_an_invitation_to_an_erased_account() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let id = org.invite(&app, BOB).await;
    assert_status(&accept_by_id(&app, &bob, id).await, 200);
    app.sql(&format!("UPDATE users SET deletion_due_at = now() WHERE id = {}", bob.id)).await;
    assert_eq!(saas::services::housekeeping::run(&app.app).await.unwrap().users, 1);
    assert!(org.states(&app).await.is_empty());
}
