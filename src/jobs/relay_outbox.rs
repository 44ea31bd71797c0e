use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, JobResult, SYSTEM_QUEUE};
use crate::{
    app::App,
    queue::{Failure, Job, Schedule},
    services::job_relay::sweep,
};

/// Enqueues the jobs that remain in the tables `job_outbox` and `outbox`, for example after a crash or an outage of Redis. Also
/// deletes mails that are too old to be sent. Sets aside for an operator jobs that may have run but of which the queue has no
/// record, and jobs of at least a day that the queue refuses or this release cannot read. Runs every minute.
#[derive(Serialize, Deserialize)]
pub struct RelayOutbox {}

impl Job for RelayOutbox {
    type State = App;
    type Output = Value;
    // The name of this job in earlier releases, which may run at the same time during a rolling upgrade.
    const NAME: &'static str = "hand_over_letters";
    const QUEUE: &'static str = SYSTEM_QUEUE;
    const RESULT_TTL: Duration = Duration::from_secs(600);
    const SCHEDULE: Option<Schedule<Self>> = Some(Schedule::new("* * * * *", "UTC", || Self {}));

    fn had_nothing_to_do(result: &Value) -> bool {
        result["jobs"] == 0
    }

    async fn run(self, ctx: Context) -> JobResult {
        match sweep(&ctx.state).await {
            Ok(jobs) => Ok(json!({ "jobs": jobs })),
            // Cancels the job instead of retrying it or keeping it as failed, because the next run follows within a minute.
            Err(error) => Err(Failure::discard(error.to_string())),
        }
    }
}
