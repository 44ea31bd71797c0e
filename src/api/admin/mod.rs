//! Operating the job queues, for admins: one file a resource.

mod jobs;
mod queues;
mod workers;

use crate::{
    app::App,
    error::{Error, Result},
};

pub(super) type Resources = (queues::Queues, jobs::Jobs, workers::Workers);

pub(super) fn resources(app: &App) -> Resources {
    (queues::Queues(app.clone()), jobs::Jobs(app.clone()), workers::Workers(app.clone()))
}

/// Refuses what no queue that a worker takes from can be called. `root` and `field` say where it was given.
fn check_queue(root: &str, field: &str, name: &str) -> Result<()> {
    crate::queue::Queues::check_name(name).map_err(|words| Error::invalid(root, field, words))
}
