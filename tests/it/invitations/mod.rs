//! Invitations to organizations: who may send them, who may accept them, and invariants under concurrent requests.

mod claims;
mod guests;
mod mail;
mod races;
mod send;
mod void;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    records::column,
};

const BOB: &str = "bob@example.com";
/// Turns `DEBUG` off. Then the application does not capture mails, and cannot send them without a mail server.
const WITHOUT_MAIL: &str = "--debug=false";

/// An organization and its owner.
struct Org {
    id: i64,
    owner: User,
}

impl Org {
    async fn create(app: &TestApp) -> Self {
        let owner = app.user().await;
        app.sql(&format!("UPDATE users SET full_name = 'Ada Lovelace' WHERE id = {}", owner.id)).await;
        let made = app.post("/orgs", Some(&owner), json!({ "name": "Acme" })).await;
        assert_status(&made, 201);
        Self { id: made.body["id"].as_i64().unwrap(), owner }
    }

    fn path(&self, rest: &str) -> String {
        format!("/orgs/{}{rest}", self.id)
    }

    /// Creates a user, and makes the user a member of the organization.
    async fn member(&self, app: &TestApp, role: &str) -> User {
        let user = app.user().await;
        let (org, id) = (self.id, user.id);
        let insert =
            format!("INSERT INTO memberships (org_id, user_id, role) VALUES ({org}, {id}, '{role}')");
        app.sql(&insert).await;
        user
    }

    async fn invite_as(&self, app: &TestApp, by: &User, email: &str, role: &str) -> Answer {
        let body = json!({ "email": email, "role": role });
        app.post(&self.path("/invitations"), Some(by), body).await
    }

    /// Invites an address to become a member. The inviter is the owner. Returns the id of the invitation.
    async fn invite(&self, app: &TestApp, email: &str) -> i64 {
        let made = self.invite_as(app, &self.owner, email, "member").await;
        assert_status(&made, 201);
        made.body["id"].as_i64().unwrap()
    }

    async fn resend(&self, app: &TestApp, by: &User, id: i64) -> Answer {
        app.call(Method::POST, &self.path(&format!("/invitations/{id}/resend")), by).await
    }

    async fn revoke(&self, app: &TestApp, by: &User, id: i64) -> Answer {
        app.call(Method::DELETE, &self.path(&format!("/invitations/{id}")), by).await
    }

    /// Returns the address and the state of each invitation, the newest first.
    async fn states(&self, app: &TestApp) -> Vec<String> {
        let list = app.get(&self.path("/invitations"), Some(&self.owner)).await;
        assert_status(&list, 200);
        let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
        let items = list.body["items"].as_array().unwrap().iter();
        items.map(|item| format!("{} {}", text(item, "email"), text(item, "state"))).collect()
    }

    /// Returns the members as `id role`, sorted by id. The text of a suspended member ends in `suspended`.
    async fn members(&self, app: &TestApp) -> Vec<String> {
        let sql = format!(
            "SELECT concat_ws(' ', user_id, role, CASE WHEN suspended_at IS NOT NULL THEN 'suspended' END)
             FROM memberships WHERE org_id = {} ORDER BY user_id",
            self.id
        );
        column(&app.database, &sql).await
    }

    /// Returns the actions of the audit trail about invitations, the oldest first.
    async fn trail(&self, app: &TestApp) -> Vec<String> {
        let sql = format!(
            "SELECT action FROM audit_log WHERE org_id = {} AND target_type = 'invitation' ORDER BY id",
            self.id
        );
        column(&app.database, &sql).await
    }
}

/// Creates a user with this address, which is verified.
async fn user_with(app: &TestApp, email: &str) -> User {
    let user = app.user().await;
    let set = format!("UPDATE users SET email = '{email}', email_key = '{email}' WHERE id = {}", user.id);
    app.sql(&set).await;
    User { email: email.into(), ..user }
}

/// Registers a user, whose address is not verified, and signs in.
async fn register(app: &TestApp, email: &str, password: &str) -> User {
    let body = json!({ "email": email, "password": password, "full_name": "Mallory" });
    let made = app.post("/auth/register", None, body).await;
    assert_status(&made, 201);
    User::signed_in(made.body["id"].as_i64().unwrap(), email, &app.login(email, password).await)
}

async fn accept(app: &TestApp, user: &User, token: &str) -> Answer {
    app.post("/invitations/accept", Some(user), json!({ "token": token })).await
}

async fn accept_by_id(app: &TestApp, user: &User, id: i64) -> Answer {
    app.call(Method::POST, &format!("/users/me/invitations/{id}/accept"), user).await
}

async fn preview(app: &TestApp, token: &str) -> Answer {
    app.post("/invitations/preview", None, json!({ "token": token })).await
}

async fn decline(app: &TestApp, token: &str) -> Answer {
    app.post("/invitations/decline", None, json!({ "token": token })).await
}

/// Registers with an invitation.
async fn sign_up(app: &TestApp, token: &str, password: &str) -> Answer {
    let body = json!({ "token": token, "password": password, "full_name": "Bob" });
    app.post("/invitations/register", None, body).await
}

/// Returns the ids of the organizations in a user's list of invitations.
async fn list_mine(app: &TestApp, user: &User) -> Vec<i64> {
    let list = app.get("/users/me/invitations", Some(user)).await;
    assert_status(&list, 200);
    list.body["items"].as_array().unwrap().iter().map(|item| item["org_id"].as_i64().unwrap()).collect()
}

/// Returns the token of a link that the API has shown to the inviter.
fn token_of(url: &Value) -> String {
    url.as_str().unwrap().split_once("/account/invitation#token=").unwrap().1.to_owned()
}

/// Asserts that preview, accept, decline and register refuse a token with this code, and that the members have not changed.
async fn assert_refused(app: &TestApp, org: &Org, user: &User, token: &str, code: &str) {
    let members = org.members(app).await;
    preview(app, token).await.is_some_problem(400, code);
    accept(app, user, token).await.is_some_problem(400, code);
    decline(app, token).await.is_some_problem(400, code);
    sign_up(app, token, PASSWORD).await.is_some_problem(400, code);
    assert_eq!(org.members(app).await, members);
}

#[track_caller]
fn assert_status(answer: &Answer, status: u16) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
}
