//! The permissions of an API key: its scopes, limited to the permissions that its creator has now.

use std::sync::Arc;

use reqwest::Method;
use saas::security::api_key;
use serde_json::{Value, json};

use super::{SCOPES, add_product, create_key, create_org, is, member, outcome, read, read_products, send};
use crate::support::{
    TestApp,
    app::Answer,
    proxy::{Link, Proxy},
    records::column,
    servers::TestDatabase,
};

#[tokio::test]
async fn smoke_a_key_may_do_what_its_scopes_allow() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let (reader, writer) = (
        create_key(&app, org, &owner, &["product:read"]).await,
        create_key(&app, org, &owner, &["product:read", "product:write"]).await,
    );
    let refused = add_product(&app, org, &reader.secret, "T-1").await;
    refused.is_problem(403, "scope_missing", "This API key does not have the scope product:write");
    let challenge = "Bearer error=\"insufficient_scope\", scope=\"product:write\"";
    assert_eq!(refused.header("www-authenticate"), challenge);
    assert_eq!(add_product(&app, org, &writer.secret, "T-1").await.status, 201);
    for key in [&reader, &writer] {
        let list = read_products(&app, org, &key.secret).await;
        assert_eq!((list.status.as_u16(), &list.body["items"][0]["sku"]), (200, &json!("T-1")));
        let audit = send(&app, Method::GET, &format!("/orgs/{org}/audit"), &key.secret, Value::Null).await;
        assert_eq!(outcome(&audit), is(403, "scope_missing"));
    }

    let audit = format!("/orgs/{org}/audit?api_key_id={}", writer.id);
    let trail = app.get(&audit, Some(&owner)).await;
    let entries = trail.body["items"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{}", trail.text);
    let expected = [json!("product.created"), json!(owner.id), json!(writer.id)];
    assert_eq!(["action", "actor_id", "api_key_id"].map(|field| entries[0][field].clone()), expected);
}

#[tokio::test]
async fn a_key_has_no_rights_that_its_creator_or_the_key_itself_has_lost() {
    let app = TestApp::start().await;
    // Each entry: the change, the response to a read, the response to a write.
    for (change, read_expected, write_expected) in [
        ("UPDATE memberships SET role = 'viewer' WHERE {member}", is(200, ""), is(403, "forbidden")),
        (
            "UPDATE memberships SET suspended_at = now() WHERE {member}",
            is(403, "member_suspended"),
            is(403, "member_suspended"),
        ),
        ("DELETE FROM memberships WHERE {member}", is(404, "org_not_found"), is(404, "org_not_found")),
        (
            "UPDATE users SET is_active = false WHERE id = {user}",
            is(403, "inactive_user"),
            is(403, "inactive_user"),
        ),
        (
            "UPDATE users SET deletion_due_at = now() + interval '9 days' WHERE id = {user}",
            is(403, "inactive_user"),
            is(403, "inactive_user"),
        ),
        (
            "UPDATE organizations SET suspended_at = now() WHERE id = {org}",
            is(403, "org_suspended"),
            is(403, "org_suspended"),
        ),
        (
            "UPDATE organizations SET deletion_due_at = now() + interval '9 days' WHERE id = {org}",
            is(403, "org_deleting"),
            is(403, "org_deleting"),
        ),
        ("DELETE FROM users WHERE id = {user}", is(401, "invalid_token"), is(401, "invalid_token")),
        (
            "UPDATE api_keys SET revoked_at = now() WHERE created_by = {user}",
            is(401, "invalid_token"),
            is(401, "invalid_token"),
        ),
        (
            "UPDATE api_keys SET expires_at = now() WHERE created_by = {user}",
            is(401, "invalid_token"),
            is(401, "invalid_token"),
        ),
        (
            "UPDATE api_keys SET scopes = 'product:write' WHERE created_by = {user}",
            is(403, "scope_missing"),
            is(201, ""),
        ),
        (
            "UPDATE api_keys SET scopes = 'member:write key:write org:update' WHERE created_by = {user}",
            is(403, "scope_missing"),
            is(403, "scope_missing"),
        ),
    ] {
        let org = create_org(&app, &app.user().await).await;
        let admin = member(&app, org, "admin").await;
        let key = create_key(&app, org, &admin, &SCOPES).await;
        assert_eq!(read(&app, &key).await, is(200, ""));
        let sql = change
            .replace("{member}", &format!("org_id = {org} AND user_id = {}", admin.id))
            .replace("{user}", &admin.id.to_string())
            .replace("{org}", &org.to_string());
        app.sql(&sql).await;
        assert_eq!(read(&app, &key).await, read_expected, "{sql}");
        assert_eq!(outcome(&add_product(&app, org, &key.secret, "T-1").await), write_expected, "{sql}");
    }
}

#[tokio::test]
async fn a_key_is_refused_while_its_creator_lacks_a_required_second_factor() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &SCOPES).await;
    let strict = TestApp::on(app.database.clone(), &["--require-two-factor=all"]).await;
    let for_admins = TestApp::on(app.database.clone(), &["--require-two-factor=admins"]).await;
    assert_eq!(read(&app, &key).await, is(200, ""));
    assert_eq!(read(&for_admins, &key).await, is(200, ""));
    assert_eq!(read(&strict, &key).await, is(403, "two_factor_required"));
    let begin = format!("INSERT INTO two_factor (user_id, secret) VALUES ({}, 'x')", owner.id);
    strict.sql(&begin).await;
    assert_eq!(read(&strict, &key).await, is(403, "two_factor_required"));
    strict.sql("UPDATE two_factor SET confirmed_at = now()").await;
    assert_eq!(read(&strict, &key).await, is(200, ""));
}

#[tokio::test]
async fn the_keys_of_a_former_member_stay_revoked_if_the_member_returns() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let path = |id: i64| format!("/orgs/{org}/members/{id}");
    for leaves in [false, true] {
        let admin = member(&app, org, "admin").await;
        let (key, other) =
            (create_key(&app, org, &admin, &SCOPES).await, create_key(&app, org, &owner, &SCOPES).await);
        let ended = match leaves {
            true => app.call(Method::DELETE, &format!("/orgs/{org}/members/me"), &admin).await,
            false => app.call(Method::DELETE, &path(admin.id), &owner).await,
        };
        assert_eq!(ended.status, 204, "{}", ended.text);
        let again =
            format!("INSERT INTO memberships (org_id, user_id, role) VALUES ({org}, {}, 'admin')", admin.id);
        app.sql(&again).await;
        assert_eq!(read(&app, &key).await, is(401, "invalid_token"));
        assert_eq!(read(&app, &other).await, is(200, ""));
        let entry = format!(
            "SELECT after ->> 'reason' FROM audit_log WHERE action = 'api_key.revoked' AND target_id = '{}'",
            key.id
        );
        assert_eq!(column(&app.database, &entry).await, ["membership_ended"]);
    }
}

#[tokio::test]
async fn a_malformed_key_is_refused_without_a_query() {
    let database = Arc::new(TestDatabase::migrated().await);
    let (proxy, url) = Proxy::before(&database.url).await;
    let app = TestApp::on(database, &[&format!("--database-url={url}"), "--database-timeout-ms=500"]).await;
    let key = api_key::random().unwrap();
    proxy.set(Link::Cut);
    let (last, rest) = (key.chars().last().unwrap(), &key[..key.len() - 1]);
    let other = if last == '0' { '1' } else { '0' };
    for malformed in [
        format!("{rest}{other}"),
        rest.to_owned(),
        format!("{key}0"),
        key.replace("saas_", "saas_0"),
        key.to_uppercase().replacen("SAAS_", "saas_", 1),
        "saas_".to_owned(),
        format!("saas_{}", "_".repeat(47)),
        format!("saas_{}", "é".repeat(20)),
        format!("saas_{}", "0".repeat(9_000)),
    ] {
        for path in ["/orgs/1/products", "/users/me"] {
            let request = app
                .request(Method::GET, path)
                .header("authorization", format!("Bearer {malformed}").as_bytes());
            let answer = Answer::of(request).await;
            assert_eq!(outcome(&answer), is(401, "invalid_token"), "{malformed}");
            assert!(answer.header("www-authenticate").contains("invalid_token"));
        }
    }
    // A key with a valid checksum causes a query.
    assert_eq!(outcome(&read_products(&app, 1, &key).await), is(503, "unavailable"));
    proxy.set(Link::Up);
}

#[tokio::test]
async fn a_key_is_accepted_only_in_the_authorization_header() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &SCOPES).await;
    let path = format!("/orgs/{org}/products");
    let get = |path: &str| app.request(Method::GET, path);
    for (request, status) in [
        (get(&path).header("authorization", format!("bearer  {}", key.secret)), 200),
        (get(&path).header("cookie", format!("access_token={}", key.secret)), 401),
        (get(&path).header("cookie", format!("__Host-access_token={}", key.secret)), 401),
        (get(&path).header("x-api-key", &key.secret), 401),
        (get(&path).basic_auth(&key.secret, Some("")), 401),
        (get(&path).bearer_auth(&key.secret).bearer_auth(&owner.token), 401),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    }
}

/// An import is a job, which runs in the name of the creator of the key.
#[tokio::test]
async fn the_audit_entry_of_an_import_names_the_key() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &SCOPES).await;
    let product = json!({ "sku": "one", "name": "Tea", "price": 100, "currency": "EUR" });
    let body = json!({ "products": [product] });
    let import = format!("/orgs/{org}/products/import");
    assert!(send(&app, Method::POST, &import, &key.secret, body).await.status.is_success());
    app.relay().await;
    app.run_jobs().await;
    let trail = app.get(&format!("/orgs/{org}/audit?api_key_id={}", key.id), Some(&owner)).await;
    let entries = trail.body["items"].as_array().unwrap();
    let imported = entries.iter().find(|entry| entry["action"] == "products.imported").unwrap();
    assert_eq!(imported["actor_id"], owner.id, "{}", trail.text);
}
