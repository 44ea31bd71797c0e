//! The admin operations on job queues, jobs and workers.

mod jobs;
mod queues;

use std::time::Duration;

use reqwest::Method;
use saas::{
    app::App,
    jobs::{Context, JobResult},
    queue::{EnqueueBy, EnqueueOptions, Job, JobType, Origin, Summary, Worker},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    TestApp, User,
    app::{Answer, options},
    eventually,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// A job on its own queue, so that the counts of this queue include no other jobs.
#[derive(Serialize, Deserialize)]
enum Chore {
    Succeed,
    Fail,
    /// Waits until the worker signals the job to stop, and then fails.
    Wait,
}

impl Job for Chore {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "chore";
    const QUEUE: &'static str = "chores";
    const ENQUEUE_BY: EnqueueBy = EnqueueBy::User { max_bytes: 1_000 };
    const MAX_ATTEMPTS: u32 = 1;

    async fn run(self, ctx: Context) -> JobResult {
        match self {
            Self::Succeed => Ok(json!("done")),
            Self::Fail => Err("the bucket in /srv leaks".into()),
            Self::Wait => {
                ctx.stopped().await;
                Err("stopped".into())
            }
        }
    }
}

const CHORES: &[JobType<App>] = &[JobType::of::<Chore>()];

async fn enqueue(app: &TestApp, chore: Chore) -> String {
    app.app.queue.enqueue(&chore, Origin::default()).await.unwrap()
}

async fn enqueue_in_an_hour(app: &TestApp) -> String {
    app.app.queue.enqueue_in(&Chore::Succeed, Origin::default(), HOUR).await.unwrap()
}

async fn enqueue_after(app: &TestApp, id: &str) -> String {
    let options = EnqueueOptions { after: vec![id.to_owned()], ..EnqueueOptions::default() };
    app.app.queue.enqueue_with(&Chore::Succeed, Origin::default(), options).await.unwrap()
}

async fn run_chores(app: &TestApp) -> Summary {
    app.app.queue.run_jobs(CHORES, app.app.clone()).await.unwrap()
}

/// Returns the body of the response to a request that must succeed.
async fn call_ok(app: &TestApp, method: Method, path: &str, admin: &User) -> Value {
    let answer = app.call(method, path, admin).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    answer.body
}

/// Returns the ids of the jobs on a page.
fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    items.map(|job| job["job_id"].as_str().unwrap().to_owned()).collect()
}

/// The operations come from the API document, so the test covers operations that are added below `/admin` later.
#[tokio::test]
async fn smoke_only_admins_may_call_the_operations_below_admin() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let document = Answer::of(app.at_root(Method::GET, "/openapi.json")).await.body;
    let mut seen = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let Some(path) = path.strip_prefix("/api/v1").filter(|path| path.starts_with("/admin/")) else {
            continue;
        };
        let path = path.replace("{name}", "chores").replace("{id}", &"0".repeat(32));
        for method in methods.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let anonymous = Answer::of(app.request(method.clone(), &path)).await;
            anonymous.is_problem(401, "not_authenticated", "Not authenticated");
            let refused = app.call(method, &path, &user).await;
            refused.is_problem(403, "forbidden", "Not enough permissions");
            seen += 1;
        }
    }
    assert!(seen >= 9, "{seen}");
}

#[tokio::test]
async fn a_worker_is_listed_with_its_running_job() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    assert_eq!(call_ok(&app, Method::GET, "/admin/workers", &admin).await, json!([]));
    let id = enqueue(&app, Chore::Wait).await;
    let worker = Worker::new(&app.app.queue, CHORES, app.app.clone(), options(&["chores"])).unwrap();
    let never = CancellationToken::new();
    let work = tokio::spawn(worker.run(never.clone(), never));
    let job = eventually("the job starts", || async {
        let page = call_ok(&app, Method::GET, "/admin/jobs?queue=chores&status=started", &admin).await;
        (page["total"] == 1 && ids(&page) == [id.as_str()]).then(|| page["items"][0].clone())
    })
    .await;
    assert!(job["started_at"].is_string() && job["ended_at"].is_null());
    assert_eq!((&job["status"], &job["attempts"]), (&json!("started"), &json!(1)));

    let worker = eventually("the worker is listed", || async {
        let workers = call_ok(&app, Method::GET, "/admin/workers", &admin).await;
        workers.as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(worker["id"], job["worker"]);
    assert_eq!(
        (&worker["pid"], &worker["version"], &worker["queues"], &worker["concurrency"]),
        (&json!(std::process::id()), &json!(env!("CARGO_PKG_VERSION")), &json!("chores"), &json!(10))
    );
    assert!(worker["host"].is_string() && worker["running"].is_u64());
    assert!(worker["started_at"].is_string() && worker["last_beat_at"].is_string());

    let answer = call_ok(&app, Method::DELETE, &format!("/admin/jobs/{id}"), &admin).await;
    assert_eq!(answer, json!({ "message": "The job was asked to stop", "job_id": id, "status": "started" }));
    assert_eq!(work.await.unwrap().unwrap().canceled, 1);
}
