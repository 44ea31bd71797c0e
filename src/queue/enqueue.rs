//! Enqueuing: typed, one by one or many at once, now or later.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    client::Queue,
    enqueue_options::{EnqueueOptions, When},
    envelope::{Envelope, Origin},
    error::{Error, Result},
    job::Job,
    limits::check_depth,
    push::{batch_size, push},
    queues::Queues,
};

/// A larger payload belongs in a table or a file, and its key in the job.
const MAX_ENVELOPE_BYTES: usize = 1024 * 1024;

impl Queue {
    /// Queues a job and returns its id. Once this has returned, the job is not lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis is away or full: the job may then have been queued or not.
    pub async fn enqueue<J: Job>(&self, job: &J, origin: Origin) -> Result<String> {
        let (id, text) = write(job, &origin, &EnqueueOptions::default())?;
        self.batcher().push(J::QUEUE, id.clone(), text).await?;
        Ok(id)
    }

    /// Queues a job that starts after `delay`, and no later than a second after that if there is a free worker.
    pub async fn enqueue_in<J: Job>(&self, job: &J, origin: Origin, delay: Duration) -> Result<String> {
        self.enqueue_with(job, origin, EnqueueOptions { when: When::In(delay), ..EnqueueOptions::default() })
            .await
    }

    /// Queues a job that starts at that time, and no later than a second after that if there is a free worker.
    pub async fn enqueue_at<J: Job>(&self, job: &J, origin: Origin, at: DateTime<Utc>) -> Result<String> {
        self.enqueue_with(job, origin, EnqueueOptions { when: When::At(at), ..EnqueueOptions::default() })
            .await
    }

    /// Queues a job where `place` says. Where [`Unique`] keeps it out, the id is that of the one that stays.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `place` makes no sense or names an unknown job, and as [`enqueue`](Self::enqueue).
    pub async fn enqueue_with<J: Job>(
        &self,
        job: &J,
        origin: Origin,
        place: EnqueueOptions,
    ) -> Result<String> {
        place.check()?;
        let (id, text) = write(job, &origin, &place)?;
        let others = push(self.scripts(), J::QUEUE, &[(&id, &text)], &place).await?;
        Ok(others.into_iter().next().unwrap_or(id))
    }

    /// Queues many jobs at once; the ids are in their order. Each 250 are queued all or none.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); of more than 250 the first ones may then have been queued.
    pub async fn enqueue_all<J: Job>(
        &self,
        jobs: &[J],
        origin: Origin,
        place: EnqueueOptions,
    ) -> Result<Vec<String>> {
        place.check()?;
        if place.unique.is_some() || !place.after.is_empty() {
            let words = "many jobs at once can neither be unique nor wait for others";
            return Err(Error::invalid("unique", words));
        }
        let jobs = jobs.iter().map(|job| write(job, &origin, &place)).collect::<Result<Vec<_>>>()?;
        let mut batches = Vec::new();
        let mut rest = &jobs[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch_size(rest.iter().map(|(_, text)| text.len())));
            batches.push(now.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect::<Vec<_>>());
            rest = later;
        }
        if place.front {
            // Each goes before the last.
            batches.reverse();
        }
        for batch in &batches {
            push(self.scripts(), J::QUEUE, batch, &place).await?;
        }
        Ok(jobs.into_iter().map(|(id, _)| id).collect())
    }
}

fn write<J: Job>(job: &J, origin: &Origin, place: &EnqueueOptions) -> Result<(String, String)> {
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

fn to_text(envelope: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(envelope).map_err(Error::internal)?;
    if text.len() > MAX_ENVELOPE_BYTES {
        return Err(Error::TooLarge { limit: MAX_ENVELOPE_BYTES });
    }
    check_depth(&text).map_err(|_| Error::TooDeep)?;
    Ok(text)
}
