use chrono::{DateTime, Utc};
use poem_openapi::{Object, OpenApi, param::Query, types::Example};

use crate::{
    api::{
        extract::{Admin, Cursor, Limit},
        problem::Result,
        respond::ArrayPage,
        tag::Tag,
    },
    app::App,
    queue::WorkerInfo,
};

/// Operations of admins on the workers.
pub(in crate::api) struct Workers(pub(super) App);

/// A running worker.
#[derive(Object)]
#[oai(rename = "Worker", example)]
struct WorkerOut {
    id: String,
    /// Host name of the machine.
    host: String,
    /// Process id of the worker.
    pid: u32,
    /// Version of `saas` that the worker runs.
    version: String,
    /// The queues of the worker, separated by commas. Without weights, they are in the order of their priority:
    /// `critical,default`. With weights, a colon and the weight follow the name: `critical:6,default:3`. A queue without a
    /// weight before queues with weights is always served first.
    queues: String,
    /// Maximum number of jobs that the worker runs at once.
    concurrency: u64,
    /// Number of jobs that the worker had taken and not completed at its last heartbeat: running jobs, and jobs that waited for a
    /// slot.
    running: u64,
    #[oai(nullable)]
    started_at: Option<DateTime<Utc>>,
    /// Time of the last heartbeat.
    #[oai(nullable)]
    last_beat_at: Option<DateTime<Utc>>,
}

impl Example for WorkerOut {
    fn example() -> Self {
        let at = |second: i64| DateTime::from_timestamp(1_767_225_600 + second, 0);
        Self {
            id: "4711:5f0c2c8d1e7b4a3f9d6e8b7a6c5d4e3f".into(),
            host: "worker-1".into(),
            pid: 4711,
            version: env!("CARGO_PKG_VERSION").into(),
            queues: "critical,default".into(),
            concurrency: 10,
            running: 2,
            started_at: at(0),
            last_beat_at: at(3_600),
        }
    }
}

impl From<WorkerInfo> for WorkerOut {
    fn from(worker: WorkerInfo) -> Self {
        Self {
            id: worker.id,
            host: worker.host,
            pid: worker.pid,
            version: worker.version,
            queues: worker.queues,
            concurrency: worker.concurrency as u64,
            running: worker.running as u64,
            started_at: worker.started_at,
            last_beat_at: worker.last_beat_at,
        }
    }
}

#[OpenApi(prefix_path = "/admin", tag = "Tag::Admin")]
impl Workers {
    /// Returns the running workers.
    ///
    /// A worker is running if its last heartbeat is at most 30 seconds old. The workers are sorted by `id`. Without
    /// `limit`, all workers are on one page.
    #[oai(path = "/workers", method = "get", operation_id = "list_workers")]
    async fn list(
        &self,
        _admin: Admin,
        cursor: Cursor,
        limit: Query<Option<Limit>>,
    ) -> Result<ArrayPage<WorkerOut>> {
        ArrayPage::of(&cursor, limit.0, self.0.queue.workers().await?, |worker| worker.id.clone())
    }
}
