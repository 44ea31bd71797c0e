//! Operations of admins on the job queues, the jobs and the workers.

mod jobs;
mod queue_name;
mod queues;
mod workers;

use poem_openapi::OpenApi;

use crate::app::App;

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (queues::Queues(app.clone()), jobs::Jobs(app.clone()), workers::Workers(app.clone()))
}
