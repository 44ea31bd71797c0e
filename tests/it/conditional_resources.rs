//! Conditional requests for members, API keys, organizations, queues and lists. A change refuses a condition that it cannot
//! check.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api_keys::{create_key, create_org},
    conditional::{etag, get, patch, tagged_paths},
    openapi::{fetch_document, list_operations},
    support::{TestApp, User, app::Answer},
};

/// Creates a member, an API key, an organization and a queue. Returns the path of each, with two bodies for PATCH. The path
/// of the organization is for admins.
async fn changeable_resources(app: &TestApp, admin: &User) -> Vec<(String, Value, Value)> {
    let (org, member) = (create_org(app, admin).await, app.user().await);
    let insert = "INSERT INTO memberships (org_id, user_id, role) VALUES";
    app.sql(&format!("{insert} ({org}, {}, 'member')", member.id)).await;
    let key = create_key(app, org, admin, &["product:read"]).await;
    app.app.queue.pause("chores").await.unwrap();
    let of_member = format!("/orgs/{org}/members/{}", member.id);
    vec![
        (of_member, json!({ "role": "viewer" }), json!({ "role": "admin", "suspended": true })),
        (key.path(), json!({ "name": "One" }), json!({ "scopes": ["product:write"] })),
        (format!("/admin/orgs/{org}"), json!({ "suspended": true }), json!({ "suspended": false })),
        ("/admin/queues/chores".into(), json!({ "paused": false }), json!({ "concurrency_limit": 3 })),
    ]
}

#[tokio::test]
async fn a_resource_is_changed_only_in_the_state_that_the_client_has_seen() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (path, one, other) in changeable_resources(&app, &admin).await {
        let change = async |if_match: &str, body: &Value| {
            Answer::of(patch(&app, &path, &admin, if_match, body.clone())).await
        };
        let first = etag(&app, &path, &admin).await;
        let changed = change(&first, &one).await;
        assert_eq!(changed.status, 200, "{path}: {}", changed.text);
        let second = changed.header("etag").to_owned();
        assert_ne!(first, second, "{path}");
        assert_eq!(second, etag(&app, &path, &admin).await, "{path}: the change returns the new tag");
        for stale in [first, format!("W/{second}"), "\"x\"".into()] {
            for body in [&one, &other, &json!({})] {
                let lacks_required_field = body == &json!({}) && path.starts_with("/admin/orgs");
                if !lacks_required_field {
                    change(&stale, body).await.is_some_problem(412, "precondition_failed");
                }
            }
        }
        change("abc", &other).await.is_some_problem(400, "invalid_header");
        assert_eq!(second, etag(&app, &path, &admin).await, "{path}: nothing was changed");
        let compressed = format!("{}-gzip\"", second.trim_end_matches('"'));
        for if_match in [compressed, "*".into()] {
            let changed = change(&if_match, &other).await;
            assert_eq!(changed.status, 200, "{path} {if_match}: {}", changed.text);
            let back = change(changed.header("etag"), &one).await;
            assert_eq!(back.status, 200, "{path}: {}", back.text);
        }
    }
    let new = patch(&app, "/admin/queues/new", &admin, "*", json!({ "paused": true }));
    Answer::of(new).await.is_some_problem(412, "precondition_failed");
    app.get("/admin/queues/new", Some(&admin)).await.is_some_problem(404, "not_found");
}

/// The number of jobs of a queue and the last use of an API key also change without a PATCH. They change the entity tag, so
/// a client reads the new values. `If-Match` does not compare them, so a client can still change the resource.
#[tokio::test]
async fn volatile_fields_change_the_tag_but_do_not_prevent_a_change() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let org = create_org(&app, &admin).await;
    let key = create_key(&app, org, &admin, &["product:read"]).await;
    app.app.queue.pause("default").await.unwrap();
    let (queue, own) = ("/admin/queues/default".to_owned(), key.path());
    let (of_queue, of_key) = (etag(&app, &queue, &admin).await, etag(&app, &own, &admin).await);
    app.enqueue("/jobs/example?name=x", &admin).await;
    let products = app.request(Method::GET, &format!("/orgs/{org}/products")).bearer_auth(&key.secret);
    assert_eq!(Answer::of(products).await.status, 200);
    let cases =
        [(queue, of_queue, json!({ "concurrency_limit": 4 })), (own, of_key, json!({ "name": "New" }))];
    for (path, seen, body) in cases {
        let now = Answer::of(get(&app, &path, &admin).header("if-none-match", &seen)).await;
        assert_eq!(now.status, 200, "{path}: {}", now.text);
        assert_ne!(now.header("etag"), seen, "{path}");
        let changed = Answer::of(patch(&app, &path, &admin, &seen, body.clone())).await;
        assert_eq!(changed.status, 200, "{path}: {}", changed.text);
        Answer::of(patch(&app, &path, &admin, &seen, body)).await.is_some_problem(412, "precondition_failed");
    }
}

/// A server that ignored a condition would make a change that the client has forbidden (RFC 9110 sections 13.1.1 and
/// 13.1.2).
#[tokio::test]
async fn no_change_ignores_a_condition() {
    let app = TestApp::start().await;
    let document = fetch_document().await;
    let mut refused = 0;
    for (path, method, operation) in list_operations(&document) {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let takes_if_match = parameters.clone().any(|parameter| parameter["name"] == "If-Match");
        let mut target = path.clone();
        for parameter in parameters.filter(|parameter| parameter["in"] == "path") {
            target = target.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), "1");
        }
        for (name, is_taken) in [("if-match", takes_if_match), ("if-none-match", false)] {
            if method == "get" || is_taken {
                continue;
            }
            let request = app.at_root(method.to_uppercase().parse().unwrap(), &target);
            let answer = Answer::of(request.header(name, "*").json(&json!({}))).await;
            answer.is_some_problem(400, "precondition_not_supported");
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
    let admin = app.admin().await;
    for path in tagged_paths(&app, &admin).await {
        let tag = etag(&app, &path, &admin).await;
        let read =
            async |if_match: &str| Answer::of(get(&app, &path, &admin).header("if-match", if_match)).await;
        assert_eq!(read(&tag).await.status, 200, "{path}");
        assert_eq!(read("*").await.status, 200, "{path}");
        read("\"x\"").await.is_some_problem(412, "precondition_failed");
        read(&format!("W/{tag}")).await.is_some_problem(412, "precondition_failed");
    }
}

#[tokio::test]
async fn a_list_that_the_client_knows_is_not_sent_again() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.app.queue.pause("chores").await.unwrap();
    let read = async |path: &str, known: &str| {
        let answer = Answer::of(get(&app, path, &admin).header("if-none-match", known)).await;
        (answer.status.as_u16(), answer.header("etag").to_owned())
    };
    let lists = ["/users?limit=1", "/admin/queues?limit=1"];
    let mut tags = Vec::new();
    for list in lists {
        let tag = etag(&app, list, &admin).await;
        assert_eq!(read(list, &tag).await, (304, tag.clone()), "{list}");
        tags.push(tag);
    }
    app.user().await;
    app.app.queue.limit_concurrency("chores", Some(1)).await.unwrap();
    for (list, tag) in lists.into_iter().zip(tags) {
        let (status, new) = read(list, &tag).await;
        assert!(status == 200 && new != tag, "{list}: {status} {new}");
    }
}

#[tokio::test]
async fn with_require_if_match_a_change_of_a_resource_needs_the_header() {
    let app = TestApp::with(&["--require-if-match=true"]).await;
    let admin = app.admin().await;
    for (path, one, _) in changeable_resources(&app, &admin).await {
        let without = app.request(Method::PATCH, &path).bearer_auth(&admin.token).json(&one);
        Answer::of(without).await.is_some_problem(428, "precondition_required");
        let tag = etag(&app, &path, &admin).await;
        assert_eq!(Answer::of(patch(&app, &path, &admin, &tag, one)).await.status, 200, "{path}");
    }
}
