//! Mails that tell of a change, written in the transaction that makes it and sent by a job.
//!
//! A message has no secret in it: the token of a link is made when the letter is written, by the job, so that it
//! lies neither in the outbox nor in the queue.

use diesel_async::AsyncPgConnection;
use serde::{Deserialize, Serialize};

use super::tx::Tx;
use crate::{
    app::App,
    context::RequestContext,
    error::{Error, Result},
    mail::letters::{self, Letter, Notice},
    models::{
        one_time_token::{OneTimeToken, Purpose},
        outbox::Outgoing,
        user::User,
    },
    security::OpaqueToken,
};

/// What somebody is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    VerifyEmail {
        user_id: i64,
    },
    /// Whether anybody has the address is looked up by the job, so that the answer to the request does not depend
    /// on it, nor the time that it takes.
    ResetPassword {
        email: String,
    },
    /// As before; for an address that is not verified yet.
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
    Notice {
        to: String,
        name: Option<String>,
        notice: Notice,
    },
}

impl Message {
    pub fn notice(user: &User, notice: Notice) -> Self {
        Self::Notice { to: user.email.clone(), name: user.full_name.clone(), notice }
    }

    /// Has it sent once the transaction is committed.
    pub async fn send(&self, tx: &Tx<'_>) -> Result<()> {
        let letter = serde_json::to_value(self).map_err(Error::internal)?;
        Outgoing::insert(tx, &letter).await?;
        tx.has_mail();
        Ok(())
    }

    /// The letter and whom it goes to; `None` where there is nobody to be told (any more).
    ///
    /// # Errors
    /// When the database is away.
    pub async fn write(&self, app: &App) -> Result<Option<(String, Letter)>> {
        let product = &*app.config.core.project_name;
        if let Self::Notice { to, name, notice } = self {
            return Ok(Some((to.clone(), letters::notice(product, name.as_deref(), notice)?)));
        }
        let Some((user, purpose, to)) = app.db.run(async |conn| self.recipient(conn).await).await? else {
            return Ok(None);
        };
        let token = OpaqueToken::random()?;
        app.db
            .run(async |conn| Ok(OneTimeToken::insert(conn, &token.hash, user.id, purpose, Some(&to)).await?))
            .await?;
        let (link, time) = (|page| app.mailer.link(page, &token.text), purpose.lifetime());
        let name = user.full_name.as_deref();
        let letter = match purpose {
            Purpose::VerifyEmail => {
                // Whoever registered with a stranger's address must not get to say something to them by a name.
                letters::verify_email(product, None, &link("verify-email"), time.num_hours())?
            }
            Purpose::ResetPassword => {
                letters::reset_password(product, name, &link("reset-password"), time.num_minutes())?
            }
            Purpose::AcceptInvite => letters::invite(product, &link("accept-invite"), time.num_days())?,
            Purpose::ChangeEmail => {
                letters::confirm_new_email(product, name, &link("confirm-email"), time.num_hours())?
            }
            Purpose::SecondFactor => return Ok(None),
        };
        Ok(Some((to, letter)))
    }

    /// Whom a letter with a link goes to, what the link is good for, and the address.
    async fn recipient(&self, conn: &AsyncPgConnection) -> Result<Option<(User, Purpose, String)>> {
        let (user, purpose) = match self {
            Self::VerifyEmail { user_id } => (User::find(conn, *user_id).await?, Purpose::VerifyEmail),
            Self::ResendVerification { email } => {
                (User::find_by_email(conn, email).await?, Purpose::VerifyEmail)
            }
            Self::ResetPassword { email } => {
                (User::find_by_email(conn, email).await?, Purpose::ResetPassword)
            }
            Self::Invite { user_id } => (User::find(conn, *user_id).await?, Purpose::AcceptInvite),
            Self::ConfirmNewEmail { user_id, .. } => {
                (User::find(conn, *user_id).await?, Purpose::ChangeEmail)
            }
            Self::Notice { .. } => return Ok(None),
        };
        let Some(user) = user.filter(|user| user.is_active) else { return Ok(None) };
        let wanted = match self {
            Self::VerifyEmail { .. } | Self::ResendVerification { .. } => user.email_verified_at.is_none(),
            // Somebody who was invited may have lost the invitation: then this does the same.
            Self::Invite { .. } => user.hashed_password.is_none(),
            Self::ConfirmNewEmail { email, .. } => {
                user.pending_email.as_ref() == Some(email)
                    && User::find_by_email(conn, email).await?.is_none()
            }
            Self::ResetPassword { .. } | Self::Notice { .. } => true,
        };
        let to = match self {
            Self::ConfirmNewEmail { email, .. } => email.clone(),
            _ => user.email.clone(),
        };
        Ok(wanted.then_some((user, purpose, to)))
    }
}

/// Hands the mails of the outbox over to the queue, without the caller waiting. If it fails a job does it within a minute.
pub(super) fn hand_over_soon(app: &App, context: &RequestContext) {
    let (app, context) = (app.clone(), context.clone());
    tokio::spawn(async move {
        if let Err(error) = crate::jobs::hand_over(&app, &context).await {
            tracing::warn!(error = crate::error::chain(&error), "mails stay in the outbox for now");
        }
    });
}
