//! Queues with jobs for tests.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use saas::queue::{
    BoxError, Context, EnqueueBy, Failure, Job, JobState, JobStatus, JobType, MayRun, Options, Origin, Queue,
    State, Summary, Worker,
};
use saas::redis_pool::RedisPool;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    app::options,
    eventually,
    servers::{servers, unique},
};

/// The state that a test shares with its jobs.
#[derive(Clone, Default)]
pub struct Log {
    /// The names that jobs have added when they started, such as each attempt of a [`Task`] or [`UrgentTask`], in order.
    pub ran: Arc<Mutex<Vec<String>>>,
    /// The number of [`Task`]s that are running. A run that panics or is dropped stays counted, and a run of
    /// [`Behavior::Double`] too.
    pub running: Arc<AtomicU32>,
    /// The maximum that `running` has had.
    pub max_running: Arc<AtomicU32>,
    /// Lets jobs with [`Behavior::WaitForTest`] or [`Behavior::Report`] finish.
    pub open: Arc<tokio::sync::Notify>,
    /// The number of runs of a [`Task`] that were dropped before they ended or have panicked, and of the runs of
    /// [`Behavior::Double`].
    pub dropped: Arc<AtomicU32>,
    /// The origins of the jobs for which a worker has asked whether they may run, in order.
    pub asked: Arc<Mutex<Vec<Origin>>>,
    /// If set, jobs with an owner or a scope may not run, for this reason.
    pub refusal: Arc<Mutex<Option<&'static str>>>,
}

/// Counts a run as dropped, unless the field is set to `None` before.
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

/// A job that does what `behavior` says.
#[derive(Serialize, Deserialize)]
pub struct Task {
    pub name: String,
    pub behavior: Behavior,
}

#[derive(Serialize, Deserialize, Clone, PartialEq)]
pub enum Behavior {
    Succeed,
    /// Succeeds with a result twice as long as the name.
    Double,
    /// Fails in this number of attempts, then succeeds.
    Fail(u32),
    FailForGood,
    Panic,
    /// Waits until the worker signals the job to stop, and then succeeds.
    Wait,
    /// Waits until the test notifies [`Log::open`], then succeeds.
    WaitForTest,
    /// Blocks its thread for this number of milliseconds, then succeeds.
    Block(u64),
    /// Reports progress, waits until the test notifies [`Log::open`], then succeeds.
    Report,
    Snooze,
    Discard,
    /// Fails, and asks for a retry after this number of seconds.
    RetryIn(u64),
}

impl JobState for Log {
    async fn may_run(&self, origin: &Origin) -> Result<MayRun, BoxError> {
        self.asked.lock().unwrap().push(origin.clone());
        Ok(self.refusal.lock().unwrap().map_or(MayRun::Yes, MayRun::No))
    }
}

impl Job for Task {
    type State = Log;
    type Output = Value;
    const NAME: &'static str = "test_task";
    const ENQUEUE_BY: EnqueueBy = EnqueueBy::User { max_bytes: 1_000 };
    const BACKOFF: Duration = Duration::from_millis(1);

    async fn run(self, ctx: Context<Log>) -> Result<Value, Failure> {
        let running = ctx.state.running.fetch_add(1, Ordering::SeqCst) + 1;
        ctx.state.max_running.fetch_max(running, Ordering::SeqCst);
        ctx.state.ran.lock().unwrap().push(self.name.clone());
        let mut guard = CountDropped(Some(ctx.state.dropped.clone()));
        let result = match self.behavior {
            Behavior::Succeed => Ok(()),
            Behavior::Double => return Ok(json!(self.name.repeat(2))),
            Behavior::Fail(times) if ctx.attempt <= times => Err("the disk at /srv is full".into()),
            Behavior::Fail(_) => Ok(()),
            Behavior::FailForGood => Err(Failure::new("There is no such invoice").permanent()),
            Behavior::Panic => panic!("out of cheese"),
            Behavior::Wait => {
                ctx.stopped().await;
                Ok(())
            }
            Behavior::WaitForTest => {
                ctx.state.open.notified().await;
                Ok(())
            }
            Behavior::Report => {
                ctx.progress(10, "one of ten");
                ctx.progress(40, "four of ten");
                ctx.state.open.notified().await;
                Ok(())
            }
            Behavior::Snooze => Err(Failure::snooze(Duration::from_secs(3_600))),
            Behavior::Discard => Err(Failure::discard("The invoice is paid")),
            Behavior::RetryIn(seconds) => Err(Failure::new("Not yet").retry_in(Duration::from_secs(seconds))),
            Behavior::Block(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                Ok(())
            }
        };
        guard.0 = None;
        ctx.state.running.fetch_sub(1, Ordering::SeqCst);
        result.map(|()| json!({ "name": self.name }))
    }
}

/// A job of the queue `urgent`.
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

/// A job that never ends by itself. It times out after 50 ms.
#[derive(Serialize, Deserialize)]
pub struct EndlessTask;

impl Job for EndlessTask {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "endless_task";
    const TIMEOUT: Duration = Duration::from_millis(50);

    async fn run(self, _: Context<Log>) -> Result<(), Failure> {
        std::future::pending().await
    }
}

/// A job of a later release. [`ALL`] does not have it, so the workers of the tests do not know it.
#[derive(Serialize, Deserialize)]
pub struct TaskOfTomorrow;

impl Job for TaskOfTomorrow {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "task_of_tomorrow";
    async fn run(self, _: Context<Log>) -> Result<(), Failure> {
        Ok(())
    }
}

/// A job with the minimum `RESULT_TTL`.
#[derive(Serialize, Deserialize)]
pub struct ZeroResultTtl;

impl Job for ZeroResultTtl {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "zero_result_ttl";
    const RESULT_TTL: Duration = Duration::ZERO;
    async fn run(self, _: Context<Log>) -> Result<(), Failure> {
        Ok(())
    }
}

/// A job with the maximum `RESULT_TTL`.
#[derive(Serialize, Deserialize)]
pub struct MaxResultTtl;

impl Job for MaxResultTtl {
    type State = Log;
    type Output = ();
    const NAME: &'static str = "max_result_ttl";
    const RESULT_TTL: Duration = Duration::MAX;
    async fn run(self, _: Context<Log>) -> Result<(), Failure> {
        Ok(())
    }
}

/// The job types that [`TestQueue::worker`] runs.
pub const ALL: &[JobType<Log>] = &[
    JobType::of::<Task>(),
    JobType::of::<UrgentTask>(),
    JobType::of::<EndlessTask>(),
    JobType::of::<ZeroResultTtl>(),
    JobType::of::<MaxResultTtl>(),
];

pub struct TestQueue {
    pub queue: Queue,
    pub prefix: String,
    pub log: Log,
    /// The URL of the server for [`Self::redis`] and other direct commands, which do not use a proxy.
    direct: String,
}

#[derive(clap::Parser)]
struct RedisSettings {
    #[command(flatten)]
    redis: saas::config::Redis,
}

/// Opens a connection with longer time-outs than the defaults of the client.
pub async fn connect(url: &str) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(20)))
        .set_response_timeout(Some(Duration::from_secs(20)));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}

pub fn client(url: &str, prefix: &str) -> Queue {
    client_with(url, prefix, &[])
}

pub fn client_with(url: &str, prefix: &str, flags: &[&str]) -> Queue {
    use clap::Parser;
    let words = ["test", "--redis-url", url, "--queue-prefix", prefix];
    let settings = RedisSettings::parse_from(words.iter().chain(flags));
    saas::app::queue(&RedisPool::new(&settings.redis).unwrap(), &settings.redis)
}

impl TestQueue {
    pub async fn new() -> Self {
        Self::at(&servers().await.redis_url()).await
    }

    /// Creates a queue with a new prefix. The queue connects to `url`, such as a proxy in front of the shared server.
    /// [`Self::redis`] and other direct commands use the shared server.
    pub async fn at(url: &str) -> Self {
        let direct = servers().await.redis_url();
        Self { direct, ..Self::on(url, &format!("q{}", unique())) }
    }

    /// Creates a queue on any server, at `url`.
    pub fn on(url: &str, prefix: &str) -> Self {
        Self { queue: client(url, prefix), prefix: prefix.into(), log: Log::default(), direct: url.into() }
    }

    pub async fn push(&self, name: &str, behavior: Behavior) -> String {
        let task = Task { name: name.into(), behavior };
        self.queue.enqueue(&task, Origin::default()).await.unwrap()
    }

    pub fn worker(&self, options: Options) -> Worker<Log> {
        Worker::new(&self.queue, ALL, self.log.clone(), options).unwrap()
    }

    /// Runs jobs until the queues `urgent` and `default` have no due jobs.
    pub async fn drain(&self) -> Summary {
        let never = CancellationToken::new();
        self.worker(options(&["urgent", "default"])).run(never.clone(), never).await.unwrap()
    }

    /// Runs due jobs repeatedly, until the job `id` has the state `state`.
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

    /// Sends a command to Redis; `{}` is replaced by the prefix.
    pub async fn redis<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut conn = connect(&self.direct).await.unwrap();
        let mut cmd = redis::Cmd::new();
        for word in command {
            cmd.arg(word.replace("{}", &self.prefix));
        }
        cmd.query_async(&mut conn).await.unwrap()
    }

    /// Calls a script of the engine directly, for example to settle a job like a worker that has lost its
    /// lease.
    pub async fn script<T: redis::FromRedisValue>(&self, name: &str, args: &[&str]) -> T {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/queue/scripts");
        let read = |name: &str| std::fs::read_to_string(dir.join(format!("{name}.lua"))).unwrap();
        let script = redis::Script::new(&(read("lib") + &read(name)));
        let mut conn = connect(&self.direct).await.unwrap();
        script.key(&self.prefix).arg(args).invoke_async(&mut conn).await.unwrap()
    }

    /// Overwrites the envelope of a job with any bytes.
    pub async fn overwrite_envelope(&self, id: &str, envelope: &[u8]) {
        let mut conn = connect(&self.direct).await.unwrap();
        let key = format!("{}:jobs", self.prefix);
        redis::cmd("HSET").arg(key).arg(id).arg(envelope).query_async::<()>(&mut conn).await.unwrap();
    }

    /// Asserts that Redis has no leases of the queues `default` and `urgent`, and no records of jobs that run, have failed
    /// attempts, have crashed their workers or are to be canceled.
    pub async fn assert_no_running_records(&self) {
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

/// Returns the options of a worker of the queue `default` that runs until it is stopped.
pub fn steady(concurrency: usize) -> Options {
    Options { concurrency, burst: false, ..options(&["default"]) }
}
