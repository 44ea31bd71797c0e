//! Limits of the jobs of a user, and the jobs of users who are deactivated or deleted.

use futures_util::future::join_all;
use reqwest::Method;
use saas::{
    jobs::{self, SYSTEM_QUEUE},
    queue::{Options, ReservedQueue, State, Worker},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, options},
    eventually, mail,
};

/// A worker with a reserved queue and limits for each owner, like `saas worker`. It stops when this value is dropped.
struct RunningWorker(CancellationToken);

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl TestApp {
    fn start_worker(&self) -> RunningWorker {
        let options = Options {
            burst: false,
            grace: std::time::Duration::ZERO,
            reserved: Some(ReservedQueue { name: SYSTEM_QUEUE.into(), slots: 1 }),
            max_running_per_owner: Some(self.app.config.user_jobs.user_max_running_jobs),
            ..options(&["default"])
        };
        let stop = CancellationToken::new();
        let worker = Worker::new(&self.app.queue, jobs::ALL, self.app.clone(), options).unwrap();
        tokio::spawn(worker.run(stop.clone(), stop.clone()));
        RunningWorker(stop)
    }

    async fn post_example_job(&self, seconds: u32, user: &User) -> Answer {
        self.call(Method::POST, &format!("/jobs/example?name=x&duration={seconds}"), user).await
    }

    /// Enqueues an email from a user to their own address. Returns the id of the job.
    async fn enqueue_own_email(&self, user: &User) -> String {
        let path = format!("/jobs/send-email?to={}&subject=Hi&body=Hello", user.email);
        job_id(&self.call(Method::POST, &path, user).await)
    }

    async fn find_job_state(&self, id: &str) -> Option<State> {
        self.app.queue.status(id).await.unwrap().map(|job| job.state)
    }

    async fn wait_until_job_is_deleted(&self, id: &str) {
        let gone = || async { self.find_job_state(id).await.is_none().then_some(()) };
        eventually("the job is gone", gone).await;
    }

    async fn wait_until_started(&self, jobs: u64) {
        let started = || async {
            let queue = self.app.queue.queue("default").await.unwrap();
            (queue.is_some_and(|queue| queue.started == jobs)).then_some(())
        };
        eventually(&format!("{jobs} jobs run"), started).await;
    }

    fn captured_subjects(&self) -> Vec<String> {
        mail::read_captured(&self.app.config.mail.mail_dir).into_iter().map(|mail| mail.subject).collect()
    }
}

fn job_id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["job_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn twelve_long_jobs_of_a_new_user_delay_neither_mails_nor_other_users() {
    let app = TestApp::start().await;
    let (user, other) = (app.user().await, app.user().await);
    let _worker = app.start_worker();
    for _ in 0..12 {
        job_id(&app.post_example_job(3_600, &user).await);
    }
    app.wait_until_started(5).await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(app.post("/auth/register", None, body).await.status, 201);
    eventually("the mail is sent", || async { (!app.captured_subjects().is_empty()).then_some(()) }).await;
    let job = job_id(&app.post_example_job(0, &other).await);
    eventually("the job of the other user has finished", || async {
        (app.find_job_state(&job).await == Some(State::Finished)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_at_the_limit_gets_429_and_others_still_enqueue() {
    let app = TestApp::with(&["--user-max-queued-jobs=3"]).await;
    let (user, other, admin) = (app.user().await, app.user().await, app.admin().await);
    let email = format!("/jobs/send-email?to={}&subject=Hi&body=Hello", user.email);
    for who in [&user, &admin] {
        for _ in 0..3 {
            job_id(&app.post_example_job(0, who).await);
        }
        let refused = app.post_example_job(0, who).await;
        refused.is_some_problem(429, "too_many_jobs");
        assert_eq!(refused.header("retry-after"), "10");
        app.call(Method::POST, &email, who).await.is_some_problem(429, "too_many_jobs");
        app.post("/jobs/process-data", Some(who), json!({})).await.is_some_problem(429, "too_many_jobs");
    }
    job_id(&app.post_example_job(0, &other).await);
    assert_eq!(app.run_jobs().await.finished, 7);
    job_id(&app.post_example_job(0, &user).await);
}

#[tokio::test]
async fn a_user_has_a_limit_of_jobs_per_hour() {
    let app = TestApp::with(&["--user-max-jobs-per-hour=2"]).await;
    let (user, other) = (app.user().await, app.user().await);
    for _ in 0..2 {
        job_id(&app.post_example_job(0, &user).await);
        app.run_jobs().await;
    }
    let refused = app.post_example_job(0, &user).await;
    refused.is_some_problem(429, "too_many_jobs");
    assert!((1_700..=1_801).contains(&refused.header("retry-after").parse().unwrap()));
    job_id(&app.post_example_job(0, &other).await);
}

#[tokio::test]
async fn documents_have_a_size_limit_each_and_in_total() {
    let app = TestApp::with(&["--user-max-queued-bytes=150000"]).await;
    let user = app.user().await;
    let document = |bytes: usize| json!({ "text": "x".repeat(bytes) });
    let send = async |bytes| app.post("/jobs/process-data", Some(&user), document(bytes)).await;
    send(64 * 1024).await.is_some_problem(413, "too_large");
    assert_eq!(send(60_000).await.status, 200);
    assert_eq!(send(60_000).await.status, 200);
    send(60_000).await.is_some_problem(429, "too_many_jobs");
    assert_eq!(send(10).await.status, 200, "a small one still fits");
}

#[tokio::test]
async fn replicas_share_the_job_limits_of_a_user() {
    let app = TestApp::with(&["--user-max-queued-jobs=10"]).await;
    let prefix = format!("--redis-key-prefix={}", app.prefix);
    let twin = TestApp::on(app.database.clone(), &["--user-max-queued-jobs=10", &prefix]).await;
    let user = app.user().await;
    let answers = join_all((0..60).map(|n| [&app, &twin][n % 2].post_example_job(0, &user))).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status.as_u16() == status).count();
    assert_eq!((count(200), count(429)), (10, 50));
    assert_eq!(twin.run_jobs().await.finished, 10);
}

#[tokio::test]
async fn queued_mails_of_a_deactivated_user_are_not_sent() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let email = app.enqueue_own_email(&user).await;
    let path = format!("/users/{}", user.id);
    let change = async |body: Value| {
        let request = app.request(Method::PATCH, &path).bearer_auth(&admin.token).json(&body);
        assert_eq!(Answer::of(request).await.status, 200);
    };
    change(json!({ "full_name": "Ada" })).await;
    assert_eq!(app.find_job_state(&email).await, Some(State::Queued), "other changes purge nothing");
    change(json!({ "is_active": false })).await;
    app.wait_until_job_is_deleted(&email).await;
    change(json!({ "is_active": true })).await;
    app.run_jobs().await;
    assert!(app.captured_subjects().is_empty());
}

#[tokio::test]
async fn a_worker_does_not_run_jobs_of_an_inactive_user() {
    let app = TestApp::start().await;
    for change in [
        "UPDATE users SET is_active = false WHERE id = ",
        "UPDATE users SET deletion_due_at = now() + interval '1 day' WHERE id = ",
        "DELETE FROM users WHERE id = ",
    ] {
        let user = app.user().await;
        // A change by SQL does not purge jobs. The API also purges no jobs while Redis is unavailable.
        let email = app.enqueue_own_email(&user).await;
        app.sql(&format!("{change}{}", user.id)).await;
        app.run_jobs().await;
        let job = app.app.queue.status(&email).await.unwrap().unwrap();
        assert_eq!(job.state, State::Canceled, "{change}");
        assert_eq!(job.error.as_deref(), Some("The account of the owner is not active"));
    }
    assert!(app.captured_subjects().is_empty());
}

#[tokio::test]
async fn without_postgresql_a_job_of_a_user_waits() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let job = job_id(&app.post_example_job(0, &user).await);
    let prefix = format!("--redis-key-prefix={}", app.prefix);
    let flags = ["--database-url=postgres://127.0.0.1:1/x", "--database-timeout-ms=200", &prefix];
    TestApp::on(app.database.clone(), &flags).await.run_jobs().await;
    let status = app.app.queue.status(&job).await.unwrap().unwrap();
    assert_eq!((status.state, status.attempts), (State::Scheduled, 0));
}

#[tokio::test]
async fn deleting_a_user_purges_the_jobs_of_the_user_but_not_the_notice() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for by_admin in [true, false] {
        let user = app.user().await;
        let jobs = [app.enqueue_own_email(&user).await, job_id(&app.post_example_job(0, &user).await)];
        let deleted = match by_admin {
            true => app.call(Method::DELETE, &format!("/users/{}", user.id), &admin).await.status,
            false => {
                let request = app.request(Method::DELETE, "/users/me").bearer_auth(&user.token);
                Answer::of(request.json(&json!({ "password": PASSWORD }))).await.status
            }
        };
        assert!(deleted.is_success(), "{deleted}");
        for job in &jobs {
            app.wait_until_job_is_deleted(job).await;
        }
        let sent: Vec<_> = app.mails().await.into_iter().filter(|mail| mail.to == user.email).collect();
        let subjects: Vec<_> = sent.iter().map(|mail| mail.subject.as_str()).collect();
        assert_eq!(subjects.len(), 1, "only the notice of the deletion: {subjects:?}");
        assert_ne!(subjects[0], "Hi");
    }
}

#[tokio::test]
async fn deactivating_a_user_stops_the_running_jobs_of_the_user() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let job = job_id(&app.post_example_job(3_600, &user).await);
    let _worker = app.start_worker();
    app.wait_until_started(1).await;
    let request = app.request(Method::PATCH, &format!("/users/{}", user.id)).bearer_auth(&admin.token);
    assert_eq!(Answer::of(request.json(&json!({ "is_active": false }))).await.status, 200);
    eventually("the job is canceled", || async {
        (app.find_job_state(&job).await == Some(State::Canceled)).then_some(())
    })
    .await;
}
