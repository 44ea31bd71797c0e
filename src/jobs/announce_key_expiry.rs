use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, JobResult, SYSTEM_QUEUE};
use crate::{
    app::App,
    queue::{Job, Schedule},
    services::api_key_notices::announce_expiries,
};

/// Sends the notices about API keys that expire within seven days, once for each expiry. Leaves out keys with a lifetime of at
/// most seven days. Runs hourly.
#[derive(Serialize, Deserialize)]
pub struct AnnounceKeyExpiry {}

impl Job for AnnounceKeyExpiry {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "announce_key_expiry";
    const QUEUE: &'static str = SYSTEM_QUEUE;
    const SCHEDULE: Option<Schedule<Self>> = Some(Schedule::new("41 * * * *", "UTC", || Self {}));

    fn had_nothing_to_do(result: &Value) -> bool {
        result["keys"] == 0
    }

    async fn run(self, ctx: Context) -> JobResult {
        Ok(json!({ "keys": announce_expiries(&ctx.state).await? }))
    }
}
