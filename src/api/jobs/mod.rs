//! Operations of users on jobs: enqueue, read the status, cancel.

mod enqueue;
mod state;
mod status;

pub(super) use enqueue::Enqueued;
pub(super) use state::{Canceled, EXAMPLE_ID, StateOut, canceled, find, find_with_payload};
pub(super) use status::StatusOut;

use poem_openapi::OpenApi;

use crate::app::App;

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (enqueue::Enqueue(app.clone()), status::Jobs(app.clone()))
}
