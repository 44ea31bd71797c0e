//! Requests with the header `Idempotency-Key`.

mod faults;

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, RequestBuilder, header::HeaderValue};
use saas::services::housekeeping;
use serde_json::{Value, json};

use crate::{
    openapi::{fetch_document, list_operations},
    support::{
        TestApp, User,
        app::{Answer, fields},
        records::column,
    },
};

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotency-replayed";
const BOB: &str = "bob@example.com";
const JOB: &str = "/jobs/example?name=x&duration=0";

impl TestApp {
    fn with_key(&self, path: &str, user: &User, key: &str) -> RequestBuilder {
        self.request(Method::POST, path).bearer_auth(&user.token).header(KEY, key)
    }

    async fn invite_once(&self, admin: &User, key: &str, body: Value) -> Answer {
        Answer::of(self.with_key("/users", admin, key).json(&body)).await
    }

    async fn enqueue_once(&self, user: &User, key: &str) -> Answer {
        Answer::of(self.with_key(JOB, user, key)).await
    }

    async fn count_stored_answers(&self) -> String {
        column(&self.database, "SELECT count(*) FROM idempotency_keys").await.remove(0)
    }

    async fn count_bobs(&self) -> String {
        column(&self.database, &format!("SELECT count(*) FROM users WHERE email = '{BOB}'")).await.remove(0)
    }
}

fn bob() -> Value {
    json!({ "email": BOB, "full_name": "Bob" })
}

/// Asserts that a response replays an earlier one. Of the headers, only `date`, `x-request-id` and `idempotency-replayed` may
/// differ.
#[track_caller]
fn assert_replay(again: &Answer, first: &Answer) {
    assert_eq!((first.header(REPLAYED), again.header(REPLAYED)), ("", "true"), "{}", again.text);
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    let headers = |answer: &Answer| {
        let of_each_request = ["date", "x-request-id", REPLAYED];
        let all = answer.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone()));
        all.filter(|(name, _)| !of_each_request.contains(&&**name)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(headers(again), headers(first));
}

#[tokio::test]
async fn smoke_a_repeated_request_gets_the_first_response_again() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let first = app.invite_once(&admin, "\"k1\"", bob()).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert!(first.header("location").ends_with(&first.body["id"].to_string()));
    // The key without quotes is the same key. JSON with its fields in another order is the same request.
    for (key, text) in
        [("\"k1\"", bob().to_string()), ("k1", format!(r#"{{"full_name":"Bob", "email":"{BOB}"}}"#))]
    {
        let request = app.with_key("/users", &admin, key).header("content-type", "application/json");
        assert_replay(&Answer::of(request.body(text)).await, &first);
    }
    let resend = format!("/users/{}/invite", first.body["id"]);
    let sent = Answer::of(app.with_key(&resend, &admin, "k1")).await;
    assert_eq!((sent.status.as_u16(), &*sent.text), (202, ""));
    assert_replay(&Answer::of(app.with_key(&resend, &admin, "k1")).await, &sent);
    assert_eq!(app.mails().await.len(), 2, "one for each operation");
    let invited = "SELECT count(*) FROM audit_log WHERE action = 'user.invited'";
    assert_eq!(column(&app.database, invited).await, ["2"]);

    let email = json!({ "to": user.email, "subject": "Hi", "body": "Hello" });
    for (path, body) in [
        (JOB, json!(null)),
        ("/jobs/send-email", email),
        ("/jobs/process-data", json!({ "b": [1, 2.5, null], "a": "ü" })),
    ] {
        let send = || Answer::of(app.with_key(path, &user, "k1").json(&body));
        let first = send().await;
        assert_eq!(first.status, 200, "{path}: {}", first.text);
        assert_replay(&send().await, &first);
        assert_eq!(
            app.status(first.body["job_id"].as_str().unwrap(), &user).await["task"],
            first.body["task"]
        );
    }
    assert_eq!(app.count_stored_answers().await, "5");
    assert_eq!(app.call(Method::POST, JOB, &user).await.header(REPLAYED), "");
    assert_eq!(app.count_stored_answers().await, "5", "without a key nothing is stored");
}

#[tokio::test]
async fn an_idempotency_key_is_refused_for_a_different_request() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let first = app.invite_once(&admin, "k", bob()).await;
    for body in [json!({ "email": BOB }), json!({ "email": "eve@example.com", "full_name": "Bob" })] {
        app.invite_once(&admin, "k", body).await.is_some_problem(422, "idempotency_key_reused");
    }
    // A request with another path or query is a different request.
    let other = app.invite_once(&admin, "other", json!({ "email": "eve@example.com" })).await;
    let resend =
        async |id: &Value| Answer::of(app.with_key(&format!("/users/{id}/invite"), &admin, "k")).await;
    assert_eq!(resend(&first.body["id"]).await.status, 202);
    resend(&other.body["id"]).await.is_some_problem(422, "idempotency_key_reused");
    let enqueue =
        async |query: &str| Answer::of(app.with_key(&format!("/jobs/example?{query}"), &admin, "k")).await;
    let job = enqueue("name=a&duration=0").await;
    assert_replay(&enqueue("duration=0&name=%61").await, &job);
    for query in ["name=a&duration=1", "name=b&duration=0", "name=a"] {
        enqueue(query).await.is_some_problem(422, "idempotency_key_reused");
    }
    assert_replay(&app.invite_once(&admin, "k", bob()).await, &first);
}

#[tokio::test]
async fn the_same_key_of_another_caller_or_operation_is_another_key() {
    let app = TestApp::start().await;
    let (one, other) = (app.admin().await, app.admin().await);
    let mut jobs = BTreeSet::new();
    for user in [&one, &other] {
        let email = format!("guest{}@example.com", user.id);
        assert_eq!(app.invite_once(user, "k", json!({ "email": email })).await.header(REPLAYED), "");
        let job = app.enqueue_once(user, "k").await;
        assert_eq!((job.status.as_u16(), job.header(REPLAYED)), (200, ""), "{}", job.text);
        jobs.insert(job.body["job_id"].to_string());
    }
    assert_eq!((jobs.len(), &*app.count_stored_answers().await), (2, "4"));
    // The deletion of an account also deletes the stored responses to its requests.
    assert_eq!(app.call(Method::DELETE, &format!("/users/{}", one.id), &other).await.status, 204);
    assert_eq!(app.count_stored_answers().await, "2");
}

#[tokio::test]
async fn an_invalid_idempotency_key_is_refused() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let long = "k".repeat(256);
    let wrong = fields(&[("header.Idempotency-Key", "value_error")]);
    for value in [
        "",
        "\"",
        "\"\"",
        "\"a",
        "a b",
        "\"a b\"",
        "\"a\"b\"",
        "\"a\";b=1",
        &long,
        &format!("\"{long}\""),
        "k\u{e9}",
        "a\tb",
    ] {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let request = app.request(Method::POST, JOB).bearer_auth(&user.token).header(KEY, value.clone());
        assert_eq!(Answer::of(request).await.invalid_fields(), wrong, "{value:?}");
    }
    let two = app.with_key(JOB, &user, "a").header(KEY, "b");
    assert_eq!(Answer::of(two).await.invalid_fields(), wrong);
    assert_eq!(app.count_stored_answers().await, "0");
    for key in [&long[1..], "!", "a,b;c=\"d\"", "\"\\\"\\\\\""] {
        assert_eq!(app.enqueue_once(&user, key).await.status, 200, "{key}");
    }
}

/// Operations that must not take a key, because the stored response would contain a secret.
const SECRET_OPERATIONS: [&str; 8] = [
    "begin_two_factor",
    "confirm_two_factor",
    "create_api_key",
    "login",
    "login_two_factor",
    "refresh",
    "replace_recovery_codes",
    "rotate_api_key",
];

#[tokio::test]
async fn an_operation_documents_the_idempotency_key_or_refuses_it() {
    let app = TestApp::start().await;
    let (document, admin) = (fetch_document().await, app.admin().await);
    let mut taking = BTreeSet::new();
    for (path, method, operation) in list_operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        let mut parameters = operation["parameters"].as_array().into_iter().flatten();
        let takes_key = parameters.any(|parameter| parameter["name"] == "Idempotency-Key");
        let is_idempotent = !["post", "patch"].contains(&&*method);
        assert!(!(takes_key && is_idempotent), "{id} needs no key");
        if takes_key {
            taking.insert(id);
            for status in ["409", "422"] {
                assert!(operation["responses"][status].is_object(), "{id} does not document {status}");
            }
        }
        if is_idempotent {
            continue;
        }
        let path = path.replace("{id}", "1").replace("{name}", "x");
        let request = app.at_root(method.to_uppercase().parse().unwrap(), &path).header(KEY, "k");
        let answer = Answer::of(request.bearer_auth(&admin.token).json(&json!({}))).await;
        match takes_key {
            true => assert_ne!(answer.body["code"], "idempotency_not_supported", "{id}"),
            false => answer.is_some_problem(400, "idempotency_not_supported"),
        }
    }
    let wanted = [
        "create_org",
        "create_product",
        "enqueue_example",
        "enqueue_process_data",
        "enqueue_send_email",
        "import_products",
        "invite_user",
        "invite_user_again",
    ];
    assert!(wanted.iter().all(|id| taking.contains(id)), "{taking:?}");
    assert!(SECRET_OPERATIONS.iter().all(|id| !taking.contains(id)), "{taking:?}");
    // The loop has also called the logout, which refused the key before it had an effect, so the session is active. GET
    // ignores the header.
    let read = app.request(Method::GET, "/users/me").bearer_auth(&admin.token).header(KEY, "k");
    assert_eq!(Answer::of(read).await.status, 200);
}

/// The cached identity does not expire during the test, so only the transaction can refuse the request.
#[tokio::test]
async fn a_caller_without_the_permission_does_not_get_the_stored_response() {
    let app = TestApp::with(&["--identity-cache-ms=60000"]).await;
    let admin = app.admin().await;
    let (first, job) = (app.invite_once(&admin, "k", bob()).await, app.enqueue_once(&admin, "k").await);
    assert_eq!((first.status.as_u16(), job.status.as_u16()), (201, 200), "{}", first.text);
    for (lost, regained, status, code, is_for_admins) in [
        ("UPDATE users SET role = 'user'", "UPDATE users SET role = 'admin'", 403, "forbidden", true),
        (
            "UPDATE users SET is_active = false",
            "UPDATE users SET is_active = true",
            403,
            "inactive_user",
            false,
        ),
        (
            "UPDATE sessions SET revoked_at = now()",
            "UPDATE sessions SET revoked_at = NULL",
            401,
            "invalid_token",
            false,
        ),
    ] {
        app.database.sql(lost).await;
        app.invite_once(&admin, "k", bob()).await.is_some_problem(status, code);
        if !is_for_admins {
            app.enqueue_once(&admin, "k").await.is_some_problem(status, code);
        }
        app.database.sql(regained).await;
        assert_replay(&app.invite_once(&admin, "k", bob()).await, &first);
        assert_replay(&app.enqueue_once(&admin, "k").await, &job);
    }
}

#[tokio::test]
async fn a_stored_response_is_replayed_for_24_hours() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let age = async |hours: &str| {
        let age = format!("UPDATE idempotency_keys SET created_at = now() - interval '{hours} hours'");
        app.database.sql(&age).await;
    };
    let first = app.enqueue_once(&user, "k").await;
    age("23.9").await;
    assert_replay(&app.enqueue_once(&user, "k").await, &first);
    assert_eq!(housekeeping::run(&app.app).await.unwrap().answers, 0);
    age("24").await;
    // After 24 hours, a different request may use the same key.
    let second = Answer::of(app.with_key("/jobs/example?name=y&duration=0", &user, "k")).await;
    assert_eq!((second.status.as_u16(), second.header(REPLAYED)), (200, ""), "{}", second.text);
    assert_ne!(first.body["job_id"], second.body["job_id"]);
    app.enqueue_once(&user, "k").await.is_some_problem(422, "idempotency_key_reused");
    let copies =
        "INSERT INTO idempotency_keys SELECT caller, operation, n::text, fingerprint, status, headers, body
                  FROM idempotency_keys, generate_series(1, 1200) n";
    app.database.sql(copies).await;
    age("24").await;
    assert_eq!(app.enqueue_once(&user, "new").await.status, 200);
    assert_eq!(housekeeping::run(&app.app).await.unwrap().answers, 1_201);
    assert_eq!(app.count_stored_answers().await, "1");
}

#[tokio::test]
async fn the_response_of_a_failed_request_is_not_stored() {
    let app = TestApp::with(&["--user-max-queued-jobs=1"]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    app.database.sql(&format!("INSERT INTO users (email) VALUES ('{BOB}')")).await;
    app.invite_once(&admin, "k", bob()).await.is_some_problem(400, "email_taken");
    app.invite_once(&admin, "k", json!({ "email": "x" })).await.is_some_problem(422, "validation_error");
    assert_eq!(app.count_stored_answers().await, "0");
    app.sql(&format!("DELETE FROM users WHERE email = '{BOB}'")).await;
    let made = app.invite_once(&admin, "k", bob()).await;
    assert_eq!((made.status.as_u16(), made.header(REPLAYED)), (201, ""), "{}", made.text);

    let job = app.enqueue_once(&user, "k").await;
    app.enqueue_once(&user, "next").await.is_some_problem(429, "too_many_jobs");
    // A replay does not count for the limit of jobs, so it succeeds although the limit is reached.
    assert_replay(&app.enqueue_once(&user, "k").await, &job);
    assert_eq!(app.count_stored_answers().await, "2");
}
