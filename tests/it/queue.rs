//! The job engine with tasks of the tests' own.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use saas::queue::{
    Cancel, Context, Failure, Job, JobStatus, JobType, Options, Origin, Queue, State, Summary, Worker,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    servers::{servers, unique},
};

/// What the tasks of a test share with it.
#[derive(Clone, Default)]
pub struct Log {
    pub ran: Arc<Mutex<Vec<String>>>,
    pub now: Arc<AtomicU32>,
    pub most: Arc<AtomicU32>,
    pub open: Arc<tokio::sync::Notify>,
    /// Runs that were dropped before their end.
    pub dropped: Arc<AtomicU32>,
}

struct CountDropped(Option<Arc<AtomicU32>>);

impl Drop for CountDropped {
    fn drop(&mut self) {
        if let Some(dropped) = self.0.take() {
            dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Log {
    pub fn ran(&self) -> Vec<String> {
        self.ran.lock().unwrap().clone()
    }
}

/// Does what its fields say.
#[derive(Serialize, Deserialize)]
pub struct Task {
    pub name: String,
    pub behaviour: Behaviour,
}

#[derive(Serialize, Deserialize, Clone, PartialEq)]
pub enum Behaviour {
    Succeed,
    /// With a result twice as long as the name.
    Double,
    /// So many times, then succeeds.
    Fail(u32),
    FailForGood,
    Panic,
    /// Until it is told to stop, and then does.
    Wait,
    /// Until the test lets it go on.
    WaitForTest,
    /// Keeps its thread for so many milliseconds.
    Block(u64),
}

impl Job for Task {
    type State = Log;
    type Output = Value;
    const NAME: &'static str = "test_task";
    const BACKOFF: Duration = Duration::from_millis(1);

    async fn run(self, ctx: Context<Log>) -> Result<Value, Failure> {
        let now = ctx.state.now.fetch_add(1, Ordering::SeqCst) + 1;
        ctx.state.most.fetch_max(now, Ordering::SeqCst);
        ctx.state.ran.lock().unwrap().push(self.name.clone());
        let mut running = CountDropped(Some(ctx.state.dropped.clone()));
        let result = match self.behaviour {
            Behaviour::Succeed => Ok(()),
            Behaviour::Double => return Ok(json!(self.name.repeat(2))),
            Behaviour::Fail(times) if ctx.attempt <= times => Err("the disk at /srv is full".into()),
            Behaviour::Fail(_) => Ok(()),
            Behaviour::FailForGood => Err(Failure::new("There is no such invoice").permanent()),
            Behaviour::Panic => panic!("out of cheese"),
            Behaviour::Wait => {
                ctx.stopped().await;
                Ok(())
            }
            Behaviour::WaitForTest => {
                ctx.state.open.notified().await;
                Ok(())
            }
            Behaviour::Block(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                Ok(())
            }
        };
        running.0 = None;
        ctx.state.now.fetch_sub(1, Ordering::SeqCst);
        result.map(|()| json!({ "name": self.name }))
    }
}

/// The same on another queue.
#[derive(Serialize, Deserialize)]
pub struct UrgentTask {
    pub name: String,
}

impl Job for UrgentTask {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "urgent_task";
    const QUEUE: &'static str = "urgent";

    async fn run(self, ctx: Context<Log>) -> Result<(), Failure> {
        ctx.state.ran.lock().unwrap().push(self.name);
        Ok(())
    }
}

/// Never ends by itself.
#[derive(Serialize, Deserialize)]
struct EndlessTask;

impl Job for EndlessTask {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "endless_task";
    const TIMEOUT: Duration = Duration::from_millis(50);

    async fn run(self, _: Context<Log>) -> Result<(), Failure> {
        std::future::pending().await
    }
}

/// Unknown to the workers of the tests.
#[derive(Serialize, Deserialize)]
struct TaskOfTomorrow;

impl Job for TaskOfTomorrow {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "task_of_tomorrow";
    async fn run(self, _: Context<Log>) -> Result<(), Failure> {
        Ok(())
    }
}

pub const ALL: &[JobType<Log>] = &[
    JobType::of::<Task>(),
    JobType::of::<UrgentTask>(),
    JobType::of::<EndlessTask>(),
    JobType::of::<Forgetful>(),
    JobType::of::<Unforgetting>(),
];

pub struct TestQueue {
    pub queue: Queue,
    pub prefix: String,
    pub log: Log,
}

#[derive(clap::Parser)]
struct RedisSettings {
    #[command(flatten)]
    redis: saas::config::Redis,
}

impl TestQueue {
    pub async fn new() -> Self {
        Self::at(&servers().await.redis_url()).await
    }

    pub async fn at(url: &str) -> Self {
        use clap::Parser;
        let prefix = format!("q{}", unique());
        let settings = RedisSettings::parse_from(["test", "--redis-url", url, "--queue-prefix", &prefix]);
        Self { queue: Queue::new(&settings.redis).unwrap(), prefix, log: Log::default() }
    }

    pub async fn push(&self, name: &str, behaviour: Behaviour) -> String {
        let task = Task { name: name.into(), behaviour };
        self.queue.enqueue(&task, Origin::default()).await.unwrap()
    }

    pub fn worker(&self, options: Options) -> Worker<Log> {
        Worker::new(&self.queue, ALL, self.log.clone(), options)
    }

    /// Works off what is there.
    pub async fn drain(&self) -> Summary {
        let never = CancellationToken::new();
        self.worker(options(&["urgent", "default"])).run(never.clone(), never).await.unwrap()
    }

    /// Works off what is there, time and again, until the job is in that state.
    pub async fn drain_until(&self, id: &str, state: State) -> JobStatus {
        eventually(&format!("{id} is {state:?}"), || async {
            self.drain().await;
            Some(self.status(id).await).filter(|status| status.state == state)
        })
        .await
    }

    pub async fn status(&self, id: &str) -> JobStatus {
        self.queue.status(id).await.unwrap().expect("the job is known")
    }

    /// A command to Redis; `{}` stands for the prefix.
    pub async fn redis<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(servers().await.redis_url()).unwrap();
        let mut conn = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = redis::Cmd::new();
        for word in command {
            cmd.arg(word.replace("{}", &self.prefix));
        }
        cmd.query_async(&mut conn).await.unwrap()
    }

    /// Puts bytes where an envelope belongs.
    async fn redis_bytes(&self, id: &str, envelope: &[u8]) {
        let client = redis::Client::open(servers().await.redis_url()).unwrap();
        let mut conn = client.get_multiplexed_async_connection().await.unwrap();
        let key = format!("{}:jobs", self.prefix);
        redis::cmd("HSET").arg(key).arg(id).arg(envelope).query_async::<()>(&mut conn).await.unwrap();
    }

    /// Fails unless every job is accounted for and nothing is left over.
    pub async fn is_clean(&self) {
        for key in ["run", "att", "err", "crash", "cancel"] {
            assert!(!self.redis::<bool>(&["EXISTS", &format!("{{}}:{key}")]).await, "{key} is left over");
        }
        for queue in ["default", "urgent"] {
            assert!(
                !self.redis::<bool>(&["EXISTS", &format!("{{}}:wip:{queue}")]).await,
                "a lease is left over"
            );
        }
    }
}

/// A worker that goes on until it is stopped.
pub fn steady(concurrency: usize) -> Options {
    Options { concurrency, burst: false, ..options(&["default"]) }
}

#[tokio::test]
async fn smoke_a_job_runs_and_its_result_is_kept() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    assert_eq!(queue.status(&id).await.state, State::Queued);
    assert_eq!(queue.redis::<u32>(&["LLEN", "{}:queue:default"]).await, 1);
    assert_eq!(queue.drain().await, Summary { finished: 1, ..Summary::default() });
    let status = queue.status(&id).await;
    assert_eq!(
        (status.state, status.result, status.attempts),
        (State::Finished, Some(json!({ "name": "one" })), 1)
    );
    assert!(status.enqueued_at <= status.ended_at && status.started_at <= status.ended_at);
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:jobs"]).await);
    queue.is_clean().await;
}

#[tokio::test]
async fn results_are_gone_when_their_time_is_over() {
    let queue = TestQueue::new().await;
    queue.push("one", Behaviour::Succeed).await;
    queue.drain().await;
    let buckets: Vec<String> = queue.redis(&["ZRANGE", "{}:buckets", "0", "-1"]).await;
    assert_eq!(buckets.len(), 1);
    let day: i64 = queue.redis(&["TTL", &buckets[0]]).await;
    assert!((86_400..86_400 + 86_400 / 8 + 120).contains(&day), "{day}");
    // What is over is freed by whoever ticks.
    queue.redis::<u32>(&["ZADD", "{}:buckets", "1", &buckets[0]]).await;
    queue.drain().await;
    assert!(!queue.redis::<bool>(&["EXISTS", &buckets[0]]).await);
}

#[tokio::test]
async fn a_failure_is_tried_again_and_then_forgotten() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Fail(2)).await;
    assert_eq!(queue.drain().await.failed, 1);
    let waiting = queue.status(&id).await;
    assert_eq!((waiting.state, waiting.attempts), (State::Scheduled, 1));
    assert_eq!(waiting.error.as_deref(), Some("The job failed"), "the owner is not told of disks");
    assert_eq!(waiting.error_detail.as_deref(), Some("the disk at /srv is full"));
    let done = queue.drain_until(&id, State::Finished).await;
    assert_eq!((done.attempts, done.error), (3, None));
    assert_eq!(queue.log.ran(), ["one"; 3]);
    queue.is_clean().await;
}

#[tokio::test]
async fn when_its_attempts_are_used_up_a_job_has_failed() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Fail(99)).await;
    let failed = queue.drain_until(&id, State::Failed).await;
    assert_eq!((failed.attempts, failed.error_detail.as_deref()), (3, Some("the disk at /srv is full")));
    assert!(failed.ended_at.is_some());
    assert_eq!(queue.drain().await, Summary::default());
    assert_eq!(queue.log.ran().len(), 3);
    assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Ended);
}

#[tokio::test]
async fn a_failure_for_good_is_not_tried_again() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::FailForGood).await;
    queue.drain().await;
    let failed = queue.status(&id).await;
    assert_eq!((failed.state, failed.attempts), (State::Failed, 1));
    assert_eq!(failed.error.as_deref(), Some("There is no such invoice"));
}

#[tokio::test]
async fn a_panic_is_a_failure_like_any_other() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Panic).await;
    let other = queue.push("two", Behaviour::Succeed).await;
    queue.drain().await;
    assert_eq!(queue.status(&other).await.state, State::Finished);
    let failed = queue.drain_until(&id, State::Failed).await;
    assert!(failed.error_detail.unwrap().contains("out of cheese"));
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_stopped() {
    let queue = TestQueue::new().await;
    let id = queue.queue.enqueue(&EndlessTask, Origin::default()).await.unwrap();
    queue.drain().await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.attempts), (State::Scheduled, 1));
    assert_eq!(status.error.as_deref(), Some("The job took longer than 0.05 s"));
}

#[tokio::test]
async fn queues_come_in_the_order_they_are_named() {
    let queue = TestQueue::new().await;
    for n in 0..3 {
        queue.push(&format!("default {n}"), Behaviour::Succeed).await;
    }
    for n in 0..3 {
        queue.queue.enqueue(&UrgentTask { name: format!("urgent {n}") }, Origin::default()).await.unwrap();
    }
    let never = CancellationToken::new();
    let one_by_one = Options { concurrency: 1, ..options(&["urgent", "default"]) };
    queue.worker(one_by_one).run(never.clone(), never).await.unwrap();
    let order = ["urgent 0", "urgent 1", "urgent 2", "default 0", "default 1", "default 2"];
    assert_eq!(queue.log.ran(), order);
}

#[tokio::test]
async fn a_worker_leaves_other_queues_alone() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    let never = CancellationToken::new();
    queue.worker(options(&["urgent"])).run(never.clone(), never).await.unwrap();
    assert_eq!(queue.status(&id).await.state, State::Queued);
}

#[tokio::test]
async fn no_more_jobs_run_at_once_than_were_asked_for() {
    let queue = TestQueue::new().await;
    for n in 0..12 {
        queue.push(&n.to_string(), Behaviour::WaitForTest).await;
    }
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(4)).run(stop.clone(), CancellationToken::new()));
    for done in 0..12_usize {
        let running = (12 - done).min(4);
        let all_run = || async { (queue.log.now.load(Ordering::SeqCst) as usize == running).then_some(()) };
        eventually("as many run as may", all_run).await;
        queue.log.open.notify_one();
    }
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 12);
    assert_eq!(queue.log.most.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn workers_that_share_a_queue_run_each_job_once() {
    let queue = TestQueue::new().await;
    for n in 0..300 {
        queue.push(&n.to_string(), Behaviour::Succeed).await;
    }
    let never = CancellationToken::new();
    let workers =
        (0..4).map(|_| tokio::spawn(queue.worker(options(&["default"])).run(never.clone(), never.clone())));
    let mut finished = 0;
    for worker in workers.collect::<Vec<_>>() {
        finished += worker.await.unwrap().unwrap().finished;
    }
    let mut ran = queue.log.ran();
    ran.sort();
    ran.dedup();
    assert_eq!((finished, ran.len()), (300, 300));
    queue.is_clean().await;
}

#[tokio::test]
async fn an_idle_worker_takes_a_new_job_up() {
    let queue = TestQueue::new().await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
    for n in 0..20 {
        let id = queue.push(&n.to_string(), Behaviour::Succeed).await;
        eventually("it is done", || async {
            (queue.status(&id).await.state == State::Finished).then_some(())
        })
        .await;
    }
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 20);
}

#[tokio::test]
async fn a_job_that_was_cancelled_while_it_waited_never_runs() {
    let queue = TestQueue::new().await;
    let queued = queue.push("queued", Behaviour::Succeed).await;
    let scheduled = queue.push("scheduled", Behaviour::Fail(1)).await;
    assert_eq!(queue.queue.cancel(&queued).await.unwrap(), Cancel::Canceled);
    queue.drain().await;
    assert_eq!(queue.queue.cancel(&scheduled).await.unwrap(), Cancel::Canceled);
    for id in [&queued, &scheduled] {
        assert_eq!(queue.status(id).await.state, State::Canceled);
        assert_eq!(queue.queue.cancel(id).await.unwrap(), Cancel::Ended);
    }
    assert_eq!(queue.queue.cancel(&"0".repeat(32)).await.unwrap(), Cancel::Unknown);
    assert_eq!(queue.log.ran(), ["scheduled"]);
    queue.is_clean().await;
}

#[tokio::test]
async fn a_running_job_is_cancelled_whether_it_listens_or_not() {
    for behaviour in [Behaviour::Wait, Behaviour::WaitForTest] {
        let queue = TestQueue::new().await;
        let id = queue.push("one", behaviour.clone()).await;
        let stop = CancellationToken::new();
        let work = tokio::spawn(queue.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
        eventually("it runs", || async { (!queue.log.ran().is_empty()).then_some(()) }).await;
        assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Requested);
        let ended = eventually("it has ended", || async {
            Some(queue.status(&id).await.state).filter(|state| *state != State::Started)
        })
        .await;
        // One that stops in its own way, and in time, has finished.
        let expected = if behaviour == Behaviour::Wait { State::Finished } else { State::Canceled };
        assert_eq!(ended, expected);
        stop.cancel();
        work.await.unwrap().unwrap();
        queue.is_clean().await;
    }
}

#[tokio::test]
async fn a_task_that_is_not_known_yet_waits_for_a_worker_that_knows_it() {
    let queue = TestQueue::new().await;
    let id = queue.queue.enqueue(&TaskOfTomorrow, Origin::default()).await.unwrap();
    queue.drain().await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.attempts), (State::Scheduled, 0));
    const TOMORROW: &[JobType<Log>] = &[JobType::of::<TaskOfTomorrow>()];
    queue.redis::<u32>(&["ZADD", "{}:scheduled:default", "1", &id]).await;
    let never = CancellationToken::new();
    let worker = Worker::new(&queue.queue, TOMORROW, queue.log.clone(), options(&["default"]));
    assert_eq!(worker.run(never.clone(), never).await.unwrap().finished, 1);
}

#[tokio::test]
async fn a_task_that_nobody_knows_fails_after_a_while() {
    let queue = TestQueue::new().await;
    let id = queue.queue.enqueue(&TaskOfTomorrow, Origin::default()).await.unwrap();
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &id]).await;
    let mut envelope: Value = serde_json::from_str(&envelope).unwrap();
    envelope["at"] = json!(envelope["at"].as_i64().unwrap() - 2 * 60 * 60 * 1_000);
    queue.redis::<u32>(&["HSET", "{}:jobs", &id, &envelope.to_string()]).await;
    queue.drain().await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.error.as_deref()), (State::Failed, Some("No worker knows this task")));
}

#[tokio::test]
async fn what_cannot_be_read_fails_and_harms_nobody() {
    let queue = TestQueue::new().await;
    let (bad_arguments, bad_envelope) =
        (queue.push("a", Behaviour::Succeed).await, queue.push("b", Behaviour::Succeed).await);
    let fine = queue.push("c", Behaviour::Succeed).await;
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &bad_arguments]).await;
    let spoilt = envelope.replace("\"behaviour\"", "\"behavior\"");
    queue.redis::<u32>(&["HSET", "{}:jobs", &bad_arguments, &spoilt]).await;
    queue.redis_bytes(&bad_envelope, b"\xff{\"queue\"").await;
    let summary = queue.drain().await;
    assert_eq!((summary.finished, summary.failed), (1, 2));
    assert_eq!(queue.status(&fine).await.state, State::Finished);
    let status = queue.status(&bad_arguments).await;
    assert_eq!(status.error.as_deref(), Some("The job's arguments cannot be read"));
    assert_eq!(queue.redis::<u32>(&["ZCARD", "{}:failed:default"]).await, 2);
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_refused() {
    let queue = TestQueue::new().await;
    let task = Task { name: "x".repeat(1024 * 1024), behaviour: Behaviour::Succeed };
    let error = queue.queue.enqueue(&task, Origin::default()).await.unwrap_err();
    assert!(error.to_string().contains("1048576 bytes"), "{error}");
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:jobs"]).await);
}

#[tokio::test]
async fn a_result_that_is_too_large_is_refused() {
    let queue = TestQueue::new().await;
    let id = queue.push(&"x".repeat(700_000), Behaviour::Double).await;
    let other = queue.push("two", Behaviour::Succeed).await;
    queue.drain().await;
    assert_eq!(queue.status(&other).await.state, State::Finished);
    let failed = queue.status(&id).await;
    assert_eq!(
        (failed.state, failed.error.as_deref()),
        (State::Failed, Some("The job's result is too large"))
    );
}

/// Tasks that ask for a life of their results that no key can have.
#[derive(Serialize, Deserialize)]
struct Forgetful;

impl Job for Forgetful {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "forgetful";
    const RESULT_TTL: Duration = Duration::ZERO;
    async fn run(self, _: Context<Log>) -> Result<(), Failure> {
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Unforgetting;

impl Job for Unforgetting {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "unforgetting";
    const RESULT_TTL: Duration = Duration::MAX;
    async fn run(self, _: Context<Log>) -> Result<(), Failure> {
        Ok(())
    }
}

#[tokio::test]
async fn no_life_of_a_result_harms_the_others_of_its_batch() {
    let queue = TestQueue::new().await;
    let mut ids = vec![queue.push("one", Behaviour::Succeed).await];
    ids.push(queue.queue.enqueue(&Forgetful, Origin::default()).await.unwrap());
    ids.push(queue.queue.enqueue(&Unforgetting, Origin::default()).await.unwrap());
    assert_eq!(queue.drain().await.finished, 3);
    for id in &ids {
        assert_eq!(queue.status(id).await.state, State::Finished);
    }
    queue.is_clean().await;
}

#[tokio::test]
async fn a_push_wakes_whoever_waits() {
    let queue = TestQueue::new().await;
    queue.push("one", Behaviour::Succeed).await;
    assert_eq!(queue.redis::<u32>(&["ZCARD", "{}:wake:default"]).await, 1);
}

#[tokio::test]
async fn a_push_that_arrives_when_the_job_has_ended_makes_no_second_one() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &id]).await;
    queue.drain().await;
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/queue/scripts");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let script = redis::Script::new(&format!("{}{}", read("lib.lua"), read("push.lua")));
    let client = redis::Client::open(servers().await.redis_url()).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    let mut call = script.key(&queue.prefix);
    call.arg("default").arg(0).arg(1).arg(&id).arg(&envelope);
    let known: Vec<String> = call.invoke_async(&mut conn).await.unwrap();
    assert_eq!(known, [id]);
    assert_eq!(queue.drain().await.finished, 0);
}

#[tokio::test]
async fn a_cancellation_is_not_forgotten_when_the_job_comes_back() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    // Asked to stop, and given back before it heard of it.
    queue.redis::<u32>(&["SADD", "{}:cancel", &id]).await;
    assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Canceled);
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:cancel"]).await);
}

#[tokio::test]
async fn of_the_failed_only_the_latest_are_kept() {
    let queue = TestQueue::new().await;
    let old = queue.push("old", Behaviour::FailForGood).await;
    let new = queue.push("new", Behaviour::FailForGood).await;
    queue.drain().await;
    queue.redis::<u32>(&["ZADD", "{}:failed:default", "1", &old]).await;
    queue.drain().await;
    assert!(queue.queue.status(&old).await.unwrap().is_none());
    assert_eq!(queue.status(&new).await.state, State::Failed);
    assert_eq!(queue.redis::<u32>(&["HLEN", "{}:jobs"]).await, 1);
}

#[tokio::test]
async fn the_owner_and_the_request_travel_with_the_job() {
    let queue = TestQueue::new().await;
    let task = Task { name: "one".into(), behaviour: Behaviour::Succeed };
    let origin = Origin { owner: Some(7), request_id: Some("request-1".into()) };
    let id = queue.queue.enqueue(&task, origin).await.unwrap();
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &id]).await;
    assert!(envelope.contains("\"req\":\"request-1\""), "{envelope}");
    assert_eq!(queue.status(&id).await.owner, Some(7));
    queue.drain().await;
    assert_eq!(queue.status(&id).await.owner, Some(7));
}
