use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::MaybeUndefined,
};

use super::user::{RoleOut, UserOut};
use crate::{
    api::{
        extract::{Admin, Body, Email, Limit, Offset, Text},
        problem::Result,
        respond::{NoContent, Page, PageItem},
        tag::Tag,
    },
    app::App,
    models::user_list::{Listing, Sort},
    services::user_admin,
};

pub(in crate::api) struct UserAdmin(pub(super) App);

impl PageItem for UserOut {
    const PAGE: &str = "UserPage";
    const PAGE_DESCRIPTION: &str = "Some of the users.";
    const TOTAL_DESCRIPTION: &str =
        "How many there are on all pages together; of more than 10,000 no more are counted.";
}

/// What comes first; a `-` turns it round.
#[derive(Enum, Clone, Copy, Default)]
enum UserSort {
    #[oai(rename = "created_at")]
    CreatedAt,
    #[default]
    #[oai(rename = "-created_at")]
    NewestFirst,
    #[oai(rename = "email")]
    Email,
    #[oai(rename = "-email")]
    EmailDescending,
    #[oai(rename = "full_name")]
    FullName,
    #[oai(rename = "-full_name")]
    FullNameDescending,
}

impl UserSort {
    fn column(self) -> (Sort, bool) {
        match self {
            Self::CreatedAt => (Sort::CreatedAt, false),
            Self::NewestFirst => (Sort::CreatedAt, true),
            Self::Email => (Sort::Email, false),
            Self::EmailDescending => (Sort::Email, true),
            Self::FullName => (Sort::FullName, false),
            Self::FullNameDescending => (Sort::FullName, true),
        }
    }
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct InviteIn {
    email: Email,
    #[oai(validator(max_length = 255))]
    full_name: Option<String>,
    /// `user` where it is left out.
    role: Option<RoleOut>,
}

/// What is left out stays as it is.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct MemberIn {
    #[oai(validator(max_length = 255))]
    full_name: MaybeUndefined<String>,
    role: Option<RoleOut>,
    is_active: Option<bool>,
}

#[derive(ApiResponse)]
enum Invited {
    /// The new user; a link to choose a password was sent.
    #[oai(status = 201)]
    Created(Json<UserOut>),
}

#[derive(ApiResponse)]
enum InvitedAgain {
    /// The link was sent once more.
    #[oai(status = 202)]
    Accepted,
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl UserAdmin {
    /// Find users.
    #[oai(path = "/", method = "get", operation_id = "list_users")]
    async fn list(
        &self,
        _admin: Admin,
        /// A part of the address or the name, in any case.
        #[oai(validator(max_length = 255))]
        search: Query<Option<Text>>,
        /// Only those of this role.
        role: Query<Option<RoleOut>>,
        /// Only those who may sign in, or who may not.
        is_active: Query<Option<bool>>,
        /// What comes first.
        #[oai(default)]
        sort: Query<UserSort>,
        /// How many to pass over.
        #[oai(default)]
        offset: Query<Offset>,
        /// How many to show.
        #[oai(default)]
        limit: Query<Limit>,
    ) -> Result<Json<Page<UserOut>>> {
        let (column, descending) = sort.0.column();
        let listing = Listing {
            search: search.0.as_ref().map(Text::as_ref).filter(|text| !text.trim().is_empty()),
            role: role.0.map(Into::into),
            is_active: is_active.0,
            sort: column,
            descending,
            offset: offset.0.0.into(),
            limit: limit.0.0.into(),
        };
        let (users, total) = user_admin::list(&self.0, &listing).await?;
        Ok(Json(Page::new(users, total.unsigned_abs(), offset.0, limit.0)))
    }

    /// Invite somebody.
    ///
    /// A link to choose a password is sent to the address; it works for 7 days. Fails with 400 `email_taken`.
    #[oai(path = "/", method = "post", operation_id = "invite_user")]
    async fn invite(&self, Admin(actor): Admin, Body(body): Body<InviteIn>) -> Result<Invited> {
        let role = body.role.unwrap_or(RoleOut::User).into();
        let user =
            user_admin::invite(&self.0, &actor, &body.email.0, body.full_name.as_deref(), role).await?;
        Ok(Invited::Created(Json(user.into())))
    }

    /// A user.
    #[oai(path = "/:id", method = "get", operation_id = "read_user")]
    async fn read(&self, _admin: Admin, id: Path<i64>) -> Result<Json<UserOut>> {
        Ok(Json(user_admin::find(&self.0, id.0).await?.into()))
    }

    /// Change a user.
    ///
    /// Whoever is deactivated is signed out everywhere. Fails with 409 `last_admin` where nobody else could administer.
    #[oai(path = "/:id", method = "patch", operation_id = "update_user")]
    async fn update(
        &self,
        Admin(actor): Admin,
        id: Path<i64>,
        Body(body): Body<MemberIn>,
    ) -> Result<Json<UserOut>> {
        let full_name = match body.full_name {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(name) => Some(Some(name)),
        };
        let changes =
            user_admin::Changes { full_name, role: body.role.map(Into::into), is_active: body.is_active };
        Ok(Json(user_admin::update(&self.0, &actor, id.0, &changes).await?.into()))
    }

    /// Erase a user, at once and for good.
    ///
    /// Fails with 409 `last_admin` where nobody else could administer.
    #[oai(path = "/:id", method = "delete", operation_id = "delete_user")]
    async fn delete(&self, Admin(actor): Admin, id: Path<i64>) -> Result<NoContent> {
        user_admin::delete(&self.0, &actor, id.0).await?;
        Ok(NoContent)
    }

    /// Send an invitation again.
    ///
    /// Fails with 409 `conflict` where it was taken already.
    #[oai(path = "/:id/invite", method = "post", operation_id = "invite_user_again")]
    async fn invite_again(&self, Admin(actor): Admin, id: Path<i64>) -> Result<InvitedAgain> {
        user_admin::invite_again(&self.0, &actor, id.0).await?;
        Ok(InvitedAgain::Accepted)
    }

    /// Sign a user out everywhere.
    #[oai(path = "/:id/sessions", method = "delete", operation_id = "end_user_sessions")]
    async fn sign_out(&self, Admin(actor): Admin, id: Path<i64>) -> Result<NoContent> {
        user_admin::sign_out(&self.0, &actor, id.0).await?;
        Ok(NoContent)
    }

    /// Turn off the second factor of a user who has lost it, and sign them out everywhere.
    #[oai(path = "/:id/two-factor", method = "delete", operation_id = "remove_user_two_factor")]
    async fn remove_two_factor(&self, Admin(actor): Admin, id: Path<i64>) -> Result<NoContent> {
        user_admin::remove_second_factor(&self.0, &actor, id.0).await?;
        Ok(NoContent)
    }
}
