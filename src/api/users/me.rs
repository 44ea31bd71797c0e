use chrono::{DateTime, Utc};
use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::Path,
    payload::Json,
    types::{Example, MaybeUndefined},
};
use uuid::Uuid;

use super::user::UserOut;
use crate::{
    api::{
        cookies,
        extract::{Body, CurrentUser, Email, NewPassword},
        problem::Result,
        respond::NoContent,
        tag::Tag,
    },
    app::App,
    error::Error,
    models::session::Session,
    services::{profile, sessions},
};

pub(in crate::api) struct Me(pub(super) App);

/// What is left out stays as it is.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ProfileIn {
    #[oai(validator(max_length = 255))]
    full_name: MaybeUndefined<String>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordIn {
    current_password: String,
    /// 8 characters to 72 bytes, and none that anybody would guess.
    new_password: NewPassword,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct EmailIn {
    email: Email,
    /// The current one.
    password: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct DeleteIn {
    /// The current one.
    password: String,
}

/// Where somebody is signed in.
#[derive(Object)]
#[oai(rename = "Session", example)]
struct SessionOut {
    id: String,
    /// What the browser or program calls itself.
    #[oai(nullable)]
    device: Option<String>,
    #[oai(nullable)]
    address: Option<String>,
    created_at: DateTime<Utc>,
    /// To within five minutes.
    last_seen_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    /// Whether a second factor was shown.
    two_factor: bool,
    /// Whether it is this one.
    current: bool,
}

impl Example for SessionOut {
    fn example() -> Self {
        let at = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        Self {
            id: "b2f3c9d0-6a55-4f0e-9d6c-0a7c0f6f1a2b".into(),
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
            id: session.id.to_string(),
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
enum EmailChange {
    /// A link was sent to the new address; it is taken on once that is opened.
    #[oai(status = 202)]
    Accepted,
}

#[derive(Object)]
#[oai(example)]
struct Deletion {
    /// The account is erased then. Signing in before keeps it.
    deletion_due_at: DateTime<Utc>,
}

impl Example for Deletion {
    fn example() -> Self {
        Self { deletion_due_at: DateTime::from_timestamp(1_768_435_200, 0).unwrap_or_default() }
    }
}

#[derive(ApiResponse)]
enum DeletionScheduled {
    /// All sessions have ended; the account will be erased.
    #[oai(status = 202)]
    Accepted(Json<Deletion>),
}

#[OpenApi(prefix_path = "/users/me", tag = "Tag::Users")]
impl Me {
    /// The signed-in user.
    #[oai(path = "/", method = "get", operation_id = "read_me")]
    async fn me(&self, CurrentUser(actor): CurrentUser) -> Result<Json<UserOut>> {
        Ok(Json(actor.user().clone().into()))
    }

    /// Change your name.
    #[oai(path = "/", method = "patch", operation_id = "update_me")]
    async fn update(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<ProfileIn>,
    ) -> Result<Json<UserOut>> {
        let full_name = match body.full_name {
            MaybeUndefined::Undefined => return Ok(Json(actor.user().clone().into())),
            MaybeUndefined::Null => None,
            MaybeUndefined::Value(name) => Some(name),
        };
        let user = profile::rename(&self.0, &actor, full_name.as_deref()).await?;
        Ok(Json(user.into()))
    }

    /// Change your password.
    ///
    /// Your other sessions end. Fails with 400 `wrong_password`.
    #[oai(path = "/password", method = "post", operation_id = "change_password")]
    async fn password(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<PasswordIn>,
    ) -> Result<NoContent> {
        profile::change_password(&self.0, &actor, body.current_password, body.new_password.0).await?;
        Ok(NoContent)
    }

    /// Change your address.
    ///
    /// A link is sent to the new one, and a notice to the old one. Fails with 400 `wrong_password`.
    #[oai(path = "/email", method = "post", operation_id = "change_email")]
    async fn email(&self, CurrentUser(actor): CurrentUser, Body(body): Body<EmailIn>) -> Result<EmailChange> {
        profile::change_email(&self.0, &actor, &body.email.0, body.password).await?;
        Ok(EmailChange::Accepted)
    }

    /// Delete your account.
    ///
    /// All your sessions end now; the account is erased after some days, unless you sign in before. Fails with 400
    /// `wrong_password`, with 409 `last_admin` where there is no other admin.
    #[oai(path = "/", method = "delete", operation_id = "delete_me")]
    async fn delete(
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

    /// Where you are signed in, the last used first.
    #[oai(path = "/sessions", method = "get", operation_id = "list_sessions")]
    async fn sessions(&self, CurrentUser(actor): CurrentUser) -> Result<Json<Vec<SessionOut>>> {
        let list = sessions::list(&self.0, actor.user().id).await?;
        Ok(Json(list.into_iter().map(|session| SessionOut::of(session, actor.session().id)).collect()))
    }

    /// End one of your sessions.
    #[oai(path = "/sessions/:id", method = "delete", operation_id = "end_session")]
    async fn end_session(
        &self,
        CurrentUser(actor): CurrentUser,
        /// The `id` of the list.
        id: Path<String>,
    ) -> Result<NoContent> {
        let id = Uuid::parse_str(&id.0).map_err(|_| Error::NotFound("Session"))?;
        sessions::revoke(&self.0, &actor, id).await?;
        Ok(NoContent)
    }
}
