//! The tables `sessions` and `refresh_tokens`.

use std::time::Instant;

use chrono::{DateTime, Duration, Utc};
use diesel::{
    dsl::{IntervalDsl as _, sql},
    prelude::*,
    sql_types::{Bool, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    after, ago,
    clock::DatabaseClock,
    clock_timestamp, days, delete_batch,
    membership::{IdentityMembership, IdentityMemberships, MembershipsOfUser},
    now,
    user::User,
};
use crate::db::Tx;
use crate::schema::{refresh_tokens, sessions, users};

/// A session and its refresh tokens expire after this time without use.
pub const IDLE_TIMEOUT_DAYS: i32 = 30;
/// A session expires after this time, even if it is used.
pub const MAX_LIFETIME_DAYS: i32 = 90;
/// How long after its use a refresh token is accepted again, for example from a retry.
const RETRY_WINDOW_SECONDS: i32 = 10;
/// Minimum time between two values of `last_seen_at` of a session.
pub(super) const TOUCH_INTERVAL_SECONDS: i32 = 300;
/// Maximum number of sessions in the list of a user.
const MAX_LISTED_SESSIONS: i64 = 1_000;
/// A use in the last minute before the idle timeout is written at once, unless an earlier use is pending. Otherwise, another
/// replica of the product could treat the session as expired before the next batch of uses is written.
const IDLE_MARGIN_SECONDS: i64 = 60;

/// A login of a user on one device.
#[derive(Clone, Debug, HasQuery, Identifiable)]
pub struct Session {
    pub id: Uuid,
    pub user_id: i64,
    pub user_agent: Option<String>,
    /// IP address of the client at the login.
    pub address: Option<String>,
    /// Whether the user has entered a code of the second factor that is enabled now, at the login or when enabling it.
    pub second_factor: bool,
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
    #[diesel(select_expression = clock_timestamp())]
    pub clock: DatabaseClock,
}

/// A session to insert. It expires after [`MAX_LIFETIME_DAYS`].
#[derive(Insertable)]
#[diesel(table_name = sessions)]
pub struct NewSession<'a> {
    pub id: Uuid,
    pub user_id: i64,
    pub user_agent: Option<&'a str>,
    pub address: Option<&'a str>,
    pub second_factor: bool,
}

/// A session, its user without the password hash, and the memberships of the user.
pub struct Identity {
    pub user: User,
    pub session: Session,
    pub memberships: Vec<IdentityMembership>,
}

impl Identity {
    /// Returns a session, its user and the memberships of the user, with one statement. The session may be revoked or expired.
    pub async fn find(mut conn: &AsyncPgConnection, session_id: Uuid) -> QueryResult<Option<Self>> {
        let found: Option<(Session, User, IdentityMemberships)> = sessions::table
            .inner_join(users::table)
            .filter(sessions::id.eq(session_id))
            .select((Session::as_select(), User::as_select(), MembershipsOfUser))
            .first(&mut conn)
            .await
            .optional()?;
        Ok(found.map(|(session, user, IdentityMemberships(memberships))| Self {
            user: User { hashed_password: None, ..user },
            session,
            memberships,
        }))
    }
}

impl Session {
    /// Returns whether the session is revoked or expired.
    pub fn has_ended(&self) -> bool {
        let now = self.clock.now();
        self.revoked_at.is_some() || self.expires_at <= now || self.idle_at() <= now
    }

    /// Returns the time at which the idle timeout ends if the session is not used before.
    fn idle_at(&self) -> DateTime<Utc> {
        self.last_seen_at + Duration::days(IDLE_TIMEOUT_DAYS.into())
    }

    /// Returns the time until `expires_at`, the end of the maximum lifetime.
    pub fn time_left(&self) -> Duration {
        self.expires_at - self.clock.now()
    }

    /// Returns whether `last_seen_at` is old enough to be updated.
    pub fn is_touch_due(&self) -> bool {
        self.last_seen_at + Duration::seconds(TOUCH_INTERVAL_SECONDS.into()) < self.clock.now()
    }

    /// Returns whether the idle timeout ends within a minute if the session is not used.
    pub fn is_almost_idle(&self) -> bool {
        self.idle_at() - self.clock.now() <= Duration::seconds(IDLE_MARGIN_SECONDS)
    }

    /// Updates `last_seen_at` of this value, not of the row, for a use that is not written to the database yet.
    pub fn add_pending_use(&mut self, used_at: Instant) {
        self.last_seen_at = self.last_seen_at.max(self.clock.at(used_at));
    }

    /// Returns a session and its user. The session may be revoked or expired.
    pub async fn with_user(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<Option<(Self, User)>> {
        sessions::table
            .inner_join(users::table)
            .filter(sessions::id.eq(id))
            .select((Self::as_select(), User::as_select()))
            .first(&mut conn)
            .await
            .optional()
    }

    /// Returns at most 1,000 active sessions of a user, the last used first.
    pub async fn list(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<Vec<Self>> {
        Self::query()
            .filter(sessions::user_id.eq(user_id))
            .filter(sessions::revoked_at.is_null())
            .filter(sessions::expires_at.gt(now()))
            .filter(sessions::last_seen_at.gt(ago(days(IDLE_TIMEOUT_DAYS))))
            .order((sessions::last_seen_at.desc(), sessions::id))
            .limit(MAX_LISTED_SESSIONS)
            .load(&mut conn)
            .await
    }

    /// Returns whether a session of a user was opened from a network. `network` is in the notation of PostgreSQL, such as
    /// `192.0.2.1/32`. Sessions that were purged do not count.
    pub async fn has_login_from(
        mut conn: &AsyncPgConnection,
        user_id: i64,
        network: &str,
    ) -> QueryResult<bool> {
        let in_network = sql::<Bool>("sessions.address::inet <<= ").bind::<Text, _>(network).sql("::inet");
        let known = sessions::table.filter(sessions::user_id.eq(user_id)).filter(in_network);
        diesel::select(diesel::dsl::exists(known)).get_result(&mut conn).await
    }

    /// Updates `last_seen_at` if it is more than five minutes old. The address stays that of the login:
    /// [`Self::has_login_from`] must trust only networks from which the user has logged in.
    pub async fn touch(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<usize> {
        let due = sessions::last_seen_at.lt(ago(TOUCH_INTERVAL_SECONDS.seconds()));
        diesel::update(sessions::table.find(id).filter(due))
            .set(sessions::last_seen_at.eq(now()))
            .execute(&mut conn)
            .await
    }

    /// Locks a session until the transaction ends. Concurrent refreshes of a session thereby run one after the other.
    pub async fn lock(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<Option<Self>> {
        Self::query().filter(sessions::id.eq(id)).for_update().first(&mut conn).await.optional()
    }

    /// Like [`Self::lock`], but several transactions may hold this lock at the same time.
    pub async fn lock_shared(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<Option<Self>> {
        Self::query().filter(sessions::id.eq(id)).for_share().first(&mut conn).await.optional()
    }

    /// Marks all sessions of a user as logged in without a second factor, after the second factor was disabled.
    pub async fn clear_second_factor(tx: &Tx<'_>, user_id: i64) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::update(sessions::table.filter(sessions::user_id.eq(user_id)))
            .set(sessions::second_factor.eq(false))
            .execute(&mut conn)
            .await
    }

    /// Marks a session as logged in with a second factor.
    pub async fn set_second_factor(tx: &Tx<'_>, id: Uuid) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::update(sessions::table.find(id))
            .set(sessions::second_factor.eq(true))
            .execute(&mut conn)
            .await
    }

    /// Revokes a session of a user. Returns 1, or 0 if the session was already revoked or the user has no such session.
    pub async fn revoke(tx: &Tx<'_>, user_id: i64, id: Uuid) -> QueryResult<usize> {
        let mut conn = tx.conn();
        let session = sessions::table.find(id).filter(sessions::user_id.eq(user_id));
        diesel::update(session.filter(sessions::revoked_at.is_null()))
            .set(sessions::revoked_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Revokes all sessions of a user except the given one. Returns how many were revoked.
    pub async fn revoke_all(tx: &Tx<'_>, user_id: i64, except: Option<Uuid>) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::update(sessions::table)
            .filter(sessions::user_id.eq(user_id))
            .filter(sessions::revoked_at.is_null())
            .filter(sessions::id.ne(except.unwrap_or_default()))
            .set(sessions::revoked_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Deletes at most `limit` sessions whose maximum lifetime ended over a day ago, with their tokens. Returns the number of
    /// deleted sessions.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        delete_batch(conn, "sessions", "expires_at < now() - interval '1 day'", limit).await
    }
}

impl NewSession<'_> {
    /// Inserts the session.
    pub async fn insert(&self, tx: &Tx<'_>) -> QueryResult<usize> {
        let mut conn = tx.conn();
        let expires_at = after(days(MAX_LIFETIME_DAYS));
        diesel::insert_into(sessions::table)
            .values((self, sessions::expires_at.eq(expires_at)))
            .execute(&mut conn)
            .await
    }
}

/// Queries on refresh tokens, which are stored as hashes.
pub struct RefreshToken;

/// The state of a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    Unused,
    /// Used less than 10 seconds ago. A retry or another browser tab may present it again.
    JustUsed,
    Used,
    /// Never used, and created over 30 days ago.
    Expired,
}

impl RefreshToken {
    /// Returns the id of the session that a token belongs to.
    pub async fn session_id(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<Option<Uuid>> {
        let token = refresh_tokens::table.find(hash);
        token.select(refresh_tokens::session_id).first(&mut conn).await.optional()
    }

    /// Returns the state of a token. `None` if the token is unknown. The caller must have locked its session.
    pub async fn state(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<Option<TokenState>> {
        let recently = refresh_tokens::spent_at.gt(ago(RETRY_WINDOW_SECONDS.seconds()).nullable());
        let idle = refresh_tokens::created_at.lt(ago(days(IDLE_TIMEOUT_DAYS)));
        let row: Option<(Option<bool>, bool)> =
            refresh_tokens::table.find(hash).select((recently, idle)).first(&mut conn).await.optional()?;
        Ok(row.map(|row| match row {
            (Some(true), _) => TokenState::JustUsed,
            (Some(false), _) => TokenState::Used,
            (None, true) => TokenState::Expired,
            (None, false) => TokenState::Unused,
        }))
    }

    /// Returns whether there is a token with this hash.
    pub async fn exists(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<bool> {
        diesel::select(diesel::dsl::exists(refresh_tokens::table.find(hash))).get_result(&mut conn).await
    }

    /// Inserts an unused token of a session.
    pub async fn insert(mut conn: &AsyncPgConnection, session_id: Uuid, hash: &[u8]) -> QueryResult<usize> {
        diesel::insert_into(refresh_tokens::table)
            .values((refresh_tokens::session_id.eq(session_id), refresh_tokens::hash.eq(hash)))
            .execute(&mut conn)
            .await
    }

    /// Marks a token as used now.
    pub async fn mark_used(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<usize> {
        diesel::update(refresh_tokens::table.find(hash))
            .set(refresh_tokens::spent_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Deletes at most `limit` tokens that were created over 30 days ago, used or not. Returns how many.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        let old = format!("created_at < now() - {IDLE_TIMEOUT_DAYS} * interval '24 hours'");
        delete_batch(conn, "refresh_tokens", &old, limit).await
    }
}
