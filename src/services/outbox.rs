//! Mails that a change sends to users and invited addresses. The transaction of the change enqueues a job, and the job renders
//! and sends the mail.
//!
//! A message contains no secret. The job creates the token of the link when it renders the mail, so neither the table
//! `job_outbox` nor the queue contains the token.

use chrono::{DateTime, Duration, Utc};
use diesel_async::AsyncPgConnection;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{invitation_link, job_outbox};
use crate::{
    app::App,
    db::Tx,
    email_address::EmailLookup,
    error::Result,
    mail::{LinkEmail, Notice, RenderedEmail, link},
    models::{
        clock::DatabaseClock,
        one_time_token::{OneTimeToken, Purpose},
        user::User,
    },
    queue::{EnqueueOptions, Job, PreparedJob},
    security::OpaqueToken,
};

/// A message to a user or an invited address, in the form in which the queue stores the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OutboxMessage {
    VerifyEmail {
        user_id: i64,
    },
    /// Contains an address that may not be registered. The job looks up the user, so that neither the response to the request
    /// nor the response time shows whether the address is registered.
    ResetPassword {
        email: String,
    },
    /// Contains an address that may not be registered, like [`Self::ResetPassword`].
    ResendVerification {
        email: String,
    },
    Invite {
        user_id: i64,
    },
    ConfirmNewEmail {
        user_id: i64,
        email: String,
    },
    /// An invitation to an organization. The message is not sent if the invitation has another link now or is no longer
    /// pending.
    OrgInvitation {
        invitation_id: i64,
        link_id: Uuid,
    },
    Notice {
        to: String,
        name: Option<String>,
        notice: Notice,
    },
}

/// The arguments of the job that renders and sends a message; `jobs/send_email_message.rs` runs it.
#[derive(Serialize, Deserialize)]
pub struct SendEmailMessage {
    pub message: OutboxMessage,
    /// When the message was written, by the clock of the database. `None` for a job that an earlier release has
    /// enqueued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_at: Option<DateTime<Utc>>,
}

/// The job of a message that release 0.1.0 cannot read. The workers of that release would fail such a [`SendEmailMessage`]
/// without a retry, but they leave a job with an unknown name to other workers.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct SendNewEmailMessage(pub SendEmailMessage);

/// Age limit of a message. A message whose link a person has requested and waits for has a shorter limit.
const MAX_MESSAGE_AGE: Duration = Duration::days(7);

/// The recipient and the kind of a message with a link.
struct LinkDraft {
    user: User,
    to: String,
    email: &'static LinkEmail,
    purpose: Purpose,
}

impl OutboxMessage {
    /// Creates a message that notifies a user of a change.
    pub fn notice(user: &User, notice: Notice) -> Self {
        let name = name_for(user, &user.email).map(str::to_owned);
        // An unverified address may belong to another person. This person must not receive text that the user has
        // chosen.
        let notice = if user.email_verified_at.is_some() { notice } else { notice.without_input() };
        Self::Notice { to: user.email.clone(), name, notice }
    }

    /// Enqueues the job that sends the message, if the transaction commits. Unlike `enqueue_in_tx`, this needs no `Queue`, so
    /// commands without a connection to Redis can call it.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer;
    /// [`Error::JobTooLarge`](crate::error::Error::JobTooLarge) if the message is too large for the queue.
    pub async fn send(&self, tx: &Tx<'_>) -> Result<()> {
        let written_at = Some(DatabaseClock::read(tx).await?.now());
        let job = SendEmailMessage { message: self.clone(), written_at };
        // The job has no owner, because the jobs of a deleted user are purged: the mail about the deletion must be sent.
        let (origin, options) = (tx.context.origin(None), EnqueueOptions::default());
        let job = match self.is_known_to_0_1_0() {
            true => PreparedJob::new(&job, &origin, options)?,
            false => {
                let job = PreparedJob::new(&SendNewEmailMessage(job), &origin, options)?;
                // In the table, all mails have one task, by which the relay finds the mails that wait for a mail server.
                PreparedJob { task: SendEmailMessage::NAME.into(), ..job }
            }
        };
        job_outbox::write(tx, job).await.map(drop)
    }

    fn is_known_to_0_1_0(&self) -> bool {
        match self {
            Self::VerifyEmail { .. }
            | Self::ResetPassword { .. }
            | Self::ResendVerification { .. }
            | Self::Invite { .. }
            | Self::ConfirmNewEmail { .. } => true,
            Self::OrgInvitation { .. } => false,
            Self::Notice { notice, .. } => notice.is_known_to_0_1_0(),
        }
    }

    /// Returns whether a message that was written at this time is too old to be sent. Both times are by the clock of the
    /// database.
    pub fn is_too_old(&self, written_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        now - written_at > self.max_age()
    }

    fn max_age(&self) -> Duration {
        match self {
            // The user has requested the message and waits for it, so the limit is the lifetime of its link.
            Self::ResetPassword { .. } => link::RESET_PASSWORD.lifetime.duration(),
            Self::ResendVerification { .. } => link::VERIFY_EMAIL.lifetime.duration(),
            Self::ConfirmNewEmail { .. } => link::CONFIRM_NEW_EMAIL.lifetime.duration(),
            // These messages stay useful for longer.
            Self::VerifyEmail { .. }
            | Self::Invite { .. }
            | Self::OrgInvitation { .. }
            | Self::Notice { .. } => MAX_MESSAGE_AGE,
        }
    }

    /// Returns the recipient and the rendered message, or `None` if the message is no longer needed. For a message with a link
    /// for a user, stores the hash of a new token.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
    pub async fn render(&self, app: &App) -> Result<Option<(String, RenderedEmail)>> {
        let product = &*app.config.core.project_name;
        if let Self::Notice { to, name, notice } = self {
            return Ok(Some((to.clone(), notice.render(product, name.as_deref())?)));
        }
        if let Self::OrgInvitation { invitation_id, link_id } = self {
            return invitation_link::render(app, *invitation_id, *link_id).await;
        }
        let Some(draft) = app.db.run(async |conn| self.link_email(conn).await).await? else {
            return Ok(None);
        };
        let LinkDraft { user, to, email, purpose } = draft;
        let (token, lifetime) = (OpaqueToken::random()?, email.lifetime.duration());
        app.db
            .run(async |conn| {
                Ok(OneTimeToken::insert(conn, &token.hash, user.id, purpose, Some(&to), lifetime).await?)
            })
            .await?;
        let link = app.mailer.link(email.page, &token.text);
        let rendered = email.render(product, name_for(&user, &to), &link)?;
        Ok(Some((to, rendered)))
    }

    /// Returns the recipient and the kind of a message with a link. `None` if no active user needs the message, and for the
    /// messages that [`Self::render`] handles itself: invitations to organizations and notices.
    async fn link_email(&self, conn: &AsyncPgConnection) -> Result<Option<LinkDraft>> {
        let (user, email, purpose, is_needed): (_, _, _, fn(&User) -> bool) = match self {
            Self::VerifyEmail { user_id } => {
                (User::find(conn, *user_id).await?, &link::VERIFY_EMAIL, Purpose::VerifyEmail, is_unverified)
            }
            Self::ResendVerification { email } => (
                User::find_by_email(conn, &EmailLookup::new(email)).await?,
                &link::VERIFY_EMAIL,
                Purpose::VerifyEmail,
                is_unverified,
            ),
            // This includes an invited user without a password, for whom the link replaces a lost invitation.
            Self::ResetPassword { email } => (
                User::find_by_email(conn, &EmailLookup::new(email)).await?,
                &link::RESET_PASSWORD,
                Purpose::ResetPassword,
                |_| true,
            ),
            Self::Invite { user_id } => {
                let has_no_password = |user: &User| user.hashed_password.is_none();
                (User::find(conn, *user_id).await?, &link::INVITE, Purpose::AcceptInvite, has_no_password)
            }
            Self::ConfirmNewEmail { user_id, email } => {
                let user = User::find(conn, *user_id).await?;
                let user = user.filter(|user| user.pending_email.as_ref() == Some(email));
                let is_taken = User::find_by_email(conn, &EmailLookup::new(email)).await?.is_some();
                (user.filter(|_| !is_taken), &link::CONFIRM_NEW_EMAIL, Purpose::ChangeEmail, |_| true)
            }
            Self::OrgInvitation { .. } | Self::Notice { .. } => return Ok(None),
        };
        let user = user.filter(|user| user.is_active && is_needed(user));
        Ok(user.map(|user| {
            let to = match self {
                Self::ConfirmNewEmail { email, .. } => email.clone(),
                _ => user.email.clone(),
            };
            LinkDraft { user, to, email, purpose }
        }))
    }
}

/// Returns the name for the greeting of a mail. Returns `None` unless `to` is the verified address of the user: a
/// stranger who registers the address of another person chooses the name.
fn name_for<'a>(user: &'a User, to: &str) -> Option<&'a str> {
    let is_own = user.email_verified_at.is_some() && user.email == to;
    user.full_name.as_deref().filter(|_| is_own)
}

fn is_unverified(user: &User) -> bool {
    user.email_verified_at.is_none()
}
