use serde_json::json;

use crate::support::{TestApp, app::Answer};

#[tokio::test]
async fn smoke_an_admin_operation_requires_the_role_admin() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    app.get("/users/admin-only", None).await.is_problem(401, "not_authenticated", "Not authenticated");
    app.get("/users/admin-only", Some(&user)).await.is_problem(403, "forbidden", "Not enough permissions");
    let answer = app.get("/users/admin-only", Some(&admin)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body,
        json!({ "message": "This is an admin-only endpoint", "admin_user": admin.email })
    );
    assert_eq!(app.get("/users/me", Some(&admin)).await.body["role"], "admin");
}

#[tokio::test]
async fn a_request_without_a_bearer_token_is_challenged() {
    let app = TestApp::start().await;
    let me = || app.request(reqwest::Method::GET, "/users/me");
    for request in [me(), me().header("authorization", "Basic YTpi"), me().header("authorization", "Bearer")]
    {
        let answer = Answer::of(request).await;
        answer.is_problem(401, "not_authenticated", "Not authenticated");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test]
async fn a_deactivated_user_is_refused() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql(&format!("UPDATE users SET is_active = false WHERE id = {}", user.id)).await;
    app.get("/users/me", Some(&user)).await.is_problem(403, "inactive_user", "Inactive user");
}

#[tokio::test]
async fn the_token_of_a_deleted_user_is_invalid() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql(&format!("DELETE FROM users WHERE id = {}", user.id)).await;
    app.get("/users/me", Some(&user)).await.is_problem(
        401,
        "invalid_token",
        "Could not validate credentials",
    );
}
