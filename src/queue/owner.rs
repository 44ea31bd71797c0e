//! Jobs that belong to a user: who may enqueue them, how many, and how to purge them.
//!
//! Redis has an account of the jobs of each owner, which the scripts keep, so the limits hold for any number of replicas.

/// Who may enqueue jobs of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnqueueBy {
    /// The product only. Such a job has no owner.
    System,
    /// Users too. Such a job may have an owner.
    User {
        /// The largest size of the arguments, in bytes of JSON.
        max_bytes: usize,
    },
}

impl EnqueueBy {
    /// Returns the largest size of the arguments of a job with an owner; `None` if it cannot have one.
    pub const fn max_bytes(self) -> Option<usize> {
        match self {
            Self::System => None,
            Self::User { max_bytes } => Some(max_bytes),
        }
    }
}

/// How much an owner may enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerLimits {
    /// How many jobs may wait or run.
    pub jobs: u64,
    /// The total size of these jobs in Redis, in bytes.
    pub bytes: u64,
    /// How many jobs may be enqueued at once, and in an hour after that. `None` for any number.
    pub per_hour: Option<u64>,
}

/// What [`Queue::purge_owner`](super::Queue::purge_owner) has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PurgedOwner {
    /// Jobs that waited or had failed.
    pub deleted: u64,
    /// Running jobs that were told to stop.
    pub stopping: u64,
}

/// Returns the group of the jobs of an owner. Groups take turns, so no owner delays another.
pub(super) fn owner_group(owner: i64) -> String {
    format!("{OWNER_GROUP_PREFIX}{owner}")
}

/// The beginning of such a group. The scripts know it too.
pub(super) const OWNER_GROUP_PREFIX: &str = "owner:";
