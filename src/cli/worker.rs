use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use tokio::time::sleep;

use super::{
    serve::{refuse_unsafe, warn_of},
    stop::Stop,
};
use crate::{
    app::App,
    config::{self, Config},
    jobs,
    queue::{Options, Queue, Queues, Server, Worker, passes},
    telemetry,
};

/// Run background jobs.
///
/// Any number of workers may share a queue. SIGTERM lets running jobs finish within the grace and gives the rest
/// back to the queue; a second one ends at once, giving them back too.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  saas worker --queues critical,default   take from critical first\n  \
    saas worker --queues critical:6,low:1   take from critical first six times of seven\n  \
    saas worker --burst                     work off what is there, then exit")]
pub(super) struct Args {
    /// Queues to take jobs from; those named first come first, or as often as their weight says.
    #[arg(long, default_value = "default", value_name = "NAMES")]
    queues: Queues,
    /// Exit when the queues are empty.
    #[arg(long)]
    burst: bool,
    /// Leave delayed and periodic (cron) jobs, and those of dead workers, to the other workers.
    #[arg(long)]
    no_scheduler: bool,
    #[command(flatten)]
    worker: config::Worker,
    #[command(flatten)]
    config: Config,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        refuse_unsafe(&self.config)?;
        telemetry::init(&self.config.core)?;
        warn_of(&self.config);
        let stop = Stop::on_signals()?;
        let options = Options {
            queues: self.queues,
            concurrency: self.worker.concurrency.into(),
            lease: self.worker.lease(),
            grace: Duration::from_secs(self.worker.shutdown_grace),
            burst: self.burst,
            scheduler: !self.no_scheduler,
        };
        work(App::new(self.config)?, options, &stop).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs jobs until it is told to stop.
pub(super) async fn work(app: App, options: Options, stop: &Stop) -> anyhow::Result<()> {
    for name in options.queues.names() {
        if !jobs::ALL.iter().any(|job| job.queue == name) {
            tracing::warn!(queue = name, "no task of this product is enqueued there: is the name right?");
        }
    }
    let worker = Worker::new(&app.queue, jobs::ALL, app.clone(), options)?;
    tokio::select! {
        trusted = until_trusted(&app.queue) => trusted?,
        () = stop.asked.cancelled() => return Ok(()),
    }
    worker.run(stop.asked.clone(), stop.hurry.clone()).await?;
    Ok(())
}

/// Refuses a Redis that may lose jobs; one that is away is waited for.
pub(super) async fn until_trusted(queue: &Queue) -> anyhow::Result<()> {
    let mut told = false;
    loop {
        match queue.server().await {
            Ok(server) => return trust(&server),
            Err(error) if !passes(&error) => {
                return Err(error).context("Redis cannot be used: check REDIS_URL, its user and password");
            }
            Err(error) if !told => {
                tracing::warn!(error = %error, "Redis is away, waiting for it");
                told = true;
            }
            Err(_) => {}
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Says what is wrong with a Redis.
fn trust(server: &Server) -> anyhow::Result<()> {
    server.warnings.iter().for_each(|warning| tracing::warn!("Redis: {warning}"));
    if !server.problems.is_empty() {
        bail!("refusing to keep jobs in this Redis:\n  - {}", server.problems.join("\n  - "));
    }
    Ok(())
}
