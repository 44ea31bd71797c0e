//! The API keys of an organization.

use std::time::Duration;

use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};

use super::{
    api_key_out::{ApiKeyOut, NewApiKeyOut},
    scope::Scope,
};
use crate::{
    api::{
        conditional::{IfMatch, TaggedVolatile},
        extract::{Body, Cursor, Limit, OrgMember},
        paths::{ORG_PATH, PREFIX},
        problem::Result,
        respond::Page,
        tag::Tag,
    },
    app::App,
    error::Error,
    services::{
        api_keys::{self, Changes, DEFAULT_LIFETIME_DAYS, Lifetime, MAX_OVERLAP_HOURS, NewKey},
        permissions::{Permission, perm},
    },
};

/// Operations on the API keys of an organization. They require a session, so that a stolen key can neither list nor change keys.
pub(in crate::api) struct ApiKeys(pub(super) App);

/// A new key.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ApiKeyIn {
    /// A name for people, such as the name of the program that uses the key.
    #[oai(validator(min_length = 1, max_length = 100))]
    name: String,
    /// The permissions of the key. A permission is effective only while you have it, too.
    #[oai(validator(min_items = 1, max_items = 50))]
    scopes: Vec<Scope>,
    /// After how many days the key expires; 90 by default. Must be absent if `never_expires` is `true`.
    #[oai(validator(minimum(value = "1"), maximum(value = "365")))]
    expires_in_days: Option<i32>,
    /// `true` for a key that is valid until it is revoked.
    #[oai(default)]
    never_expires: bool,
}

/// A change of a key. Absent fields are not changed.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ApiKeyChangeIn {
    #[oai(validator(min_length = 1, max_length = 100))]
    name: Option<String>,
    #[oai(validator(min_items = 1, max_items = 50))]
    scopes: Option<Vec<Scope>>,
    /// After how many days from now the key expires. Must be absent if `never_expires` is `true`.
    #[oai(validator(minimum(value = "1"), maximum(value = "365")))]
    expires_in_days: Option<i32>,
    /// `true` makes the key valid until it is revoked. `false` does not change the expiry.
    #[oai(default)]
    never_expires: bool,
}

/// How to rotate a key.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RotationIn {
    /// For how many hours the current secret stays valid; 24 by default. At the latest, it becomes invalid when the key
    /// would have expired without the rotation. With `0`, it becomes invalid at once.
    #[oai(default = "default_overlap_hours", validator(minimum(value = "0"), maximum(value = "24")))]
    overlap_hours: u64,
    /// After how many days from now the key expires. By default, the key gets its previous lifetime again. Must be absent if
    /// `never_expires` is `true`.
    #[oai(validator(minimum(value = "1"), maximum(value = "365")))]
    expires_in_days: Option<i32>,
    /// `true` makes the key valid until it is revoked. With `false`, `expires_in_days` or its default applies.
    #[oai(default)]
    never_expires: bool,
}

fn default_overlap_hours() -> u64 {
    MAX_OVERLAP_HOURS
}

/// Returns the lifetime that a client has chosen, or `None` if it has chosen none.
///
/// # Errors
/// [`Error::Invalid`] if the client sends `expires_in_days` and `never_expires: true`.
fn lifetime(days: Option<i32>, never_expires: bool) -> Result<Option<Lifetime>> {
    match (days, never_expires) {
        (Some(_), true) => {
            Err(Error::invalid("never_expires", "Send either this or expires_in_days, not both").into())
        }
        (None, true) => Ok(Some(Lifetime::Unlimited)),
        (days, false) => Ok(days.map(Lifetime::Days)),
    }
}

fn permissions(scopes: Vec<Scope>) -> Vec<Permission> {
    scopes.into_iter().map(|Scope(permission)| permission).collect()
}

#[derive(ApiResponse)]
enum KeyCreated {
    /// The new key with its secret.
    #[oai(status = 201)]
    Created(
        Json<NewApiKeyOut>,
        /// The path of the key.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
enum KeyRevoked {
    /// The key is revoked. All replicas of the API refuse it, by default after at most 100 milliseconds.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = ORG_PATH, tag = "Tag::Organizations")]
impl ApiKeys {
    /// Returns the API keys, the newest first.
    ///
    /// Needs the permission `key:read`. A nightly job deletes keys that expired or were revoked more than 90 days ago. A key is
    /// also deleted when the account of its creator is erased.
    #[oai(path = "/api-keys", method = "get", operation_id = "list_api_keys")]
    async fn list(
        &self,
        org: OrgMember<perm::KeyRead>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Page<ApiKeyOut>> {
        let keys = api_keys::list(&self.0, org.access(), cursor.after()?, limit.rows()).await?;
        Ok(Page::of(&cursor, limit.0, keys, |key| key.id))
    }

    /// Creates an API key, which acts in your name.
    ///
    /// The response contains the secret, which the server must not store, so `Idempotency-Key` is refused. You and the
    /// active owner of the organization get a mail. If your address is not verified, you get only a few of these mails. Needs the
    /// permission `key:write`. Fails with 409 `key_limit_reached` if the organization has 100 valid keys.
    #[oai(path = "/api-keys", method = "post", operation_id = "create_api_key")]
    async fn create(&self, org: OrgMember<perm::KeyWrite>, Body(body): Body<ApiKeyIn>) -> Result<KeyCreated> {
        let lifetime = lifetime(body.expires_in_days, body.never_expires)?;
        let new = NewKey {
            name: body.name,
            scopes: permissions(body.scopes),
            lifetime: lifetime.unwrap_or(Lifetime::Days(DEFAULT_LIFETIME_DAYS)),
        };
        let made = api_keys::create(&self.0, org.actor(), org.access(), &new).await?;
        let location = format!("{PREFIX}/orgs/{}/api-keys/{}", org.org_id(), made.key.id);
        Ok(KeyCreated::Created(Json(made.into()), location))
    }

    /// Returns an API key.
    ///
    /// Needs the permission `key:read`.
    #[oai(path = "/api-keys/:id", method = "get", operation_id = "read_api_key")]
    async fn read(
        &self,
        org: OrgMember<perm::KeyRead>,
        /// Id of the key.
        id: Path<i64>,
    ) -> Result<TaggedVolatile<ApiKeyOut>> {
        Ok(TaggedVolatile(api_keys::find(&self.0, org.access(), id.0).await?.into()))
    }

    /// Changes the name, the scopes or the expiry of an API key.
    ///
    /// Needs the permission `key:write`. Fails with 409 `key_ended` for a key that was revoked or has expired, and with 403
    /// `role_too_high` if its creator has a higher role than you. Fails with 412 `precondition_failed` if the current `ETag` of
    /// the key is not in `If-Match`, which compares all fields except `last_used_at`.
    #[oai(path = "/api-keys/:id", method = "patch", operation_id = "update_api_key")]
    async fn update(
        &self,
        org: OrgMember<perm::KeyWrite>,
        /// Id of the key.
        id: Path<i64>,
        if_match: IfMatch,
        Body(body): Body<ApiKeyChangeIn>,
    ) -> Result<TaggedVolatile<ApiKeyOut>> {
        let lifetime = lifetime(body.expires_in_days, body.never_expires)?;
        let changes = Changes { name: body.name, scopes: body.scopes.map(permissions), lifetime };
        let (actor, condition) = (org.actor(), if_match.on_stable::<ApiKeyOut, _>());
        let key = api_keys::update(&self.0, actor, org.access(), id.0, &changes, &condition).await?;
        Ok(TaggedVolatile(key.into()))
    }

    /// Gives an API key a new secret.
    ///
    /// The current secret stays valid for up to 24 hours, so that programs can change to the new secret without a gap.
    /// The secret from before an earlier rotation becomes invalid now. The key keeps its id, name and scopes, and its
    /// lifetime starts again. The response contains the new secret, which no other response contains. Needs the permission
    /// `key:write`. Fails with 409 `key_ended` for a key that was revoked or has expired, and with 403 `role_too_high` if its
    /// creator has a higher role than you.
    #[oai(path = "/api-keys/:id/rotate", method = "post", operation_id = "rotate_api_key")]
    async fn rotate(
        &self,
        org: OrgMember<perm::KeyWrite>,
        /// Id of the key.
        id: Path<i64>,
        Body(body): Body<RotationIn>,
    ) -> Result<Json<NewApiKeyOut>> {
        let lifetime = lifetime(body.expires_in_days, body.never_expires)?;
        let overlap = Duration::from_secs(3_600 * body.overlap_hours);
        let rotated = api_keys::rotate(&self.0, org.actor(), org.access(), id.0, overlap, lifetime).await?;
        Ok(Json(rotated.into()))
    }

    /// Revokes an API key.
    ///
    /// Needs the permission `key:write`. Does nothing if the key is already revoked.
    #[oai(path = "/api-keys/:id", method = "delete", operation_id = "revoke_api_key")]
    async fn revoke(
        &self,
        org: OrgMember<perm::KeyWrite>,
        /// Id of the key.
        id: Path<i64>,
    ) -> Result<KeyRevoked> {
        api_keys::revoke(&self.0, org.actor(), org.access(), id.0).await?;
        Ok(KeyRevoked::NoContent)
    }
}
