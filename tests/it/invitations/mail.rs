//! The mails with invitations, their links, and invitations without a mail server.

use serde_json::json;

use super::*;

#[tokio::test]
async fn smoke_the_link_of_an_invitation_leads_to_the_front_end_or_to_the_built_in_page() {
    for (flag, base) in [
        ("--frontend-url=https://app.example.com", "https://app.example.com/invitation#token="),
        ("--public-url=https://api.example.com", "https://api.example.com/account/invitation#token="),
    ] {
        let app = TestApp::with(&[flag]).await;
        let org = Org::create(&app).await;
        org.invite(&app, BOB).await;
        let token = app.mailed_token(BOB).await;
        let mail = app.mails().await.pop().unwrap();
        assert!(mail.text.contains(&format!("{base}{token}")), "{}", mail.text);
        let page = Answer::of(app.at_root(Method::GET, "/account/invitation")).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").contains("script-src 'self'"));
        // The page sends requests to these operations.
        let script = Answer::of(app.at_root(Method::GET, "/account/invitation.js")).await;
        for path in ["preview", "register", "accept", "decline"] {
            assert!(script.text.contains(&format!("\"/invitations/{path}\"")), "{path}");
        }
    }
}

/// The worker that renders the mail has another `SECRET_KEY` than the server that created the invitation.
#[tokio::test]
async fn a_mail_that_is_rendered_with_another_secret_key_has_a_valid_link() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    org.invite(&app, BOB).await;
    let first = app.mailed_token(BOB).await;
    // Renders the mail again, as a job does after the reply of the mail server was lost.
    let link = column(&app.database, "SELECT link_id FROM invitations").await[0].parse().unwrap();
    let id = column(&app.database, "SELECT id FROM invitations").await[0].parse().unwrap();
    let message = saas::services::outbox::OutboxMessage::OrgInvitation { invitation_id: id, link_id: link };
    let render = async |app: &TestApp| message.render(&app.app).await.unwrap().unwrap().1.text;
    assert!(render(&app).await.contains(&first), "both mails have the same link");

    let key = "8c1f4be2790da6534e8bf02c91d7a3560be4c82f7d19a06e";
    let other = TestApp::on(app.database.clone(), &[&format!("--secret-key={key}")]).await;
    let text = render(&other).await;
    let token: String =
        text.split_once("#token=").unwrap().1.chars().take_while(char::is_ascii_alphanumeric).collect();
    assert_ne!(token, first);
    assert_status(&accept(&app, &bob, &token).await, 200);
}

#[tokio::test]
async fn an_inviter_with_an_unverified_address_sends_no_text_to_strangers() {
    let app = TestApp::start().await;
    let mallory = register(&app, "mallory@example.com", "a password of ours").await;
    let made = app.post("/orgs", Some(&mallory), json!({ "name": "Call 0900" })).await;
    let org = Org { id: made.body["id"].as_i64().unwrap(), owner: mallory };
    org.invite(&app, BOB).await;
    app.mailed_token(BOB).await;
    let mail = app.mails().await.into_iter().rfind(|mail| mail.to == BOB).unwrap();
    assert_eq!(mail.subject, "You are invited to join an organization");
    assert!(!mail.text.contains("0900") && !mail.text.contains("Mallory"), "{}", mail.text);
}

#[tokio::test]
async fn smoke_without_a_mail_server_the_inviter_gets_the_link() {
    let app = TestApp::with(&[WITHOUT_MAIL]).await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let made = org.invite_as(&app, &org.owner, BOB, "member").await;
    assert_status(&made, 201);
    let first = token_of(&made.body["invite_url"]);
    let (id, list) =
        (made.body["id"].as_i64().unwrap(), app.get(&org.path("/invitations"), Some(&org.owner)).await);
    assert!(list.body["items"][0]["invite_url"].is_null(), "{}", list.text);
    let sent = org.resend(&app, &org.owner, id).await;
    assert_status(&sent, 200);
    let second = token_of(&sent.body["invite_url"]);
    assert_refused(&app, &org, &bob, &first, "invitation_invalid").await;

    // Without a mail server, these operations refuse an idempotency key, because the stored response would contain the link.
    for (path, body) in [
        (org.path("/invitations"), json!({ "email": BOB, "role": "member" })),
        (org.path(&format!("/invitations/{id}/resend")), json!(null)),
    ] {
        let mut request = app.request(Method::POST, &path).bearer_auth(&org.owner.token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = Answer::of(request.header("idempotency-key", "k")).await;
        answer.is_some_problem(400, "idempotency_not_supported");
    }
    assert_status(&accept(&app, &bob, &second).await, 200);
}
