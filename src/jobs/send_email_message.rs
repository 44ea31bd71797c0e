use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, JobResult, SYSTEM_QUEUE, send_failure};
use crate::{
    app::App,
    mail::Mail,
    models::clock::DatabaseClock,
    queue::{Failure, Job},
    services::outbox::{SendEmailMessage, SendNewEmailMessage},
};

/// Delay of the next attempt if this worker has no mail server. Another worker may have a mail server.
const NO_SERVER_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Renders a message and sends it as a mail. Cancels itself if the message is known to be too old, and sends nothing if the
/// message is no longer needed.
impl Job for SendEmailMessage {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "send_email_message";
    const QUEUE: &'static str = SYSTEM_QUEUE;
    const MAX_ATTEMPTS: u32 = 8;
    const BACKOFF: Duration = Duration::from_secs(15);
    const TIMEOUT: Duration = Duration::from_secs(60);

    async fn run(self, ctx: Context) -> JobResult {
        if let Some(written_at) = self.written_at {
            let now = ctx.state.db.run(async |conn| Ok(DatabaseClock::read(conn).await?)).await?.now();
            if self.message.is_too_old(written_at, now) {
                tracing::warn!("a mail was dropped: it is too old to be sent, see docs/auth.md#mails");
                return Err(Failure::discard("The message is too old to be sent"));
            }
        }
        if !ctx.state.mailer.can_send() {
            tracing::warn!("a mail waits, because this worker has no mail server: set SMTP_URL");
            return Err(Failure::snooze(NO_SERVER_RETRY_AFTER));
        }
        let Some((to, email)) = self.message.render(&ctx.state).await? else {
            return Ok(json!({ "status": "not needed" }));
        };
        let mail = Mail {
            id: &ctx.job_id,
            to: &to,
            subject: &email.subject,
            text: &email.text,
            html: Some(&email.html),
        };
        ctx.state.mailer.send(&mail).await.map_err(send_failure)?;
        Ok(json!({ "status": "sent" }))
    }
}

/// Runs jobs that an earlier release queued under the name `send_letter`.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct SendLetter(SendEmailMessage);

impl Job for SendLetter {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "send_letter";
    const QUEUE: &'static str = SYSTEM_QUEUE;
    const MAX_ATTEMPTS: u32 = SendEmailMessage::MAX_ATTEMPTS;
    const BACKOFF: Duration = SendEmailMessage::BACKOFF;
    const TIMEOUT: Duration = SendEmailMessage::TIMEOUT;

    async fn run(self, ctx: Context) -> JobResult {
        self.0.run(ctx).await
    }
}

impl Job for SendNewEmailMessage {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "send_email_message_2";
    const QUEUE: &'static str = SYSTEM_QUEUE;
    const MAX_ATTEMPTS: u32 = SendEmailMessage::MAX_ATTEMPTS;
    const BACKOFF: Duration = SendEmailMessage::BACKOFF;
    const TIMEOUT: Duration = SendEmailMessage::TIMEOUT;

    async fn run(self, ctx: Context) -> JobResult {
        self.0.run(ctx).await
    }
}
