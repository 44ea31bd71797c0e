//! Operations on organizations: list, create, read, change, transfer, delete and restore.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::Query,
    payload::Json,
    types::{Example, MaybeUndefined},
};

use super::org::OrgOut;
use crate::{
    api::{
        conditional::{IfMatch, Tagged},
        extract::{Body, CurrentUser, Cursor, IdempotencyKey, Limit, OrgMember, Slug},
        idempotency::Replayable,
        paths::{ORG_PATH, PREFIX},
        problem::Result,
        respond::Page,
        tag::Tag,
    },
    app::App,
    services::{
        organizations::{self, Changes, Confirmation, MyOrganization},
        permissions::perm,
    },
};

/// Operations that list the organizations of the caller, or create an organization.
pub(in crate::api) struct MyOrgs(pub(super) App);

/// Operations on one organization.
pub(in crate::api) struct Orgs(pub(super) App);

/// A new organization.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct OrgIn {
    #[oai(validator(min_length = 1, max_length = 100))]
    name: String,
    /// A unique name for URLs: 3 to 50 lower-case letters, digits and hyphens. It begins with a letter, and a letter or
    /// digit follows each hyphen.
    #[oai(nullable)]
    slug: Option<Slug>,
}

/// A change of an organization. Absent fields are not changed.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct OrgChangeIn {
    #[oai(validator(min_length = 1, max_length = 100))]
    name: Option<String>,
    /// `null` removes the slug.
    #[oai(nullable)]
    slug: MaybeUndefined<Slug>,
}

/// The owner's confirmation of the deletion.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct OrgDeleteIn {
    /// The current password.
    password: String,
    /// A code of the authenticator, or a recovery code. Required if you have two-factor authentication.
    #[oai(nullable, validator(max_length = 64))]
    code: Option<String>,
}

/// The new owner, and the confirmation by the current owner.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct TransferIn {
    /// Id of the new owner, who must be an active member of the organization.
    user_id: i64,
    /// The current password.
    password: String,
    /// A code of the authenticator, or a recovery code. Required if you have two-factor authentication.
    #[oai(nullable, validator(max_length = 64))]
    code: Option<String>,
}

#[derive(ApiResponse)]
enum OrgCreated {
    /// The new organization.
    #[oai(status = 201)]
    Created(
        Json<OrgOut>,
        /// The path of the organization.
        #[oai(header = "Location")]
        String,
    ),
}

/// A scheduled deletion of an organization.
#[derive(Object)]
#[oai(example)]
struct OrgDeletion {
    /// When the organization is due to be erased. Until then, its owner can restore it.
    deletion_due_at: DateTime<Utc>,
}

impl Example for OrgDeletion {
    fn example() -> Self {
        Self { deletion_due_at: DateTime::from_timestamp(1_768_435_200, 0).unwrap_or_default() }
    }
}

#[derive(ApiResponse)]
enum OrgDeletionScheduled {
    /// The deletion is scheduled. Until the owner restores the organization, all operations in it except the restoration are
    /// refused.
    #[oai(status = 202)]
    Accepted(Json<OrgDeletion>),
}

#[OpenApi(tag = "Tag::Organizations")]
impl MyOrgs {
    /// Returns your organizations.
    ///
    /// Your personal organization comes first, and the others are sorted by name. If the setting `PERSONAL_ORGANIZATIONS` is on,
    /// the request creates a missing personal organization. Each organization has your role and your permissions.
    #[oai(path = "/orgs", method = "get", operation_id = "list_orgs")]
    async fn list(
        &self,
        CurrentUser(actor): CurrentUser,
        cursor: Cursor,
        #[oai(default = "largest_limit")] limit: Query<Limit>,
    ) -> Result<Page<OrgOut>> {
        let list = organizations::list(&self.0, &actor).await?;
        let own = Some(actor.user().id);
        let position = |(org, _): &MyOrganization| (org.personal_of != own, org.name.clone(), org.id);
        Page::of_all(&cursor, limit.0, list, position)
    }

    /// Returns your organizations, as `GET /orgs` does.
    #[oai(path = "/users/me/orgs", method = "get", operation_id = "list_my_orgs")]
    async fn list_mine(
        &self,
        caller: CurrentUser,
        cursor: Cursor,
        #[oai(default = "largest_limit")] limit: Query<Limit>,
    ) -> Result<Page<OrgOut>> {
        self.list(caller, cursor, limit).await
    }

    /// Creates an organization with you as its owner.
    ///
    /// Fails with 409 `slug_taken` if another organization has the slug, with 409 `org_limit_reached` if you own too many
    /// organizations, and with 409 `membership_limit_reached` if you are a member of too many organizations.
    #[oai(path = "/orgs", method = "post", operation_id = "create_org")]
    async fn create(
        &self,
        CurrentUser(actor): CurrentUser,
        key: IdempotencyKey,
        Body(body): Body<OrgIn>,
    ) -> Result<Replayable<OrgCreated>> {
        let slug = body.slug.as_ref().map(|slug| slug.0.as_str());
        let once = key.once(|made: &MyOrganization| {
            let location = format!("{PREFIX}/orgs/{}", made.0.id);
            OrgCreated::Created(Json(made.clone().into()), location)
        });
        Ok(organizations::create(&self.0, &actor, &once, &body.name, slug).await?.into())
    }
}

/// Returns the default page size. It is the maximum, so that one page usually contains all organizations of a user.
fn largest_limit() -> Limit {
    Limit::LARGEST
}

#[OpenApi(prefix_path = ORG_PATH, tag = "Tag::Organizations")]
impl Orgs {
    /// Returns an organization.
    ///
    /// Fails with 404 `org_not_found` if you are not a member, as all operations in an organization do.
    #[oai(path = "/", method = "get", operation_id = "read_org")]
    async fn read(&self, org: OrgMember<perm::Member>) -> Result<Tagged<OrgOut>> {
        Ok(Tagged(organizations::find(&self.0, org.access()).await?.into()))
    }

    /// Changes the name or the slug.
    ///
    /// Fails with 409 `slug_taken` if another organization has the slug, and with 412 `precondition_failed` if the current
    /// `ETag` of the organization is not in `If-Match`. Needs the permission `org:update`.
    #[oai(path = "/", method = "patch", operation_id = "update_org")]
    async fn update(
        &self,
        org: OrgMember<perm::OrgUpdate>,
        if_match: IfMatch,
        Body(body): Body<OrgChangeIn>,
    ) -> Result<Tagged<OrgOut>> {
        let slug = match body.slug {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(slug) => Some(Some(slug.0)),
        };
        let changes = Changes { name: body.name, slug };
        let condition = if_match.on::<OrgOut, _>();
        let org = organizations::update(&self.0, org.actor(), org.access(), &changes, &condition).await?;
        Ok(Tagged(org.into()))
    }

    /// Makes another member the owner.
    ///
    /// You become an admin of the organization, and both of you get a mail. A personal organization is then no longer personal.
    /// Only for the owner. Fails with 400 `wrong_password` or `invalid_code`, and with 429 `too_many_attempts` after several
    /// failures or mails. Fails with 422 if a required code is missing, or if the user is not an active member or is the owner
    /// already.
    #[oai(path = "/transfer", method = "post", operation_id = "transfer_org")]
    async fn transfer(
        &self,
        org: OrgMember<perm::OrgTransfer>,
        Body(body): Body<TransferIn>,
    ) -> Result<Json<OrgOut>> {
        let confirmation = Confirmation { password: body.password, code: body.code };
        let done =
            organizations::transfer(&self.0, org.actor(), org.access(), body.user_id, confirmation).await?;
        Ok(Json(done.into()))
    }

    /// Schedules the deletion of the organization.
    ///
    /// From then on, all operations in the organization except `POST /orgs/{org}/restore` fail for its active members with 403
    /// `org_deleting`. The organization is erased after a grace period, unless you restore it before. You and the active admins
    /// of the organization get a mail. Only for the owner. Fails with 400 `wrong_password` or `invalid_code`, with 409
    /// `personal_org` for a personal organization, with 422 if a required code is missing, and with 429 `too_many_attempts` after
    /// several failures or mails.
    #[oai(path = "/deletion", method = "post", operation_id = "delete_org")]
    async fn delete(
        &self,
        org: OrgMember<perm::OrgDelete>,
        Body(body): Body<OrgDeleteIn>,
    ) -> Result<OrgDeletionScheduled> {
        let confirmation = Confirmation { password: body.password, code: body.code };
        let due = organizations::delete(&self.0, org.actor(), org.access(), confirmation).await?;
        Ok(OrgDeletionScheduled::Accepted(Json(OrgDeletion { deletion_due_at: due })))
    }

    /// Schedules the deletion of the organization, as `POST /orgs/{org}/deletion` does.
    ///
    /// Prefer the operation with POST, because not every client can send a body with DELETE. Fails with 400 `wrong_password`
    /// or `invalid_code`, with 409 `personal_org`, with 422 if a required code is missing, and with 429 `too_many_attempts`.
    #[oai(path = "/", method = "delete", operation_id = "delete_org_with_body")]
    async fn delete_with_body(
        &self,
        org: OrgMember<perm::OrgDelete>,
        body: Body<OrgDeleteIn>,
    ) -> Result<OrgDeletionScheduled> {
        self.delete(org, body).await
    }

    /// Cancels the scheduled deletion of the organization.
    ///
    /// Does nothing if no deletion is scheduled. Only for the owner. Fails with 404 `org_not_found` once the deletion is due.
    #[oai(path = "/restore", method = "post", operation_id = "restore_org")]
    async fn restore(&self, org: OrgMember<perm::OrgRestore>) -> Result<Json<OrgOut>> {
        Ok(Json(organizations::restore(&self.0, org.actor(), org.access()).await?.into()))
    }
}
