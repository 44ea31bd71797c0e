//! The options of enqueuing a job: when, where, with which unique key, and after which jobs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    envelope::Origin,
    error::{Error, Result},
    owner::{check_scope, group_of, is_reserved_group},
};

/// Maximum size of the name of a group, and of a unique key.
const MAX_NAME_BYTES: usize = 255;
const MAX_DEPENDENCIES: usize = 100;
const MAX_UNIQUE_WINDOW: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The options of enqueuing a job: when, where, with which unique key, and after which jobs. By default, the job goes to the
/// end of its queue or group, now, without a unique key or dependencies.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnqueueOptions {
    pub when: When,
    /// Whether the job goes before the ready jobs of its group or, without a group, before the ready jobs of its queue that have
    /// no group. Jobs of a scope may change their order while their owners are at the limit of running jobs. Has no effect on a
    /// job that is due later, or that waits for other jobs.
    pub front: bool,
    /// The group of the job, 1 to 255 bytes. Groups take turns: with one group per tenant, no tenant can starve another. Must
    /// not begin with `owner:` or `scope:`. Must be `None` for a job with a scope or an owner: such a job is in the group of
    /// its scope or, without a scope, of its owner.
    pub group: Option<String>,
    pub unique: Option<Unique>,
    /// Ids of up to 100 jobs that must end before this one starts. If one of them fails, is canceled or is purged, this job
    /// fails too, unless `after_failures` is set.
    pub after: Vec<String>,
    /// Whether the job also runs if a job in `after` fails, is canceled or is purged.
    pub after_failures: bool,
}

/// When a job may start, by the clock of Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    #[default]
    Now,
    In(Duration),
    At(DateTime<Utc>),
}

/// Deduplicates jobs: while a job has the key, `on_duplicate` says what happens to another job with the same key. The key is
/// free again when the window is over, or when the job fails for good, is canceled or is purged. A job that has finished
/// keeps the key until the window is over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unique {
    /// 1 to 255 bytes.
    pub key: String,
    /// A millisecond to 366 days, from when the job is enqueued.
    pub window: Duration,
    pub on_duplicate: OnDuplicate,
}

/// What happens to a job whose key another job has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// The new job is not enqueued; the caller gets the id of the existing job.
    KeepExisting,
    /// The new job is enqueued and takes the key; the existing job is canceled if it still waits.
    Replace,
}

impl EnqueueOptions {
    /// Checks the options, and sets the group of a job with a scope or an owner.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an invalid scope, a group, key or window out of range, or too many dependencies. Also for any
    /// group of a job with an owner or a scope, and for a group with a reserved name.
    pub(super) fn for_origin(self, origin: &Origin) -> Result<Self> {
        self.check()?;
        origin.scope.as_deref().map_or(Ok(()), check_scope)?;
        let own = group_of(origin);
        match (&own, &self.group) {
            (None, Some(group)) if is_reserved_group(group) => {
                Err(Error::invalid("group", "must not be the group of an owner or a scope"))
            }
            (Some(_), Some(_)) => {
                Err(Error::invalid("group", "must not be set for a job with an owner or a scope"))
            }
            (None, _) => Ok(self),
            (Some(_), None) => Ok(Self { group: own, ..self }),
        }
    }

    /// Returns whether the job goes to the end of its queue or group now, without a unique key or dependencies. Such a job can
    /// share a push with other jobs.
    pub(super) fn is_plain(&self) -> bool {
        self.when == When::Now && !self.front && self.unique.is_none() && self.after.is_empty()
    }

    /// Checks the lengths of the names, the window, and the number of dependencies.
    ///
    /// # Errors
    /// [`Error::Invalid`] if one of them is out of range.
    fn check(&self) -> Result<()> {
        let is_name = |text: &str| (1..=MAX_NAME_BYTES).contains(&text.len());
        if self.group.as_deref().is_some_and(|group| !is_name(group)) {
            return Err(Error::invalid("group", format!("must have 1 to {MAX_NAME_BYTES} bytes")));
        }
        if let Some(Unique { key, window, .. }) = &self.unique {
            if !is_name(key) {
                return Err(Error::invalid(
                    "unique",
                    format!("the key must have 1 to {MAX_NAME_BYTES} bytes"),
                ));
            }
            if window.as_millis() == 0 || *window > MAX_UNIQUE_WINDOW {
                return Err(Error::invalid("unique", "the window must be a millisecond to 366 days"));
            }
        }
        if self.after.len() > MAX_DEPENDENCIES {
            return Err(Error::invalid("after", format!("must name at most {MAX_DEPENDENCIES} jobs")));
        }
        Ok(())
    }
}
