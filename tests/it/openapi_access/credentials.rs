//! Missing, expired and revoked credentials: every operation that requires authentication refuses them.

use super::*;

#[tokio::test]
async fn smoke_every_secured_operation_refuses_an_anonymous_request() {
    let app = TestApp::start().await;
    assert_all_refuse(&app, None, 401, "not_authenticated").await;
}

#[tokio::test]
async fn smoke_every_secured_operation_refuses_an_expired_token() {
    let app = TestApp::start().await;
    let user = app.admin().await;
    let session = app.get("/users/me/sessions", Some(&user)).await.body[0]["id"].clone();
    let now = get_current_timestamp();
    let token = |exp: u64| {
        let claims = json!({
            "sub": user.id.to_string(), "sid": session, "iss": "saas", "iat": now - 3_600, "exp": exp,
        });
        encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    };
    let good = User::with_token(token(now + 600));
    assert_eq!(app.get("/users/me", Some(&good)).await.status, 200, "the token is valid until it expires");
    assert_all_refuse(&app, Some(&token(now - 31)), 401, "invalid_token").await;
}

#[tokio::test]
async fn smoke_every_secured_operation_refuses_a_token_of_a_revoked_session() {
    let app = TestApp::start().await;
    let user = app.admin().await;
    assert_eq!(app.call(Method::POST, "/auth/logout", &user).await.status, 204);
    assert_all_refuse(&app, Some(&user.token), 401, "invalid_token").await;
}

#[tokio::test]
async fn every_secured_operation_refuses_a_token_of_an_expired_session() {
    let app = TestApp::start().await;
    let user = app.admin().await;
    app.sql("UPDATE sessions SET expires_at = now()").await;
    assert_all_refuse(&app, Some(&user.token), 401, "invalid_token").await;
}

#[tokio::test]
async fn smoke_every_secured_operation_refuses_an_inactive_user() {
    let app = TestApp::start().await;
    let user = app.admin().await;
    app.sql("UPDATE users SET is_active = false").await;
    assert_all_refuse(&app, Some(&user.token), 403, "inactive_user").await;
}

/// The key has all scopes, and its creator is an admin of the platform.
#[tokio::test]
async fn smoke_a_valid_key_is_refused_exactly_by_the_operations_that_require_a_session() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let org = create_org(&app, &admin).await;
    let key = create_key(&app, org, &admin, &SCOPES).await;
    let (mut others, mut accepted) = (Vec::new(), 0);
    for operation in secured_operations(&app).await {
        let answer = operation.call(&app, Some(&key.secret)).await;
        let is_refused = answer.body["code"] == "session_required";
        let accepts_keys = operation.security.iter().any(|way| way["ApiKey"].is_array());
        accepted += u32::from(accepts_keys);
        if is_refused == accepts_keys || (is_refused && answer.status != 403) || answer.status == 401 {
            others.push(format!("{}: {} {}", operation.id, answer.status, answer.text));
        }
    }
    assert!(others.is_empty() && accepted >= 6, "{others:#?}");
}

#[tokio::test]
async fn smoke_every_secured_operation_refuses_a_revoked_key() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let org = create_org(&app, &admin).await;
    let key = create_key(&app, org, &admin, &SCOPES).await;
    app.sql("UPDATE api_keys SET revoked_at = now()").await;
    assert_all_refuse(&app, Some(&key.secret), 401, "invalid_token").await;
}

#[tokio::test]
async fn every_secured_operation_refuses_the_token_of_a_deleted_user() {
    let app = TestApp::start().await;
    let user = app.admin().await;
    app.sql("DELETE FROM users").await;
    assert_all_refuse(&app, Some(&user.token), 401, "invalid_token").await;
}
