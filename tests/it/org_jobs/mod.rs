//! Jobs of organizations: a job checks the membership again when it runs, members see jobs by permission, and
//! organizations take turns.

mod imports;
mod list;

use reqwest::Method;
use saas::{
    jobs,
    queue::{Options, State, Worker},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    isolation::Org,
    support::{
        TestApp, User,
        app::{Answer, options},
        eventually,
        queue::connect,
        records::column,
        servers::servers,
    },
};

fn product(sku: &str) -> Value {
    json!({ "sku": sku, "name": format!("{sku} name"), "price": 100, "currency": "EUR" })
}

impl TestApp {
    async fn post_import(&self, org: &Org, user: &User, skus: &[&str]) -> Answer {
        let products: Vec<_> = skus.iter().map(|sku| product(sku)).collect();
        let path = format!("/orgs/{}/products/import", org.id);
        self.post(&path, Some(user), json!({ "products": products })).await
    }

    /// Enqueues an import, and waits until the job is in the queue. Returns the id of the job.
    async fn enqueue_import(&self, org: &Org, user: &User, skus: &[&str]) -> String {
        let answer = self.post_import(org, user, skus).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = answer.body["job_id"].as_str().unwrap().to_owned();
        let enqueued = || async { self.app.queue.status(&id).await.unwrap().map(drop) };
        eventually("the job is in the queue", enqueued).await;
        id
    }

    async fn call_org_job(&self, method: Method, org: &Org, id: &str, user: &User) -> Answer {
        self.call(method, &format!("/orgs/{}/jobs/{id}", org.id), user).await
    }

    async fn list_org_jobs(&self, org: &Org, query: &str, user: &User) -> Answer {
        self.call(Method::GET, &format!("/orgs/{}/jobs{query}", org.id), user).await
    }

    /// Returns the SKUs of the imported products of an organization, sorted. The imports of these tests use SKUs that begin with
    /// `new-`.
    async fn imported_skus(&self, org: &Org) -> Vec<String> {
        let sql =
            format!("SELECT sku FROM products WHERE org_id = {} AND sku LIKE 'new-%' ORDER BY sku", org.id);
        column(&self.database, &sql).await
    }

    /// Creates an organization without queued jobs: cancels the job that [`Org::create`] has enqueued.
    async fn empty_org(&self, name: &str) -> Org {
        let org = Org::create(self, name).await;
        for id in column(&self.database, &format!("SELECT id FROM org_jobs WHERE org_id = {}", org.id)).await
        {
            self.app.queue.cancel(&id.replace('-', "")).await.unwrap();
        }
        self.sql(&format!("DELETE FROM org_jobs WHERE org_id = {}", org.id)).await;
        org
    }

    /// Sends a command to Redis; `{}` is replaced by the key prefix of the application.
    async fn redis_command(&self, command: &[&str]) {
        let mut conn = connect(&servers().await.redis_url()).await.unwrap();
        let mut cmd = redis::Cmd::new();
        for word in command {
            cmd.arg(word.replace("{}", &self.prefix));
        }
        cmd.query_async::<redis::Value>(&mut conn).await.unwrap();
    }
}

/// Returns the ids of the jobs on a page of the list.
fn ids(list: &Answer) -> Vec<&str> {
    assert_eq!(list.status, 200, "{}", list.text);
    list.body["items"].as_array().unwrap().iter().map(|job| job["job_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn smoke_members_see_the_jobs_of_their_organization_by_permission() {
    let app = TestApp::start().await;
    let (org, other) = (app.empty_org("one").await, app.empty_org("two").await);
    let (member, colleague, viewer) = (app.user().await, app.user().await, app.user().await);
    for (user, role) in [(&member, "member"), (&colleague, "member"), (&viewer, "viewer")] {
        org.join(&app, user, role).await;
    }
    let (stranger, admin) = (app.user().await, app.admin().await);
    let id = app.enqueue_import(&org, &member, &["new-1", "new-2"]).await;
    app.redis_command(&["HSET", "{}:prog", &id, r#"{"percent":40,"message":"one of two"}"#]).await;
    for user in [&member, &colleague, &viewer, &org.owner] {
        let job = app.call_org_job(Method::GET, &org, &id, user).await;
        assert_eq!((job.status.as_u16(), &job.body["status"]), (200, &json!("queued")), "{}", job.text);
        assert_eq!(job.body["progress"]["percent"], 40);
        let listed = app.list_org_jobs(&org, "", user).await.body["items"][0].take();
        assert_eq!(listed["progress"]["message"], "one of two");
        assert_eq!((&listed["task"], &listed["created_by"]), (&json!("import_products"), &json!(member.id)));
    }
    app.run_jobs().await;
    assert_eq!(app.imported_skus(&org).await, ["new-1", "new-2"]);
    let status = format!("/jobs/{id}/status");
    for user in [&member, &colleague, &viewer] {
        let job = app.call_org_job(Method::GET, &org, &id, user).await;
        assert_eq!(job.body["result"], json!({ "products": 2 }));
        assert_eq!(app.get(&status, Some(user)).await.body, job.body);
    }
    for user in [&stranger, &other.owner, &admin] {
        app.call_org_job(Method::GET, &org, &id, user).await.is_some_problem(404, "org_not_found");
        app.list_org_jobs(&org, "", user).await.is_some_problem(404, "org_not_found");
        app.get(&status, Some(user)).await.is_some_problem(404, "not_found");
        app.call(Method::DELETE, &format!("/jobs/{id}"), user).await.is_some_problem(404, "not_found");
    }
    app.call_org_job(Method::GET, &other, &id, &other.owner).await.is_some_problem(404, "not_found");
    app.call_org_job(Method::DELETE, &other, &id, &other.owner).await.is_some_problem(404, "not_found");
    assert_eq!(ids(&app.list_org_jobs(&other, "", &other.owner).await), [""; 0]);
    for bad in ["x", "0123456789ab4cde8f0123456789abcd", &id.to_uppercase()] {
        app.call_org_job(Method::GET, &org, bad, &viewer).await.is_some_problem(404, "not_found");
    }
    // The member who enqueued the job leaves the organization.
    let leave = format!("/orgs/{}/members/me", org.id);
    assert_eq!(app.call(Method::DELETE, &leave, &member).await.status, 204);
    app.get(&status, Some(&member)).await.is_some_problem(404, "not_found");
    // The queue keeps the state of a job longer than its outcome, so the outcome can be missing.
    app.redis_command(&["DEL", "{}:done"]).await;
    app.get(&status, Some(&member)).await.is_some_problem(404, "not_found");
    assert_eq!(app.get(&status, Some(&viewer)).await.body["status"], "finished");
}

#[tokio::test]
async fn the_membership_is_checked_again_when_a_job_runs() {
    let app = TestApp::start().await;
    const GONE: &str = "The owner of the job is no longer an active member of the organization";
    const CLOSED: &str = "The organization is suspended or is going to be deleted";
    let in_org = "WHERE org_id = {org} AND user_id = {user}";
    for (change, reason) in [
        (format!("DELETE FROM memberships {in_org}"), GONE),
        (format!("UPDATE memberships SET suspended_at = now() {in_org}"), GONE),
        ("UPDATE users SET is_active = false WHERE id = {user}".into(), GONE),
        ("DELETE FROM users WHERE id = {user}".into(), GONE),
        ("UPDATE organizations SET suspended_at = now() WHERE id = {org}".into(), CLOSED),
        ("UPDATE organizations SET deletion_due_at = now() WHERE id = {org}".into(), CLOSED),
        ("DELETE FROM organizations WHERE id = {org}".into(), GONE),
        (
            format!("UPDATE memberships SET role = 'viewer' {in_org}"),
            "The owner of the job no longer has the permission that it needs",
        ),
    ] {
        let (org, member) = (app.empty_org("one").await, app.user().await);
        org.join(&app, &member, "member").await;
        let id = app.enqueue_import(&org, &member, &["new-1"]).await;
        // The API also purges the jobs of a deactivated or deleted user, except while Redis is unavailable. SQL purges none.
        app.sql(&change.replace("{org}", &org.id.to_string()).replace("{user}", &member.id.to_string()))
            .await;
        app.run_jobs().await;
        let job = app.app.queue.status(&id).await.unwrap().unwrap();
        assert_eq!((job.state, job.error.as_deref()), (State::Canceled, Some(reason)), "{change}");
        assert_eq!(app.imported_skus(&org).await, [""; 0], "{change}");
    }
    // Without a change, such a job runs.
    let (org, member) = (app.empty_org("one").await, app.user().await);
    org.join(&app, &member, "member").await;
    let id = app.enqueue_import(&org, &member, &["new-1"]).await;
    app.run_jobs().await;
    assert_eq!(app.app.queue.status(&id).await.unwrap().unwrap().state, State::Finished);
    let entry =
        format!("SELECT actor_id || ' ' || (after->>'products') FROM audit_log WHERE org_id = {}", org.id);
    let entry = format!("{entry} AND action = 'products.imported'");
    assert_eq!(column(&app.database, &entry).await, [format!("{} 1", member.id)]);
}

#[tokio::test]
async fn jobs_of_different_organizations_run_in_turns() {
    let app = TestApp::start().await;
    let (busy, other) = (app.empty_org("busy").await, app.empty_org("other").await);
    let colleague = app.user().await;
    busy.join(&app, &colleague, "member").await;
    for n in 0..6 {
        let user = if n % 2 == 0 { &busy.owner } else { &colleague };
        app.enqueue_import(&busy, user, &[&format!("new-{n}")]).await;
    }
    for n in 0..3 {
        app.enqueue_import(&other, &other.owner, &[&format!("new-{n}")]).await;
    }
    let never = CancellationToken::new();
    let one_slot = Options { concurrency: 1, max_running_per_owner: Some(5), ..options(&["default"]) };
    let worker = Worker::new(&app.app.queue, jobs::ALL, app.app.clone(), one_slot).unwrap();
    assert_eq!(worker.run(never.clone(), never).await.unwrap().finished, 9);
    let order = "SELECT org_id FROM audit_log WHERE action = 'products.imported' ORDER BY id";
    let (busy, other) = (busy.id.to_string(), other.id.to_string());
    let ran = column(&app.database, order).await;
    assert_eq!(ran[..6], [&busy, &other, &busy, &other, &busy, &other].map(String::clone), "{ran:?}");
}

#[tokio::test]
async fn canceling_a_job_of_an_organization_needs_a_permission_and_is_audited() {
    let app = TestApp::start().await;
    let org = app.empty_org("one").await;
    let (member, viewer) = (app.user().await, app.user().await);
    org.join(&app, &member, "member").await;
    org.join(&app, &viewer, "viewer").await;
    let id = app.enqueue_import(&org, &org.owner, &["new-1"]).await;
    app.call_org_job(Method::DELETE, &org, &id, &viewer).await.is_some_problem(403, "forbidden");
    app.call(Method::DELETE, &format!("/jobs/{id}"), &viewer).await.is_some_problem(403, "forbidden");
    let canceled = app.call_org_job(Method::DELETE, &org, &id, &member).await;
    assert_eq!((canceled.status.as_u16(), &canceled.body["status"]), (200, &json!("canceled")));
    app.call_org_job(Method::DELETE, &org, &id, &member).await.is_some_problem(409, "conflict");
    let entries = format!("SELECT actor_id || ' ' || target_id FROM audit_log WHERE org_id = {}", org.id);
    let entries = format!("{entries} AND action = 'job.canceled'");
    assert_eq!(column(&app.database, &entries).await, [format!("{} {id}", member.id)]);
    app.run_jobs().await;
    assert_eq!(app.imported_skus(&org).await, [""; 0]);
}

#[tokio::test]
async fn admin_operations_do_not_show_the_data_of_a_job_of_an_organization() {
    let app = TestApp::start().await;
    let (org, admin) = (app.empty_org("one").await, app.admin().await);
    let id = app.enqueue_import(&org, &org.owner, &["new-canary"]).await;
    app.redis_command(&["HSET", "{}:prog", &id, r#"{"percent":40,"message":"canary"}"#]).await;
    let path = format!("/admin/jobs/{id}");
    let waiting = app.call(Method::GET, &path, &admin).await;
    assert_eq!(
        (&waiting.body["scope"], &waiting.body["owner"]),
        (&json!(format!("org:{}", org.id)), &json!(org.owner.id))
    );
    let listed = app.call(Method::GET, "/admin/jobs?status=queued", &admin).await;
    assert_eq!(listed.body["items"][0]["job_id"], json!(id));
    app.run_jobs().await;
    let finished = app.call(Method::GET, &path, &admin).await;
    assert_eq!((&finished.body["status"], &finished.body["result"]), (&json!("finished"), &Value::Null));
    for answer in [waiting, listed, finished] {
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(!answer.text.contains("canary"), "{}", answer.text);
    }
}
