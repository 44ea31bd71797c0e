//! The account of the signed-in user.

use std::cmp::Reverse;

use chrono::{DateTime, Utc};
use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::{Example, MaybeUndefined},
};
use uuid::Uuid;

use super::user::UserOut;
use crate::{
    api::{
        conditional::{IfMatch, Tagged},
        cookies,
        extract::{Body, CurrentUser, Cursor, Email, Limit, NewPassword, SignedIn},
        ids::SessionId,
        problem::Result,
        respond::ArrayPage,
        tag::Tag,
    },
    app::App,
    error::Error,
    models::session::Session,
    services::{profile, sessions},
};

/// Operations on the account of the caller.
pub(in crate::api) struct Me(pub(super) App);

/// A change of the account. Absent fields are not changed.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ProfileIn {
    /// `null` removes the name.
    #[oai(nullable, validator(max_length = 255))]
    full_name: MaybeUndefined<String>,
}

/// A change of the password.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordIn {
    current_password: String,
    /// At least 8 characters, and at most 72 bytes in UTF-8. Common passwords and your own name or address are refused.
    new_password: NewPassword,
}

/// A change of the email address.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct EmailIn {
    /// The new address.
    email: Email,
    /// The current password.
    password: String,
}

/// The confirmation of the deletion of the account.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct DeleteIn {
    /// The current password.
    password: String,
}

/// A session of the user.
#[derive(Object)]
#[oai(rename = "Session", example)]
struct SessionOut {
    id: SessionId,
    /// The first 255 characters of the `User-Agent` header of the sign-in.
    #[oai(nullable)]
    device: Option<String>,
    /// IP address of the client at the sign-in.
    #[oai(nullable)]
    address: Option<String>,
    created_at: DateTime<Utc>,
    /// Time of the last request in the session, accurate to five minutes.
    last_seen_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    /// Whether the user has entered a code of the second factor in this session, and has not turned two-factor authentication off
    /// since.
    two_factor: bool,
    /// Whether this is the session of the request.
    current: bool,
}

impl Example for SessionOut {
    fn example() -> Self {
        let at = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        Self {
            id: SessionId("b2f3c9d0-6a55-4f0e-9d6c-0a7c0f6f1a2b".into()),
            device: Some("Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0".into()),
            address: Some("203.0.113.7".into()),
            created_at: at,
            last_seen_at: at,
            expires_at: at + chrono::Duration::days(90),
            two_factor: false,
            current: true,
        }
    }
}

impl SessionOut {
    fn of(session: Session, current: Uuid) -> Self {
        Self {
            current: session.id == current,
            id: SessionId(session.id.to_string()),
            device: session.user_agent,
            address: session.address,
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            expires_at: session.expires_at,
            two_factor: session.second_factor,
        }
    }
}

#[derive(ApiResponse)]
enum EmailChangeRequested {
    /// The change was requested. It takes effect when the link in the mail to the new address is confirmed.
    #[oai(status = 202)]
    Accepted,
}

#[derive(ApiResponse)]
enum PasswordChanged {
    /// The password was changed, and the other sessions were revoked.
    #[oai(status = 204)]
    NoContent,
}

#[derive(ApiResponse)]
enum SessionRevoked {
    /// The session was revoked.
    #[oai(status = 204)]
    NoContent,
}

/// A scheduled deletion of the account.
#[derive(Object)]
#[oai(example)]
struct Deletion {
    /// When the account is due to be erased. Signing in or resetting the password before this time cancels the deletion.
    deletion_due_at: DateTime<Utc>,
}

impl Example for Deletion {
    fn example() -> Self {
        Self { deletion_due_at: DateTime::from_timestamp(1_768_435_200, 0).unwrap_or_default() }
    }
}

#[derive(ApiResponse)]
enum DeletionScheduled {
    /// The deletion is scheduled, all sessions were revoked, and the cookies were removed.
    #[oai(status = 202)]
    Accepted(Json<Deletion>),
}

#[OpenApi(prefix_path = "/users/me", tag = "Tag::Users")]
impl Me {
    /// Returns the signed-in user.
    ///
    /// Also allowed to users who still have to set up a required second factor.
    #[oai(path = "/", method = "get", operation_id = "read_me")]
    async fn me(&self, SignedIn(actor): SignedIn) -> Result<Tagged<UserOut>> {
        Ok(Tagged(actor.user().clone().into()))
    }

    /// Changes your name.
    ///
    /// Fails with 412 `precondition_failed` if the request has `If-Match` without the current `ETag` of the user.
    #[oai(path = "/", method = "patch", operation_id = "update_me")]
    async fn update(
        &self,
        CurrentUser(actor): CurrentUser,
        if_match: IfMatch,
        Body(body): Body<ProfileIn>,
    ) -> Result<Tagged<UserOut>> {
        let full_name = match &body.full_name {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(name) => Some(Some(name.as_str())),
        };
        let user = profile::rename(&self.0, &actor, full_name, &if_match.on::<UserOut, _>()).await?;
        Ok(Tagged(user.into()))
    }

    /// Changes your password.
    ///
    /// Revokes your other sessions and the links to reset the password or to change the email address, and sends you a mail.
    /// Fails with 400 `wrong_password` if the current password is wrong, and with 429 `too_many_attempts` after several
    /// failures or mails.
    #[oai(path = "/password", method = "post", operation_id = "change_password")]
    async fn password(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<PasswordIn>,
    ) -> Result<PasswordChanged> {
        profile::change_password(&self.0, &actor, body.current_password, body.new_password.0).await?;
        Ok(PasswordChanged::NoContent)
    }

    /// Requests a change of your email address.
    ///
    /// Sends a link to the new address, unless it is registered, and a notice to the old one. Same response whether or not the
    /// new address is registered. Fails with 400 `wrong_password`, with 422 if the new address is your address already, and with
    /// 429 `too_many_attempts` after several failures or mails.
    #[oai(path = "/email", method = "post", operation_id = "change_email")]
    async fn email(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<EmailIn>,
    ) -> Result<EmailChangeRequested> {
        profile::change_email(&self.0, &actor, &body.email.0, body.password).await?;
        Ok(EmailChangeRequested::Accepted)
    }

    /// Schedules the deletion of your account.
    ///
    /// Revokes all your sessions and the open links to verify or change the address or to set a password, purges your jobs, and
    /// sends you a mail. The account is erased after a grace period, unless you sign in or reset the password before. Fails
    /// with 400 `wrong_password`, and with 409 `last_admin` if you are the last active admin. Fails with 409 `last_owner` if
    /// you own an organization that has other members and is not scheduled for deletion. Fails with 429 `too_many_attempts`
    /// after several failures or mails.
    #[oai(path = "/deletion", method = "post", operation_id = "request_deletion")]
    async fn request_deletion(
        &self,
        request: &Request,
        jar: &CookieJar,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<DeleteIn>,
    ) -> Result<DeletionScheduled> {
        let deletion_due_at = profile::delete(&self.0, &actor, body.password).await?;
        cookies::clear(request, jar)?;
        Ok(DeletionScheduled::Accepted(Json(Deletion { deletion_due_at })))
    }

    /// Schedules the deletion of your account, as `POST /users/me/deletion` does.
    ///
    /// Prefer the operation with POST, because not every client can send a body with DELETE. Fails with 400
    /// `wrong_password`, with 409 `last_admin` or `last_owner`, and with 429 `too_many_attempts`.
    #[oai(path = "/", method = "delete", operation_id = "delete_me", deprecated = true)]
    async fn delete(
        &self,
        request: &Request,
        jar: &CookieJar,
        caller: CurrentUser,
        body: Body<DeleteIn>,
    ) -> Result<DeletionScheduled> {
        self.request_deletion(request, jar, caller, body).await
    }

    /// Returns your sessions, the most recently used first.
    ///
    /// A session is a sign-in on a device. At most the 1,000 sessions that were used last are listed.
    #[oai(path = "/sessions", method = "get", operation_id = "list_sessions")]
    async fn sessions(
        &self,
        CurrentUser(actor): CurrentUser,
        cursor: Cursor,
        #[oai(default = "largest_limit")] limit: Query<Limit>,
    ) -> Result<ArrayPage<SessionOut>> {
        let list = sessions::list(&self.0, actor.user().id).await?;
        let list = list.into_iter().map(|session| SessionOut::of(session, actor.session().id));
        let position =
            |session: &SessionOut| (Reverse(session.last_seen_at.timestamp_micros()), session.id.0.clone());
        ArrayPage::of(&cursor, Some(limit.0), list.collect(), position)
    }

    /// Revokes one of your sessions.
    ///
    /// The device of this session has to sign in again. The current session can be revoked, too. Fails with 404 `not_found` if
    /// you have no such session, or if it was revoked already.
    #[oai(path = "/sessions/:id", method = "delete", operation_id = "end_session")]
    async fn end_session(
        &self,
        CurrentUser(actor): CurrentUser,
        /// The `id` of the session.
        id: Path<SessionId>,
    ) -> Result<SessionRevoked> {
        let id = Uuid::parse_str(&id.0.0).map_err(|_| Error::NotFound("Session"))?;
        sessions::revoke(&self.0, &actor, id).await?;
        Ok(SessionRevoked::NoContent)
    }
}

/// Returns the default page size. It is the maximum of 200, because release 0.1.0 returns up to 200 sessions.
fn largest_limit() -> Limit {
    Limit::LARGEST
}
