//! Calls every operation of organizations as callers who must not see the organization, or must not change it. The texts of
//! the organization are marked: no response to a caller who must not see it may contain the mark. No row may change.

use reqwest::{Method, RequestBuilder};

use serde_json::json;

use super::{
    Org,
    requests::{Operation, operations},
};
use crate::{
    openapi::{fetch_document, list_operations},
    support::{
        TestApp, User,
        app::{Answer, fields},
        records::column,
    },
};

/// Part of the texts of the organizations that callers must not see, and of no other text.
pub const MARK: &str = "canary";

/// Operations that viewers may call, although they change data.
const OF_EVERY_MEMBER: &[&str] = &["leave_org"];

/// A caller, and the expected response of the operations.
struct Caller {
    name: &'static str,
    /// The organization in the path.
    org: i64,
    /// Adds the credentials to a request.
    sign: Box<dyn Fn(RequestBuilder) -> RequestBuilder>,
    expected: Expected,
}

enum Expected {
    /// This status and code.
    Refused(u16, &'static str),
    /// 403 with any code.
    Forbidden,
    /// 403 for changes. Reads may succeed, and show the organization.
    ReadOnly,
}

impl Caller {
    fn new(name: &'static str, org: &Org, user: &User, expected: Expected) -> Self {
        let token = user.token.clone();
        let sign = Box::new(move |request: RequestBuilder| request.bearer_auth(&token));
        Self { name, org: org.id, sign, expected }
    }

    fn check(&self, operation: &Operation, answer: &Answer) {
        let what = format!("{} by {}: {} {}", operation.id, self.name, answer.status, answer.text);
        let (status, code) = (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default());
        match self.expected {
            Expected::Refused(expected, expected_code) => {
                assert_eq!((status, code), (expected, expected_code), "{what}");
            }
            Expected::Forbidden => assert_eq!(status, 403, "{what}"),
            Expected::ReadOnly if operation.method == Method::GET => {
                assert!(status == 403 || answer.status.is_success(), "{what}");
            }
            Expected::ReadOnly => assert_eq!(status, 403, "{what}"),
        }
        if !matches!(self.expected, Expected::ReadOnly) {
            assert_unmarked(answer, &what);
        }
    }
}

/// Asserts that a response does not contain [`MARK`].
pub fn assert_unmarked(answer: &Answer, what: &str) {
    let headers = format!("{:?}", answer.headers);
    assert!(!answer.text.contains(MARK) && !headers.contains(MARK), "{what} {headers}");
}

/// Returns the rows of these organizations, all rows that belong to them, and the accounts of their members.
pub async fn rows_of(app: &TestApp, orgs: &[i64]) -> Vec<String> {
    let list = orgs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let tables = "SELECT DISTINCT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attname = 'org_id' ORDER BY 1";
    let tables = column(&app.database, tables).await;
    let selects = tables
        .iter()
        .map(|table| format!("SELECT '{table} ' || t::text FROM {table} t WHERE org_id IN ({list})"));
    let organizations =
        format!("SELECT 'organization ' || o::text FROM organizations o WHERE id IN ({list})");
    let users = format!(
        "SELECT 'user ' || u::text FROM users u WHERE id IN (SELECT user_id FROM memberships WHERE org_id IN ({list}))"
    );
    let all: Vec<_> = selects.chain([organizations, users]).collect();
    column(&app.database, &format!("{} ORDER BY 1", all.join(" UNION ALL "))).await
}

/// Returns the callers who must not see the organizations, or must not change them. `keys.rs` has the callers with API keys. A
/// new kind of credentials adds four callers here: of another organization, revoked, of a suspended organization, and
/// read-only.
async fn callers(app: &TestApp, seen: &Org, suspended: &Org, deleted: &Org) -> Vec<Caller> {
    let stranger = Org::create(app, "plain").await;
    let (removed, member, viewer, admin) =
        (app.user().await, app.user().await, app.user().await, app.user().await);
    seen.join(app, &removed, "admin").await;
    seen.join(app, &member, "admin").await;
    seen.join(app, &viewer, "viewer").await;
    deleted.join(app, &admin, "admin").await;
    let remove = format!("/orgs/{}/members/{}", seen.id, removed.id);
    assert_eq!(app.call(Method::DELETE, &remove, &seen.owner).await.status, 204);
    app.sql(&format!(
        "UPDATE memberships SET suspended_at = now() WHERE org_id = {} AND user_id = {};
         UPDATE organizations SET suspended_at = now() WHERE id = {};
         UPDATE organizations SET deletion_due_at = now() + interval '9 days' WHERE id = {}",
        seen.id, member.id, suspended.id, deleted.id
    ))
    .await;
    let hidden = || Expected::Refused(404, "org_not_found");
    let anonymous = Caller {
        name: "an anonymous client",
        org: seen.id,
        sign: Box::new(|request| request),
        expected: Expected::Refused(401, "not_authenticated"),
    };
    vec![
        anonymous,
        Caller::new("an owner of another organization", seen, &stranger.owner, hidden()),
        Caller::new("an admin of the platform", seen, &app.admin().await, hidden()),
        Caller::new("a removed member", seen, &removed, hidden()),
        Caller::new("a suspended member", seen, &member, Expected::Refused(403, "member_suspended")),
        Caller::new(
            "the owner of a suspended organization",
            suspended,
            &suspended.owner,
            Expected::Refused(403, "org_suspended"),
        ),
        Caller::new(
            "an admin of an organization that is due for deletion",
            deleted,
            &admin,
            Expected::Forbidden,
        ),
        Caller::new("a viewer", seen, &viewer, Expected::ReadOnly),
    ]
}

#[tokio::test]
async fn smoke_no_operation_shows_or_changes_another_organization() {
    let app = TestApp::start().await;
    let operations = operations(&app).await;
    assert!(operations.len() >= 15, "{}", operations.len());
    let (seen, suspended, deleted) =
        (Org::create(&app, MARK).await, Org::create(&app, MARK).await, Org::create(&app, MARK).await);
    let callers = callers(&app, &seen, &suspended, &deleted).await;
    let orgs = [seen.id, suspended.id, deleted.id];
    let before = rows_of(&app, &orgs).await;
    assert!(before.len() > 12, "{before:#?}");
    for caller in &callers {
        for operation in &operations {
            let is_allowed =
                matches!(caller.expected, Expected::ReadOnly) && OF_EVERY_MEMBER.contains(&&*operation.id);
            if is_allowed {
                continue;
            }
            let request = operation.request(&app, caller.org, caller.org).await;
            caller.check(operation, &Answer::of((caller.sign)(request)).await);
        }
        assert_eq!(rows_of(&app, &orgs).await, before, "changed by {}", caller.name);
    }
}

/// The owner of an organization uses ids of another organization. The same requests with ids of the own organization succeed
/// or get 409, which proves that they are valid.
#[tokio::test]
async fn ids_of_another_organization_are_not_found() {
    let app = TestApp::start().await;
    let other = Org::create(&app, MARK).await;
    let before = rows_of(&app, &[other.id]).await;
    for operation in &operations(&app).await {
        // Creates an organization for each operation, because some operations delete it.
        let own = Org::create(&app, "plain").await;
        let call = async |source: i64| {
            let request = operation.request(&app, own.id, source).await;
            Answer::of(request.bearer_auth(&own.owner.token)).await
        };
        let foreign = call(other.id).await;
        let what = format!("{}: {} {}", operation.id, foreign.status, foreign.text);
        assert_unmarked(&foreign, &what);
        if operation.has_own_id() {
            assert_eq!(foreign.status, 404, "{what}");
        } else if operation.names_member() {
            assert!(foreign.status.is_client_error(), "{what}");
        }
        assert_eq!(rows_of(&app, &[other.id]).await, before, "changed by {what}");

        let own = Org::create(&app, "plain").await;
        let request = operation.request(&app, own.id, own.id).await;
        let valid = Answer::of(request.bearer_auth(&own.owner.token)).await;
        assert!(
            valid.status.is_success() || valid.status == 409,
            "{} is not valid, so this test proves nothing: {} {}. If the body is at fault, give its schema an example",
            operation.id,
            valid.status,
            valid.text
        );
    }
}

/// A cursor is valid in one organization only. A stranger gets 404, also if the query is invalid.
#[tokio::test]
async fn lists_refuse_the_cursors_of_other_organizations_and_unknown_parameters() {
    let app = TestApp::start().await;
    let (one, other) = (Org::create(&app, "plain").await, Org::create(&app, MARK).await);
    let stranger = app.user().await;
    other.join(&app, &one.owner, "admin").await;
    // `one` has two rows of most resources, so that most lists have a second page. The test skips the other lists.
    one.add_product(&app, "second").await;
    one.add_job(&app, "second").await;
    one.add_key(&app, "second").await;
    let entry = "INSERT INTO audit_log (org_id, action, target_type, target_id) VALUES";
    app.sql(&format!("{entry} ({}, 'x', 'x', 'x')", one.id)).await;
    let (operations, mut lists) = (operations(&app).await, 0);
    for operation in operations.iter().filter(|operation| operation.id.starts_with("list_")) {
        let ask = async |org: &Org, name: &str, value: &str, user: &User| {
            let request = operation.request(&app, org.id, org.id).await.query(&[(name, value)]);
            Answer::of(request.bearer_auth(&user.token)).await
        };
        let page = ask(&one, "limit", "1", &one.owner).await;
        let Some(cursor) = page.body["next_cursor"].as_str() else { continue };
        lists += 1;
        assert_eq!(ask(&one, "cursor", cursor, &one.owner).await.status, 200, "{}", operation.id);
        let moved = ask(&other, "cursor", cursor, &one.owner).await;
        assert_eq!(moved.invalid_fields(), fields(&[("query.cursor", "value_error")]), "{}", operation.id);
        assert_unmarked(&moved, &operation.id);
        let unknown = ask(&one, "serach", "x", &one.owner).await;
        assert_eq!(unknown.invalid_fields(), fields(&[("query.serach", "extra_forbidden")]));
        for (name, value) in [("cursor", cursor), ("serach", "x"), ("limit", "0")] {
            ask(&one, name, value, &stranger).await.is_some_problem(404, "org_not_found");
        }
    }
    assert!(lists >= 5, "{lists}: give `one` two of each");
}

/// Reads, and operations on jobs, outside of `/orgs/{org}` show nothing of an organization to users who are not members.
#[tokio::test]
async fn reads_and_job_operations_outside_of_organizations_show_nothing_of_them() {
    let app = TestApp::start().await;
    let (seen, stranger) = (Org::create(&app, MARK).await, Org::create(&app, "plain").await);
    let removed = app.user().await;
    seen.join(&app, &removed, "admin").await;
    let remove = format!("/orgs/{}/members/{}", seen.id, removed.id);
    assert_eq!(app.call(Method::DELETE, &remove, &seen.owner).await.status, 204);
    let job = format!("SELECT replace(id::text, '-', '') FROM org_jobs WHERE org_id = {}", seen.id);
    let job = column(&app.database, &job).await.remove(0);
    let before = rows_of(&app, &[seen.id]).await;
    let mut asked = 0;
    let document = fetch_document().await;
    for (path, method, operation) in list_operations(&document) {
        let is_of_job = path.starts_with("/api/v1/jobs/{id}");
        if path.contains("/orgs/{org}") || !(method == "get" || is_of_job) {
            continue;
        }
        let id = if path.contains("/jobs/") { job.clone() } else { seen.owner.id.to_string() };
        let target = path.replace("{id}", &id).replace("{name}", "default");
        for user in [&stranger.owner, &removed] {
            let request = app.at_root(method.to_uppercase().parse().unwrap(), &target);
            let answer = Answer::of(request.bearer_auth(&user.token)).await;
            let what = format!("{}: {} {}", operation["operationId"], answer.status, answer.text);
            assert_unmarked(&answer, &what);
            assert!(!is_of_job || answer.status == 404, "{what}");
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    assert_eq!(rows_of(&app, &[seen.id]).await, before);
}

/// The audit trail of the platform has the actor, the action and the target, but not the data.
#[tokio::test]
async fn the_audit_trail_of_the_platform_has_no_data_of_organizations() {
    let app = TestApp::start().await;
    let (org, admin) = (Org::create(&app, "plain").await, app.admin().await);
    let path = format!("/orgs/{}/products", org.id);
    let product = json!({ "sku": MARK, "name": MARK, "price": 1, "currency": "EUR" });
    let created = app.post(&path, Some(&org.owner), product).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let path = format!("{path}/{}", created.body["id"]);
    let change = app.request(Method::PATCH, &path).bearer_auth(&org.owner.token);
    assert_eq!(Answer::of(change.json(&json!({ "price": 2 }))).await.status, 200);
    assert_eq!(app.call(Method::DELETE, &path, &org.owner).await.status, 204);
    let platform = app.get("/audit", Some(&admin)).await;
    for action in ["product.created", "product.updated", "product.deleted"] {
        let entries = platform.body["items"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["action"] == action).unwrap();
        assert_eq!((&entry["actor_id"], &entry["target_type"]), (&json!(org.owner.id), &json!("product")));
        assert!(entry["before"].is_null() && entry["after"].is_null(), "{entry}");
    }
    assert_unmarked(&platform, &platform.text);
    let own = app.get(&format!("/orgs/{}/audit", org.id), Some(&org.owner)).await;
    assert_eq!(own.text.matches(MARK).count(), 8, "{}", own.text);
}
