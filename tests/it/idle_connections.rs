//! Idle connections that a server, a pooler or a firewall closes. The product reconnects without a warning, and no request
//! or job fails.

use reqwest::Method;

use crate::support::{
    TestApp,
    app::Answer,
    eventually,
    process::{Running, production_command, start_server},
    proxy::{Link, Proxy},
    servers::servers,
};

/// The number of Redis connections of an idle worker: one for heartbeats, one for the scheduler, one to fetch and settle jobs,
/// one to wait for jobs of the system queue, and one to wait for jobs of the other queues.
const WORKER_CONNECTIONS: usize = 5;

/// Returns the logged warnings and errors about connections.
fn connection_warnings(process: &Running) -> Vec<String> {
    let is_about_connections = |line: &&str| {
        let is_loud = line.contains("\"level\":\"warn\"") || line.contains("\"level\":\"error\"");
        let words = ["Redis connection", "heartbeat", "periodic", "unavailable"];
        is_loud && words.iter().any(|word| line.contains(word))
    };
    process.output().lines().filter(is_about_connections).map(str::to_owned).collect()
}

async fn wait_until_logged(process: &Running, words: &str, times: usize) {
    eventually(&format!("{words:?} is logged {times} times"), || async {
        (process.output().matches(words).count() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_replaces_closed_connections_silently_and_warns_if_it_cannot() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    let mut command = production_command(&["worker"], &app.database, &app.prefix).await;
    command.env("REDIS_URL", url).env("LOG_LEVEL", "debug");
    let worker = Running::start(command);
    let (connected, closed) = ("connected to Redis", "Redis connection was closed, reconnecting");
    wait_until_logged(&worker, connected, WORKER_CONNECTIONS).await;
    proxy.close_all();
    wait_until_logged(&worker, closed, WORKER_CONNECTIONS).await;
    wait_until_logged(&worker, connected, 2 * WORKER_CONNECTIONS).await;
    let job = app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
    let path = format!("/jobs/{}/status", job.body["job_id"].as_str().unwrap());
    eventually("the job has finished", || async {
        (app.get(&path, Some(&user)).await.body["status"] == "finished").then_some(())
    })
    .await;
    assert_eq!(connection_warnings(&worker), [""; 0]);

    proxy.set(Link::Cut);
    wait_until_logged(&worker, "Redis connection failed, reconnecting", 1).await;
    wait_until_logged(&worker, "heartbeat failed, retrying", 1).await;
}

#[tokio::test]
async fn the_api_replaces_closed_connections_without_warnings() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let (redis, redis_url) = Proxy::before(&servers().await.redis_url()).await;
    let mut command = production_command(&["serve", "--port", "0"], &app.database, &app.prefix).await;
    command.env("REDIS_URL", redis_url);
    let (server, address) = start_server(command).await;
    let client = reqwest::Client::new();
    let enqueue = || {
        client
            .post(format!("http://{address}/api/v1/jobs/example?name=x&duration=0"))
            .bearer_auth(&user.token)
    };
    for _ in 0..3 {
        assert_eq!(Answer::of(enqueue()).await.status, 200);
        redis.close_all();
    }
    assert_eq!(connection_warnings(&server), [""; 0]);
}
