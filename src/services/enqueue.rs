//! Enqueues jobs for signed-in users.

use super::{
    actor::{Actor, Affected},
    idempotency::{Answered, Once},
    job_outbox::{EnqueueInTx, check_owner},
};
use crate::{
    app::App,
    error::{Error, Result},
    queue::{EnqueueOptions, Job},
};

/// Enqueues a job that belongs to the actor, at most once per idempotency key while the answer is stored. The answer contains the
/// id of the job.
///
/// Without an idempotency key, the job goes to Redis at once. With a key, the transaction that stores the answer also
/// writes the job into the table `job_outbox`, since a transaction cannot include Redis.
///
/// # Errors
/// [`Error::TooManyJobs`] if the actor has too many jobs; [`Error::JobTooLarge`] and [`Error::JobTooDeep`] for the
/// arguments; [`Error::Unavailable`] if Redis does not answer; and, with a key, those of [`Once::change`].
pub async fn enqueue<J: Job>(app: &App, actor: &Actor, once: &Once<'_, String>, job: &J) -> Result<Answered> {
    let origin = actor.context().origin(actor.context().actor);
    if !once.has_key() {
        let id = app.queue.enqueue_by_user(job, origin).await?;
        return once.answer(&id);
    }
    let bytes = serde_json::to_vec(job).map_err(Error::internal)?.len() as u64;
    let limits = async || check_owner(app, actor.user().id, bytes).await;
    once.change(app, actor, Affected::Actor, limits, async |tx, _| {
        tx.set_identities_unchanged();
        app.queue.enqueue_in_tx(tx, job, origin.clone(), EnqueueOptions::default()).await
    })
    .await
}
