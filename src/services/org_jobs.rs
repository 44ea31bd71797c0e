//! Jobs of organizations. A job is enqueued in the transaction of a change, runs with the permissions of its owner, and
//! is visible to the members.
//!
//! The owner of such a job is the member who has enqueued it. Its scope is the organization: `org:<id>`.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use uuid::Uuid;

use super::{
    audit::{Action, Entry},
    idempotency::{Answered, Once},
    job_outbox::{self, EnqueueInTx, check_owner},
    org_access::{self, OrgAccess},
    org_change::change_in_org_once_within_limits,
    permissions::Permission,
    transaction::{change_in_org, run_to_end},
};
use crate::{
    app::App,
    context::RequestContext,
    db::{OrgConn, OrgTx},
    error::{Error, ORGANIZATION, Result, chain},
    models::{
        job_outbox::JobOutboxRow,
        org_job::{NewOrgJob, OrgJob},
    },
    queue::{Cancel, EnqueueOptions, Job, JobStatus, MayRun, Origin, State},
};

const SCOPE_PREFIX: &str = "org:";

/// The error for a job that does not exist, or belongs to another organization.
const NOT_FOUND: Error = Error::NotFound("Job");

/// A job in the list of an organization.
pub struct ListedJob {
    pub job: OrgJob,
    /// `None` if neither the queue nor the table `job_outbox` contains the job.
    pub state: Option<State>,
    /// `None` if the queue does not contain the job, for example because the record of the job has expired.
    pub status: Option<JobStatus>,
}

/// Returns the id of the organization in a scope such as `org:17`. `None` for a scope in another form.
pub fn org_of(scope: &str) -> Option<i64> {
    scope.strip_prefix(SCOPE_PREFIX)?.parse().ok()
}

/// Enqueues a job of an organization if the transaction commits, and returns the id of the job. The job belongs to the
/// member who makes the change. The function does not check the job limits of the member, unlike [`enqueue_once`].
///
/// # Errors
/// As [`enqueue_in_tx`](EnqueueInTx::enqueue_in_tx).
pub async fn enqueue<J: Job>(app: &App, tx: &OrgTx<'_>, access: &OrgAccess, job: &J) -> Result<String> {
    const { assert!(J::ENQUEUE_BY.max_bytes().is_some(), "members may not enqueue this job: set ENQUEUE_BY") };
    let user_id = access.scope().user_id();
    let scope = Some(format!("{SCOPE_PREFIX}{}", tx.org_id()));
    let origin = Origin { scope, ..tx.tx().context.origin(Some(user_id)) };
    let id = app.queue.enqueue_in_tx(tx.tx(), job, origin, EnqueueOptions::default()).await?;
    let row_id = Uuid::try_parse(&id).map_err(Error::internal)?;
    NewOrgJob { id: row_id, task: J::NAME, created_by: Some(user_id) }.insert(tx).await?;
    Ok(id)
}

/// Enqueues a job of an organization, at most once for the idempotency key of the request. The answer contains the id of the
/// job.
///
/// # Errors
/// [`Error::TooManyJobs`] if the member has too many jobs; those of [`change_in_org_once_within_limits`] and [`enqueue`].
pub async fn enqueue_once<J: Job>(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    once: &Once<'_, String>,
    job: &J,
) -> Result<Answered> {
    let bytes = serde_json::to_vec(job).map_err(Error::internal)?.len() as u64;
    let check_limits = async || check_owner(app, access.scope().user_id(), bytes).await;
    let work = async |tx: &OrgTx<'_>| enqueue(app, tx, access, job).await;
    change_in_org_once_within_limits(app, context, access, once, check_limits, work).await
}

/// Returns the access of a job's owner to the organization of the job. Reads the membership again, because it may have
/// changed since the job was enqueued.
///
/// # Errors
/// Those of [`org_access::of_job`]; [`Error::NotFound`] also if the job has no organization or no owner.
pub async fn access(
    app: &App,
    origin: &Origin,
    permission: impl Into<Option<Permission>>,
) -> Result<OrgAccess> {
    let org_id = origin.scope.as_deref().and_then(org_of);
    let (org_id, user_id) = org_id.zip(origin.owner).ok_or(Error::NotFound(ORGANIZATION))?;
    org_access::of_job(app, org_id, user_id, permission).await
}

/// Returns whether a job with a scope may run. Its owner must be an active member, and the organization must not be
/// suspended or scheduled for deletion.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn may_run(app: &App, origin: &Origin) -> Result<MayRun> {
    match access(app, origin, None::<Permission>).await {
        Ok(_) => Ok(MayRun::Yes),
        Err(error) => refusal(&error).map(MayRun::No).ok_or(error),
    }
}

/// Returns the reason to cancel a job after an error of [`access`] or of a change. `None` if the error is no reason to cancel the
/// job.
pub fn refusal(error: &Error) -> Option<&'static str> {
    match error {
        Error::NotFound(ORGANIZATION) | Error::MemberSuspended => {
            Some("The owner of the job is no longer an active member of the organization")
        }
        Error::OrgSuspended | Error::OrgDeleting => {
            Some("The organization is suspended or is going to be deleted")
        }
        Error::Forbidden => Some("The owner of the job no longer has the permission that it needs"),
        _ => None,
    }
}

/// Returns at most `limit` jobs of an organization with their states, the newest first. Filters by `task` if it is
/// given. `before` is the id of a job: only older jobs are returned.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL or Redis does not answer.
pub async fn list(
    app: &App,
    access: &OrgAccess,
    task: Option<&str>,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ListedJob>> {
    let find = async |conn: &OrgConn<'_>| Ok(OrgJob::list(conn, task, before, limit).await?);
    let jobs = app.db.in_org(access.scope(), find).await?;
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id).collect();
    // Reads the table before the queue, because the relay deletes a row only after its job is in the queue.
    let waiting = app.db.run(async |conn| Ok(JobOutboxRow::existing_ids(conn, &ids).await?)).await?;
    let waiting: HashSet<Uuid> = waiting.into_iter().collect();
    let ids: Vec<String> = jobs.iter().map(OrgJob::job_id).collect();
    let known = app.queue.statuses(&ids).await?.into_iter();
    let mut known: HashMap<String, JobStatus> = known.map(|status| (status.id.clone(), status)).collect();
    let listed = jobs.into_iter().map(|job| {
        let status = known.remove(&job.job_id());
        let waits = waiting.contains(&job.id).then_some(State::Queued);
        ListedJob { state: status.as_ref().map(|status| status.state).or(waits), status, job }
    });
    Ok(listed.collect())
}

/// Checks that a job belongs to the organization.
///
/// # Errors
/// [`Error::NotFound`] if the job is not in the job list of the organization; [`Error::Unavailable`] if PostgreSQL does not
/// answer.
pub async fn ensure_of_org(app: &App, access: &OrgAccess, id: &str) -> Result<()> {
    let id = Uuid::try_parse(id).map_err(|_| NOT_FOUND)?;
    let find = async |conn: &OrgConn<'_>| Ok(OrgJob::find(conn, id).await?);
    app.db.in_org(access.scope(), find).await?.map(drop).ok_or(NOT_FOUND)
}

/// Cancels a waiting job of an organization, or signals a running job to stop. For a job that has already ended,
/// changes nothing and returns [`Cancel::Ended`]. Writes an audit entry into the trail of the organization before it
/// changes Redis. If the cancellation then fails, a second entry reports the error. All of this continues if the client
/// disconnects.
///
/// # Errors
/// [`Error::Conflict`] if the job ended after `job` was read; [`Error::NotFound`] if the job no longer exists;
/// [`Error::Unavailable`] if PostgreSQL or Redis does not answer; those of [`change_in_org`].
pub async fn cancel(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    job: &JobStatus,
) -> Result<Cancel> {
    if matches!(job.state, State::Finished | State::Failed | State::Canceled) {
        return Ok(Cancel::Ended);
    }
    let before = json!({ "task": job.task, "owner": job.owner, "status": job.state.as_str() });
    let entry = Entry::job(&job.id, Action::JobCanceled).in_org(access.org_id()).before(before);
    let (app, context, access, id) = (app.clone(), context.clone(), *access, job.id.clone());
    run_to_end(async move {
        write(&app, &context, &access, &entry).await?;
        let canceled = job_outbox::cancel_existing(&app, &id).await;
        if let Err(error) = &canceled
            && let Err(unwritten) = write(&app, &context, &access, &entry.failed(error)).await
        {
            tracing::warn!(
                error = chain(&unwritten),
                "cannot add to the audit trail that a job was not canceled"
            );
        }
        canceled
    })
    .await
}

async fn write(app: &App, context: &RequestContext, access: &OrgAccess, entry: &Entry) -> Result<()> {
    change_in_org(app, context, access, async |tx: &OrgTx<'_>| entry.clone().write(tx.tx()).await).await
}
