//! Conditional requests: `ETag`, `If-None-Match` and `If-Match`.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    api_keys::{create_key, create_org},
    openapi::{fetch_document, list_operations},
    support::{TestApp, User, app::Answer},
};

/// The paths of reads without an entity tag: health checks, which report the current state, and an example operation.
const READS_WITHOUT_TAG: [&str; 6] =
    ["/health", "/health/db", "/health/live", "/health/ready", "/health/redis", "/users/admin-only"];

/// Values of `If-Match` and `If-None-Match` that are no lists of entity tags.
const BAD_TAG_LISTS: [&str; 8] = ["", "abc", "\"abc", "w/\"abc\"", "\"a\" \"b\"", "*, \"a\"", ",", "\"a b\""];

pub fn get(app: &TestApp, path: &str, user: &User) -> RequestBuilder {
    app.request(Method::GET, path).bearer_auth(&user.token)
}

pub fn patch(app: &TestApp, path: &str, user: &User, if_match: &str, body: Value) -> RequestBuilder {
    app.request(Method::PATCH, path).bearer_auth(&user.token).header("if-match", if_match).json(&body)
}

/// Returns the entity tag of a resource.
pub async fn etag(app: &TestApp, path: &str, user: &User) -> String {
    let answer = Answer::of(get(app, path, user)).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    let tag = answer.header("etag").to_owned();
    assert!(tag.len() > 20 && tag.starts_with('"') && tag.ends_with('"'), "{path}: {tag:?}");
    tag
}

/// Enqueues a job. Returns the paths of this job and of `admin`, all of which have entity tags.
pub async fn tagged_paths(app: &TestApp, admin: &User) -> Vec<String> {
    let job = app.enqueue("/jobs/example?name=x", admin).await;
    let of_job = [format!("/jobs/{job}/status"), format!("/admin/jobs/{job}")];
    let of_user = ["/users/me".to_owned(), "/users/me/two-factor".into(), format!("/users/{}", admin.id)];
    of_job.into_iter().chain(of_user).collect()
}

#[tokio::test]
async fn smoke_a_resource_that_the_client_knows_is_not_sent_again() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for path in tagged_paths(&app, &admin).await {
        let tag = etag(&app, &path, &admin).await;
        let full = Answer::of(get(&app, &path, &admin)).await;
        let bare = tag.trim_matches('"').to_owned();
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x,\", W/{tag} , \"y\""),
            format!(",{tag},"),
            "*".into(),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let request = app.request(method.clone(), &path).bearer_auth(&admin.token);
                let answer = Answer::of(request.header("if-none-match", &known)).await;
                assert_eq!(
                    (answer.status.as_u16(), answer.text.as_str()),
                    (304, ""),
                    "{method} {path} {known}"
                );
                for name in ["etag", "cache-control", "content-security-policy", "x-content-type-options"] {
                    assert_eq!(answer.header(name), full.header(name), "{path} {name}");
                }
                let vary = |answer: &Answer| {
                    let lines =
                        answer.headers.get_all("vary").iter().map(|line| line.to_str().unwrap().to_owned());
                    lines.collect::<BTreeSet<_>>()
                };
                assert_eq!(vary(&answer), vary(&full), "{path}");
                assert!(answer.headers.get("content-type").is_none(), "{path}");
            }
        }
        let two_lines =
            get(&app, &path, &admin).header("if-none-match", "\"x\"").header("if-none-match", &tag);
        assert_eq!(Answer::of(two_lines).await.status, 304, "{path}");
        for other in ["\"x\"".to_owned(), format!("\"{bare}x\""), format!("\"W/{bare}\""), "\"*\"".into()] {
            let answer = Answer::of(get(&app, &path, &admin).header("if-none-match", &other)).await;
            assert_eq!((answer.status.as_u16(), &answer.body), (200, &full.body), "{path} {other}");
        }
        for malformed in BAD_TAG_LISTS {
            let answer = Answer::of(get(&app, &path, &admin).header("if-none-match", malformed)).await;
            answer.is_some_problem(400, "invalid_header");
            assert!(answer.body["detail"].as_str().unwrap().contains("If-None-Match"), "{}", answer.text);
        }
        let anonymous = app.request(Method::GET, &path).header("if-none-match", "*");
        Answer::of(anonymous).await.is_some_problem(401, "not_authenticated");
    }
    let missing = get(&app, "/users/999999", &admin).header("if-none-match", "*");
    Answer::of(missing).await.is_some_problem(404, "not_found");
}

#[tokio::test]
async fn the_tag_of_a_user_changes_with_every_field_that_is_shown() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let path = format!("/users/{}", user.id);
    let mut tags = BTreeSet::from([etag(&app, &path, &admin).await]);
    for change in [
        "full_name = 'Ada'",
        "full_name = NULL",
        "email = 'x' || email",
        "role = 'admin'",
        "is_active = false",
        "email_verified_at = NULL",
        "deletion_due_at = now()",
        "updated_at = updated_at",
    ] {
        app.sql(&format!("UPDATE users SET {change} WHERE id = {}", user.id)).await;
        let tag = etag(&app, &path, &admin).await;
        let is_shown = change != "updated_at = updated_at";
        assert_eq!(tags.insert(tag), is_shown, "{change}");
    }
    let own = etag(&app, "/users/me", &admin).await;
    assert_eq!(
        own,
        etag(&app, &format!("/users/{}", admin.id), &admin).await,
        "one representation has one tag"
    );
}

/// A function that returns the request body of the n-th change.
type MakeChange = fn(usize) -> Value;

#[tokio::test]
async fn smoke_a_change_is_made_only_to_the_state_that_the_client_has_seen() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let other = app.user().await;
    for path in ["/users/me".to_owned(), format!("/users/{}", other.id)] {
        let rename = |if_match: &str, name: &str| {
            let request = patch(&app, &path, &admin, if_match, json!({ "full_name": name }));
            async { Answer::of(request).await }
        };
        let first = etag(&app, &path, &admin).await;
        let changed = rename(&first, "One").await;
        assert_eq!((changed.status.as_u16(), &changed.body["full_name"]), (200, &json!("One")), "{path}");
        let second = changed.header("etag").to_owned();
        assert_ne!(first, second);
        assert_eq!(second, etag(&app, &path, &admin).await, "the change returns the new tag");
        for stale in [first.clone(), format!("W/{second}"), "\"x\", \"y\"".into(), "\"*\"".into()] {
            rename(&stale, "Lost").await.is_some_problem(412, "precondition_failed");
            // An empty change also gets 412, so a client can check its tag without changing anything.
            let empty = Answer::of(patch(&app, &path, &admin, &stale, json!({}))).await;
            empty.is_some_problem(412, "precondition_failed");
        }
        assert_eq!(second, etag(&app, &path, &admin).await, "nothing was changed");
        assert_eq!(Answer::of(patch(&app, &path, &admin, &second, json!({}))).await.status, 200);
        // `If-Match` also accepts the tag of the compressed response.
        let compressed = format!("{}-gzip\"", second.trim_end_matches('"'));
        for (if_match, name) in [(format!("\"x\", {compressed}"), "Two"), ("*".to_owned(), "Three")] {
            let answer = rename(&if_match, name).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.body["full_name"]),
                (200, &json!(name)),
                "{if_match}"
            );
        }
        for malformed in BAD_TAG_LISTS {
            rename(malformed, "Lost").await.is_some_problem(400, "invalid_header");
        }
        let unknown = Answer::of(patch(&app, &path, &admin, &first, json!({ "name": 1 }))).await;
        unknown.is_some_problem(422, "validation_error");
        let plain =
            app.request(Method::PATCH, &path).bearer_auth(&admin.token).json(&json!({ "full_name": null }));
        assert_eq!(Answer::of(plain).await.status, 200, "the header is optional");
    }
    let missing = patch(&app, "/users/999999", &admin, "\"x\"", json!({ "full_name": "Lost" }));
    Answer::of(missing).await.is_some_problem(404, "not_found");
}

#[tokio::test]
async fn exactly_one_of_many_concurrent_changes_with_the_same_tag_succeeds() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let user = app.user().await;
    let key = create_key(&app, create_org(&app, &admin).await, &admin, &["product:read"]).await;
    app.app.queue.pause("chores").await.unwrap();
    let rename: fn(usize) -> Value = |n| json!({ "full_name": format!("Name {n}") });
    let cases: [(String, MakeChange); 4] = [
        ("/users/me".into(), rename),
        (format!("/users/{}", user.id), rename),
        (key.path(), |n| json!({ "name": format!("Name {n}") })),
        ("/admin/queues/chores".into(), |n| json!({ "concurrency_limit": n + 1 })),
    ];
    for (path, change) in cases {
        let tag = etag(&app, &path, &admin).await;
        let changes = (0..20).map(|n| Answer::of(patch(&app, &path, &admin, &tag, change(n))));
        let mut statuses: Vec<_> =
            join_all(changes).await.iter().map(|answer| answer.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!((statuses[0], statuses[1], statuses[19]), (200, 412, 412), "{path}: {statuses:?}");
    }
}

#[tokio::test]
async fn with_require_if_match_a_change_of_a_user_needs_the_header() {
    let app = TestApp::with(&["--require-if-match=true"]).await;
    let admin = app.admin().await;
    for path in ["/users/me".to_owned(), format!("/users/{}", admin.id)] {
        let without = app.request(Method::PATCH, &path).bearer_auth(&admin.token).json(&json!({}));
        let answer = Answer::of(without).await;
        answer.is_some_problem(428, "precondition_required");
        assert!(answer.body["detail"].as_str().unwrap().contains("If-Match"), "{}", answer.text);
        let tag = etag(&app, &path, &admin).await;
        assert_eq!(Answer::of(patch(&app, &path, &admin, &tag, json!({}))).await.status, 200);
        let anonymous = app.request(Method::PATCH, &path).json(&json!({}));
        Answer::of(anonymous).await.is_some_problem(401, "not_authenticated");
    }
}

#[tokio::test]
async fn a_compressed_resource_has_a_tag_of_its_own() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql(&format!("UPDATE users SET full_name = repeat('😀', 255) WHERE id = {}", admin.id)).await;
    let send = async |method: Method, encoding: &str, known: &str| {
        let request = app.request(method, "/users/me").bearer_auth(&admin.token);
        let request = request.header("accept-encoding", encoding).header("if-none-match", known);
        let response = request.send().await.unwrap();
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let names = ["content-encoding", "etag", "content-length", "content-type", "vary"];
        (response.status().as_u16(), names.map(header))
    };
    let read = async |encoding: &str, known: &str| {
        let found = send(Method::GET, encoding, known).await;
        assert_eq!(send(Method::HEAD, encoding, known).await, found, "HEAD has the headers of GET");
        let (status, [encoding, tag, ..]) = found;
        (status, encoding, tag.unwrap())
    };
    let (status, encoding, plain) = read("identity", "\"x\"").await;
    assert_eq!((status, encoding), (200, None));
    let (status, encoding, gzip) = read("gzip", "\"x\"").await;
    assert_eq!((status, encoding.as_deref()), (200, Some("gzip")), "the resource is long enough");
    assert_eq!(gzip, format!("{}-gzip\"", plain.trim_end_matches('"')));
    assert_eq!(read("gzip", &gzip).await, (304, None, gzip.clone()));
    assert_eq!(read("identity", &plain).await, (304, None, plain));
    let change = patch(&app, "/users/me", &admin, &gzip, json!({ "full_name": "Short" }));
    assert_eq!(Answer::of(change).await.status, 200);
}

#[tokio::test]
async fn the_api_document_describes_conditional_requests() {
    let document = fetch_document().await;
    let (mut reads, mut changes) = (BTreeSet::new(), BTreeSet::new());
    for (path, method, operation) in list_operations(&document) {
        let names: BTreeSet<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "header" && parameter["description"].is_string())
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let has_tag = operation["responses"]["200"]["headers"]["ETag"].is_object();
        let is_read = method == "get" && has_tag;
        assert_eq!(names.contains("If-None-Match"), is_read, "{method} {path}");
        assert_eq!(operation["responses"]["304"]["headers"]["ETag"].is_object(), is_read, "{method} {path}");
        // A deletion may accept `If-Match` too, and its response has no tag.
        if method != "delete" {
            assert_eq!(names.contains("If-Match"), method == "patch" && has_tag, "{method} {path}");
        }
        for status in ["412", "428"] {
            assert_eq!(
                operation["responses"][status].is_object(),
                names.contains("If-Match"),
                "{method} {path}"
            );
        }
        if is_read {
            reads.insert(path);
        } else if has_tag {
            changes.insert(path);
        }
    }
    assert!(reads.len() >= 25, "{reads:?}");
    for (path, method, operation) in list_operations(&document) {
        let (path, content) =
            (path.as_str(), |operation: &Value| operation["responses"]["200"]["content"].clone());
        match method.as_str() {
            "get" => {
                let has_none = READS_WITHOUT_TAG.contains(&path.strip_prefix("/api/v1").unwrap());
                assert_eq!(reads.contains(path), !has_none, "{path}: return `Tagged`");
            }
            "patch" => {
                assert!(changes.contains(path), "{path}: take `if_match: IfMatch`, and return `Tagged`");
                let read = content(&document["paths"][path]["get"]);
                assert_eq!(read, content(operation), "{path}: the read returns what the change compares");
            }
            _ => {}
        }
    }
}
