//! What the job engine does when things break.

use std::{sync::atomic::Ordering, time::Duration};

use saas::{
    dev::{Purpose, Server, test_dir},
    queue::{Options, Origin, State},
};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    proxy::{Link, Proxy},
    queue::{Behaviour, Task, TestQueue, steady},
    servers::servers,
};

const LEASE: Duration = Duration::from_secs(1);

fn short_lease(options: Options) -> Options {
    Options { lease: LEASE, ..options }
}

async fn proxied() -> (Proxy, TestQueue) {
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    (proxy, TestQueue::at(&url).await)
}

impl TestQueue {
    async fn until_running(&self, jobs: usize) {
        eventually("the jobs run", || async { (self.log.ran().len() == jobs).then_some(()) }).await;
    }

    pub async fn until(&self, id: &str, state: State) {
        eventually(&format!("{id} is {state:?}"), || async {
            (self.status(id).await.state == state).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_fetch_whose_answer_was_lost_loses_no_job() {
    let (proxy, queue) = proxied().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    // The envelope comes with the answer to the fetch, and with no other.
    proxy.lose_answer("test_task");
    assert_eq!(queue.drain().await.finished, 1);
    assert!(proxy.has_lost_it());
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.attempts), (State::Finished, 1), "no attempt is burnt");
    queue.is_clean().await;
}

#[tokio::test]
async fn a_fetch_that_arrives_after_it_was_given_up_takes_nothing() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    queue.redis::<redis::Value>(&["SET", "{}:void:late", "1"]).await;
    let args = ["worker", "late", "1000", "10", "default"];
    let (_, taken, _): (i64, Vec<redis::Value>, u64) = queue.script("fetch", &args).await;
    assert!(taken.is_empty());
    assert_eq!(queue.status(&id).await.state, State::Queued);
}

#[tokio::test]
async fn a_settle_whose_answer_was_lost_counts_once() {
    let (proxy, queue) = proxied().await;
    let id = queue.push("one", Behaviour::WaitForTest).await;
    let stop = CancellationToken::new();
    let worker = queue.worker(Options { scheduler: false, ..steady(1) });
    let work = tokio::spawn(worker.run(stop.clone(), CancellationToken::new()));
    queue.until_running(1).await;
    // The next answers are those of the settle, and of a heartbeat or a wake-up, which bear it too.
    proxy.lose_answer("");
    queue.log.open.notify_one();
    eventually("an answer is lost", || async { proxy.has_lost_it().then_some(()) }).await;
    eventually("it has finished", || async {
        let status = queue.queue.status(&id).await.ok().flatten()?;
        (status.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 1);
    assert_eq!(queue.redis::<u32>(&["HGET", "{}:stats", "default:finished"]).await, 1);
    queue.is_clean().await;
}

#[tokio::test]
async fn a_result_waits_until_redis_is_back() {
    for link in [Link::Cut, Link::Stalled] {
        let (proxy, queue) = proxied().await;
        let id = queue.push("one", Behaviour::WaitForTest).await;
        let stop = CancellationToken::new();
        let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
        queue.until_running(1).await;
        proxy.set(link);
        // Until others notice, too.
        eventually("Redis is away", || async { queue.queue.queues().await.is_err().then_some(()) }).await;
        queue.log.open.notify_one();
        eventually("the job has ended", || async {
            (queue.log.now.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
        proxy.set(Link::Up);
        eventually("the result has arrived", || async {
            // The first questions may meet connections of before.
            let status = queue.queue.status(&id).await.ok().flatten()?;
            (status.state == State::Finished).then_some(())
        })
        .await;
        stop.cancel();
        assert_eq!(work.await.unwrap().unwrap().finished, 1);
        assert_eq!(queue.log.ran(), ["one"]);
        queue.is_clean().await;
    }
}

#[tokio::test]
async fn scripts_that_redis_has_forgotten_are_brought_again() {
    // A server of its own: the scripts are everybody's.
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
        queue.push(&n.to_string(), Behaviour::Succeed).await;
    }
    eventually("all have run", || async { (queue.log.ran().len() == 100).then_some(()) }).await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 100);
    let left: bool =
        redis::cmd("EXISTS").arg(format!("{}:run", queue.prefix)).query_async(&mut conn).await.unwrap();
    assert!(!left);
    server.stop().await;
}

#[tokio::test]
async fn what_a_dead_worker_held_is_run_by_another() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::WaitForTest).await;
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
    queue.is_clean().await;
}

#[tokio::test]
async fn a_job_that_kills_its_workers_is_put_aside() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::WaitForTest).await;
    let never = CancellationToken::new();
    for crash in 1..=3 {
        let due = queue.redis::<Option<String>>(&["ZSCORE", "{}:scheduled:default", &id]).await;
        if due.is_some() {
            queue.redis::<u32>(&["ZADD", "{}:scheduled:default", "1", &id]).await;
        }
        let victim = tokio::spawn(queue.worker(short_lease(steady(1))).run(never.clone(), never.clone()));
        queue.until_running(crash).await;
        victim.abort();
        // Somebody who keeps time, and takes nothing.
        let stop = CancellationToken::new();
        let other = short_lease(Options { queues: "other".parse().unwrap(), ..steady(1) });
        let witness = tokio::spawn(queue.worker(other).run(stop.clone(), never.clone()));
        eventually("the job is taken back", || async {
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
    let id = queue.push("one", Behaviour::WaitForTest).await;
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
    eventually("the lease is extended past three of its lengths", || async {
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
fn a_job_that_starves_the_runtime_keeps_its_lease_and_its_neighbours() {
    let starved = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let queue = other.block_on(TestQueue::new());
    let neighbour = other.block_on(queue.push("neighbour", Behaviour::WaitForTest));
    let stop = CancellationToken::new();
    let worker = queue.worker(short_lease(steady(2)));
    let work = starved.spawn(worker.run(stop.clone(), CancellationToken::new()));
    other.block_on(async {
        queue.until_running(1).await;
        // Three leases long, on the only thread there is.
        let blocker = queue.push("blocker", Behaviour::Block(3_000)).await;
        queue.until_running(2).await;
        let rival =
            tokio::spawn(queue.worker(short_lease(steady(2))).run(stop.clone(), CancellationToken::new()));
        queue.until(&blocker, State::Finished).await;
        queue.log.open.notify_one();
        queue.until(&neighbour, State::Finished).await;
        stop.cancel();
        rival.await.unwrap().unwrap();
        work.await.unwrap().unwrap();
        assert_eq!(queue.log.ran(), ["neighbour", "blocker"], "neither ran twice");
        queue.is_clean().await;
    });
}

#[tokio::test]
async fn a_worker_that_cannot_renew_stops_its_jobs_and_loses_none() {
    let (proxy, queue) = proxied().await;
    let id = queue.push("one", Behaviour::WaitForTest).await;
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
    eventually("it has finished", || async {
        queue.log.open.notify_waiters();
        let status = queue.queue.status(&id).await.ok().flatten()?;
        (status.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    work.await.unwrap().unwrap();
    queue.is_clean().await;
}

#[tokio::test]
async fn a_full_redis_refuses_new_jobs_and_drains_the_old() {
    let dir = test_dir().unwrap();
    let server = Server::redis(&dir, Purpose::Test).await.unwrap();
    let queue = TestQueue::at(server.url.expose_secret()).await;
    let client = redis::Client::open(server.url.expose_secret()).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    let ids: Vec<_> =
        futures_util::future::join_all((0..20).map(|_| queue.push("x", Behaviour::Succeed))).await;
    let set = |bytes: &'static str| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).to_owned();
    set("1mb").query_async::<()>(&mut conn).await.unwrap();
    let task = Task { name: "one too many".into(), behaviour: Behaviour::Succeed };
    let error = queue.queue.enqueue(&task, Origin::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "Redis is unavailable");
    assert_eq!(queue.drain().await.finished, 20);
    for id in &ids {
        assert_eq!(queue.status(id).await.state, State::Finished);
    }
    set("0").query_async::<()>(&mut conn).await.unwrap();
    queue.push("again", Behaviour::Succeed).await;
    assert_eq!(queue.drain().await.finished, 1);
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_taken_back_right_after_an_outage() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::WaitForTest).await;
    let never = CancellationToken::new();
    let worker = queue.worker(Options { scheduler: false, ..short_lease(steady(1)) });
    let work = tokio::spawn(worker.run(never.clone(), never.clone()));
    queue.until_running(1).await;
    work.abort();
    // As if nobody had kept time for an hour, during which the lease has run out.
    queue.redis::<redis::Value>(&["SET", "{}:tick", "1"]).await;
    let lease: Vec<String> = queue.redis(&["ZRANGE", "{}:wip:default", "0", "-1"]).await;
    queue.redis::<u32>(&["ZADD", "{}:wip:default", "1", &lease[0]]).await;
    // Somebody who keeps time, and takes nothing.
    let stop = CancellationToken::new();
    let options =
        Options { queues: "other".parse().unwrap(), lease: Duration::from_secs(3_600), ..steady(1) };
    let witness = tokio::spawn(queue.worker(options).run(stop.clone(), never));
    eventually("it has seen the gap", || async {
        queue.redis::<bool>(&["EXISTS", "{}:grace"]).await.then_some(())
    })
    .await;
    assert_eq!(queue.status(&id).await.state, State::Started, "its worker gets a lease's time to come back");
    queue.redis::<u32>(&["DEL", "{}:grace"]).await;
    queue.until(&id, State::Queued).await;
    stop.cancel();
    witness.await.unwrap().unwrap();
}

#[tokio::test]
async fn workers_that_only_burst_take_back_what_one_of_them_held() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::WaitForTest).await;
    let never = CancellationToken::new();
    // Longer than the shortest gap that counts as one.
    let five_seconds = || Options { lease: Duration::from_secs(5), ..options(&["default"]) };
    let dead = tokio::spawn(queue.worker(five_seconds()).run(never.clone(), never.clone()));
    queue.until_running(1).await;
    dead.abort();
    // As if the next were started an hour later.
    queue.redis::<redis::Value>(&["SET", "{}:tick", "1"]).await;
    let lease: Vec<String> = queue.redis(&["ZRANGE", "{}:wip:default", "0", "-1"]).await;
    queue.redis::<u32>(&["ZADD", "{}:wip:default", "1", &lease[0]]).await;
    let heir = tokio::spawn(queue.worker(five_seconds()).run(never.clone(), never));
    queue.until_running(2).await;
    queue.log.open.notify_waiters();
    heir.await.unwrap().unwrap();
    queue.until(&id, State::Finished).await;
}
