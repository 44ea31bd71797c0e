//! Sending, listing, resending and revoking invitations.

use reqwest::Method;
use serde_json::json;

use super::*;
use crate::support::app::fields;

#[tokio::test]
async fn smoke_an_invited_user_becomes_a_member() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let made = org.invite_as(&app, &org.owner, " Bob@Example.COM ", "admin").await;
    assert_status(&made, 201);
    let id = made.body["id"].as_i64().unwrap();
    assert_eq!(made.header("location"), format!("/api/v1/orgs/{}/invitations/{id}", org.id));
    let found = ["email", "role", "state", "invited_by", "invite_url"].map(|name| &made.body[name]);
    let owner_id = json!(org.owner.id);
    assert_eq!(found, [&json!(BOB), &json!("admin"), &json!("pending"), &owner_id, &json!(null)]);
    let token = app.mailed_token(BOB).await;
    let mail = app.mails().await.pop().unwrap();
    assert_eq!((&*mail.to, &*mail.subject), (BOB, "You are invited to join Acme"));
    assert!(mail.text.contains("Ada Lovelace invites you to join Acme at saas."), "{}", mail.text);

    assert_eq!(app.get(&org.path(""), Some(&bob)).await.status, 404);
    let joined = accept(&app, &bob, &token).await;
    assert_status(&joined, 200);
    assert_eq!((&joined.body["id"], &joined.body["role"]), (&json!(org.id), &json!("admin")));
    assert_eq!(app.get(&org.path("/audit"), Some(&bob)).await.status, 200, "the next request knows it");
    assert_eq!(org.states(&app).await, ["bob@example.com accepted"]);
    assert_eq!(org.trail(&app).await, ["invitation.created", "invitation.accepted"]);
    let actors = "SELECT actor_id FROM audit_log WHERE target_type = 'invitation' ORDER BY id";
    assert_eq!(column(&app.database, actors).await, [org.owner.id.to_string(), bob.id.to_string()]);
    let notice = app.mails().await.pop().unwrap();
    assert_eq!((&*notice.to, &*notice.subject), (&*org.owner.email, "Your invitation was accepted"));
    assert!(notice.text.contains("bob@example.com has accepted your invitation to Acme"), "{}", notice.text);
}

#[tokio::test]
async fn admins_and_the_owner_invite_up_to_the_role_admin() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let admin = org.member(&app, "admin").await;
    for (by, name) in [(&org.owner, "owner"), (&admin, "admin")] {
        for role in ["admin", "member", "viewer"] {
            let email = format!("{role}.of.{name}@example.com");
            assert_status(&org.invite_as(&app, by, &email, role).await, 201);
        }
        org.invite_as(&app, by, BOB, "owner").await.is_some_problem(403, "role_too_high");
    }
    let id = org.invite(&app, BOB).await;
    for role in ["member", "viewer"] {
        let user = org.member(&app, role).await;
        org.invite_as(&app, &user, "eve@example.com", "viewer").await.is_some_problem(403, "forbidden");
        org.resend(&app, &user, id).await.is_some_problem(403, "forbidden");
        org.revoke(&app, &user, id).await.is_some_problem(403, "forbidden");
        for path in ["/invitations".to_owned(), format!("/invitations/{id}")] {
            app.get(&org.path(&path), Some(&user)).await.is_some_problem(403, "forbidden");
        }
    }
    let stranger = app.admin().await;
    org.invite_as(&app, &stranger, "eve@example.com", "viewer").await.is_some_problem(404, "org_not_found");
    org.revoke(&app, &stranger, id).await.is_some_problem(404, "org_not_found");
    assert_eq!(org.states(&app).await.len(), 7);
}

#[tokio::test]
async fn an_invitation_is_not_found_in_another_organization() {
    let app = TestApp::start().await;
    let (org, other) = (Org::create(&app).await, Org::create(&app).await);
    let id = org.invite(&app, BOB).await;
    let answers = [
        other.resend(&app, &other.owner, id).await,
        other.revoke(&app, &other.owner, id).await,
        app.get(&other.path(&format!("/invitations/{id}")), Some(&other.owner)).await,
    ];
    for answer in answers {
        answer.is_problem(404, "not_found", "Invitation not found");
    }
    assert!(other.states(&app).await.is_empty());
    assert_eq!(org.states(&app).await, ["bob@example.com pending"]);
}

#[tokio::test]
async fn every_invalid_field_of_an_invitation_to_an_organization_is_reported() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    for (body, wrong) in [
        (json!({}), vec![("body.email", "missing"), ("body.role", "missing")]),
        (
            json!({ "email": "x", "role": "boss", "name": 1 }),
            vec![("body.email", "value_error"), ("body.name", "extra_forbidden"), ("body.role", "enum")],
        ),
    ] {
        let answer = app.post(&org.path("/invitations"), Some(&org.owner), body).await;
        assert_eq!(answer.invalid_fields(), fields(&wrong));
    }
}

#[tokio::test]
async fn a_member_cannot_be_invited() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let member = org.member(&app, "viewer").await;
    for sql in ["SELECT 1", "UPDATE memberships SET suspended_at = now() WHERE role = 'viewer'"] {
        app.sql(sql).await;
        let answer = org.invite_as(&app, &org.owner, &member.email.to_uppercase(), "admin").await;
        answer.is_some_problem(409, "already_member");
    }
    let own = org.invite_as(&app, &org.owner, &org.owner.email, "admin").await;
    own.is_some_problem(409, "already_member");
    assert!(app.mails().await.is_empty());
}

#[tokio::test]
async fn inviting_an_address_again_revokes_the_earlier_invitation() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    org.invite(&app, BOB).await;
    let first = app.mailed_token(BOB).await;
    // The next two invitations have other spellings of the address. Both are created before the mail of either is sent.
    org.invite(&app, "Bob@example.com").await;
    let last = org.invite_as(&app, &org.owner, "\"bob\"@example.com", "viewer").await;
    assert_status(&last, 201);
    let second = app.mailed_token(BOB).await;
    assert_eq!(app.mails().await.len(), 2, "the link of the second invitation was void before it was sent");
    assert_refused(&app, &org, &bob, &first, "invitation_invalid").await;
    let states = ["bob@example.com pending", "bob@example.com revoked", "bob@example.com revoked"];
    assert_eq!(org.states(&app).await, states);
    let joined = accept(&app, &bob, &second).await;
    assert_eq!((joined.status.as_u16(), &joined.body["role"]), (200, &json!("viewer")));
}

#[tokio::test]
async fn members_and_pending_invitations_share_the_seats() {
    let app = TestApp::with(&["--max-organization-seats=3"]).await;
    let org = Org::create(&app).await;
    let admin = org.member(&app, "admin").await;
    let (one, two) = ("one@example.com", "two@example.com");
    let full = async |email: &str| {
        let answer = org.invite_as(&app, &org.owner, email, "member").await;
        let text = "All 3 seats of the organization are taken by members and pending invitations";
        answer.is_problem(409, "seat_limit_reached", text);
    };
    let id = org.invite(&app, one).await;
    full(two).await;
    org.invite(&app, one).await;
    assert_status(&org.resend(&app, &org.owner, id + 1).await, 200);
    // An invitation that is revoked, declined, expired or void takes no seat.
    assert_status(&org.revoke(&app, &org.owner, id + 1).await, 204);
    org.invite(&app, two).await;
    full(one).await;
    assert_status(&decline(&app, &app.mailed_token(two).await).await, 204);
    org.invite(&app, one).await;
    app.sql("UPDATE invitations SET expires_at = now()").await;
    assert_status(&org.invite_as(&app, &admin, two, "member").await, 201);
    full(one).await;
    let expired =
        column(&app.database, "SELECT max(id) FROM invitations WHERE email = 'one@example.com'").await;
    let expired = expired[0].parse().unwrap();
    org.resend(&app, &org.owner, expired).await.is_some_problem(409, "seat_limit_reached");
    app.sql(&format!("UPDATE memberships SET role = 'viewer' WHERE user_id = {}", admin.id)).await;
    org.invite(&app, one).await;
    full("three@example.com").await;
}

#[tokio::test]
async fn an_invitation_is_sent_again_with_a_new_link() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let admin = org.member(&app, "admin").await;
    let id = org.invite(&app, BOB).await;
    let first = app.mailed_token(BOB).await;
    app.sql("UPDATE invitations SET expires_at = now()").await;
    assert_eq!(org.states(&app).await, ["bob@example.com expired"]);
    let sent = org.resend(&app, &admin, id).await;
    assert_status(&sent, 200);
    let found = ["id", "state", "invited_by", "invite_url"].map(|name| &sent.body[name]);
    assert_eq!(found, [&json!(id), &json!("pending"), &json!(admin.id), &json!(null)]);
    let left = "SELECT round(extract(epoch FROM expires_at - now()) / 3600) FROM invitations";
    assert_eq!(column(&app.database, left).await, ["168"]);
    let second = app.mailed_token(BOB).await;
    assert_refused(&app, &org, &bob, &first, "invitation_invalid").await;
    assert_status(&accept(&app, &bob, &second).await, 200);
    org.resend(&app, &admin, id).await.is_problem(409, "conflict", "The invitation was accepted");
    let trail = ["invitation.created", "invitation.resent", "invitation.accepted"];
    assert_eq!(org.trail(&app).await, trail);
}

#[tokio::test]
async fn a_revoked_invitation_cannot_be_accepted() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let id = org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    for _ in 0..2 {
        assert_status(&org.revoke(&app, &org.owner, id).await, 204);
    }
    assert_refused(&app, &org, &bob, &token, "invitation_invalid").await;
    accept_by_id(&app, &bob, id).await.is_some_problem(400, "invitation_invalid");
    org.resend(&app, &org.owner, id).await.is_some_problem(409, "conflict");
    assert_eq!(org.trail(&app).await, ["invitation.created", "invitation.revoked"]);

    let id = org.invite(&app, BOB).await;
    assert_status(&accept_by_id(&app, &bob, id).await, 200);
    org.revoke(&app, &org.owner, id).await.is_problem(409, "conflict", "The invitation was accepted");
    assert_eq!(org.members(&app).await.len(), 2);
}

#[tokio::test]
async fn the_invitation_list_has_pages_and_a_filter_by_state() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let admin = org.member(&app, "admin").await;
    let states = ["accepted", "declined", "revoked", "expired", "void", "pending"];
    for state in states {
        let by = if state == "void" { &admin } else { &org.owner };
        let made = org.invite_as(&app, by, &format!("{state}@example.com"), "member").await;
        assert_status(&made, 201);
    }
    app.sql(
        "UPDATE invitations SET accepted_at = now() WHERE email = 'accepted@example.com';
         UPDATE invitations SET declined_at = now() WHERE email = 'declined@example.com';
         UPDATE invitations SET revoked_at = now() WHERE email = 'revoked@example.com';
         UPDATE invitations SET expires_at = now() WHERE email = 'expired@example.com'",
    )
    .await;
    app.sql(&format!("DELETE FROM memberships WHERE user_id = {}", admin.id)).await;
    let newest_first: Vec<_> =
        states.iter().rev().map(|state| format!("{state}@example.com {state}")).collect();
    assert_eq!(org.states(&app).await, newest_first);
    for state in states {
        let path = org.path(&format!("/invitations?state={state}&limit=1"));
        let list = app.get(&path, Some(&org.owner)).await;
        let items = list.body["items"].as_array().unwrap();
        assert_eq!((items.len(), &items[0]["state"]), (1, &json!(state)));
        assert!(list.body["next_cursor"].is_null());
        let one = app.get(&org.path(&format!("/invitations/{}", items[0]["id"])), Some(&org.owner)).await;
        assert_eq!(one.body, items[0]);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let list = app.get(&org.path(&format!("/invitations?limit=4{cursor}")), Some(&org.owner)).await;
        seen.extend(list.body["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()));
        match list.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.is_sorted_by(|one, next| one > next), "{seen:?}");
}

#[tokio::test]
async fn a_request_that_is_repeated_with_its_idempotency_key_invites_once() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let invite = async || {
        let request = app.request(Method::POST, &org.path("/invitations")).bearer_auth(&org.owner.token);
        let request = request.header("idempotency-key", "\"first\"");
        Answer::of(request.json(&json!({ "email": BOB, "role": "member" }))).await
    };
    let (first, second) = (invite().await, invite().await);
    assert_status(&first, 201);
    assert_eq!((second.status, &second.body), (first.status, &first.body));
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(org.states(&app).await, ["bob@example.com pending"]);
    app.mailed_token(BOB).await;
    assert_eq!(app.mails().await.len(), 1);
}

#[tokio::test]
async fn invitations_to_one_mailbox_are_limited() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    for number in 0..20 {
        org.invite(&app, &format!("bob+{number}@example.com")).await;
    }
    assert_eq!(app.move_waits(600).await, 1, "the limit of the mailbox is reached");
    let answer = org.invite_as(&app, &org.owner, BOB, "member").await;
    answer.is_some_problem(429, "too_many_attempts");
    assert!(!answer.header("retry-after").is_empty());
    let id = column(&app.database, "SELECT max(id) FROM invitations").await[0].parse().unwrap();
    org.resend(&app, &org.owner, id).await.is_some_problem(429, "too_many_attempts");
    org.invite(&app, "eve@example.com").await;
}
