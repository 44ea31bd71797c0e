//! The call of the script that enqueues jobs.

use std::time::Duration;

use super::{
    enqueue_options::{EnqueueOptions, OnDuplicate, When},
    error::Result,
    owner::OwnerLimits,
    script_client::ScriptClient,
    scripts,
};

/// Limits of one call, because Redis serves no other client while a script runs.
const MAX_JOBS_PER_CALL: usize = 250;
const MAX_BYTES_PER_CALL: usize = 4 * 1024 * 1024;

/// Returns how many of the first jobs fit into one call: at least one, if there are any. `sizes` are bytes of envelopes.
pub(super) fn batch_size(sizes: impl ExactSizeIterator<Item = usize>) -> usize {
    let (count, mut bytes) = (sizes.len(), 0);
    let fits = |size: &usize| {
        bytes += size;
        bytes <= MAX_BYTES_PER_CALL
    };
    sizes.take(MAX_JOBS_PER_CALL).take_while(fits).count().max(1).min(count)
}

/// Jobs that one call enqueues.
#[derive(Clone, Copy)]
pub(super) struct Push<'a> {
    pub(super) queue: &'a str,
    /// Pairs of id and envelope.
    pub(super) jobs: &'a [(&'a str, &'a str)],
    pub(super) options: &'a EnqueueOptions,
    /// The limits of each owner. They apply only to jobs with an owner. `None` for no limits.
    pub(super) limits: Option<OwnerLimits>,
    /// For prepared jobs, the time since the first push that may have enqueued them; zero if this is the first push. Prepared
    /// jobs count for their owner, but no limit refuses them. `None` for other jobs.
    pub(super) prepared_age: Option<Duration>,
}

/// Enqueues jobs. A repeated push enqueues nothing while Redis knows the ids, which the caller has created.
///
/// Returns the ids of jobs that already exist or have ended. With [`OnDuplicate::KeepExisting`], returns the id of the job that
/// has the same unique key, if there is one.
///
/// # Errors
/// [`Error::UnknownJob`](super::Error::UnknownJob) if a job in `after` does not exist, or its state is no longer kept;
/// [`Error::OwnerLimit`](super::Error::OwnerLimit) if the jobs would exceed a limit of their owner;
/// [`Error::Forgotten`](super::Error::Forgotten) if a prepared job may have ended, but its state is not kept;
/// [`Error::Unavailable`](super::Error::Unavailable) if Redis does not answer in time, or refuses the jobs because it is full
/// or for another reason.
pub(super) async fn push(client: &ScriptClient, push: &Push<'_>) -> Result<Vec<String>> {
    let Push { queue, jobs, options, limits, prepared_age } = *push;
    let when = match options.when {
        When::Now => "0".to_owned(),
        When::In(delay) => format!("+{}", delay.as_millis()),
        When::At(at) => at.timestamp_millis().max(0).to_string(),
    };
    let unique = options.unique.as_ref();
    let window = unique.map_or(0, |unique| unique.window.as_millis() as u64);
    let on_duplicate = match unique.map(|unique| unique.on_duplicate) {
        None => "",
        Some(OnDuplicate::KeepExisting) => "first",
        Some(OnDuplicate::Replace) => "last",
    };
    let mut call = client.prepare(&scripts::PUSH);
    call.arg(queue).arg(jobs.len()).arg(when).arg(u8::from(options.front));
    call.arg(options.group.as_deref().unwrap_or_default());
    call.arg(unique.map_or("", |unique| &unique.key)).arg(window).arg(on_duplicate);
    call.arg(options.after.len()).arg(if options.after_failures { "any" } else { "good" });
    let limit = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    call.arg(limit(limits.map(|limits| limits.jobs))).arg(limit(limits.map(|limits| limits.bytes)));
    call.arg(limit(limits.and_then(|limits| limits.per_hour)));
    call.arg(limit(prepared_age.map(|age| age.as_millis() as u64)));
    for (id, _) in jobs {
        call.arg(*id);
    }
    for (_, envelope) in jobs {
        call.arg(*envelope);
    }
    call.arg(&options.after);
    client.run(&call).await
}
