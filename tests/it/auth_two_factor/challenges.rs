//! Actions that revoke the sessions of a user, or change the address, the role or the second factor, also invalidate a login
//! that waits for a code.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_invalid_code, disable};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    authenticator::{Authenticator, answer, challenge, enable_two_factor},
};

/// An action that invalidates the login challenges of a user. Most of these actions also revoke the sessions.
#[derive(Clone, Copy, Debug)]
enum Revocation {
    LogoutAll,
    AdminLogout,
    PasswordChange,
    PasswordReset,
    AddressChange,
    Deactivation,
    Deletion,
    Promotion,
    Demotion,
    NewAuthenticator,
}

const REVOCATIONS: [Revocation; 10] = [
    Revocation::LogoutAll,
    Revocation::AdminLogout,
    Revocation::PasswordChange,
    Revocation::PasswordReset,
    Revocation::AddressChange,
    Revocation::Deactivation,
    Revocation::Deletion,
    Revocation::Promotion,
    Revocation::Demotion,
    Revocation::NewAuthenticator,
];

async fn send(app: &TestApp, method: Method, path: &str, user: &User, body: Value) {
    let answer = Answer::of(app.request(method, path).bearer_auth(&user.token).json(&body)).await;
    assert!(answer.status.is_success(), "{path}: {}", answer.text);
}

impl Revocation {
    /// Runs the action. Returns the authenticator that is valid afterwards.
    async fn run(
        self,
        app: &TestApp,
        admin: &User,
        user: &User,
        authenticator: Authenticator,
    ) -> Authenticator {
        let path = format!("/users/{}", user.id);
        let patch = |body: Value| send(app, Method::PATCH, &path, admin, body);
        match self {
            Self::LogoutAll => send(app, Method::POST, "/auth/logout-all", user, json!({})).await,
            Self::AdminLogout => {
                send(app, Method::DELETE, &format!("{path}/sessions"), admin, json!({})).await;
            }
            Self::PasswordChange => {
                let change = json!({ "current_password": PASSWORD, "new_password": "battery staple" });
                send(app, Method::POST, "/users/me/password", user, change).await;
            }
            Self::PasswordReset => {
                let token = app.reset_token(&user.email).await;
                assert_eq!(app.reset_password(&token, "battery staple").await.status, 204);
            }
            Self::AddressChange => {
                let email = format!("new-{}", user.email);
                let change = json!({ "email": email, "password": PASSWORD });
                send(app, Method::POST, "/users/me/email", user, change).await;
                let token = json!({ "token": app.mailed_token(&email).await });
                assert_eq!(app.post("/auth/confirm-email", None, token).await.status, 204);
            }
            Self::Deactivation => {
                patch(json!({ "is_active": false })).await;
                patch(json!({ "is_active": true })).await;
            }
            Self::Deletion => {
                send(app, Method::DELETE, "/users/me", user, json!({ "password": PASSWORD })).await;
                // Cancels the deletion, as a new login does.
                app.sql("UPDATE users SET deletion_due_at = NULL").await;
            }
            Self::Promotion => patch(json!({ "role": "admin" })).await,
            Self::Demotion => {
                app.sql(&format!("UPDATE users SET role = 'admin' WHERE id = {}", user.id)).await;
                patch(json!({ "role": "user" })).await;
            }
            Self::NewAuthenticator => {
                let code = &authenticator.recovery_codes[1];
                assert_eq!(disable(app, user, PASSWORD, code).await.status, 204);
                return enable_two_factor(app, user).await;
            }
        }
        authenticator
    }
}

#[tokio::test]
async fn each_revocation_invalidates_a_pending_challenge() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for revocation in REVOCATIONS {
        let user = app.user().await;
        let authenticator = enable_two_factor(&app, &user).await;
        let pending = challenge(&app, &user).await;
        let authenticator = revocation.run(&app, &admin, &user, authenticator).await;
        let refused = answer(&app, &pending, &authenticator.recovery_codes[0]).await;
        assert_eq!(refused.status, 400, "{revocation:?}: {}", refused.text);
        assert_invalid_code(&refused);
    }
    // Without such an action, a code is accepted.
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let pending = challenge(&app, &user).await;
    assert_eq!(answer(&app, &pending, &authenticator.recovery_codes[0]).await.status, 200);
}
