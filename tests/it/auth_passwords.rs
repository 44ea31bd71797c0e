//! A password is accepted in the Unicode normalization forms C and D.

use serde_json::json;

use crate::support::{
    TestApp, User,
    app::{Answer, fields},
    records::column,
};

/// The same text in Unicode normalization forms C and D.
const COMPOSED: &str = "Zoë's café";
const DECOMPOSED: &str = "Zoe\u{308}'s cafe\u{301}";

async fn register(app: &TestApp, email: &str, password: &str) -> Answer {
    app.post("/auth/register", None, json!({ "email": email, "password": password })).await
}

async fn assert_logs_in(app: &TestApp, email: &str, password: &str) {
    assert_eq!(app.login(email, password).await.status, 200, "{email}: {password}");
}

#[tokio::test]
async fn smoke_both_unicode_forms_of_a_password_are_accepted() {
    let app = TestApp::start().await;
    for (email, password) in [("c@example.com", COMPOSED), ("d@example.com", DECOMPOSED)] {
        assert_eq!(register(&app, email, password).await.status, 201);
        assert_logs_in(&app, email, COMPOSED).await;
        assert_logs_in(&app, email, DECOMPOSED).await;
        app.login(email, "Zoe's cafe").await.is_some_problem(401, "bad_credentials");
    }
    // A password change and a password reset accept both forms too.
    let login = app.login("c@example.com", COMPOSED).await;
    let user = User::signed_in(0, "c@example.com", &login);
    let (old, new) = (DECOMPOSED, "cre\u{300}me bru\u{302}le\u{301}e");
    let change = json!({ "current_password": old, "new_password": new });
    assert_eq!(app.post("/users/me/password", Some(&user), change).await.status, 204);
    assert_logs_in(&app, "c@example.com", "crème brûlée").await;
    let token = app.reset_token("c@example.com").await;
    assert_eq!(app.reset_password(&token, DECOMPOSED).await.status, 204);
    assert_logs_in(&app, "c@example.com", COMPOSED).await;
}

#[tokio::test]
async fn a_password_that_an_earlier_release_hashed_as_typed_stays_valid() {
    let app = TestApp::start().await;
    let hash = bcrypt::hash(DECOMPOSED, 4).unwrap();
    app.sql(&format!("INSERT INTO users (email, hashed_password) VALUES ('a@example.com', '{hash}')")).await;
    app.login("a@example.com", COMPOSED).await.is_some_problem(401, "bad_credentials");
    assert_logs_in(&app, "a@example.com", DECOMPOSED).await;
    // The login has replaced the hash with a hash of form C, so both forms are accepted.
    assert_logs_in(&app, "a@example.com", COMPOSED).await;
    assert_logs_in(&app, "a@example.com", DECOMPOSED).await;
    let hashes = column(&app.database, "SELECT hashed_password FROM users").await;
    assert_logs_in(&app, "a@example.com", DECOMPOSED).await;
    assert_eq!(column(&app.database, "SELECT hashed_password FROM users").await, hashes);
}

/// The hash must stay: a hash of form C would cover only a part of the password.
#[tokio::test]
async fn a_password_that_is_too_long_only_in_form_c_keeps_its_hash_as_typed() {
    let app = TestApp::start().await;
    let password = "\u{FB2C}".repeat(13);
    assert_eq!(password.len(), 39, "78 bytes in form C");
    let hash = bcrypt::hash(&password, 4).unwrap();
    app.sql(&format!("INSERT INTO users (email, hashed_password) VALUES ('a@example.com', '{hash}')")).await;
    for _ in 0..2 {
        assert_logs_in(&app, "a@example.com", &password).await;
    }
}

#[tokio::test]
async fn the_rules_for_a_password_apply_to_its_unicode_form_c() {
    let app = TestApp::start().await;
    let longest = "e\u{301}".repeat(36);
    assert_eq!(register(&app, "a@example.com", &longest).await.status, 201, "72 bytes in form C");
    assert_logs_in(&app, "a@example.com", &longest).await;
    for refused in ["e\u{301}".repeat(37), "e\u{301}".repeat(7), "\u{FB2C}".repeat(13)] {
        let answer = register(&app, "b@example.com", &refused).await;
        assert_eq!(answer.invalid_fields(), fields(&[("body.password", "value_error")]), "{refused}");
        app.login("a@example.com", &refused).await.is_some_problem(401, "bad_credentials");
    }
    let named = json!({ "email": "b@example.com", "password": "Zoë Müller", "full_name": "Zoe\u{308} Mu\u{308}ller" });
    let answer = app.post("/auth/register", None, named).await;
    assert_eq!(answer.invalid_fields(), fields(&[("body.password", "value_error")]));
}
