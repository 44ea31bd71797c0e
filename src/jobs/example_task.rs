use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, JobResult};
use crate::{
    app::App,
    queue::{EnqueueBy, Job},
};

/// Sleeps for a given time. An example for trying out the queue.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExampleTask {
    pub name: String,
    /// Time to sleep, in seconds.
    pub duration: u32,
}

impl Job for ExampleTask {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "example_task";
    const ENQUEUE_BY: EnqueueBy = EnqueueBy::User { max_bytes: 4 * 1024 };
    /// Longer than the maximum `duration` that the API accepts.
    const TIMEOUT: Duration = Duration::from_secs(3_660);

    async fn run(self, _ctx: Context) -> JobResult {
        tokio::time::sleep(Duration::from_secs(self.duration.into())).await;
        Ok(json!({
            "task_name": self.name,
            "duration": self.duration,
            "status": "completed",
            "message": format!("Task '{}' completed after {} seconds", self.name, self.duration),
        }))
    }
}
