//! Fault tolerance: lost responses, outages, crashes, lost leases.

use std::{sync::atomic::Ordering, time::Duration};

use saas::{
    dev::{Purpose, Server, test_dir},
    queue::{Options, State},
};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    proxy::{Link, Proxy},
    queue::{Behavior, TestQueue, steady},
    servers::servers,
};

const LEASE: Duration = Duration::from_secs(1);

fn short_lease(options: Options) -> Options {
    Options { lease: LEASE, ..options }
}

async fn start_proxied() -> (Proxy, TestQueue) {
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    (proxy, TestQueue::at(&url).await)
}

impl TestQueue {
    async fn until_running(&self, jobs: usize) {
        eventually("the jobs are running", || async { (self.log.ran().len() == jobs).then_some(()) }).await;
    }

    pub async fn until(&self, id: &str, state: State) {
        eventually(&format!("{id} is {state:?}"), || async {
            (self.status(id).await.state == state).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_fetch_with_a_lost_answer_loses_no_job() {
    let (proxy, queue) = start_proxied().await;
    let id = queue.push("one", Behavior::Succeed).await;
    // Only the response to the fetch contains the name of the task.
    proxy.lose_answer("test_task");
    assert_eq!(queue.drain().await.finished, 1);
    assert!(proxy.has_lost_answer());
    let status = queue.status(&id).await;
    assert_eq!(
        (status.state, status.attempts),
        (State::Finished, 1),
        "the lost fetch does not count as an attempt"
    );
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_fetch_that_arrives_after_its_jobs_were_released_gets_nothing() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    queue.redis::<redis::Value>(&["SET", "{}:void:late", "1"]).await;
    let args = ["worker", "late", "1000", "10", "10", "0", "", "default"];
    let (_, taken, _): (i64, Vec<redis::Value>, u64) = queue.script("fetch", &args).await;
    assert!(taken.is_empty());
    assert_eq!(queue.status(&id).await.state, State::Queued);
}

#[tokio::test]
async fn a_settlement_with_a_lost_answer_counts_once() {
    let (proxy, queue) = start_proxied().await;
    let id = queue.push("one", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let worker = queue.worker(Options { scheduler: false, ..steady(1) });
    let work = tokio::spawn(worker.run(stop.clone(), CancellationToken::new()));
    queue.until_running(1).await;
    // The lost response is the response to the settlement, or an earlier response to a heartbeat or a wake-up.
    proxy.lose_answer("");
    queue.log.open.notify_one();
    eventually("an answer is lost", || async { proxy.has_lost_answer().then_some(()) }).await;
    eventually("the job has finished", || async {
        let status = queue.queue.status(&id).await.ok().flatten()?;
        (status.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 1);
    assert_eq!(queue.redis::<u32>(&["HGET", "{}:stats", "default:finished"]).await, 1);
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_result_is_stored_when_redis_is_back() {
    for link in [Link::Cut, Link::Stalled] {
        let (proxy, queue) = start_proxied().await;
        let id = queue.push("one", Behavior::WaitForTest).await;
        let stop = CancellationToken::new();
        let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
        queue.until_running(1).await;
        proxy.set(link);
        // Waits until the client has noticed the outage.
        eventually("Redis is unavailable", || async { queue.queue.queues().await.is_err().then_some(()) })
            .await;
        queue.log.open.notify_one();
        eventually("the job has ended", || async {
            (queue.log.running.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
        proxy.set(Link::Up);
        eventually("the result is stored", || async {
            // The first requests may use closed connections.
            let status = queue.queue.status(&id).await.ok().flatten()?;
            (status.state == State::Finished).then_some(())
        })
        .await;
        stop.cancel();
        assert_eq!(work.await.unwrap().unwrap().finished, 1);
        assert_eq!(queue.log.ran(), ["one"]);
        queue.assert_no_running_records().await;
    }
}

#[tokio::test]
async fn scripts_are_reloaded_after_a_script_flush() {
    // A separate server, because SCRIPT FLUSH would affect the other tests on the shared server.
    let server = Server::redis(&test_dir().unwrap(), Purpose::Test).await.unwrap();
    let queue = TestQueue::at(server.url.expose_secret()).await;
    let client = redis::Client::open(server.url.expose_secret()).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(4)).run(stop.clone(), CancellationToken::new()));
    for n in 0..100 {
        if n % 10 == 0 {
            redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut conn).await.unwrap();
        }
        queue.push(&n.to_string(), Behavior::Succeed).await;
    }
    eventually("all jobs have run", || async { (queue.log.ran().len() == 100).then_some(()) }).await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 100);
    let left: bool =
        redis::cmd("EXISTS").arg(format!("{}:run", queue.prefix)).query_async(&mut conn).await.unwrap();
    assert!(!left);
    server.stop().await;
}

#[tokio::test]
async fn jobs_of_a_crashed_worker_are_run_by_another_worker() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::WaitForTest).await;
    let never = CancellationToken::new();
    let dead = tokio::spawn(queue.worker(short_lease(steady(1))).run(never.clone(), never.clone()));
    queue.until_running(1).await;
    dead.abort();
    let stop = CancellationToken::new();
    let heir = tokio::spawn(queue.worker(short_lease(steady(1))).run(stop.clone(), never));
    queue.until_running(2).await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.attempts), (State::Started, 2));
    queue.log.open.notify_waiters();
    queue.until(&id, State::Finished).await;
    stop.cancel();
    heir.await.unwrap().unwrap();
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_job_fails_after_it_has_crashed_three_workers() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::WaitForTest).await;
    let never = CancellationToken::new();
    for crash in 1..=3 {
        let due = queue.redis::<Option<String>>(&["ZSCORE", "{}:scheduled:default", &id]).await;
        if due.is_some() {
            queue.redis::<u32>(&["ZADD", "{}:scheduled:default", "1", &id]).await;
        }
        let victim = tokio::spawn(queue.worker(short_lease(steady(1))).run(never.clone(), never.clone()));
        queue.until_running(crash).await;
        victim.abort();
        // This worker serves only the empty queue `other`, so only its scheduler works.
        let stop = CancellationToken::new();
        let other = short_lease(Options { queues: "other".parse().unwrap(), ..steady(1) });
        let witness = tokio::spawn(queue.worker(other).run(stop.clone(), never.clone()));
        eventually("the job is recovered", || async {
            (queue.status(&id).await.state != State::Started).then_some(())
        })
        .await;
        stop.cancel();
        witness.await.unwrap().unwrap();
    }
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.attempts), (State::Failed, 3));
    assert_eq!(status.error.as_deref(), Some("The worker that ran this job died"));
}

#[tokio::test]
async fn a_long_job_keeps_its_lease() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(short_lease(steady(2))).run(stop.clone(), CancellationToken::new()));
    let rival =
        tokio::spawn(queue.worker(short_lease(steady(2))).run(stop.clone(), CancellationToken::new()));
    queue.until_running(1).await;
    let expiry = || async {
        let leases: Vec<(String, f64)> =
            queue.redis(&["ZRANGE", "{}:wip:default", "0", "-1", "WITHSCORES"]).await;
        leases[0].1
    };
    let first = expiry().await;
    eventually("the lease has lasted for three times its length", || async {
        (expiry().await > first + 3.0 * LEASE.as_millis() as f64).then_some(())
    })
    .await;
    queue.log.open.notify_one();
    queue.until(&id, State::Finished).await;
    stop.cancel();
    work.await.unwrap().unwrap();
    rival.await.unwrap().unwrap();
    assert_eq!(queue.log.ran(), ["one"]);
}

#[test]
fn a_job_that_blocks_the_runtime_costs_no_leases() {
    let starved = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let queue = other.block_on(TestQueue::new());
    let neighbor = other.block_on(queue.push("neighbor", Behavior::WaitForTest));
    let stop = CancellationToken::new();
    let worker = queue.worker(short_lease(steady(2)));
    let work = starved.spawn(worker.run(stop.clone(), CancellationToken::new()));
    other.block_on(async {
        queue.until_running(1).await;
        // Blocks the only thread of the runtime for three times the lease.
        let blocker = queue.push("blocker", Behavior::Block(3_000)).await;
        queue.until_running(2).await;
        let rival =
            tokio::spawn(queue.worker(short_lease(steady(2))).run(stop.clone(), CancellationToken::new()));
        queue.until(&blocker, State::Finished).await;
        queue.log.open.notify_one();
        queue.until(&neighbor, State::Finished).await;
        stop.cancel();
        rival.await.unwrap().unwrap();
        work.await.unwrap().unwrap();
        assert_eq!(queue.log.ran(), ["neighbor", "blocker"], "neither ran twice");
        queue.assert_no_running_records().await;
    });
}

#[tokio::test]
async fn a_worker_that_cannot_renew_its_leases_stops_its_jobs() {
    let (proxy, queue) = start_proxied().await;
    let id = queue.push("one", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(short_lease(steady(1))).run(stop.clone(), CancellationToken::new()));
    queue.until_running(1).await;
    proxy.set(Link::Stalled);
    eventually("the job is stopped", || async {
        (queue.log.dropped.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    proxy.set(Link::Up);
    queue.until_running(2).await;
    queue.log.open.notify_waiters();
    eventually("the job has finished", || async {
        queue.log.open.notify_waiters();
        let status = queue.queue.status(&id).await.ok().flatten()?;
        (status.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    work.await.unwrap().unwrap();
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn no_job_is_recovered_right_after_an_outage() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::WaitForTest).await;
    let never = CancellationToken::new();
    let worker = queue.worker(Options { scheduler: false, ..short_lease(steady(1)) });
    let work = tokio::spawn(worker.run(never.clone(), never.clone()));
    queue.until_running(1).await;
    work.abort();
    // Simulates a long time without a scheduler, in which the lease has expired.
    queue.redis::<redis::Value>(&["SET", "{}:tick", "1"]).await;
    let lease: Vec<String> = queue.redis(&["ZRANGE", "{}:wip:default", "0", "-1"]).await;
    queue.redis::<u32>(&["ZADD", "{}:wip:default", "1", &lease[0]]).await;
    // This worker serves only the empty queue `other`, so only its scheduler works.
    let stop = CancellationToken::new();
    let options =
        Options { queues: "other".parse().unwrap(), lease: Duration::from_secs(3_600), ..steady(1) };
    let witness = tokio::spawn(queue.worker(options).run(stop.clone(), never));
    eventually("the scheduler has noticed the gap", || async {
        queue.redis::<bool>(&["EXISTS", "{}:grace"]).await.then_some(())
    })
    .await;
    assert_eq!(
        queue.status(&id).await.state,
        State::Started,
        "its worker gets the time of one lease to return"
    );
    queue.redis::<u32>(&["DEL", "{}:grace"]).await;
    queue.until(&id, State::Queued).await;
    stop.cancel();
    witness.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_burst_worker_recovers_the_jobs_of_a_crashed_worker() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::WaitForTest).await;
    let never = CancellationToken::new();
    // The second worker waits for the time of one lease before it recovers jobs. Here that is longer than the maximum
    // normal gap between two ticks (2.5 seconds), so the worker must also tick while it waits.
    let five_seconds = || Options { lease: Duration::from_secs(5), ..options(&["default"]) };
    let dead = tokio::spawn(queue.worker(five_seconds()).run(never.clone(), never.clone()));
    queue.until_running(1).await;
    dead.abort();
    // Simulates a long time without workers.
    queue.redis::<redis::Value>(&["SET", "{}:tick", "1"]).await;
    let lease: Vec<String> = queue.redis(&["ZRANGE", "{}:wip:default", "0", "-1"]).await;
    queue.redis::<u32>(&["ZADD", "{}:wip:default", "1", &lease[0]]).await;
    let heir = tokio::spawn(queue.worker(five_seconds()).run(never.clone(), never));
    queue.until_running(2).await;
    queue.log.open.notify_waiters();
    heir.await.unwrap().unwrap();
    queue.until(&id, State::Finished).await;
}
