use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, JobResult, send_failure};
use crate::{
    app::App,
    mail::{Mail, Sent, recipient},
    queue::{EnqueueBy, Failure, Job},
};

/// Sends a plain-text email.
#[derive(Serialize, Deserialize)]
pub struct SendEmail {
    pub to: String,
    pub subject: String,
    pub body: String,
    /// Whether the user who enqueued the job may send email to this address when an SMTP server is configured. Without an
    /// SMTP server, no mail leaves this machine, and the field has no effect.
    pub permitted: bool,
}

impl Job for SendEmail {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "send_email_task";
    const ENQUEUE_BY: EnqueueBy = EnqueueBy::User { max_bytes: 512 * 1024 };
    const MAX_ATTEMPTS: u32 = 6;
    const BACKOFF: Duration = Duration::from_secs(15);
    const TIMEOUT: Duration = Duration::from_secs(60);

    async fn run(self, ctx: Context) -> JobResult {
        if recipient(&self.to).is_none() {
            return Err(Failure::new("The address of the recipient is not valid").permanent());
        }
        // Checked again here, because this worker may have an SMTP server even if the API process has none.
        if ctx.state.mailer.has_smtp_server() && !self.permitted {
            return Err(Failure::new("Only admins may write to other addresses than their own").permanent());
        }
        if !ctx.state.mailer.can_send() {
            return Err(Failure::new("No mail server is configured").permanent());
        }
        let mail =
            Mail { id: &ctx.job_id, to: &self.to, subject: &self.subject, text: &self.body, html: None };
        let sent = ctx.state.mailer.send(&mail).await.map_err(send_failure)?;
        let status = match sent {
            Sent::Accepted => "sent",
            Sent::Captured => "captured",
        };
        Ok(json!({ "to": self.to, "subject": self.subject, "status": status }))
    }
}
