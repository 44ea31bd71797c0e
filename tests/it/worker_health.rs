//! `saas healthcheck --worker` with worker processes.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use saas::queue::Options;
use tokio_util::sync::CancellationToken;

use crate::support::{
    TestApp,
    app::options,
    eventually,
    process::{Ended, Running, TempDir, production_command, run, saas},
    queue::{Behavior, TestQueue},
};

/// Returns the command of a worker whose health file is in the default directory below `temporary`.
async fn worker_command(app: &TestApp, temporary: &Path) -> Command {
    let mut command = production_command(&["worker"], &app.database, &app.prefix).await;
    command.env("TMPDIR", temporary);
    command
}

/// Checks the workers whose health files are below `temporary`.
async fn check(temporary: &Path) -> Ended {
    let mut command = saas(&["healthcheck", "--worker", "--max-age-seconds", "5"]);
    command.env("TMPDIR", temporary);
    run(command).await
}

/// Waits until the health check succeeds.
async fn wait_until_healthy(temporary: &Path) {
    eventually("the workers are healthy", || async {
        (check(temporary).await.code == Some(0)).then_some(())
    })
    .await;
}

/// Waits until the health check fails with this error.
async fn wait_until_unhealthy(temporary: &Path, error: &str) {
    eventually(error, || async {
        let ended = check(temporary).await;
        (ended.code == Some(1) && ended.stderr.contains(error)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_hangs_is_unhealthy() {
    let (app, dir) = (TestApp::start().await, TempDir::new());
    let (mut one, mut other) = (
        Running::start(worker_command(&app, dir.path()).await),
        Running::start(worker_command(&app, dir.path()).await),
    );
    one.wait_for_output("worker started").await;
    other.wait_for_output("worker started").await;
    wait_until_healthy(dir.path()).await;
    one.signal("STOP");
    wait_until_unhealthy(dir.path(), &format!("worker {}:", one.id())).await;
    one.signal("CONT");
    wait_until_healthy(dir.path()).await;

    one.signal("STOP");
    wait_until_unhealthy(dir.path(), "has made no progress for").await;
    one.signal("KILL");
    one.end().await;
    // The killed worker has left its file. The check ignores the file, because no process holds its lock.
    wait_until_healthy(dir.path()).await;
    other.signal("TERM");
    assert_eq!(other.end().await.code(), Some(0));
    check(dir.path()).await.failed(1, &["no worker reports in", "WORKER_HEALTH_DIR"]);
}

#[tokio::test]
async fn a_worker_that_waits_for_redis_is_healthy() {
    let (app, dir) = (TestApp::start().await, TempDir::new());
    let mut command = worker_command(&app, dir.path()).await;
    command.env("REDIS_URL", "redis://127.0.0.1:9/0");
    let mut worker = Running::start(command);
    worker.wait_for_output("cannot reach Redis, retrying").await;
    wait_until_healthy(dir.path()).await;
    worker.signal("STOP");
    wait_until_unhealthy(dir.path(), "has made no progress for").await;
}

#[tokio::test]
async fn the_directory_of_health_files_can_be_set_and_must_be_usable() {
    let (app, dir) = (TestApp::start().await, TempDir::new());
    check(dir.path()).await.failed(1, &["no worker reports in"]);
    let chosen = dir.path().join("chosen/by/setting");
    let mut command = worker_command(&app, dir.path()).await;
    command.env("WORKER_HEALTH_DIR", &chosen);
    let _worker = Running::start(command);
    eventually("the file is in the directory", || async {
        let mut healthcheck = saas(&["healthcheck", "--worker", "--health-dir"]);
        healthcheck.arg(&chosen);
        (run(healthcheck).await.code == Some(0)).then_some(())
    })
    .await;
    check(dir.path()).await.failed(1, &["no worker reports in"]);

    std::fs::write(dir.path().join("file"), "").unwrap();
    let mut command = worker_command(&app, dir.path()).await;
    command.env("WORKER_HEALTH_DIR", dir.path().join("file"));
    let mut worker = Running::start(command);
    worker.wait_for_output("cannot write the file for `saas healthcheck --worker`").await;
    // The worker runs without a usable directory.
    worker.wait_for_output("worker started").await;

    // Another user may have created a link in a directory that all users can write to.
    let default = dir.path().join(format!("saas-{}", rustix::process::geteuid().as_raw()));
    symlink(&chosen, default).unwrap();
    check(dir.path())
        .await
        .failed(1, &["cannot read the files of the workers", "it is not a directory of this user"]);
}

#[tokio::test]
async fn a_worker_without_a_free_slot_counts_as_making_progress() {
    let queue = TestQueue::new().await;
    queue.push("long", Behavior::WaitForTest).await;
    let worker = queue.worker(Options { concurrency: 1, burst: false, ..options(&["default"]) });
    let (liveness, stop) = (worker.liveness(), CancellationToken::new());
    let running = tokio::spawn(worker.run(stop.clone(), CancellationToken::new()));
    eventually("the job runs", || async { (queue.log.ran() == ["long"]).then_some(()) }).await;
    let before = liveness.count();
    eventually("the loop goes on", || async { (liveness.count() > before + 2).then_some(()) }).await;
    queue.log.open.notify_one();
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap().finished, 1);
}
