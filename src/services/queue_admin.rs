//! Changes that admins make to queues and jobs. The audit trail has an entry for each operation that may have changed Redis.
//!
//! The entry is committed in the transaction that checks the actor again. Redis is changed after this commit. If Redis refuses
//! the operation or does not answer, a second entry, `operation.failed`, reports the error. If Redis does not answer, it is
//! unknown whether the operation took effect. An operation that has begun continues if the client disconnects.

use serde_json::{Map, Value, json};

use super::{
    actor::{Actor, AdminActor, Affected},
    audit::{Action, Entry},
    job_outbox,
    precondition::Precondition,
    security_event::{Event, SecurityEvent},
    transaction::{change, run_to_end},
};
use crate::{
    app::App,
    error::{Error, Result, chain},
    queue::{Cancel, JobStatus, QueueChanges, QueueInfo, State},
};

/// Pauses, resumes or limits a queue, which need not exist yet. A queue that does not exist meets no condition.
///
/// # Errors
/// [`Error::PreconditionFailed`], also if the settings get other values than the new ones between the check and the change;
/// [`Error::NotFound`] if the queue does not exist and the changes have only the default values; [`Error::Invalid`] if the rate
/// has no jobs or no period; [`Error::Unavailable`] if Redis does not answer; and those of [`change`].
pub async fn change_queue(
    app: &App,
    actor: &AdminActor,
    name: &str,
    changes: &QueueChanges,
    condition: &Precondition<'_, QueueInfo>,
) -> Result<()> {
    let found = app.queue.queue(name).await?;
    let after = setting_fields(changes);
    match &found {
        Some(info) => condition.check(info)?,
        None if condition.is_some() => return Err(Error::PreconditionFailed),
        // The changes have only the values of a new queue, so they do not create the queue.
        None if after.values().all(|value| value.is_null() || *value == json!(false)) => {
            return Err(Error::NotFound("Queue"));
        }
        None => {}
    }
    if after.is_empty() {
        return Ok(());
    }
    let before = found.as_ref().map(|info| {
        let mut before = setting_fields(&QueueChanges {
            paused: Some(info.paused),
            concurrency_limit: Some(info.concurrency_limit),
            rate_limit: Some(info.rate_limit),
        });
        before.retain(|field, _| after.contains_key(field));
        before
    });
    let entry = Entry::queue(name, Action::QueueChanged).before(json!(before)).after(json!(after));
    // No lock in Redis lasts from the check to the change, so the change compares the settings again.
    let expected = found.filter(|_| condition.is_some());
    let (queue, name, changes) = (app.queue.clone(), name.to_owned(), *changes);
    run_audited(app, actor, entry, async move {
        match queue.change(&name, &changes, expected.as_ref()).await? {
            true => Ok(()),
            false => Err(Error::PreconditionFailed),
        }
    })
    .await
}

/// Returns the fields of the changes for the audit trail.
fn setting_fields(changes: &QueueChanges) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(paused) = changes.paused {
        fields.insert("paused".into(), json!(paused));
    }
    if let Some(limit) = changes.concurrency_limit {
        fields.insert("concurrency_limit".into(), json!(limit));
    }
    if let Some(limit) = changes.rate_limit {
        fields.insert("rate_limit".into(), json!(limit));
    }
    fields
}

/// Puts the failed jobs of a queue back into the queue, and returns the number of these jobs, which may be too low if an answer
/// of Redis was lost. Jobs that fail after `queue` was read stay failed.
///
/// # Errors
/// [`Error::Unavailable`] if Redis does not answer; and those of [`change`].
pub async fn requeue_failed(app: &App, actor: &AdminActor, queue: &QueueInfo) -> Result<u64> {
    let entry = Entry::queue(&queue.name, Action::QueueRequeued).before(jobs_in(queue, State::Failed));
    let (client, queue) = (app.queue.clone(), queue.clone());
    run_audited(app, actor, entry, async move { Ok(client.requeue_failed(&queue).await?) }).await
}

/// Deletes the jobs of a queue that are in `state`. Keeps jobs that are enqueued or fail after `queue` was read. Returns the
/// number of deleted jobs, which may be too low if an answer of Redis was lost.
///
/// # Errors
/// [`Error::Invalid`] unless `state` is queued, scheduled, deferred or failed; [`Error::Unavailable`] if Redis does not answer;
/// and those of [`change`].
pub async fn purge(app: &App, actor: &AdminActor, queue: &QueueInfo, state: State) -> Result<u64> {
    let entry = Entry::queue(&queue.name, Action::QueuePurged).before(jobs_in(queue, state));
    let (client, queue) = (app.queue.clone(), queue.clone());
    run_audited(app, actor, entry, async move { Ok(client.purge(&queue, state).await?) }).await
}

/// Puts a failed job back into its queue.
///
/// # Errors
/// [`Error::Conflict`] if the job has not failed or no longer exists; [`Error::Unavailable`] if Redis does not answer; and those
/// of [`change`].
pub async fn requeue_job(app: &App, actor: &AdminActor, job: &JobStatus) -> Result<()> {
    const NOT_FAILED: Error = Error::Conflict("Only failed jobs can be requeued");
    if job.state != State::Failed {
        return Err(NOT_FAILED);
    }
    let entry = Entry::job(&job.id, Action::JobRequeued).before(job_fields(job));
    let (queue, id) = (app.queue.clone(), job.id.clone());
    run_audited(app, actor, entry, async move {
        match queue.requeue(&id).await? {
            true => Ok(()),
            false => Err(NOT_FAILED),
        }
    })
    .await
}

/// Cancels a waiting job of any user, or signals a running job to stop. For a job that has already ended, changes
/// nothing and returns [`Cancel::Ended`].
///
/// # Errors
/// [`Error::Conflict`] if the job ended after `job` was read; [`Error::NotFound`] if the job no longer exists;
/// [`Error::Unavailable`] if Redis does not answer; and those of [`change`].
pub async fn cancel_job(app: &App, actor: &AdminActor, job: &JobStatus) -> Result<Cancel> {
    if matches!(job.state, State::Finished | State::Failed | State::Canceled) {
        return Ok(Cancel::Ended);
    }
    let entry = Entry::job(&job.id, Action::JobCanceled).before(job_fields(job));
    let cancel = {
        let (app, id) = (app.clone(), job.id.clone());
        async move { job_outbox::cancel_existing(&app, &id).await }
    };
    run_audited(app, actor, entry, cancel).await
}

/// Returns the audit fields of an operation on all jobs of a queue in one state.
fn jobs_in(queue: &QueueInfo, state: State) -> Value {
    json!({ "status": state.as_str(), "jobs": queue.count(state) })
}

/// Returns the fields of a job for the audit trail. They exclude the arguments, which may contain personal data.
fn job_fields(job: &JobStatus) -> Value {
    json!({ "task": job.task, "queue": job.queue, "owner": job.owner, "status": job.state.as_str() })
}

/// Writes the entry, then runs `operation`. Writes a second entry if `operation` fails.
async fn run_audited<T: Send + 'static>(
    app: &App,
    actor: &AdminActor,
    entry: Entry,
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (app, actor) = (app.clone(), actor.clone());
    // If the client disconnects, the operation must not stop after some of its calls to Redis: then no second entry would report
    // that it is incomplete.
    run_to_end(async move {
        write(&app, &actor, &entry).await?;
        let (action, target) = (entry.action().as_str(), entry.target_id());
        SecurityEvent::new(Event::QueueOperation { action, target }).log(&app, actor.context());
        let result = operation.await;
        if let Err(error) = &result
            && let Err(unwritten) = write(&app, &actor, &entry.failed(error)).await
        {
            tracing::warn!(
                action,
                error = chain(&unwritten),
                "cannot add to the audit trail that an operation has failed"
            );
        }
        result
    })
    .await
}

async fn write(app: &App, actor: &Actor, entry: &Entry) -> Result<()> {
    change(app, actor, Affected::Actor, async |tx, _| {
        tx.set_identities_unchanged();
        entry.clone().write(tx).await
    })
    .await
}
