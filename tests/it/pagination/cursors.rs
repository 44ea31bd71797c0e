//! The cursors that a list accepts and refuses.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use saas::security::hash_parts;
use serde_json::json;

use super::INSERT_PAGED_USERS;
use crate::support::{TestApp, app::fields};

#[tokio::test]
async fn a_cursor_is_accepted_only_by_its_own_list() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql(INSERT_PAGED_USERS).await;
    let page = app.get("/users?search=pages.example&limit=3", Some(&admin)).await;
    let cursor = page.body["next_cursor"].as_str().unwrap().to_owned();
    let list = "/users?search=pages.example";
    for path in
        [format!("{list}&cursor={cursor}"), format!("/users?cursor={cursor}&limit=200&search=pages.example")]
    {
        let answer = app.get(&path, Some(&admin)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        let fields = answer.body.as_object().unwrap();
        assert!(!fields.contains_key("total") && !fields.contains_key("offset"), "{}", answer.text);
    }
    let damaged: String = cursor.chars().rev().collect();
    for path in [
        format!("/users?cursor={cursor}"),
        format!("/users?search=pages&cursor={cursor}"),
        format!("{list}&sort=email&cursor={cursor}"),
        format!("{list}&role=user&cursor={cursor}"),
        format!("/audit?cursor={cursor}"),
        format!("/admin/jobs?cursor={cursor}"),
        format!("/admin/queues?cursor={cursor}"),
        format!("/admin/workers?cursor={cursor}"),
        format!("/users/me/sessions?cursor={cursor}"),
        format!("{list}&cursor={damaged}"),
        format!("{list}&cursor={}", &cursor[..cursor.len() - 3]),
        format!("{list}&cursor={cursor}{cursor}"),
        format!("{list}&cursor={}", "A".repeat(5_000)),
        format!("{list}&cursor="),
        format!("{list}&cursor=%00"),
        format!("{list}&cursor={cursor}&cursor={cursor}"),
    ] {
        let answer = app.get(&path, Some(&admin)).await;
        assert_eq!(answer.invalid_fields(), fields(&[("query.cursor", "value_error")]), "{path}");
    }
    for path in [format!("{list}&cursor={cursor}&offset=0"), format!("{list}&offset=3&cursor={cursor}")] {
        let answer = app.get(&path, Some(&admin)).await;
        assert_eq!(answer.invalid_fields(), fields(&[("query.offset", "value_error")]), "{path}");
    }
}

/// A cursor is not signed: a client can put any position between the digest of the list and the checksum.
#[tokio::test]
async fn a_cursor_with_a_forged_position_begins_a_page_or_is_refused() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql(INSERT_PAGED_USERS).await;
    app.post("/orgs", Some(&admin), json!({ "name": "Other" })).await;
    let org = app.post("/orgs", Some(&admin), json!({ "name": "Acme" })).await.body["id"].to_string();
    let products = format!("/orgs/{org}/products");
    for name in ["one", "two"] {
        let product = json!({ "sku": name, "name": name, "price": 1, "currency": "EUR" });
        assert_eq!(app.post(&products, Some(&admin), product).await.status, 201);
        let user = json!({ "email": format!("{name}@example.com") });
        assert_eq!(app.post("/users", Some(&admin), user).await.status, 201);
    }
    for list in [
        format!("{products}?sort=created_at&"),
        format!("{products}?"),
        format!("{products}?sort=name&"),
        format!("/orgs/{org}/audit?"),
        "/audit?".into(),
        "/admin/orgs?".into(),
        "/orgs?".into(),
        "/users?".into(),
        "/users?sort=email&".into(),
        "/users?sort=-full_name&".into(),
        "/users?sort=full_name&search=name&".into(),
    ] {
        let page = app.get(&format!("{list}limit=1"), Some(&admin)).await;
        let cursor = page.body["next_cursor"].as_str().unwrap_or_else(|| panic!("{list}: {}", page.text));
        for damaged in [&cursor[..cursor.len() - 1], &cursor[..cursor.len() - 3], &cursor[1..]] {
            let answer = app.get(&format!("{list}cursor={damaged}"), Some(&admin)).await;
            assert_eq!(
                answer.invalid_fields(),
                fields(&[("query.cursor", "value_error")]),
                "{list}{damaged}"
            );
        }
        let digest = &BASE64_URL_SAFE_NO_PAD.decode(cursor).unwrap()[..8];
        for position in [
            "0",
            "-9223372036854775808",
            "9223372036854775807",
            "[0,-9223372036854775808]",
            // Times outside of the range of PostgreSQL or of chrono.
            "[-300000000000000000,1]",
            "[-8000000000000000000,1]",
            "[8200000000000000000,1]",
            "[9223372036854775807,1]",
            "[\"\\u0000\",1]",
            "[\"\u{1f600}\",1]",
            "[null,1]",
            "[false,\"\\u0000\",1]",
        ] {
            let bytes = [digest, position.as_bytes()].concat();
            let checksum = &hash_parts(&[&bytes])[..4];
            let forged = BASE64_URL_SAFE_NO_PAD.encode([&bytes[..], checksum].concat());
            let answer = app.get(&format!("{list}cursor={forged}"), Some(&admin)).await;
            if answer.status != 200 {
                let refused = fields(&[("query.cursor", "value_error")]);
                assert_eq!(answer.invalid_fields(), refused, "{list}{position}: {}", answer.text);
            }
        }
    }
}
