use std::collections::BTreeMap;

use poem_openapi::{Object, OpenApi, param::Query, payload::Json, types::Example};
use serde_json::{Value, json};

use super::state::EXAMPLE_ID;
use crate::{
    api::{
        extract::{Body, BodyOrQuery, CurrentUser, Email, IdempotencyKey},
        idempotency::Replayable,
        ids::JobId,
        problem::Result,
        tag::Tag,
    },
    app::App,
    email_address::{EmailAddress, EmailLookup},
    error::Error,
    jobs::{ExampleTask, ProcessData, SendEmail},
    queue::Job,
    services::{
        actor::{Actor, is_admin},
        enqueue,
    },
};

/// Maximum size of the document for `process-data`.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// Maximum size of a request body with an email. Its text has up to 40,000 characters, each of which may take 12 bytes in
/// JSON, as in `\ud83d\ude00`. The rest is for the other fields.
const MAX_EMAIL_BYTES: usize = 512 * 1024;

/// Operations that enqueue a job.
pub(in crate::api) struct Enqueue(pub(super) App);

/// An email.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SendEmailIn {
    /// Email address of the recipient.
    to: Email,
    #[oai(validator(min_length = 1, max_length = 255))]
    subject: String,
    /// Plain text.
    #[oai(validator(max_length = 40000))]
    body: String,
}

/// A job that was enqueued.
#[derive(Object)]
#[oai(skip_serializing_if_is_none, example)]
pub(in crate::api) struct Enqueued {
    /// What was done, for people.
    message: String,
    /// Id of the job. `GET /jobs/{id}/status` returns its status.
    job_id: JobId,
    /// The name of the task that the job runs, such as `example_task`.
    task: String,
    /// The arguments of an `example_task`; absent for other tasks.
    parameters: Option<Value>,
}

impl Enqueued {
    pub(in crate::api) fn new(message: &str, id: &str, task: &str, parameters: Option<Value>) -> Self {
        Self { message: message.into(), job_id: JobId(id.into()), task: task.into(), parameters }
    }
}

impl Example for Enqueued {
    fn example() -> Self {
        Self {
            message: "Job enqueued".into(),
            job_id: JobId(EXAMPLE_ID.into()),
            task: "example_task".into(),
            parameters: Some(json!({ "name": "my-task", "duration": 5 })),
        }
    }
}

impl Enqueue {
    async fn enqueue<J: Job>(
        &self,
        actor: &Actor,
        key: &IdempotencyKey,
        job: &J,
        message: &str,
        parameters: Option<Value>,
    ) -> Result<Replayable<Json<Enqueued>>> {
        let once = key.once(|id: &String| {
            let (job_id, task) = (JobId(id.clone()), J::NAME.into());
            Json(Enqueued { message: message.into(), job_id, task, parameters: parameters.clone() })
        });
        Ok(enqueue::enqueue(&self.0, actor, &once, job).await?.into())
    }
}

#[OpenApi(prefix_path = "/jobs", tag = "Tag::Jobs")]
impl Enqueue {
    /// Enqueues an example job that sleeps for a given time.
    ///
    /// Fails with 429 `too_many_jobs` and `Retry-After` if the caller has too many jobs.
    #[oai(path = "/example", method = "post", operation_id = "enqueue_example")]
    async fn example(
        &self,
        CurrentUser(actor): CurrentUser,
        key: IdempotencyKey,
        /// A name; it appears in the result.
        #[oai(validator(min_length = 1, max_length = 255))]
        name: Query<String>,
        /// How long the job takes, in seconds.
        #[oai(
            default = "default_duration_seconds",
            validator(minimum(value = "0"), maximum(value = "3600"))
        )]
        duration: Query<i64>,
    ) -> Result<Replayable<Json<Enqueued>>> {
        let duration = u32::try_from(duration.0).map_err(Error::internal)?;
        let job = ExampleTask { name: name.0, duration };
        let parameters = json!({ "name": job.name, "duration": job.duration });
        self.enqueue(&actor, &key, &job, "Example job enqueued", Some(parameters)).await
    }

    /// Enqueues a job that sends an email.
    ///
    /// Admins may send to any address. If an SMTP server is configured, other users may only send to their own verified
    /// address. Any other address fails with 403 `forbidden`, and their own unverified address with 403
    /// `email_not_verified`. Fails with 429 `too_many_jobs` and `Retry-After` if the caller has too many jobs, and with 503
    /// `no_mail_server` if the server cannot send mails.
    ///
    /// The fields of a short email may be in the query instead of the body. The head of a request, with the query, has at
    /// most 32 KiB.
    #[oai(path = "/send-email", method = "post", operation_id = "enqueue_send_email")]
    async fn send_email(
        &self,
        CurrentUser(actor): CurrentUser,
        key: IdempotencyKey,
        BodyOrQuery(email): BodyOrQuery<SendEmailIn, MAX_EMAIL_BYTES>,
    ) -> Result<Replayable<Json<Enqueued>>> {
        let user = &actor.user();
        let to = EmailAddress::parse(&email.to.0).map_err(|msg| Error::invalid("to", msg))?;
        let is_own = to.key == EmailLookup::new(&user.email).subject();
        // An unverified address may belong to a third party.
        let permitted = is_admin(&self.0, actor.identity()) || is_own && user.email_verified_at.is_some();
        if self.0.mailer.has_smtp_server() && !permitted {
            let error = if is_own { Error::EmailNotVerified } else { Error::Forbidden };
            return Err(error.into());
        }
        if !self.0.mailer.can_send() {
            return Err(Error::NoMailServer.into());
        }
        let job = SendEmail { to: to.stored, subject: email.subject, body: email.body, permitted };
        self.enqueue(&actor, &key, &job, "Email job enqueued", None).await
    }

    /// Enqueues an example job that processes a JSON object.
    ///
    /// The document has at most 64 KiB. Fails with 429 `too_many_jobs` and `Retry-After` if the caller has too many jobs.
    #[oai(path = "/process-data", method = "post", operation_id = "enqueue_process_data")]
    async fn process_data(
        &self,
        CurrentUser(actor): CurrentUser,
        key: IdempotencyKey,
        Body(data): Body<BTreeMap<String, Value>, MAX_DOCUMENT_BYTES>,
    ) -> Result<Replayable<Json<Enqueued>>> {
        let job = ProcessData { data: data.into_iter().collect() };
        self.enqueue(&actor, &key, &job, "Data processing job enqueued", None).await
    }
}

fn default_duration_seconds() -> i64 {
    5
}
