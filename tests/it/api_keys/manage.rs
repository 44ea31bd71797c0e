//! Creating, listing, changing and revoking keys.

use reqwest::Method;
use serde_json::{Value, json};

use super::{SCOPES, create_key, create_org, is, member, outcome, post_key, read, rotate, send};
use crate::support::{
    TestApp, User,
    app::{Answer, fields},
    records::column,
};

#[tokio::test]
async fn smoke_the_secret_of_a_key_is_shown_once() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let made =
        post_key(&app, org, &owner, json!({ "name": " CI ", "scopes": ["product:write", "product:read"] }))
            .await;
    assert_eq!(made.status, 201, "{}", made.text);
    let secret = made.body["secret"].as_str().unwrap();
    let (key, id) = (&made.body["key"], &made.body["key"]["id"]);
    assert_eq!(secret.len(), 52, "{secret}");
    assert_eq!(key["hint"], format!("{}…{}", &secret[..8], &secret[48..]));
    assert_eq!(
        (&key["name"], &key["state"], &key["created_by"]),
        (&json!("CI"), &json!("active"), &json!(owner.id))
    );
    assert_eq!(key["scopes"], json!(["product:read", "product:write"]));
    assert_eq!(made.header("location"), format!("/api/v1/orgs/{org}/api-keys/{id}"));
    assert_eq!(made.header("cache-control"), "no-store");
    let days = "SELECT extract(day FROM expires_at - created_at) FROM api_keys";
    assert_eq!(column(&app.database, days).await, ["90"]);

    let path = format!("/orgs/{org}/api-keys");
    let (list, one) =
        (app.get(&path, Some(&owner)).await, app.get(&format!("{path}/{id}"), Some(&owner)).await);
    assert_eq!((&list.body["items"][0], &one.body), (key, key));
    for answer in [&list, &one] {
        assert!(!answer.text.contains(secret), "{}", answer.text);
    }
    let stored = column(&app.database, "SELECT k::text FROM api_keys k").await;
    assert!(!stored[0].contains(secret), "{stored:?}");
    let hash = format!("SELECT hash = sha256('{secret}') FROM api_keys");
    assert_eq!(column(&app.database, &hash).await, ["t"]);
}

#[tokio::test]
async fn every_invalid_field_of_a_key_is_refused() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &SCOPES).await;
    let valid = json!({ "name": "CI", "scopes": ["product:read"] });
    for (field, value, error) in [
        ("name", json!(""), "body.name"),
        ("name", json!("  "), "body.name"),
        ("name", json!("a\u{7}b"), "body.name"),
        ("name", json!("x".repeat(101)), "body.name"),
        ("scopes", json!([]), "body.scopes"),
        ("scopes", json!("product:read"), "body.scopes"),
        ("scopes", json!(["product:*"]), "body.scopes.0"),
        ("scopes", json!(["product:read", "*"]), "body.scopes.1"),
        ("scopes", json!(["member:read"]), "body.scopes.0"),
        ("scopes", json!(["key:write"]), "body.scopes.0"),
        ("scopes", json!(["org:delete"]), "body.scopes.0"),
        ("expires_in_days", json!(0), "body.expires_in_days"),
        ("expires_in_days", json!(366), "body.expires_in_days"),
        ("expires_in_days", json!(null), "body.expires_in_days"),
        ("never_expires", json!("yes"), "body.never_expires"),
    ] {
        let mut body = valid.clone();
        body[field] = value;
        let created = post_key(&app, org, &owner, body.clone()).await;
        assert_eq!(created.invalid_fields()[0].0, error, "{body}");
        let changed =
            send(&app, Method::PATCH, &key.path(), &owner.token, json!({ field: body[field] })).await;
        assert_eq!(changed.invalid_fields()[0].0, error, "{body}");
    }
    let both =
        json!({ "name": "CI", "scopes": ["product:read"], "expires_in_days": 7, "never_expires": true });
    let refused = post_key(&app, org, &owner, both).await;
    assert_eq!(refused.invalid_fields(), fields(&[("body.never_expires", "value_error")]));
    for (body, field) in [
        (json!({ "overlap_hours": 25 }), "body.overlap_hours"),
        (json!({ "overlap_hours": -1 }), "body.overlap_hours"),
    ] {
        assert_eq!(rotate(&app, &key, &owner, body).await.invalid_fields()[0].0, field);
    }

    for path in [format!("/orgs/{org}/api-keys"), format!("{}/rotate", key.path())] {
        let request =
            app.request(Method::POST, &path).bearer_auth(&owner.token).header("idempotency-key", "k");
        assert_eq!(outcome(&Answer::of(request.json(&valid)).await), is(400, "idempotency_not_supported"));
    }
    let count = column(&app.database, "SELECT count(*) FROM api_keys").await;
    assert_eq!(count, ["1"]);
}

#[tokio::test]
async fn a_key_expires_unless_its_creator_asks_for_one_that_never_expires() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    for (lifetime, days) in [
        (json!({}), json!(90)),
        (json!({ "never_expires": false }), json!(90)),
        (json!({ "expires_in_days": 365 }), json!(365)),
        (json!({ "never_expires": true }), Value::Null),
    ] {
        let mut body = json!({ "name": "CI", "scopes": ["product:read"] });
        body.as_object_mut().unwrap().extend(lifetime.as_object().unwrap().clone());
        let made = post_key(&app, org, &owner, body).await;
        assert_eq!(made.body["key"]["expires_at"].is_null(), days.is_null(), "{lifetime}");
        let stored = format!("SELECT lifetime_days FROM api_keys WHERE id = {}", made.body["key"]["id"]);
        let expected = days.as_i64().map(|days| days.to_string()).unwrap_or_default();
        assert_eq!(column(&app.database, &stored).await, [expected]);
    }
}

#[tokio::test]
async fn only_owners_and_admins_manage_keys() {
    let app = TestApp::start().await;
    let (owner, stranger) = (app.user().await, app.user().await);
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &SCOPES).await;
    let call = async |method: Method, path: &str, user: &User, body: Value| {
        outcome(&send(&app, method, path, &user.token, body).await)
    };
    let list = format!("/orgs/{org}/api-keys");
    let new = json!({ "name": "CI", "scopes": ["product:read"] });
    for (role, expected) in
        [("member", is(403, "forbidden")), ("viewer", is(403, "forbidden")), ("", is(404, "org_not_found"))]
    {
        let user = if role.is_empty() { stranger.clone() } else { member(&app, org, role).await };
        for (method, path, body) in [
            (Method::GET, list.clone(), Value::Null),
            (Method::POST, list.clone(), new.clone()),
            (Method::GET, key.path(), Value::Null),
            (Method::PATCH, key.path(), json!({ "name": "x" })),
            (Method::POST, format!("{}/rotate", key.path()), json!({})),
            (Method::DELETE, key.path(), Value::Null),
        ] {
            assert_eq!(
                call(method.clone(), &path, &user, body).await,
                expected,
                "{method} {path} by {role:?}"
            );
        }
    }

    // An admin may revoke a key of the owner, but not change or rotate it.
    let admin = member(&app, org, "admin").await;
    let too_high = is(403, "role_too_high");
    assert_eq!(call(Method::PATCH, &key.path(), &admin, json!({ "name": "x" })).await, too_high);
    assert_eq!(call(Method::POST, &format!("{}/rotate", key.path()), &admin, json!({})).await, too_high);
    let own = create_key(&app, org, &admin, &SCOPES).await;
    assert_eq!(call(Method::PATCH, &own.path(), &owner, json!({ "name": "x" })).await, is(200, ""));
    assert_eq!(call(Method::DELETE, &key.path(), &admin, Value::Null).await, is(204, ""));

    // The organization in the path is not the organization of the key.
    let other = create_org(&app, &stranger).await;
    let foreign = format!("/orgs/{other}/api-keys/{}", own.id);
    for (method, body) in
        [(Method::GET, Value::Null), (Method::PATCH, json!({ "name": "x" })), (Method::DELETE, Value::Null)]
    {
        assert_eq!(call(method, &foreign, &stranger, body).await, is(404, "not_found"));
    }
    assert_eq!(read(&app, &own).await, is(200, ""));
}

#[tokio::test]
async fn a_revoked_or_expired_key_cannot_be_changed() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    for (end, state) in [("revoked_at = now()", "revoked"), ("expires_at = now()", "expired")] {
        let key = create_key(&app, org, &owner, &SCOPES).await;
        app.sql(&format!("UPDATE api_keys SET {end} WHERE id = {}", key.id)).await;
        let changed =
            send(&app, Method::PATCH, &key.path(), &owner.token, json!({ "expires_in_days": 9 })).await;
        assert_eq!(outcome(&changed), is(409, "key_ended"));
        assert_eq!(outcome(&rotate(&app, &key, &owner, json!({})).await), is(409, "key_ended"));
        assert_eq!(app.get(&key.path(), Some(&owner)).await.body["state"], state);
        assert_eq!(app.call(Method::DELETE, &key.path(), &owner).await.status, 204);
        assert_eq!(read(&app, &key).await, is(401, "invalid_token"));
    }
}

#[tokio::test]
async fn changes_of_keys_are_audited_without_the_secrets() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &["product:read"]).await;
    let change = json!({ "name": "Nightly build", "scopes": ["job:read"], "never_expires": true });
    let changed = send(&app, Method::PATCH, &key.path(), &owner.token, change).await;
    assert_eq!((&changed.body["name"], &changed.body["expires_at"]), (&json!("Nightly build"), &Value::Null));
    let nothing = send(&app, Method::PATCH, &key.path(), &owner.token, json!({})).await;
    assert_eq!(nothing.body, changed.body);
    let rotated = rotate(&app, &key, &owner, json!({})).await;
    assert_eq!(rotated.body["key"]["expires_at"], Value::Null, "it stays without expiry");
    for _ in 0..2 {
        assert_eq!(app.call(Method::DELETE, &key.path(), &owner).await.status, 204);
    }
    let trail =
        format!("SELECT action FROM audit_log WHERE target_type = 'api_key' AND org_id = {org} ORDER BY id");
    let expected = ["api_key.created", "api_key.updated", "api_key.rotated", "api_key.revoked"];
    assert_eq!(column(&app.database, &trail).await, expected);
    let all = column(&app.database, "SELECT a::text FROM audit_log a").await.concat();
    for secret in [&key.secret, rotated.body["secret"].as_str().unwrap()] {
        assert!(!all.contains(secret));
    }
}

#[tokio::test]
async fn the_number_of_valid_keys_is_limited() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let fill = |count: i64, end: &str| {
        format!(
            "INSERT INTO api_keys (org_id, created_by, name, scopes, hash, hint, {end})
             SELECT {org}, {}, 'x', 'job:read', sha256(gen_random_uuid()::text::bytea), 'x', now()
             FROM generate_series(1, {count})",
            owner.id
        )
    };
    app.sql(&fill(99, "created_at")).await;
    app.sql(&fill(5, "revoked_at")).await;
    let new = json!({ "name": "CI", "scopes": ["product:read"] });
    let (one, other) =
        tokio::join!(post_key(&app, org, &owner, new.clone()), post_key(&app, org, &owner, new));
    let mut outcomes = [outcome(&one), outcome(&other)];
    outcomes.sort();
    assert_eq!(outcomes, [is(201, ""), is(409, "key_limit_reached")]);
}
