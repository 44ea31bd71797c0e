//! The table `api_keys`.

use std::time::Instant;

use chrono::{DateTime, Utc};
use diesel::{dsl::sql, expression::SqlLiteral, prelude::*, sql_types::Bool};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{after, clock::DatabaseClock, clock_timestamp, days, delete_batch, now};
use crate::{db::Tx, schema::api_keys};

/// Number of days after which [`ApiKey::purge`] deletes a revoked or expired key.
const KEEP_ENDED_DAYS: i32 = 90;

/// An API key of an organization, without the hashes of its secrets.
#[derive(Clone, Debug, HasQuery, Identifiable)]
pub struct ApiKey {
    pub id: i64,
    pub org_id: i64,
    /// The user who has created the key, and in whose name the key acts.
    pub created_by: i64,
    pub name: String,
    /// The permissions, separated by spaces.
    pub scopes: String,
    /// The beginning and the end of the secret, by which a person recognizes the key.
    pub hint: String,
    /// When the secret from before the last rotation expires. `None` if the key was never rotated.
    pub previous_expires_at: Option<DateTime<Utc>>,
    /// For how many days the key is valid, from its creation, its last rotation or the last change of this lifetime. `None` if
    /// the key does not expire.
    pub lifetime_days: Option<i32>,
    pub expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub rotated_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    #[diesel(select_expression = clock_timestamp())]
    pub clock: DatabaseClock,
}

/// A key to insert.
#[derive(Insertable)]
#[diesel(table_name = api_keys)]
pub struct NewApiKey<'a> {
    pub org_id: i64,
    pub created_by: i64,
    pub name: &'a str,
    pub scopes: &'a str,
    pub hash: &'a [u8],
    pub hint: &'a str,
    pub lifetime_days: Option<i32>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Changes to a key. `None` keeps a column; `Some(None)` sets it to NULL.
#[derive(AsChangeset, Default)]
#[diesel(table_name = api_keys)]
pub struct ApiKeyChanges<'a> {
    pub name: Option<&'a str>,
    pub scopes: Option<&'a str>,
    pub lifetime_days: Option<Option<i32>>,
    pub expires_at: Option<Option<DateTime<Utc>>>,
    pub expiry_notified_at: Option<Option<DateTime<Utc>>>,
}

/// A new secret of a key.
pub struct Rotation<'a> {
    pub hash: &'a [u8],
    pub hint: &'a str,
    pub lifetime_days: Option<i32>,
    /// When the replaced secret, which becomes the previous secret, expires.
    pub previous_expires_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Returns the condition that a key is neither revoked nor expired.
fn is_active() -> SqlLiteral<Bool> {
    sql("(api_keys.revoked_at IS NULL AND (api_keys.expires_at IS NULL OR api_keys.expires_at > now()))")
}

impl ApiKey {
    /// Returns whether the key is revoked or expired.
    pub fn has_ended(&self) -> bool {
        self.revoked_at.is_some() || self.expires_at.is_some_and(|expires_at| expires_at <= self.clock.now())
    }

    /// Returns whether a secret of the key is no longer valid: the key is revoked or expired, or `is_previous` is true and the
    /// secret from before the last rotation has expired.
    pub fn secret_has_ended(&self, is_previous: bool) -> bool {
        let is_rotated_out = || self.previous_expires_at.is_none_or(|until| until <= self.clock.now());
        self.has_ended() || (is_previous && is_rotated_out())
    }

    /// Updates `last_used_at` of this value, not of the row, for a use that is not written to the database yet.
    pub fn add_pending_use(&mut self, used_at: Instant) {
        let used_at = self.clock.at(used_at);
        self.last_used_at = Some(self.last_used_at.map_or(used_at, |written| written.max(used_at)));
    }

    /// Returns whether the key has a scope, such as `product:read`.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.split(' ').any(|own| own == scope)
    }

    /// Returns at most `limit` keys of an organization, the newest first. With `before`, only keys with a lower id.
    pub async fn list(
        mut conn: &AsyncPgConnection,
        org_id: i64,
        before: Option<i64>,
        limit: i64,
    ) -> QueryResult<Vec<Self>> {
        let mut query = Self::query().filter(api_keys::org_id.eq(org_id)).into_boxed();
        if let Some(before) = before {
            query = query.filter(api_keys::id.lt(before));
        }
        query.order(api_keys::id.desc()).limit(limit).load(&mut conn).await
    }

    /// Returns a key of an organization.
    pub async fn find(mut conn: &AsyncPgConnection, org_id: i64, id: i64) -> QueryResult<Option<Self>> {
        let own = api_keys::org_id.eq(org_id).and(api_keys::id.eq(id));
        Self::query().filter(own).first(&mut conn).await.optional()
    }

    /// Locks a key of an organization until the transaction ends, and returns the latest version of the row.
    pub async fn lock(mut conn: &AsyncPgConnection, org_id: i64, id: i64) -> QueryResult<Option<Self>> {
        let own = api_keys::org_id.eq(org_id).and(api_keys::id.eq(id));
        Self::query().filter(own).for_update().first(&mut conn).await.optional()
    }

    /// Like [`Self::lock`], but finds a key of any organization.
    pub async fn lock_by_id(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(api_keys::id.eq(id)).for_update().first(&mut conn).await.optional()
    }

    /// Locks a key against changes. Returns the key, and whether the secret with this hash is the secret from before the last
    /// rotation. `None` if no key with this id has the secret. Several transactions may hold this lock at the same time.
    pub async fn lock_shared(
        mut conn: &AsyncPgConnection,
        id: i64,
        hash: &[u8],
    ) -> QueryResult<Option<(Self, bool)>> {
        api_keys::table
            .filter(api_keys::id.eq(id))
            .filter(api_keys::hash.eq(hash).or(api_keys::previous_hash.assume_not_null().eq(hash)))
            .select((Self::as_select(), api_keys::hash.ne(hash)))
            .for_share()
            .first(&mut conn)
            .await
            .optional()
    }

    /// Returns whether one of the hashes belongs to a current or previous secret of a key. The key or the secret may be revoked
    /// or expired.
    pub async fn any_has_hash(mut conn: &AsyncPgConnection, hashes: &[Vec<u8>]) -> QueryResult<bool> {
        let found = api_keys::table.filter(
            api_keys::hash.eq_any(hashes).or(api_keys::previous_hash.assume_not_null().eq_any(hashes)),
        );
        diesel::select(diesel::dsl::exists(found)).get_result(&mut conn).await
    }

    /// Locks the keys with these hashes, in the order of their ids. For each key, also returns whether one of the hashes is that
    /// of its current secret. If not, one is that of its previous secret.
    pub async fn lock_by_hashes(tx: &Tx<'_>, hashes: &[Vec<u8>]) -> QueryResult<Vec<(Self, bool)>> {
        let mut conn = tx.conn();
        api_keys::table
            .filter(
                api_keys::hash.eq_any(hashes).or(api_keys::previous_hash.assume_not_null().eq_any(hashes)),
            )
            .order(api_keys::id)
            .select((Self::as_select(), api_keys::hash.eq_any(hashes)))
            .for_update()
            .load(&mut conn)
            .await
    }

    /// Returns the number of keys of an organization that are neither revoked nor expired.
    pub async fn count_active(mut conn: &AsyncPgConnection, org_id: i64) -> QueryResult<i64> {
        api_keys::table
            .filter(api_keys::org_id.eq(org_id))
            .filter(is_active())
            .count()
            .get_result(&mut conn)
            .await
    }

    /// Updates a key and returns the new row. `changes` must have a change, because diesel refuses an empty update.
    pub async fn update(tx: &Tx<'_>, id: i64, changes: &ApiKeyChanges<'_>) -> QueryResult<Self> {
        let mut conn = tx.conn();
        diesel::update(api_keys::table.find(id))
            .set(changes)
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
    }

    /// Replaces the secret of a key and returns the new row. The old secret becomes the previous secret, and an earlier previous
    /// secret is no longer valid.
    pub async fn rotate(tx: &Tx<'_>, id: i64, new: &Rotation<'_>) -> QueryResult<Self> {
        let mut conn = tx.conn();
        diesel::update(api_keys::table.find(id))
            .set((
                api_keys::previous_hash.eq(api_keys::hash.nullable()),
                api_keys::previous_expires_at.eq(Some(new.previous_expires_at)),
                api_keys::hash.eq(new.hash),
                api_keys::hint.eq(new.hint),
                api_keys::rotated_at.eq(now().nullable()),
                api_keys::lifetime_days.eq(new.lifetime_days),
                api_keys::expires_at.eq(new.expires_at),
                api_keys::expiry_notified_at.eq(None::<DateTime<Utc>>),
            ))
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
    }

    /// Revokes a key, also an expired one. Returns 1, or 0 if the key was already revoked or does not exist.
    pub async fn revoke(tx: &Tx<'_>, id: i64) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::update(api_keys::table.find(id).filter(api_keys::revoked_at.is_null()))
            .set(api_keys::revoked_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Expires the previous secret of a key now, so that only the current secret stays valid. Returns how many keys were
    /// changed, 0 or 1.
    pub async fn end_overlap(tx: &Tx<'_>, id: i64) -> QueryResult<usize> {
        let mut conn = tx.conn();
        let lasts = api_keys::previous_expires_at.assume_not_null().gt(now());
        diesel::update(api_keys::table.find(id).filter(lasts))
            .set(api_keys::previous_expires_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Revokes the unexpired keys that a user has created in an organization. Returns the ids of the revoked keys.
    pub async fn revoke_of_member(tx: &Tx<'_>, org_id: i64, user_id: i64) -> QueryResult<Vec<i64>> {
        let mut conn = tx.conn();
        let own = api_keys::org_id.eq(org_id).and(api_keys::created_by.eq(user_id));
        diesel::update(api_keys::table.filter(own.and(is_active())))
            .set(api_keys::revoked_at.eq(now().nullable()))
            .returning(api_keys::id)
            .get_results(&mut conn)
            .await
    }

    /// Revokes all unexpired keys that a user has created. Returns the organization and the id of each revoked key.
    pub async fn revoke_of_user(tx: &Tx<'_>, user_id: i64) -> QueryResult<Vec<(i64, i64)>> {
        let mut conn = tx.conn();
        let own = api_keys::created_by.eq(user_id);
        diesel::update(api_keys::table.filter(own.and(is_active())))
            .set(api_keys::revoked_at.eq(now().nullable()))
            .returning((api_keys::org_id, api_keys::id))
            .get_results(&mut conn)
            .await
    }

    /// Locks at most `limit` active keys that expire within `notice_days` days, and returns them. Leaves out keys whose lifetime
    /// is at most `notice_days`, keys that are marked as notified, and keys that another transaction has locked.
    pub async fn lock_expiring(tx: &Tx<'_>, notice_days: i32, limit: i64) -> QueryResult<Vec<Self>> {
        let mut conn = tx.conn();
        let expires_at = || api_keys::expires_at.assume_not_null();
        Self::query()
            .filter(api_keys::revoked_at.is_null())
            .filter(api_keys::expiry_notified_at.is_null())
            .filter(expires_at().gt(now()))
            .filter(expires_at().le(after(days(notice_days))))
            .filter(api_keys::lifetime_days.assume_not_null().gt(notice_days))
            .order(api_keys::expires_at)
            .limit(limit)
            .for_update()
            .skip_locked()
            .load(&mut conn)
            .await
    }

    /// Records that the users were notified of the expiry of these keys, so that they are not notified again.
    pub async fn mark_expiry_notified(tx: &Tx<'_>, ids: &[i64]) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::update(api_keys::table.filter(api_keys::id.eq_any(ids)))
            .set(api_keys::expiry_notified_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Deletes at most `limit` keys that were revoked or expired over 90 days ago. Returns how many.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        let old = format!("least(revoked_at, expires_at) < now() - {KEEP_ENDED_DAYS} * interval '24 hours'");
        delete_batch(conn, "api_keys", &old, limit).await
    }
}

impl NewApiKey<'_> {
    /// Inserts the key and returns the row.
    pub async fn insert(&self, tx: &Tx<'_>) -> QueryResult<ApiKey> {
        let mut conn = tx.conn();
        diesel::insert_into(api_keys::table)
            .values(self)
            .returning(ApiKey::as_returning())
            .get_result(&mut conn)
            .await
    }
}
