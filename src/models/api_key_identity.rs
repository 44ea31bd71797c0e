//! The data that authenticates and authorizes a request with an API key: the key, its organization, and the account, the second
//! factor and the membership of its creator.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{
    api_key::ApiKey,
    membership::{IdentityMembership, OrgRole},
};
use crate::schema::{api_keys, memberships, organizations, two_factor, users};

/// A key, and the data that decides whether its creator may act in the organization.
pub struct KeyIdentity {
    pub key: ApiKey,
    /// The SHA-256 of the secret of the request.
    pub hash: Vec<u8>,
    /// Whether the request has the secret from before the last rotation.
    pub is_previous: bool,
    /// Whether the account of the creator is active, and not scheduled for deletion.
    pub is_creator_active: bool,
    /// Whether the creator has enabled a second factor.
    pub has_second_factor: bool,
    /// `None` if the creator is no longer a member.
    pub membership: Option<IdentityMembership>,
}

impl KeyIdentity {
    /// Returns the identity of the key with this hash, with one statement. The key or the secret may be revoked or expired.
    pub async fn find(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<Option<Self>> {
        let of_creator =
            memberships::org_id.eq(api_keys::org_id).and(memberships::user_id.eq(api_keys::created_by));
        type Creator = (bool, Option<DateTime<Utc>>);
        type Row = (ApiKey, bool, Creator, bool, bool, Option<OrgRole>, Option<DateTime<Utc>>);
        let found: Option<Row> = api_keys::table
            .inner_join(users::table)
            .inner_join(organizations::table)
            .left_join(memberships::table.on(of_creator))
            .left_join(two_factor::table.on(two_factor::user_id.eq(api_keys::created_by)))
            .filter(api_keys::hash.eq(hash).or(api_keys::previous_hash.assume_not_null().eq(hash)))
            .select((
                ApiKey::as_select(),
                api_keys::hash.ne(hash),
                (users::is_active.and(users::deletion_due_at.is_null()), two_factor::confirmed_at.nullable()),
                organizations::suspended_at.is_not_null(),
                organizations::deletion_due_at.is_not_null(),
                memberships::role.nullable(),
                memberships::suspended_at.nullable(),
            ))
            .first(&mut conn)
            .await
            .optional()?;
        Ok(found.map(|(key, is_previous, creator, org_suspended, org_deleting, role, suspended_at)| {
            let membership = role.map(|role| IdentityMembership {
                org_id: key.org_id,
                role,
                suspended: suspended_at.is_some(),
                org_suspended,
                org_deleting,
            });
            let (is_creator_active, confirmed_at) = creator;
            Self {
                key,
                hash: hash.to_vec(),
                is_previous,
                is_creator_active,
                has_second_factor: confirmed_at.is_some(),
                membership,
            }
        }))
    }

    /// Returns whether the secret of the request is no longer valid, see [`ApiKey::secret_has_ended`].
    pub fn has_ended(&self) -> bool {
        self.key.secret_has_ended(self.is_previous)
    }
}
