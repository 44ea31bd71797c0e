//! Settings of the workers and of the jobs of users.

use std::path::PathBuf;

use clap::{ArgAction, Args, builder::BoolishValueParser};

/// How a worker runs jobs, and how many records of ended jobs Redis keeps.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Worker settings")]
pub struct Worker {
    /// Maximum number of jobs that this process runs at the same time.
    #[arg(long = "concurrency", env = "WORKER_CONCURRENCY", default_value_t = 10, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    /// Seconds without a heartbeat of a worker, after which other workers take over its jobs.
    #[arg(long = "lease-seconds", env = "WORKER_LEASE_SECONDS", default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease_seconds: u64,
    /// Seconds that running jobs may take to finish after SIGTERM. Unfinished jobs go back to the queue.
    #[arg(long = "shutdown-grace-seconds", env = "WORKER_SHUTDOWN_GRACE_SECONDS", alias = "shutdown-grace",
        default_value_t = 25, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub shutdown_grace_seconds: u64,
    /// Whether this process also runs the product's own jobs, such as emails to users and housekeeping. These jobs come first,
    /// and one slot is kept free for them unless WORKER_CONCURRENCY is 1. Turn this off only if other workers run these jobs.
    #[arg(long = "system-queue", env = "WORKER_SYSTEM_QUEUE", default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub system_queue: bool,
    /// Maximum number of outcomes of ended jobs in Redis. An outcome has the result of a job. Beyond the limit, the oldest
    /// outcomes are deleted, also before the RESULT_TTL of their jobs has passed.
    #[arg(long, env, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    pub queue_max_outcomes: u64,
    /// Maximum total size of the outcomes of ended jobs in Redis, in bytes. Beyond the limit, the oldest outcomes are deleted.
    #[arg(long, env, default_value_t = 268_435_456, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1_000_000..=1_000_000_000_000))]
    pub queue_max_outcome_bytes: u64,
    /// Maximum number of final states of ended jobs in Redis. A state takes about 70 bytes, and expires after at least a day.
    /// Beyond the limit, the oldest states are deleted earlier. Without its state, an ended job is unknown: no other job can
    /// wait for it, and it may run again if a client enqueues it again.
    #[arg(long, env, default_value_t = 5_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    pub queue_max_states: u64,
    #[command(flatten)]
    pub health: WorkerHealth,
}

/// The directory in which workers show that they are running.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Worker settings")]
pub struct WorkerHealth {
    /// Directory of the files by which workers show that they are running. `saas healthcheck --worker` reads them. The
    /// default is `saas-` followed by the user ID, in the directory for temporary files: `/tmp/saas-1000`.
    #[arg(long = "health-dir", env = "WORKER_HEALTH_DIR", value_name = "DIR")]
    pub worker_health_dir: Option<PathBuf>,
}

/// How many jobs one user may have. The limits apply to admins too.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits of each user")]
pub struct UserJobs {
    /// Maximum number of jobs of one user that wait or run. Further jobs are refused with 429.
    #[arg(long, env, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub user_max_queued_jobs: u64,
    /// Maximum total size of the jobs of one user that wait or run, in bytes. Further jobs are refused with 429.
    #[arg(long, env, default_value_t = 10_000_000, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub user_max_queued_bytes: u64,
    /// Number of jobs that one user can enqueue per hour. The limit is a token bucket of this size: all jobs of an hour may come
    /// at once. Further jobs are refused with 429.
    #[arg(long, env, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub user_max_jobs_per_hour: u64,
    /// Maximum number of jobs of one user that run at the same time, in all workers together. Further jobs wait. The default is
    /// half of the default of WORKER_CONCURRENCY, so that one user cannot occupy a whole worker.
    #[arg(long, env, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub user_max_running_jobs: u32,
}
