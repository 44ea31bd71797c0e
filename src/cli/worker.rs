use std::{process::ExitCode, time::Duration};

use super::{
    startup::{check_settings, log_warnings, wait_for_usable_redis},
    stop::Stop,
};
use crate::{
    app::App,
    config::{self, Config},
    jobs, logging,
    queue::{Options, Queues, Worker},
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
        check_settings(&self.config, None)?;
        logging::init(&self.config.core)?;
        log_warnings(&self.config);
        let stop = Stop::on_signals()?;
        let options = Options {
            queues: self.queues,
            concurrency: self.worker.concurrency.into(),
            lease: self.worker.lease(),
            grace: Duration::from_secs(self.worker.shutdown_grace_seconds),
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
        usable = wait_for_usable_redis(&app.queue) => usable?,
        () = stop.asked.cancelled() => return Ok(()),
    }
    worker.run(stop.asked.clone(), stop.hurry.clone()).await?;
    Ok(())
}
