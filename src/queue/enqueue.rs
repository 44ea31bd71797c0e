//! Enqueuing: typed, one by one or many at once, now or later.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    client::Queue,
    job::{Envelope, Job},
    queues::Queues,
    scripts,
};
use crate::{
    error::{Error, Result},
    telemetry,
};

/// A larger payload belongs in a table or a file, and its key in the job.
const MAX_ENVELOPE: usize = 1024 * 1024;
/// What one call of the script takes at most: it must not keep Redis from others for long.
pub(super) const MAX_JOBS: usize = 250;
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;
const MAX_NAME: usize = 255;
const MAX_AFTER: usize = 100;

/// Whose job it is and what asked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The user who may see and cancel it; without one only admins may.
    pub owner: Option<i64>,
    pub request_id: Option<String>,
    /// W3C Trace Context.
    pub traceparent: Option<String>,
}

impl Origin {
    /// Of the request that this task answers, if it answers one.
    pub fn here(owner: Option<i64>) -> Self {
        let request = telemetry::request().unwrap_or_default();
        let request_id = Some(request.id.to_string()).filter(|id| !id.is_empty());
        Self { owner, request_id, traceparent: request.traceparent.map(|trace| trace.to_string()) }
    }
}

/// Where in its queue a job goes, and when.
#[derive(Debug, Clone, Default)]
pub struct Place {
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
    pub keep: Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    First,
    Last,
}

impl Queue {
    /// Queues a job and returns its id. Once this has returned, the job is not lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis is away or full: the job may then have been queued or not.
    pub async fn enqueue<J: Job>(&self, job: &J, origin: Origin) -> Result<String> {
        let (id, text) = write(job, &origin, &Place::default())?;
        self.combine(J::QUEUE, id.clone(), text).await?;
        Ok(id)
    }

    /// Queues a job that starts after `delay`, and no later than a second after that if there is a free worker.
    pub async fn enqueue_in<J: Job>(&self, job: &J, origin: Origin, delay: Duration) -> Result<String> {
        self.enqueue_with(job, origin, Place { when: When::In(delay), ..Place::default() }).await
    }

    /// Queues a job that starts at that time, and no later than a second after that if there is a free worker.
    pub async fn enqueue_at<J: Job>(&self, job: &J, origin: Origin, at: DateTime<Utc>) -> Result<String> {
        self.enqueue_with(job, origin, Place { when: When::At(at), ..Place::default() }).await
    }

    /// Queues a job where `place` says. Where [`Unique`] keeps it out, the id is that of the one that stays.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `place` makes no sense or names an unknown job, and as [`enqueue`](Self::enqueue).
    pub async fn enqueue_with<J: Job>(&self, job: &J, origin: Origin, place: Place) -> Result<String> {
        place.check()?;
        let (id, text) = write(job, &origin, &place)?;
        let others = self.push(J::QUEUE, &[(&id, &text)], &place).await?;
        Ok(others.into_iter().next().unwrap_or(id))
    }

    /// Queues many jobs at once; the ids are in their order. Each 250 are queued all or none.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); of more than 250 the first ones may then have been queued.
    pub async fn enqueue_all<J: Job>(&self, jobs: &[J], origin: Origin, place: Place) -> Result<Vec<String>> {
        place.check()?;
        if place.unique.is_some() || !place.after.is_empty() {
            let words = "many jobs at once can neither be unique nor wait for others";
            return Err(Error::invalid("place", "unique", words));
        }
        let jobs = jobs.iter().map(|job| write(job, &origin, &place)).collect::<Result<Vec<_>>>()?;
        let mut batches = Vec::new();
        let mut rest = &jobs[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, text): &&(String, String)| {
                bytes += text.len();
                bytes <= MAX_BYTES
            };
            let n = rest.iter().take(MAX_JOBS).take_while(fits).count();
            let (now, later) = rest.split_at(n.max(1));
            batches.push(now.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect::<Vec<_>>());
            rest = later;
        }
        if place.front {
            // Each goes before the last.
            batches.reverse();
        }
        for batch in &batches {
            self.push(J::QUEUE, batch, &place).await?;
        }
        Ok(jobs.into_iter().map(|(id, _)| id).collect())
    }

    /// The ids are ours, so a push whose answer was lost can be repeated: the second finds the first. Answers those
    /// that were known, or who keeps the job out.
    pub(super) async fn push(
        &self,
        queue: &str,
        jobs: &[(&str, &str)],
        place: &Place,
    ) -> Result<Vec<String>> {
        let when = match place.when {
            When::Now => "0".to_owned(),
            When::In(delay) => format!("+{}", delay.as_millis()),
            When::At(at) => at.timestamp_millis().max(0).to_string(),
        };
        let unique = place.unique.as_ref();
        let window = unique.map_or(0, |unique| unique.window.as_millis() as u64);
        let keep = unique.map_or("", |unique| if unique.keep == Keep::First { "first" } else { "last" });
        self.invoke(|| {
            let mut call = scripts::PUSH.key(self.prefix());
            call.arg(queue).arg(jobs.len()).arg(&when).arg(u8::from(place.front));
            call.arg(place.group.as_deref().unwrap_or_default());
            call.arg(unique.map_or("", |unique| &unique.key)).arg(window).arg(keep);
            call.arg(place.after.len()).arg(if place.after_failures { "any" } else { "good" });
            for (id, _) in jobs {
                call.arg(*id);
            }
            for (_, text) in jobs {
                call.arg(*text);
            }
            call.arg(&place.after);
            call
        })
        .await
    }
}

impl Place {
    fn check(&self) -> Result<()> {
        let name =
            |text: &Option<String>| text.as_ref().is_none_or(|text| (1..=MAX_NAME).contains(&text.len()));
        let key = self.unique.as_ref().map(|unique| unique.key.clone());
        let window = self.unique.as_ref().map(|unique| unique.window);
        let problem = if !name(&self.group) {
            ("group", format!("must have 1 to {MAX_NAME} bytes"))
        } else if !name(&key) {
            ("unique", format!("the key must have 1 to {MAX_NAME} bytes"))
        } else if window
            .is_some_and(|window| window.as_millis() == 0 || window > Duration::from_secs(366 * 86_400))
        {
            ("unique", "the window must be from a millisecond to a year".into())
        } else if self.after.len() > MAX_AFTER {
            ("after", format!("names more than {MAX_AFTER} jobs"))
        } else {
            return Ok(());
        };
        Err(Error::invalid("place", problem.0, problem.1))
    }
}

fn write<J: Job>(job: &J, origin: &Origin, place: &Place) -> Result<(String, String)> {
    // No worker could be told to take from it.
    Queues::check_name(J::QUEUE).map_err(|words| Error::internal(format!("{:?}: {words}", J::QUEUE)))?;
    let now = Utc::now().timestamp_millis();
    let envelope = Envelope {
        owner: origin.owner,
        req: origin.request_id.clone(),
        trace: origin.traceparent.clone(),
        group: place.group.clone(),
        key: place.unique.as_ref().map(|unique| unique.key.clone()),
        ..Envelope::new(J::NAME, J::QUEUE, job, J::RESULT_TTL.as_millis() as u64, now)
    };
    let text = to_text(&envelope)?;
    Ok((Uuid::now_v7().simple().to_string(), text))
}

/// Deep JSON is written without a word, and refused when it is read.
pub(super) fn readable(text: &str) -> serde_json::Result<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop)
}

fn to_text(envelope: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(envelope).map_err(Error::internal)?;
    if text.len() > MAX_ENVELOPE {
        return Err(Error::TooLarge { limit: MAX_ENVELOPE });
    }
    readable(&text).map_err(|_| Error::Malformed("The job's arguments are nested too deeply".into()))?;
    Ok(text)
}
