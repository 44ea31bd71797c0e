//! User administration.

use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    registry::{MetaSchema, MetaSchemaRef},
    types::{Example, MaybeUndefined, Type},
};
use serde_json::{Value, json};

use super::user::{RoleOut, UserOut};
use crate::{
    api::{
        conditional::{IfMatch, Tagged},
        extract::{Admin, Body, Cursor, Email, IdempotencyKey, Limit, Offset, Text},
        idempotency::Replayable,
        paths::PREFIX,
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    models::{
        user::User,
        user_list::{Filter, Listing, Position, Sort},
    },
    services::user_admin::{self, PageStart},
};

/// Operations of admins on users.
pub(in crate::api) struct UserAdmin(pub(super) App);

impl PageItem for UserOut {
    const PAGE: &str = "UserPage";
    const PAGE_DESCRIPTION: &str =
        "A page of users. It may have fewer users than `limit`, or none, although `next_cursor` is not null.";

    fn example_item() -> Option<Self> {
        Some(Self::example())
    }

    fn deprecated_fields() -> Vec<(&'static str, MetaSchemaRef, Value)> {
        let total = "Number of users on all pages, up to 10,000. It can be too low: a search may count its matches only among \
                     the newest 5,000 users, and a filter by only `role=user` or `is_active=true` among the newest 50,000. \
                     Absent if the request has a cursor.";
        let total = MetaSchema { description: Some(total), ..MetaSchema::ANY };
        let offset = "Number of users before this page. Absent if the request has a cursor.";
        let offset = MetaSchema { description: Some(offset), ..MetaSchema::ANY };
        vec![
            ("total", u64::schema_ref().merge(total), json!(1)),
            ("offset", u64::schema_ref().merge(offset), json!(0)),
        ]
    }
}

/// The order of a list of users; a `-` sorts in descending order.
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
    /// Returns the column, and whether the order is descending.
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

/// A new user.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct InviteIn {
    email: Email,
    #[oai(nullable, validator(max_length = 255))]
    full_name: Option<String>,
    /// The role of the new user; `user` by default.
    role: Option<RoleOut>,
}

/// A change of a user. Absent fields are not changed.
#[derive(Object)]
#[oai(deny_unknown_fields, rename = "MemberIn")]
struct UserChangeIn {
    /// `null` removes the name.
    #[oai(nullable, validator(max_length = 255))]
    full_name: MaybeUndefined<String>,
    role: Option<RoleOut>,
    /// `false` deactivates the user, and `true` activates the user again.
    is_active: Option<bool>,
}

#[derive(ApiResponse)]
enum Invited {
    /// The new user. A mail with a link to set a password will be sent.
    #[oai(status = 201)]
    Created(
        Json<UserOut>,
        /// The path of the user.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
enum InvitationResent {
    /// The invitation will be sent again.
    #[oai(status = 202)]
    Accepted,
}

#[derive(ApiResponse)]
enum UserErased {
    /// The user was erased.
    #[oai(status = 204)]
    NoContent,
}

#[derive(ApiResponse)]
enum SessionsRevoked {
    /// All sessions of the user were revoked.
    #[oai(status = 204)]
    NoContent,
}

#[derive(ApiResponse)]
enum TwoFactorDisabled {
    /// Two-factor authentication was turned off, and all sessions of the user were revoked.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl UserAdmin {
    /// Returns the users that match the filters.
    ///
    /// Without filters, the list contains all users, including deactivated users. Users whose sort keys are equal are
    /// sorted by `id`, in the same direction. In an order by name, users without a name come last in both directions. A page
    /// may have fewer users than `limit`, or none, although there is a next page: read on until `next_cursor` is null.
    #[oai(path = "/", method = "get", operation_id = "list_users")]
    async fn list(
        &self,
        _admin: Admin,
        /// A part of the email address or name; case is ignored.
        #[oai(validator(max_length = 255))]
        search: Query<Option<Text>>,
        /// Only users with this role.
        role: Query<Option<RoleOut>>,
        /// Only active users (`true`), or only deactivated users (`false`).
        is_active: Query<Option<bool>>,
        /// The order of the list.
        #[oai(default)]
        sort: Query<UserSort>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
        /// Number of users to skip. A larger number makes the request slower: use `cursor`.
        #[oai(deprecated = true)]
        offset: Query<Option<Offset>>,
    ) -> Result<Page<UserOut>> {
        let (column, descending) = sort.0.column();
        let start = match offset.0 {
            None => PageStart::After(cursor.after_valid(|position: &Position| position.fits(column))?),
            Some(offset) => {
                cursor.excludes("offset")?;
                PageStart::Offset(offset.0.into())
            }
        };
        let search = search.0.as_ref().map(Text::as_ref).map(str::trim).filter(|text| !text.is_empty());
        let filter = Filter { search, role: role.0.map(Into::into), is_active: is_active.0 };
        let listing = Listing { filter, sort: column, descending, limit: limit.0.0.into() };
        let page = user_admin::list(&self.0, &listing, &start).await?;
        let skipped = offset.0.unwrap_or_default().0;
        let users = Page::new(&cursor, limit.0, page.users, page.next);
        Ok(match page.total {
            Some(total) => users.with_deprecated("total", total).with_deprecated("offset", skipped),
            None => users,
        })
    }

    /// Creates a user and sends an invitation.
    ///
    /// The invitation has a link to set a password. The link is valid for 7 days. If the new user is an admin, the other active
    /// admins with a verified address get a mail. Fails with 400 `email_taken` if the address is registered, and with 429
    /// `too_many_attempts` after many invitations to one mailbox.
    #[oai(path = "/", method = "post", operation_id = "invite_user")]
    async fn invite(
        &self,
        Admin(actor): Admin,
        key: IdempotencyKey,
        Body(body): Body<InviteIn>,
    ) -> Result<Replayable<Invited>> {
        let role = body.role.unwrap_or(RoleOut::User).into();
        let once = key.once(|user: &User| {
            Invited::Created(Json(user.clone().into()), format!("{PREFIX}/users/{}", user.id))
        });
        let full_name = body.full_name.as_deref();
        Ok(user_admin::invite(&self.0, &actor, &once, &body.email.0, full_name, role).await?.into())
    }

    /// Returns a user.
    ///
    /// Deactivated users, and users who have deleted their account, are returned until the account is erased.
    #[oai(path = "/:id", method = "get", operation_id = "read_user")]
    async fn read(&self, _admin: Admin, id: Path<i64>) -> Result<Tagged<UserOut>> {
        Ok(Tagged(user_admin::find(&self.0, id.0).await?.into()))
    }

    /// Changes a user.
    ///
    /// A deactivation revokes all sessions and links of the user, and purges the jobs of the user. A change that gives the
    /// user the admin role, or activates a deactivated admin, also revokes the sessions and links. It notifies the user and
    /// the other active admins with a verified address, and fails with 409 `user_not_verified` if the user has not verified the
    /// email address. Fails with 409 `conflict` if the change would give the admin role to a user whose account is scheduled for
    /// deletion, with 409 `last_admin` if it would remove the last active admin, and with 412 `precondition_failed` if the
    /// current `ETag` of the user is not in `If-Match`.
    #[oai(path = "/:id", method = "patch", operation_id = "update_user")]
    async fn update(
        &self,
        Admin(actor): Admin,
        id: Path<i64>,
        if_match: IfMatch,
        Body(body): Body<UserChangeIn>,
    ) -> Result<Tagged<UserOut>> {
        let full_name = match body.full_name {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(name) => Some(Some(name)),
        };
        let changes =
            user_admin::Changes { full_name, role: body.role.map(Into::into), is_active: body.is_active };
        let precondition = if_match.on::<UserOut, _>();
        Ok(Tagged(user_admin::update(&self.0, &actor, id.0, &changes, &precondition).await?.into()))
    }

    /// Erases a user at once.
    ///
    /// This cannot be undone. The user gets a mail. The organizations in which the user is the only member are scheduled for
    /// erasure. Fails with 409 `last_admin` if the user is the last active admin, and with 409 `last_owner` if the user owns an
    /// organization that has other members and is not scheduled for deletion.
    #[oai(path = "/:id", method = "delete", operation_id = "delete_user")]
    async fn delete(&self, Admin(actor): Admin, id: Path<i64>) -> Result<UserErased> {
        user_admin::delete(&self.0, &actor, id.0).await?;
        Ok(UserErased::NoContent)
    }

    /// Sends the invitation again.
    ///
    /// Fails with 409 `conflict` if the user already has a password or is deactivated, and with 429 `too_many_attempts` after
    /// many invitations to one mailbox.
    #[oai(path = "/:id/invite", method = "post", operation_id = "invite_user_again")]
    async fn invite_again(
        &self,
        Admin(actor): Admin,
        key: IdempotencyKey,
        id: Path<i64>,
    ) -> Result<Replayable<InvitationResent>> {
        let once = key.once(|_: &()| InvitationResent::Accepted);
        Ok(user_admin::invite_again(&self.0, &actor, &once, id.0).await?.into())
    }

    /// Revokes all sessions of a user.
    ///
    /// The user has to sign in again on all devices.
    #[oai(path = "/:id/sessions", method = "delete", operation_id = "end_user_sessions")]
    async fn sign_out(&self, Admin(actor): Admin, id: Path<i64>) -> Result<SessionsRevoked> {
        user_admin::sign_out(&self.0, &actor, id.0).await?;
        Ok(SessionsRevoked::NoContent)
    }

    /// Turns off two-factor authentication of a user, and revokes all sessions of the user.
    ///
    /// For a user who has lost the authenticator and the recovery codes. The user gets a mail. Fails with 404 `not_found` if
    /// two-factor authentication of the user is off.
    #[oai(path = "/:id/two-factor", method = "delete", operation_id = "remove_user_two_factor")]
    async fn remove_two_factor(&self, Admin(actor): Admin, id: Path<i64>) -> Result<TwoFactorDisabled> {
        user_admin::remove_second_factor(&self.0, &actor, id.0).await?;
        Ok(TwoFactorDisabled::NoContent)
    }
}
