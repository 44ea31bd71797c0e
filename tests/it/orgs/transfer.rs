//! The owner of an organization changes only by a transfer.

use reqwest::Method;
use serde_json::{Value, json};

use super::{add, assert_status, create, list_members, member, owner_ids, send, transfer};
use crate::support::{
    TestApp,
    app::{PASSWORD, fields},
    authenticator::enable_two_factor,
};

#[tokio::test]
async fn smoke_a_transfer_makes_the_old_owner_an_admin_and_notifies_both() {
    let app = TestApp::start().await;
    let ada = app.user().await;
    let id = create(&app, &ada, "Acme").await;
    let bob = member(&app, id, "viewer").await;
    let done = transfer(&app, id, &ada, &bob).await;
    assert_status(&done, 200);
    assert_eq!((&done.body["id"], &done.body["role"]), (&json!(id), &json!("admin")));
    assert_eq!(list_members(&app, id).await, [format!("{} admin", ada.id), format!("{} owner", bob.id)]);
    transfer(&app, id, &ada, &bob).await.is_some_problem(403, "forbidden");

    let mails = app.mails().await;
    assert_eq!(mails.len(), 2);
    for (user, subject, words) in [
        (&ada, "An organization was transferred", ["You have transferred Acme", &*bob.email]),
        (
            &bob,
            "You are the owner of an organization now",
            ["Acme at saas was transferred to you", &*ada.email],
        ),
    ] {
        let mail = mails.iter().find(|mail| mail.to == user.email).unwrap();
        assert_eq!(mail.subject, subject);
        assert!(words.iter().all(|word| mail.text.contains(word)), "{}", mail.text);
    }
    assert_status(&transfer(&app, id, &bob, &ada).await, 200);
    assert_eq!(owner_ids(&app, id).await, [ada.id.to_string()]);
}

#[tokio::test]
async fn only_an_active_member_can_become_the_owner() {
    let app = TestApp::start().await;
    let ada = app.user().await;
    let id = create(&app, &ada, "Acme").await;
    let stranger = app.user().await;
    add(&app, create(&app, &stranger, "Beta").await, &ada, "viewer").await;
    let (suspended, inactive, leaving) =
        (member(&app, id, "admin").await, member(&app, id, "admin").await, member(&app, id, "admin").await);
    let sql = format!(
        "UPDATE memberships SET suspended_at = now() WHERE user_id = {};
         UPDATE users SET is_active = false WHERE id = {};
         UPDATE users SET deletion_due_at = now() + interval '1 day' WHERE id = {}",
        suspended.id, inactive.id, leaving.id
    );
    app.sql(&sql).await;
    let before = list_members(&app, id).await;
    for user in [&stranger, &suspended, &inactive, &leaving, &ada] {
        let refused = transfer(&app, id, &ada, user).await;
        assert_eq!(refused.invalid_fields(), fields(&[("body.user_id", "value_error")]), "{}", user.id);
    }
    let unknown = json!({ "user_id": 0, "password": PASSWORD });
    let refused = app.post(&format!("/orgs/{id}/transfer"), Some(&ada), unknown).await;
    assert_eq!(refused.invalid_fields(), fields(&[("body.user_id", "value_error")]));
    assert_eq!(list_members(&app, id).await, before);
    assert!(app.mails().await.is_empty());
}

#[tokio::test]
async fn a_transfer_and_a_deletion_need_the_password_and_the_second_factor() {
    let app = TestApp::start().await;
    let ada = app.user().await;
    let id = create(&app, &ada, "Acme").await;
    let bob = member(&app, id, "member").await;
    let paths = [
        (Method::POST, format!("/orgs/{id}/transfer"), json!({ "user_id": bob.id })),
        (Method::POST, format!("/orgs/{id}/deletion"), json!({})),
        (Method::DELETE, format!("/orgs/{id}"), json!({})),
    ];
    let with = |body: &Value, more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (method, path, body) in &paths {
        let wrong = with(body, json!({ "password": "wrong password" }));
        send(&app, method.clone(), path, &ada, wrong).await.is_some_problem(400, "wrong_password");
    }
    let authenticator = enable_two_factor(&app, &ada).await;
    for (method, path, body) in &paths {
        let no_code =
            send(&app, method.clone(), path, &ada, with(body, json!({ "password": PASSWORD }))).await;
        assert_eq!(no_code.invalid_fields(), fields(&[("body.code", "value_error")]));
        let wrong = with(body, json!({ "password": PASSWORD, "code": authenticator.wrong_code() }));
        send(&app, method.clone(), path, &ada, wrong).await.is_some_problem(400, "invalid_code");
    }
    assert_eq!(owner_ids(&app, id).await, [ada.id.to_string()]);
    let (method, path, body) = &paths[0];
    let right = with(body, json!({ "password": PASSWORD, "code": authenticator.recovery_codes[0] }));
    assert_status(&send(&app, method.clone(), path, &ada, right.clone()).await, 200);
    assert_eq!(owner_ids(&app, id).await, [bob.id.to_string()]);
}

#[tokio::test]
async fn a_personal_organization_is_not_personal_after_a_transfer() {
    let app = TestApp::start().await;
    let ada = app.user().await;
    let id = app.get("/orgs", Some(&ada)).await.body["items"][0]["id"].as_i64().unwrap();
    let bob = member(&app, id, "member").await;
    let done = transfer(&app, id, &ada, &bob).await;
    assert_status(&done, 200);
    assert_eq!(done.body["personal"], false);
    let list = app.get("/orgs", Some(&ada)).await.body["items"].clone();
    let found: Vec<_> = list.as_array().unwrap().iter().map(|org| (&org["personal"], &org["role"])).collect();
    assert_eq!(
        found,
        [(&json!(true), &json!("owner")), (&json!(false), &json!("admin"))],
        "the old owner gets another one"
    );
}
