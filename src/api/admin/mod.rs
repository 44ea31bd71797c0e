//! Operating the job queues, for admins: one file a resource.

mod jobs;
mod queue_name;
mod queues;
mod workers;

use poem_openapi::OpenApi;

use crate::app::App;

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (queues::Queues(app.clone()), jobs::Jobs(app.clone()), workers::Workers(app.clone()))
}
