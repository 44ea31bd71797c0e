//! Jobs that belong to a user or to a scope: who may enqueue them, how many, their groups, and the result of a purge.
//!
//! For each owner with waiting or running jobs, Redis has a hash with the numbers of these jobs and of their bytes. The scripts
//! update the hash, so the limits hold for all processes of the product together. A scope is a text of the product, such as the
//! id of a tenant. All jobs of a scope form one group, and groups take turns. Each job still counts for its owner, if any.

use super::{
    envelope::Origin,
    error::{Error, Result},
};

/// Who may enqueue jobs of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnqueueBy {
    /// The product only. Such a job has no owner.
    System,
    /// Users too. Such a job may have an owner.
    User {
        /// The largest size of the arguments of a job with an owner, in bytes of JSON.
        max_bytes: usize,
    },
}

impl EnqueueBy {
    /// Returns the largest size of the arguments of a job with an owner; `None` if jobs of the type cannot have an owner.
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
    /// The total size of the envelopes of these jobs, in bytes.
    pub bytes: u64,
    /// The size of a token bucket that refills in an hour: each enqueued job takes a token. `None` for no limit.
    pub per_hour: Option<u64>,
}

/// The result of [`Queue::purge_owner`](super::Queue::purge_owner).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PurgedOwner {
    /// Jobs that waited or had failed.
    pub deleted: u64,
    /// Running jobs that were told to stop.
    pub stopping: u64,
}

/// Prefixes of the names of groups: of an owner, and of a scope. `scripts/lib.lua` has the same prefixes.
const OWNER_GROUP_PREFIX: &str = "owner:";
const SCOPE_GROUP_PREFIX: &str = "scope:";

const MAX_SCOPE_BYTES: usize = 100;

/// Returns the group that Redis stores for a job with an owner, a scope or both; `None` for other jobs. Groups take turns, so
/// the jobs of an owner or a scope do not wait for all jobs of another. The group of a job with both a scope and an owner
/// ends with the owner, from which the scripts derive the hash in which they count the job.
pub(super) fn group_of(origin: &Origin) -> Option<String> {
    let owner = origin.owner.map(|owner| format!("{OWNER_GROUP_PREFIX}{owner}"));
    let Some(scope) = &origin.scope else { return owner };
    let owner = owner.map(|owner| format!("|{owner}")).unwrap_or_default();
    Some(format!("{SCOPE_GROUP_PREFIX}{scope}{owner}"))
}

/// Returns whether only jobs with an owner or a scope may be in a group.
pub(super) fn is_reserved_group(group: &str) -> bool {
    group.starts_with(OWNER_GROUP_PREFIX) || group.starts_with(SCOPE_GROUP_PREFIX)
}

/// Returns the group to whose list a job of the group `group` is added when it becomes ready: the group of its scope, or
/// `group` itself if the job has no scope.
pub(super) fn shared_group(group: &str) -> &str {
    match group.split_once('|') {
        Some((shared, _)) if group.starts_with(SCOPE_GROUP_PREFIX) => shared,
        _ => group,
    }
}

/// Checks a scope: 1 to 100 letters, digits, `:`, `-`, `_` and `.`.
///
/// # Errors
/// [`Error::Invalid`] for any other text.
pub(super) fn check_scope(scope: &str) -> Result<()> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.".contains(&byte);
    match (1..=MAX_SCOPE_BYTES).contains(&scope.len()) && scope.bytes().all(is_valid) {
        true => Ok(()),
        false => Err(Error::invalid("scope", "must have 1 to 100 letters, digits, `:`, `-`, `_` and `.`")),
    }
}
