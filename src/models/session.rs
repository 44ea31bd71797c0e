//! The tables `sessions` and `refresh_tokens`.

use chrono::{DateTime, Duration, Utc};
use diesel::{
    dsl::{IntervalDsl as _, sql},
    prelude::*,
    sql_types::{Bool, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{ago, delete_some, now, user::User};
use crate::schema::{refresh_tokens, sessions, users};

/// A session that nobody uses ends after this.
pub const IDLE_TIMEOUT_DAYS: i32 = 30;
/// And each ends after this.
pub const MAX_LIFETIME_DAYS: i64 = 90;
/// In which a retry of a refresh gets the same answer.
const RETRY_WINDOW_SECONDS: i32 = 10;
/// How exactly `last_seen_at` is kept: a write at each request would be one too many.
const TOUCH_INTERVAL_SECONDS: i32 = 300;

/// Where a user is signed in.
#[derive(Clone, Debug, HasQuery, Identifiable)]
pub struct Session {
    pub id: Uuid,
    pub user_id: i64,
    pub user_agent: Option<String>,
    pub address: Option<String>,
    pub second_factor: bool,
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

#[derive(Insertable)]
#[diesel(table_name = sessions)]
pub struct NewSession<'a> {
    pub id: Uuid,
    pub user_id: i64,
    pub user_agent: Option<&'a str>,
    pub address: Option<&'a str>,
    pub second_factor: bool,
    pub expires_at: DateTime<Utc>,
}

/// A session and its user, without the password hash; may be `IDENTITY_CACHE_MS` old.
pub struct Identity {
    pub user: User,
    pub session: Session,
}

impl Identity {
    /// The session and user of an access token, whether or not the session is over.
    pub async fn find(conn: &AsyncPgConnection, session_id: Uuid) -> QueryResult<Option<Self>> {
        let found = Session::with_user(conn, session_id).await?;
        Ok(found.map(|(session, user)| Self { user: User { hashed_password: None, ..user }, session }))
    }
}

impl Session {
    pub fn has_ended(&self) -> bool {
        let now = Utc::now();
        let idle = self.last_seen_at + Duration::days(IDLE_TIMEOUT_DAYS.into()) <= now;
        self.revoked_at.is_some() || self.expires_at <= now || idle
    }

    /// Whether it is time to note that it was used.
    pub fn is_touch_due(&self) -> bool {
        self.last_seen_at + Duration::seconds(TOUCH_INTERVAL_SECONDS.into()) < Utc::now()
    }

    /// A session and whose it is, over or not.
    pub async fn with_user(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<Option<(Self, User)>> {
        sessions::table
            .inner_join(users::table)
            .filter(sessions::id.eq(id))
            .select((Self::as_select(), User::as_select()))
            .first(&mut conn)
            .await
            .optional()
    }

    /// Those of a user that go on, the last used first, as many as anybody would look at.
    pub async fn list(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<Vec<Self>> {
        Self::query()
            .filter(sessions::user_id.eq(user_id))
            .filter(sessions::revoked_at.is_null())
            .filter(sessions::expires_at.gt(now()))
            .filter(sessions::last_seen_at.gt(ago(IDLE_TIMEOUT_DAYS.days())))
            .order((sessions::last_seen_at.desc(), sessions::id))
            .limit(200)
            .load(&mut conn)
            .await
    }

    /// Whether the owner of a mail address has signed in from that network before.
    pub async fn has_login_from(
        mut conn: &AsyncPgConnection,
        email: &str,
        network: &str,
    ) -> QueryResult<bool> {
        let there = sql::<Bool>("sessions.address::inet <<= ").bind::<Text, _>(network).sql("::inet");
        let known = sessions::table
            .inner_join(users::table)
            .filter(super::lower(users::email).eq(email))
            .filter(there);
        diesel::select(diesel::dsl::exists(known)).get_result(&mut conn).await
    }

    /// Notes that it was used, if that was not noted lately. The address stays that of the login, which is known to be
    /// its owner's.
    pub async fn touch(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<usize> {
        let due = sessions::last_seen_at.lt(ago(TOUCH_INTERVAL_SECONDS.seconds()));
        diesel::update(sessions::table.find(id).filter(due))
            .set(sessions::last_seen_at.eq(now()))
            .execute(&mut conn)
            .await
    }

    /// Holds a session until the transaction ends: of many who bring a token of it at once, each sees what the one
    /// before has done.
    pub async fn lock(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<Option<Uuid>> {
        sessions::table.find(id).select(sessions::id).for_update().first(&mut conn).await.optional()
    }

    /// What was signed in with a second factor that is no more counts as signed in without.
    pub async fn clear_second_factor(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<usize> {
        diesel::update(sessions::table.filter(sessions::user_id.eq(user_id)))
            .set(sessions::second_factor.eq(false))
            .execute(&mut conn)
            .await
    }

    pub async fn set_second_factor(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<usize> {
        diesel::update(sessions::table.find(id))
            .set(sessions::second_factor.eq(true))
            .execute(&mut conn)
            .await
    }

    /// Ends a session of a user; how many that were.
    pub async fn revoke(mut conn: &AsyncPgConnection, user_id: i64, id: Uuid) -> QueryResult<usize> {
        let one = sessions::table.find(id).filter(sessions::user_id.eq(user_id));
        diesel::update(one.filter(sessions::revoked_at.is_null()))
            .set(sessions::revoked_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Ends all sessions of a user but one; how many that were.
    pub async fn revoke_all(
        mut conn: &AsyncPgConnection,
        user_id: i64,
        except: Option<Uuid>,
    ) -> QueryResult<usize> {
        diesel::update(sessions::table)
            .filter(sessions::user_id.eq(user_id))
            .filter(sessions::revoked_at.is_null())
            .filter(sessions::id.ne(except.unwrap_or_default()))
            .set(sessions::revoked_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Removes some that are over for long, with their tokens.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        delete_some(conn, "sessions", "expires_at < now() - interval '1 day'", limit).await
    }
}

impl NewSession<'_> {
    pub async fn insert(&self, mut conn: &AsyncPgConnection) -> QueryResult<usize> {
        diesel::insert_into(sessions::table).values(self).execute(&mut conn).await
    }
}

/// The refresh tokens, known by their hashes.
pub struct RefreshToken;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    Unused,
    /// Used a moment ago: a retry, or another tab.
    JustUsed,
    Used,
    Expired,
}

impl RefreshToken {
    /// The session of a token.
    pub async fn session_id(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<Option<Uuid>> {
        let token = refresh_tokens::table.find(hash);
        token.select(refresh_tokens::session_id).first(&mut conn).await.optional()
    }

    /// How it stands with a token whose session is held.
    pub async fn state(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<Option<TokenState>> {
        let recently = refresh_tokens::spent_at.gt(ago(RETRY_WINDOW_SECONDS.seconds()).nullable());
        let idle = refresh_tokens::created_at.lt(ago(IDLE_TIMEOUT_DAYS.days()));
        let row: Option<(Option<bool>, bool)> =
            refresh_tokens::table.find(hash).select((recently, idle)).first(&mut conn).await.optional()?;
        Ok(row.map(|row| match row {
            (Some(true), _) => TokenState::JustUsed,
            (Some(false), _) => TokenState::Used,
            (None, true) => TokenState::Expired,
            (None, false) => TokenState::Unused,
        }))
    }

    pub async fn exists(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<bool> {
        diesel::select(diesel::dsl::exists(refresh_tokens::table.find(hash))).get_result(&mut conn).await
    }

    pub async fn insert(mut conn: &AsyncPgConnection, session_id: Uuid, hash: &[u8]) -> QueryResult<usize> {
        diesel::insert_into(refresh_tokens::table)
            .values((refresh_tokens::session_id.eq(session_id), refresh_tokens::hash.eq(hash)))
            .execute(&mut conn)
            .await
    }

    pub async fn mark_used(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<usize> {
        diesel::update(refresh_tokens::table.find(hash))
            .set(refresh_tokens::spent_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Removes some that could not be used any more in any case.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        let old = format!("created_at < now() - interval '{IDLE_TIMEOUT_DAYS} days'");
        delete_some(conn, "refresh_tokens", &old, limit).await
    }
}
