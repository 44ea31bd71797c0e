//! Pushes the jobs that are enqueued concurrently in batches.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use super::{
    batcher::{BatchHandler, Batcher, Reply, Submitted},
    enqueue_options::EnqueueOptions,
    error::{Error, Result},
    owner::OwnerLimits,
    push::{Push, batch_size},
    push_client::PushClient,
};

/// Pushes the batches of a [`Batcher`].
#[derive(Clone)]
pub(super) struct PushBatches(pub(super) PushClient);

/// The properties that all jobs of one push share.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) queue: Cow<'static, str>,
    /// The group of the jobs. `None` for jobs without a group.
    pub(super) group: Option<String>,
    /// The limits of each owner. They apply only to jobs with an owner. `None` for no limits.
    pub(super) limits: Option<OwnerLimits>,
    /// Whether the jobs are prepared jobs. Prepared jobs count for their owner, but no limit refuses them.
    pub(super) is_prepared: bool,
}

/// A job to push.
pub(super) struct NewJob {
    pub(super) destination: Destination,
    pub(super) id: String,
    pub(super) envelope: String,
}

type SubmittedJob = Submitted<NewJob, ()>;

impl Batcher<PushBatches> {
    /// Enqueues a job in one of the next batches, and returns when Redis has the job, and so have as many replicas as
    /// the client waits for. The time limit of [`PushClient::in_time`] includes the wait for the batches before.
    ///
    /// # Errors
    /// [`Error::OwnerLimit`] if the job would exceed a limit of its owner; [`Error::Unavailable`] if Redis does not answer in
    /// time, or for any other error.
    pub(super) async fn push(&self, job: NewJob) -> Result<()> {
        let PushBatches(pushes) = self.handler();
        pushes.in_time(self.submit(job)).await.map_err(|late| Error::Unavailable(late.into()))?
    }
}

impl BatchHandler for PushBatches {
    type Item = NewJob;
    type Output = ();

    fn batch_size<'a>(jobs: impl ExactSizeIterator<Item = &'a NewJob>) -> usize {
        batch_size(jobs.map(|job| job.envelope.len()))
    }

    async fn handle(&self, batch: Vec<SubmittedJob>) -> Result<(), Arc<Error>> {
        let mut destinations: HashMap<Destination, Vec<SubmittedJob>> = HashMap::new();
        for job in batch {
            destinations.entry(job.item.destination.clone()).or_default().push(job);
        }
        let pushes: Vec<_> = destinations.into_iter().collect();
        let replies = self.push_each(&pushes).await;
        let unavailable = find_unavailable(&replies);
        let mut single = Vec::new();
        for ((destination, jobs), reply) in pushes.into_iter().zip(replies) {
            let is_limit = reply.as_ref().is_err_and(|error| matches!(**error, Error::OwnerLimit(_)));
            if is_limit && jobs.len() > 1 {
                // The limit may allow some of these jobs, so each is pushed again alone.
                single.extend(jobs.into_iter().map(|job| (destination.clone(), vec![job])));
            } else {
                jobs.into_iter().for_each(|job| job.reply(reply.clone()));
            }
        }
        let replies = match &unavailable {
            // Another push would wait for its own time-out.
            Some(error) => single.iter().map(|_| Err(error.clone())).collect(),
            // Without jobs, a push would still wait for the replicas.
            None if single.is_empty() => Vec::new(),
            None => self.push_each(&single).await,
        };
        let unavailable = unavailable.or_else(|| find_unavailable(&replies));
        for ((_, jobs), reply) in single.into_iter().zip(replies) {
            jobs.into_iter().for_each(|job| job.reply(reply.clone()));
        }
        unavailable.map_or(Ok(()), Err)
    }
}

impl PushBatches {
    /// Pushes the jobs of each entry atomically. Returns a reply for each entry, in the same order.
    async fn push_each(&self, pushes: &[(Destination, Vec<SubmittedJob>)]) -> Vec<Reply<()>> {
        let mut parts = Vec::with_capacity(pushes.len());
        for (destination, jobs) in pushes {
            let options = EnqueueOptions { group: destination.group.clone(), ..EnqueueOptions::default() };
            let jobs: Vec<_> =
                jobs.iter().map(|Submitted { item, .. }| (&*item.id, &*item.envelope)).collect();
            parts.push((destination, options, jobs));
        }
        let mut calls = Vec::with_capacity(pushes.len());
        for (destination, options, jobs) in &parts {
            let prepared_age = destination.is_prepared.then_some(Duration::ZERO);
            let (queue, limits) = (&*destination.queue, destination.limits);
            calls.push(Push { queue, jobs, options, limits, prepared_age });
        }
        let answers = self.0.push_all(&calls).await;
        answers.into_iter().map(|answer| answer.map(drop).map_err(Arc::new)).collect()
    }
}

fn find_unavailable(replies: &[Reply<()>]) -> Option<Arc<Error>> {
    let mut errors = replies.iter().filter_map(|reply| reply.as_ref().err());
    errors.find(|error| matches!(***error, Error::Unavailable(_))).cloned()
}
