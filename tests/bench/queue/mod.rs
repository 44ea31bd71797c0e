//! Measures the job engine under load. Most figures are compared with a baseline, such as a loop that only calls the scripts
//! of the engine. The rounds of both alternate in one run, so that a slow or busy machine affects both.

mod concurrency;
mod enqueue;
mod pick_up;
mod replicas;
mod transactions;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use redis::aio::MultiplexedConnection;
use saas::{
    app,
    dev::{self, Purpose, Server},
    queue::{
        Context, EnqueueOptions, Failure, Job, JobState, JobType, Options, Origin, Queue, Retention, Worker,
    },
    redis_pool::RedisPool,
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    bare::{self, BareClient, QUEUE},
    table::{EngineAndBaseline, Figures, Rounds, Sample, number},
};

/// The number of no-op jobs that one call of a bulk enqueue adds.
const JOBS_PER_CALL: usize = 250;
/// The number of times that a round drains the short backlog. One drain is too short to measure.
const DRAINS_PER_ROUND: usize = 5;
/// Padding of the arguments of a job. With this padding, the envelope of a job has 250 bytes.
const PADDING_BYTES: usize = 144;

/// Measures the job engine.
#[derive(Parser)]
#[command(name = "./scripts/bench queue", no_binary_name = true)]
struct Args {
    /// Rounds of each measurement [default: 3, and 1 for the longest backlog].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Jobs that the worker runs at once in a drain, and that one call of the baseline fetches.
    #[arg(long, default_value_t = 500, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: u16,
    /// Use a tenth of the jobs.
    #[arg(long)]
    quick: bool,
}

#[derive(Parser)]
struct RedisSettings {
    #[command(flatten)]
    redis: saas::config::Redis,
}

/// The state that the jobs share. With a channel, each no-op job sends the time of its start.
#[derive(Clone, Default)]
struct Probe(Option<mpsc::UnboundedSender<Instant>>);

/// A job that does nothing.
#[derive(Clone, Serialize, Deserialize)]
struct Noop {
    n: u64,
    pad: String,
}

impl JobState for Probe {}

impl Job for Noop {
    type State = Probe;
    type Output = ();
    const NAME: &'static str = "noop";

    async fn run(self, ctx: Context<Probe>) -> Result<(), Failure> {
        if let Some(begun) = &ctx.state.0 {
            let _ = begun.send(Instant::now());
        }
        Ok(())
    }
}

const JOBS: &[JobType<Probe>] = &[JobType::of::<Noop>(), JobType::of::<concurrency::Nap>()];

fn options(concurrency: usize, burst: bool) -> Result<Options> {
    let (lease, grace) = (Duration::from_secs(30), Duration::from_secs(25));
    let queues = QUEUE.parse()?;
    let retention = Retention::default();
    Ok(Options {
        queues,
        concurrency,
        lease,
        grace,
        burst,
        scheduler: true,
        reserved: None,
        max_running_per_owner: None,
        retention,
    })
}

pub fn main(args: impl Iterator<Item = String>) -> Result<()> {
    let args = Args::parse_from(args);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let server = Server::redis(&dev::test_dir()?, Purpose::Test).await?;
        let result = measure(args, server.url.expose_secret()).await;
        server.stop().await;
        result
    })
}

async fn measure(args: Args, url: &str) -> Result<()> {
    let mut conn = bare::connect(url).await?;
    bare::watch_slow_calls(&mut conn).await?;
    println!("{}", bare::describe(&mut conn).await?);
    let cpus = std::thread::available_parallelism()?;
    println!("{cpus} CPUs, 2 threads, concurrency {}\n", args.concurrency);
    let batch = (0..JOBS_PER_CALL as u64)
        .map(|n| Noop { n: 1_000_000 + n, pad: "x".repeat(PADDING_BYTES) })
        .collect();
    let (envelope, outcome) = (String::new(), String::new());
    let mut bench = Bench { args, url: url.to_owned(), conn, batch, envelope, outcome };
    let envelope = bench.warm_up().await?;
    println!("{}", bench.measure_by_concurrency().await?);
    let (short, long) = (bench.size(10_000), bench.size(1_000_000));
    let [memory, finished, state] = bench.measure_memory().await?;
    let figures = Figures {
        short: number(short as f64, 0),
        long: number(long as f64, 0),
        bulk: bench.measure_bulk_enqueue().await?,
        single: bench.measure_single_enqueue().await?,
        short_drain: bench.measure_drain("short", short, DRAINS_PER_ROUND, bench.rounds(3)).await?,
        long_drain: bench.measure_drain("long", long, 1, bench.rounds(1)).await?,
        pick_up: bench.measure_pick_up().await?,
        memory: [memory, envelope],
        ended: [finished, state],
        slow: bare::slow_calls(&mut bench.conn).await?,
    };
    print!("{}", figures.table());
    println!("\n{}", bench.measure_replica_wait().await?);
    println!("\n{}", bench.measure_transactions().await?);
    if let Some(worst) = &figures.slow.1 {
        println!("\nThe slowest call of a script took {worst}");
    }
    Ok(())
}

struct Bench {
    args: Args,
    url: String,
    conn: MultiplexedConnection,
    /// The no-op jobs of a bulk enqueue. A call that enqueues one job uses the first.
    batch: Vec<Noop>,
    /// The envelope of a job, which the baseline uses too.
    envelope: String,
    /// The outcome of a job, which the baseline uses too.
    outcome: String,
}

impl Bench {
    /// Returns the number of rounds: `--rounds`, or `usual`.
    fn rounds(&self, usual: usize) -> usize {
        self.args.rounds.map_or(usual, usize::from)
    }

    /// Returns the number of jobs of a measurement: `full`, or a tenth of it with `--quick`.
    fn size(&self, full: usize) -> usize {
        if self.args.quick { full / 10 } else { full }
    }

    /// Returns clients of the engine and of the baseline for one measurement. Both use the key prefix `prefix`.
    async fn engine_and_baseline(&self, prefix: &'static str) -> Result<(Queue, BareClient)> {
        let url = self.url.as_str();
        let flags =
            ["bench", "--redis-url", url, "--redis-key-prefix", prefix, "--redis-timeout-ms", "60000"];
        let settings = RedisSettings::try_parse_from(flags)?.redis;
        let redis = RedisPool::new(&settings)?;
        redis.ping().await?;
        let queue = app::queue(&redis, &settings);
        Ok((queue, BareClient::new(bare::connect(url).await?, prefix, Noop::RESULT_TTL)))
    }

    async fn flush(&self) -> Result<()> {
        redis::cmd("FLUSHALL").arg("SYNC").query_async::<()>(&mut self.conn.clone()).await?;
        Ok(())
    }

    async fn fill(&self, queue: &Queue, jobs: usize) -> Result<()> {
        for _ in 0..jobs / JOBS_PER_CALL {
            queue.enqueue_all(&self.batch, Origin::default(), EnqueueOptions::default()).await?;
        }
        Ok(())
    }

    /// Measures the duration of `work` on `jobs` jobs, and the time that Redis spends in scripts and in BZPOPMIN meanwhile.
    async fn measure(&self, jobs: usize, work: impl Future<Output = Result<()>>) -> Result<Sample> {
        let mut conn = self.conn.clone();
        redis::cmd("CONFIG").arg("RESETSTAT").query_async::<()>(&mut conn).await?;
        let begun = Instant::now();
        work.await?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Sample { jobs, seconds, redis: bare::script_time(&mut conn).await? })
    }

    /// Runs the engine and the baseline once, on [`JOBS_PER_CALL`] jobs. Stores the envelope and the outcome of a job in
    /// `self` for the baseline. Returns the mean size of the envelopes in bytes.
    async fn warm_up(&mut self) -> Result<Rounds> {
        eprintln!("warming up");
        let (queue, bare) = self.engine_and_baseline("warm").await?;
        self.fill(&queue, JOBS_PER_CALL).await?;
        let envelopes: Vec<String> = redis::cmd("HVALS").arg("warm:jobs").query_async(&mut self.conn).await?;
        self.run_worker(&queue, JOBS_PER_CALL).await?;
        let buckets: Vec<String> =
            redis::cmd("ZRANGE").arg("warm:done").arg(0).arg(-1).query_async(&mut self.conn).await?;
        let bucket = buckets.first().context("no outcome was stored")?;
        let outcomes: Vec<String> = redis::cmd("HVALS").arg(bucket).query_async(&mut self.conn).await?;
        let bytes: usize = envelopes.iter().map(String::len).sum();
        let mut size = Rounds::default();
        size.push(bytes as f64 / envelopes.len() as f64);
        self.envelope = envelopes.into_iter().next().context("no job was enqueued")?;
        self.outcome = outcomes.into_iter().next().context("no outcome was stored")?;
        self.flush().await?;
        self.fill(&queue, JOBS_PER_CALL).await?;
        bare.drain(JOBS_PER_CALL, &self.outcome).await?;
        self.flush().await?;
        Ok(size)
    }

    /// Runs all queued jobs with a new worker. Fails unless exactly `jobs` jobs finish.
    async fn run_worker(&self, queue: &Queue, jobs: usize) -> Result<Sample> {
        self.run_worker_at(queue, self.args.concurrency.into(), jobs).await
    }

    async fn run_worker_at(&self, queue: &Queue, concurrency: usize, jobs: usize) -> Result<Sample> {
        let options = options(concurrency, true)?;
        let worker = Worker::new(queue, JOBS, Probe::default(), options)?;
        let never = CancellationToken::new();
        let working = async {
            let finished = worker.run(never.clone(), never.clone()).await?.finished;
            ensure!(finished == jobs as u64, "{finished} of {jobs} jobs finished");
            anyhow::Ok(())
        };
        self.measure(jobs, working).await
    }

    /// Measures the engine and the baseline while each empties a queue of `jobs` jobs, `times` times per round.
    async fn measure_drain(
        &self,
        prefix: &'static str,
        jobs: usize,
        times: usize,
        rounds: usize,
    ) -> Result<EngineAndBaseline> {
        let (queue, bare) = self.engine_and_baseline(prefix).await?;
        let mut both = EngineAndBaseline::default();
        for round in 1..=rounds {
            eprintln!("drain of {}: round {round}", number(jobs as f64, 0));
            let mut samples = [Sample::default(), Sample::default()];
            for _ in 0..times {
                self.fill(&queue, jobs).await?;
                samples[0].add(&self.run_worker(&queue, jobs).await?);
                self.flush().await?;
                self.fill(&queue, jobs).await?;
                let draining = async {
                    let ended = bare.drain(self.args.concurrency.into(), &self.outcome).await?;
                    ensure!(ended == jobs, "{ended} of {jobs} jobs ended");
                    anyhow::Ok(())
                };
                samples[1].add(&self.measure(jobs, draining).await?);
                self.flush().await?;
            }
            both.add(&samples);
        }
        Ok(both)
    }

    /// Measures the memory in bytes of a queued job, of a finished job, and of a finished job whose outcome was deleted.
    async fn measure_memory(&self) -> Result<[Rounds; 3]> {
        let ((queue, _), jobs) = (self.engine_and_baseline("memory").await?, self.size(100_000));
        let mut conn = self.conn.clone();
        let mut found = <[Rounds; 3]>::default();
        for round in 1..=self.rounds(3) {
            eprintln!("memory of jobs: round {round}");
            let before = bare::used_memory(&mut conn).await?;
            self.fill(&queue, jobs).await?;
            found[0].push((bare::used_memory(&mut conn).await? - before) / jobs as f64);
            self.run_worker(&queue, jobs).await?;
            found[1].push((bare::used_memory(&mut conn).await? - before) / jobs as f64);
            let outcomes: Vec<String> =
                redis::cmd("ZRANGE").arg("memory:done").arg(0).arg(-1).query_async(&mut conn).await?;
            redis::cmd("DEL").arg(outcomes).query_async::<()>(&mut conn).await?;
            found[2].push((bare::used_memory(&mut conn).await? - before) / jobs as f64);
            self.flush().await?;
        }
        Ok(found)
    }
}
