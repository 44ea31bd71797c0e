use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Context, JobResult, SYSTEM_QUEUE};
use crate::{
    app::App,
    queue::{Job, Schedule},
    services,
};

/// Deletes expired data and fills in missing data, as described at [`services::housekeeping::run`]. Runs daily at 03:17 UTC.
#[derive(Serialize, Deserialize)]
pub struct Housekeeping {}

impl Job for Housekeeping {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "housekeeping";
    const QUEUE: &'static str = SYSTEM_QUEUE;
    const TIMEOUT: Duration = Duration::from_secs(3_600);
    const SCHEDULE: Option<Schedule<Self>> = Some(Schedule::new("17 3 * * *", "UTC", || Self {}));

    async fn run(self, ctx: Context) -> JobResult {
        Ok(serde_json::to_value(services::housekeeping::run(&ctx.state).await?)?)
    }
}
