//! Where in its queue a job goes, and when.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::error::{Error, Result};

const MAX_NAME_BYTES: usize = 255;
const MAX_DEPENDENCIES: usize = 100;

/// Where in its queue a job goes, and when.
#[derive(Debug, Clone, Default)]
pub struct EnqueueOptions {
    pub when: When,
    /// Before the others that wait.
    pub front: bool,
    /// Groups take turns: give each tenant its own, and none can starve another.
    pub group: Option<String>,
    pub unique: Option<Unique>,
    /// Ids of jobs that have to end first.
    pub after: Vec<String>,
    /// Whether it runs also when one of these fails or is cancelled; else it then fails itself.
    pub after_failures: bool,
}

/// When a job may begin. The clock is Redis's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum When {
    #[default]
    Now,
    In(Duration),
    At(DateTime<Utc>),
}

/// Keeps other jobs of the same key out, for as long as the window is, or until the job fails for good or is
/// cancelled. One that has finished goes on keeping them out.
#[derive(Debug, Clone)]
pub struct Unique {
    pub key: String,
    /// From when the job is enqueued.
    pub window: Duration,
    /// Which of them stays: the first, whose id the others are answered with; or the last, which cancels one that
    /// still waits.
    pub on_duplicate: OnDuplicate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDuplicate {
    KeepExisting,
    Replace,
}

impl EnqueueOptions {
    pub(super) fn check(&self) -> Result<()> {
        let name = |text: &Option<String>| {
            text.as_ref().is_none_or(|text| (1..=MAX_NAME_BYTES).contains(&text.len()))
        };
        let key = self.unique.as_ref().map(|unique| unique.key.clone());
        let window = self.unique.as_ref().map(|unique| unique.window);
        let problem = if !name(&self.group) {
            ("group", format!("must have 1 to {MAX_NAME_BYTES} bytes"))
        } else if !name(&key) {
            ("unique", format!("the key must have 1 to {MAX_NAME_BYTES} bytes"))
        } else if window
            .is_some_and(|window| window.as_millis() == 0 || window > Duration::from_secs(366 * 86_400))
        {
            ("unique", "the window must be from a millisecond to a year".into())
        } else if self.after.len() > MAX_DEPENDENCIES {
            ("after", format!("names more than {MAX_DEPENDENCIES} jobs"))
        } else {
            return Ok(());
        };
        Err(Error::invalid(problem.0, problem.1))
    }
}
