use std::{process::ExitCode, time::Duration};

use anyhow::bail;

use super::{serve::refuse_unsafe, stop::Stop};
use crate::{
    app::App,
    config::{self, Config},
    jobs,
    queue::{Options, Worker},
    telemetry,
};

/// Run background jobs.
///
/// Any number of workers may share a queue. SIGTERM lets running jobs finish within the grace and gives the rest
/// back to the queue; a second one ends at once, giving them back too.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  saas worker --queues critical,default   take from critical first\n  \
    saas worker --burst                     work off what is there, then exit")]
pub(super) struct Args {
    /// Queues to take jobs from; those named first come first.
    #[arg(long, value_delimiter = ',', default_value = "default", value_name = "NAMES")]
    queues: Vec<String>,
    /// Exit when the queues are empty.
    #[arg(long)]
    burst: bool,
    /// Leave delayed jobs, and those of dead workers, to the other workers.
    #[arg(long)]
    no_scheduler: bool,
    #[command(flatten)]
    worker: config::Worker,
    #[command(flatten)]
    config: Config,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queues = queue_names(&self.queues)?;
        refuse_unsafe(&self.config)?;
        telemetry::init(&self.config.core)?;
        let stop = Stop::on_signals()?;
        let options = Options {
            queues,
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
    let worker = Worker::new(&app.queue, jobs::ALL, app.clone(), options);
    worker.run(stop.asked.clone(), stop.hurry.clone()).await?;
    Ok(())
}

pub(super) fn queue_names(given: &[String]) -> anyhow::Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in given.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            bail!("--queues has {name:?}: a queue's name is made of letters, digits, `-`, `_` and `.`");
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        bail!("--queues names no queue; write for example --queues default");
    }
    Ok(names)
}
