//! Operations of admins on the job queues, the jobs, the workers and all organizations.

mod jobs;
mod orgs;
mod queue_name;
mod queues;
mod workers;

use poem_openapi::OpenApi;

use crate::app::App;

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (
        queues::Queues(app.clone()),
        jobs::Jobs(app.clone()),
        workers::Workers(app.clone()),
        orgs::AllOrgs(app.clone()),
    )
}
