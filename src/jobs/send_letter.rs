use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, JobResult};
use crate::{
    app::App,
    context::RequestContext,
    error::Result,
    mail::Mail,
    models::outbox::Outgoing,
    queue::{EnqueueOptions, Failure, Job, OnDuplicate, Schedule, Unique},
    services::outbox::Message,
};

/// Writes and sends one of the product's own mails.
#[derive(Serialize, Deserialize)]
pub struct SendLetter {
    message: Message,
}

impl Job for SendLetter {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "send_letter";
    const MAX_ATTEMPTS: u32 = 8;
    const BACKOFF: Duration = Duration::from_secs(15);
    const TIMEOUT: Duration = Duration::from_secs(60);

    async fn run(self, ctx: Context) -> JobResult {
        let Some((to, letter)) = self.message.write(&ctx.state).await? else {
            return Ok(json!({ "status": "not needed" }));
        };
        let mail = Mail {
            id: &ctx.job_id,
            to: &to,
            subject: &letter.subject,
            text: &letter.text,
            html: Some(&letter.html),
        };
        ctx.state.mailer.send(&mail).await?;
        Ok(json!({ "status": "sent" }))
    }
}

/// Letters taken from the outbox at a time.
const BATCH: i64 = 100;

/// Hands the letters of the outbox over to the queue. Doing it twice at once sends nothing twice.
///
/// # Errors
/// When PostgreSQL or Redis is away; what was not handed over stays in the outbox.
pub async fn hand_over(app: &App, context: &RequestContext) -> Result<usize> {
    let (mut count, mut last) = (0, 0);
    loop {
        let batch = app.db.run(async |conn| Ok(Outgoing::after(conn, last, BATCH).await?)).await?;
        match batch.last() {
            Some(outgoing) => last = outgoing.id,
            None => return Ok(count),
        }
        let mut done = Vec::new();
        let handed_over = hand_over_some(app, context, &batch, &mut done).await;
        // Also those before one that could not be.
        count += app.db.run(async |conn| Ok(Outgoing::delete(conn, &done).await?)).await?;
        handed_over?;
    }
}

async fn hand_over_some(
    app: &App,
    context: &RequestContext,
    batch: &[Outgoing],
    done: &mut Vec<i64>,
) -> Result<()> {
    for outgoing in batch {
        match serde_json::from_value(outgoing.letter.clone()) {
            Ok(message) => {
                let window = Duration::from_secs(3_600);
                let unique = Unique { key: outgoing.key(), window, on_duplicate: OnDuplicate::KeepExisting };
                let place = EnqueueOptions { unique: Some(unique), ..EnqueueOptions::default() };
                app.queue.enqueue_with(&SendLetter { message }, context.origin(None), place).await?;
                done.push(outgoing.id);
            }
            // Of a newer version, which will take it.
            Err(error) => tracing::error!(id = outgoing.id, %error, "a letter cannot be read"),
        }
    }
    Ok(())
}

/// Hands over what was left in the outbox while Redis was away, or by a process that died.
#[derive(Serialize, Deserialize)]
pub struct HandOverLetters {}

impl Job for HandOverLetters {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "hand_over_letters";
    const RESULT_TTL: Duration = Duration::from_secs(600);
    const SCHEDULE: Option<Schedule<Self>> = Some(Schedule::new("* * * * *", "UTC", || Self {}));

    async fn run(self, ctx: Context) -> JobResult {
        match hand_over(&ctx.state, &RequestContext::default()).await {
            Ok(letters) => Ok(json!({ "letters": letters })),
            // The next one comes in a minute; there is nothing in this one to be kept.
            Err(error) => Err(Failure::discard(error.to_string())),
        }
    }
}
