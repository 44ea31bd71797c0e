//! Calls every operation of organizations with API keys: keys that must not see the organization, a key that may only read, and
//! a key with all scopes.

use reqwest::Method;
use saas::security::api_key;

use super::{
    Org,
    requests::operations,
    walk::{MARK, assert_unmarked, rows_of},
};
use crate::support::{TestApp, User, app::Answer};

const ALL_SCOPES: &str = "audit:read job:read job:write product:read product:write";

/// A key, and the expected response of operations that accept keys. Other operations refuse a valid key with 403
/// `session_required`.
struct Caller {
    name: &'static str,
    /// The organization in the path.
    org: i64,
    secret: String,
    expected: Expected,
}

#[derive(Clone, Copy)]
enum Expected {
    /// All operations respond with this status and code.
    Invalid(u16, &'static str),
    /// The operations that accept keys respond with this status and code.
    Refused(u16, &'static str),
    /// 403 `forbidden` for changes. Reads succeed, if the role of the creator allows them.
    ReadOnly,
}

/// Inserts an API key that a user has created, and returns its secret.
async fn insert_key(app: &TestApp, org: i64, creator: &User, scopes: &str) -> String {
    let secret = api_key::random().unwrap();
    app.sql(&format!(
        "INSERT INTO api_keys (org_id, created_by, name, scopes, hash, hint, lifetime_days, expires_at)
         VALUES ({org}, {}, '{MARK}', '{scopes}', sha256('{secret}'), '{MARK}', 90, now() + interval '90 days')",
        creator.id
    ))
    .await;
    secret
}

/// Returns the callers with API keys. `seen`, `suspended` and `deleted` are organizations whose texts contain [`MARK`].
async fn callers(app: &TestApp, seen: &Org, suspended: &Org, deleted: &Org) -> Vec<Caller> {
    let stranger = Org::create(app, "plain").await;
    let mut callers = Vec::new();
    let mut add =
        |name, org: &Org, secret, expected| callers.push(Caller { name, org: org.id, secret, expected });
    let foreign = insert_key(app, stranger.id, &stranger.owner, ALL_SCOPES).await;
    add("a key of another organization", seen, foreign, Expected::Refused(404, "org_not_found"));
    let scopeless = insert_key(app, seen.id, &seen.owner, "other:read").await;
    add("a key without the scope", seen, scopeless, Expected::Refused(403, "scope_missing"));
    for (name, end) in [
        ("a revoked key", "revoked_at = now()"),
        ("an expired key", "expires_at = now()"),
        (
            "a key that was rotated out",
            "previous_hash = hash, previous_expires_at = now(), hash = sha256(gen_random_uuid()::text::bytea)",
        ),
    ] {
        let secret = insert_key(app, seen.id, &seen.owner, ALL_SCOPES).await;
        app.sql(&format!("UPDATE api_keys SET {end} WHERE hash = sha256('{secret}')")).await;
        add(name, seen, secret, Expected::Invalid(401, "invalid_token"));
    }
    // Changes of the creator's account or membership.
    for (name, change, expected) in [
        (
            "a demoted creator",
            "UPDATE memberships SET role = 'viewer' WHERE user_id = {}",
            Expected::ReadOnly,
        ),
        (
            "a suspended creator",
            "UPDATE memberships SET suspended_at = now() WHERE user_id = {}",
            Expected::Refused(403, "member_suspended"),
        ),
        (
            "a creator without a membership",
            "DELETE FROM memberships WHERE user_id = {}",
            Expected::Refused(404, "org_not_found"),
        ),
        (
            "a deactivated creator",
            "UPDATE users SET is_active = false WHERE id = {}",
            Expected::Invalid(403, "inactive_user"),
        ),
    ] {
        let creator = app.user().await;
        seen.join(app, &creator, "admin").await;
        let secret = insert_key(app, seen.id, &creator, ALL_SCOPES).await;
        app.sql(&change.replace("{}", &creator.id.to_string())).await;
        add(name, seen, secret, expected);
    }
    let removed = app.user().await;
    seen.join(app, &removed, "admin").await;
    let secret = insert_key(app, seen.id, &removed, ALL_SCOPES).await;
    let remove = format!("/orgs/{}/members/{}", seen.id, removed.id);
    assert_eq!(app.call(Method::DELETE, &remove, &seen.owner).await.status, 204);
    add("a removed creator", seen, secret, Expected::Invalid(401, "invalid_token"));
    for (name, org, column, code) in [
        ("a key of a suspended organization", suspended, "suspended_at", "org_suspended"),
        ("a key of a deleted organization", deleted, "deletion_due_at", "org_deleting"),
    ] {
        let secret = insert_key(app, org.id, &org.owner, ALL_SCOPES).await;
        app.sql(&format!(
            "UPDATE organizations SET {column} = now() + interval '9 days' WHERE id = {}",
            org.id
        ))
        .await;
        add(name, org, secret, Expected::Refused(403, code));
    }
    callers
}

#[tokio::test]
async fn smoke_no_key_shows_or_changes_another_organization() {
    let app = TestApp::start().await;
    let operations = operations(&app).await;
    let accepting = operations.iter().filter(|operation| operation.accepts_keys()).count();
    assert!(accepting >= 6 && operations.len() - accepting >= 12, "{accepting} of {}", operations.len());
    let (seen, suspended, deleted) =
        (Org::create(&app, MARK).await, Org::create(&app, MARK).await, Org::create(&app, MARK).await);
    let callers = callers(&app, &seen, &suspended, &deleted).await;
    let orgs = [seen.id, suspended.id, deleted.id];
    let before = rows_of(&app, &orgs).await;
    for caller in &callers {
        for operation in &operations {
            let request = operation.request(&app, caller.org, caller.org).await;
            let answer = Answer::of(request.bearer_auth(&caller.secret)).await;
            let what = format!("{} by {}: {} {}", operation.id, caller.name, answer.status, answer.text);
            let outcome = (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default());
            match (caller.expected, operation.accepts_keys()) {
                (Expected::Invalid(status, code), _) | (Expected::Refused(status, code), true) => {
                    assert_eq!(outcome, (status, code), "{what}");
                }
                (_, false) => assert_eq!(outcome, (403, "session_required"), "{what}"),
                (Expected::ReadOnly, true) if operation.method == Method::GET => {
                    assert!(answer.status.is_success() || outcome == (403, "forbidden"), "{what}");
                    continue;
                }
                (Expected::ReadOnly, true) => assert_eq!(outcome, (403, "forbidden"), "{what}"),
            }
            assert_unmarked(&answer, &what);
        }
        assert_eq!(rows_of(&app, &orgs).await, before, "changed by {}", caller.name);
    }
}

#[tokio::test]
async fn a_key_with_all_scopes_may_call_every_operation_that_accepts_keys() {
    let app = TestApp::start().await;
    for operation in operations(&app).await.iter().filter(|operation| operation.accepts_keys()) {
        let (own, other) = (Org::create(&app, "plain").await, Org::create(&app, MARK).await);
        let secret = insert_key(&app, own.id, &own.owner, ALL_SCOPES).await;
        let request = operation.request(&app, own.id, own.id).await;
        let answer = Answer::of(request.bearer_auth(&secret)).await;
        let what = format!("{}: {} {}", operation.id, answer.status, answer.text);
        assert!(answer.status.is_success() || answer.status == 409, "{what}");
        if operation.has_own_id() {
            let request = operation.request(&app, own.id, other.id).await;
            let foreign = Answer::of(request.bearer_auth(&secret)).await;
            let what = format!("{}: {} {}", operation.id, foreign.status, foreign.text);
            assert_eq!(foreign.status, 404, "{what}");
            assert_unmarked(&foreign, &what);
        }
    }
}
