use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, JobResult, SYSTEM_QUEUE};
use crate::{
    app::App,
    context::RequestContext,
    queue::{Failure, Job, Schedule},
    services::outbox_relay::hand_over,
};

/// Enqueues the messages that are still in the outbox, every minute. Messages stay there if Redis was
/// unavailable or a process crashed.
#[derive(Serialize, Deserialize)]
pub struct RelayOutbox {}

impl Job for RelayOutbox {
    type State = App;
    type Output = Value;
    // The name of earlier releases, which may still run beside this one.
    const NAME: &'static str = "hand_over_letters";
    const QUEUE: &'static str = SYSTEM_QUEUE;
    const RESULT_TTL: Duration = Duration::from_secs(600);
    const SCHEDULE: Option<Schedule<Self>> = Some(Schedule::new("* * * * *", "UTC", || Self {}));

    fn had_nothing_to_do(result: &Value) -> bool {
        result["letters"] == 0
    }

    async fn run(self, ctx: Context) -> JobResult {
        match hand_over(&ctx.state, &RequestContext::default()).await {
            Ok(messages) => Ok(json!({ "letters": messages })),
            // Do not keep a failed job, because the next run follows in a minute.
            Err(error) => Err(Failure::discard(error.to_string())),
        }
    }
}
