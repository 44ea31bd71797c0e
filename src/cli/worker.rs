use std::{process::ExitCode, time::Duration};

use super::{
    environment::Findings,
    liveness_file,
    server_checks::{check_tenant_role, wait_for_database, wait_for_usable_redis},
    shutdown::Shutdown,
    startup::{check_settings, log_warnings, refused_settings},
};
use crate::{
    app::App,
    config::{self, Config, WorkerHealth},
    db::migrations,
    error::chain,
    jobs, logging,
    queue::{Options, Queues, ReservedQueue, Retention, Worker},
    services::job_relay::sweep,
};

/// Run background jobs.
///
/// Any number of workers may share a queue. Every worker also takes the product's own jobs, such as emails to users, from
/// the queue `system`: before all other jobs, and with one slot kept free for them unless --concurrency is 1;
/// --system-queue=false turns this off. On SIGTERM, running jobs have WORKER_SHUTDOWN_GRACE_SECONDS to finish, and unfinished
/// jobs go back to the queue. A second SIGTERM stops at once and returns all jobs to the queue.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  saas worker --queues critical,default   take from critical first\n  \
    saas worker --queues critical:6,low:1   prefer critical in six of seven cases\n  \
    saas worker --burst                     run until no job may start, then exit")]
pub(super) struct Args {
    /// Queues to take jobs from, in the order of their priority, or with weights.
    #[arg(long, default_value = "default", value_name = "NAMES")]
    queues: Queues,
    /// Exit when no job runs and none may start. Waits for rate limits.
    #[arg(long)]
    burst: bool,
    /// Do not move delayed jobs that are due, cron jobs and the jobs of dead workers to the queues, and do not delete expired
    /// records of jobs. Another worker must do it.
    #[arg(long)]
    no_scheduler: bool,
    #[command(flatten)]
    worker: config::Worker,
    #[command(flatten)]
    config: Config,
}

impl Args {
    /// Returns the problems of the parsed settings: invalid and unsafe values.
    pub(super) fn refused_settings(&self) -> Vec<String> {
        refused_settings(&self.config, None)
    }

    pub(super) async fn run(self, findings: &Findings) -> anyhow::Result<ExitCode> {
        check_settings(&self.config, None)?;
        let _log = logging::init(&self.config.core, &self.config.logs)?;
        log_warnings(&self.config, findings);
        let shutdown = Shutdown::on_signals()?;
        let options = Options {
            queues: self.queues,
            concurrency: self.worker.concurrency.into(),
            lease: self.worker.lease_duration(),
            grace: Duration::from_secs(self.worker.shutdown_grace_seconds),
            burst: self.burst,
            scheduler: !self.no_scheduler,
            reserved: reserved_queue(&self.worker),
            max_running_per_owner: Some(self.config.user_jobs.user_max_running_jobs),
            retention: retention(&self.worker),
        };
        work(App::new(self.config)?, options, &self.worker.health, &shutdown).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the queue of the product's own jobs, unless `WORKER_SYSTEM_QUEUE` turns it off.
pub(super) fn reserved_queue(settings: &config::Worker) -> Option<ReservedQueue> {
    settings.system_queue.then(|| ReservedQueue { name: jobs::SYSTEM_QUEUE.to_owned(), slots: 1 })
}

/// Returns the limits of the records of ended jobs in Redis.
pub(super) fn retention(settings: &config::Worker) -> Retention {
    Retention {
        outcomes: settings.queue_max_outcomes,
        outcome_bytes: settings.queue_max_outcome_bytes,
        states: settings.queue_max_states,
    }
}

/// Runs jobs until a shutdown is requested or, with `burst`, until no job runs and none may start. Before that, enqueues the
/// jobs of the outbox if the worker runs the product's own jobs. Updates the liveness file of the worker, also while the worker
/// waits for PostgreSQL or Redis: the worker counts as healthy then, because a restart would not help.
///
/// # Errors
/// As [`Worker::new`], [`wait_for_database`], [`migrations::pending`], [`check_tenant_role`], [`wait_for_usable_redis`] and
/// [`Worker::run`].
pub(super) async fn work(
    app: App,
    options: Options,
    health: &WorkerHealth,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    for name in options.queues.names() {
        if !jobs::ALL.iter().any(|job| job.queue == name) {
            tracing::warn!(queue = name, "no job of this product uses this queue: check the name");
        }
    }
    let runs_system_jobs = options.reserved.is_some();
    let worker = Worker::new(&app.queue, jobs::ALL, app.clone(), options)?;
    let liveness = worker.liveness();
    let _reports = liveness_file::report_regularly(health.clone(), worker.id(), liveness.clone());
    let ready = async {
        // The worker runs no job before PostgreSQL can be used: the jobs would only use up their attempts.
        let conn = wait_for_database(&app.config).await?;
        // The migrations create the role `saas_tenant`, so it is checked only if no migration is pending.
        if migrations::pending(&conn).await?.is_empty() {
            check_tenant_role(&conn).await?;
        }
        drop(conn);
        wait_for_usable_redis(&app.queue, &app.config.redis).await?;
        // Enqueues the jobs of the outbox now, for example mails that have waited until SMTP_URL was set.
        if runs_system_jobs && let Err(error) = sweep(&app).await {
            tracing::warn!(
                error = chain(&error),
                "cannot enqueue the jobs of the outbox; retrying in a minute"
            );
        }
        anyhow::Ok(())
    };
    tokio::select! {
        usable = ready => usable?,
        () = liveness.record_regularly() => {}
        () = shutdown.graceful.cancelled() => return Ok(()),
    }
    worker.run(shutdown.graceful.clone(), shutdown.immediate.clone()).await?;
    Ok(())
}
