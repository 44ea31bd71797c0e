//! The jobs of users in the outbox: how the limits count them, and their deletion when the account is deactivated.

use super::*;

#[tokio::test]
async fn the_limits_of_an_owner_count_jobs_in_the_outbox() {
    let app = TestApp::with(&["--user-max-queued-jobs=3", "--user-max-jobs-per-hour=6"]).await;
    let owner = app.user().await;
    let add = async || enqueue_without_relay(&app.app, "x", origin(&owner), EnqueueOptions::default()).await;
    app.enqueue("/jobs/example?name=x&duration=0", &owner).await;
    add().await;
    check_owner(&app.app, owner.id, 100).await.unwrap();
    app.app.queue.check_owner(owner.id, 100, &[]).await.unwrap();
    add().await;
    let error = check_owner(&app.app, owner.id, 100).await.unwrap_err();
    assert!(matches!(error, Error::TooManyJobs { .. }), "{error:?}");
    // The queue does not refuse a committed job, and counts it for the limit.
    add().await;
    assert_eq!(sweep(&app.app).await.unwrap(), 3);
    let refused = app.call(Method::POST, "/jobs/example?name=x&duration=0", &owner).await;
    refused.is_some_problem(429, "too_many_jobs");
    assert_eq!(app.run_jobs().await.finished, 4);
    for _ in 0..2 {
        add().await;
    }
    assert_eq!(sweep(&app.app).await.unwrap(), 2);
    app.run_jobs().await;
    let refused = app.call(Method::POST, "/jobs/example?name=x&duration=0", &owner).await;
    refused.is_some_problem(429, "too_many_jobs");
    assert!(app.app.queue.check_owner(owner.id, 100, &[]).await.is_err(), "six within an hour");
}

/// The relay deletes a row after it has enqueued the job. If the process crashes between the two steps, the row stays.
#[tokio::test]
async fn a_job_that_is_in_the_queue_and_in_the_outbox_counts_once_for_its_owner() {
    let app = TestApp::with(&["--user-max-queued-jobs=3", "--user-max-queued-bytes=100000"]).await;
    let owner = app.user().await;
    let check = async || check_owner(&app.app, owner.id, 100).await;
    for name in ["a", "b"] {
        enqueue_without_relay(&app.app, name, origin(&owner), EnqueueOptions::default()).await;
    }
    app.sql("CREATE TABLE copied AS SELECT * FROM job_outbox").await;
    assert_eq!(sweep(&app.app).await.unwrap(), 2);
    app.sql("INSERT INTO job_outbox SELECT * FROM copied").await;
    check().await.unwrap();
    app.enqueue("/jobs/example?name=c&duration=0", &owner).await;
    assert!(matches!(check().await, Err(Error::TooManyJobs { .. })));
    assert_eq!(app.run_jobs().await.finished, 3);
    check().await.unwrap();

    // Rows of jobs that are not in the queue count for the limit. A row that was set aside does not count, because no relay
    // enqueues it.
    let add = "INSERT INTO job_outbox (id, queue, task, owner, envelope, options)
               SELECT gen_random_uuid(), queue, task, owner, envelope, options FROM copied";
    app.sql(add).await;
    check().await.unwrap();
    app.sql(add).await;
    assert!(matches!(check().await, Err(Error::TooManyJobs { .. })));
    app.sql("UPDATE job_outbox SET set_aside_at = now()").await;
    check().await.unwrap();
    let one = "(SELECT id FROM job_outbox WHERE id NOT IN (SELECT id FROM copied) LIMIT 1)";
    app.sql(&format!("UPDATE job_outbox SET set_aside_at = NULL WHERE id = {one}")).await;
    check().await.unwrap();
    app.sql("UPDATE job_outbox SET envelope = envelope || repeat(' ', 100000) WHERE set_aside_at IS NULL")
        .await;
    assert!(matches!(check().await, Err(Error::TooManyJobs { .. })), "a row has a size too");
}

#[tokio::test]
async fn jobs_of_a_deactivated_user_are_deleted_from_the_outbox() {
    let app = TestApp::start().await;
    let (owner, other, admin) = (app.user().await, app.user().await, app.admin().await);
    for user in [&owner, &other] {
        enqueue_without_relay(&app.app, "x", origin(user), EnqueueOptions::default()).await;
    }
    let change = app.request(Method::PATCH, &format!("/users/{}", owner.id)).bearer_auth(&admin.token);
    assert_eq!(change.json(&json!({ "is_active": false })).send().await.unwrap().status(), 200);
    let owners = "SELECT owner FROM job_outbox";
    eventually("the jobs are deleted", || async {
        (column(&app.database, owners).await == [other.id.to_string()]).then_some(())
    })
    .await;
}
