//! The tables `two_factor` and `recovery_codes`.

use chrono::{DateTime, Duration, Utc};
use diesel::{prelude::*, sql_types::Interval};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{clock::DatabaseClock, clock_timestamp, now};
use crate::db::Tx;
use crate::schema::{recovery_codes, two_factor};

/// The TOTP secret of a user.
#[derive(HasQuery)]
#[diesel(table_name = two_factor)]
pub struct TwoFactor {
    /// Encrypted with `TWO_FACTOR_KEY`, or still with `TWO_FACTOR_KEY_PREVIOUS` until the user next enters a valid code of the
    /// authenticator.
    pub secret: Vec<u8>,
    /// When the user has entered a first valid code, which enables the second factor. `None` before.
    pub confirmed_at: Option<DateTime<Utc>>,
    #[diesel(select_expression = clock_timestamp())]
    pub clock: DatabaseClock,
}

impl TwoFactor {
    /// Returns the secret of a user, confirmed or not.
    pub async fn find(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(two_factor::user_id.eq(user_id)).first(&mut conn).await.optional()
    }

    /// Returns whether a user has confirmed a second factor.
    pub async fn is_enabled(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<bool> {
        let confirmed = two_factor::table.find(user_id).filter(two_factor::confirmed_at.is_not_null());
        diesel::select(diesel::dsl::exists(confirmed)).get_result(&mut conn).await
    }

    /// Stores a new unconfirmed secret. Returns 0 if the second factor is already enabled.
    pub async fn begin(tx: &Tx<'_>, user_id: i64, secret: &[u8]) -> QueryResult<usize> {
        let mut conn = tx.conn();
        use diesel::query_dsl::methods::FilterDsl;
        let upsert = diesel::insert_into(two_factor::table)
            .values((two_factor::user_id.eq(user_id), two_factor::secret.eq(secret)))
            .on_conflict(two_factor::user_id)
            .do_update()
            .set((two_factor::secret.eq(secret), two_factor::last_step.eq(0)));
        FilterDsl::filter(upsert, two_factor::confirmed_at.is_null()).execute(&mut conn).await
    }

    /// Enables the second factor. Returns 0 if it is already enabled, or the user has no secret.
    pub async fn confirm(tx: &Tx<'_>, user_id: i64) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::update(two_factor::table.find(user_id).filter(two_factor::confirmed_at.is_null()))
            .set(two_factor::confirmed_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Marks a time step and all earlier steps as used, so that no code is accepted twice (RFC 6238 section 5.2). Also stores
    /// `secret`, which the caller has encrypted again with the current key. Returns false if this or a later step was already
    /// used, or the user has no secret.
    pub async fn consume_step(
        mut conn: &AsyncPgConnection,
        user_id: i64,
        step: i64,
        secret: &[u8],
    ) -> QueryResult<bool> {
        let updated = diesel::update(two_factor::table.find(user_id).filter(two_factor::last_step.lt(step)))
            .set((two_factor::last_step.eq(step), two_factor::secret.eq(secret)))
            .execute(&mut conn)
            .await?;
        Ok(updated == 1)
    }

    /// Counts an attempt as failed, and returns `None`. After a success, the caller must call
    /// [`reset_failures`](Self::reset_failures). If the user already has `max_failures` failures in the current window, counts
    /// nothing and returns the rest of the window. The first attempt after the end of a window begins a new one. Counts nothing
    /// and returns `None` if the user has no secret.
    ///
    /// Call this outside of the transaction that verifies the code: the attempt must stay counted if that transaction is rolled
    /// back.
    pub async fn count_attempt(
        mut conn: &AsyncPgConnection,
        user_id: i64,
        max_failures: i32,
        window: Duration,
    ) -> QueryResult<Option<Duration>> {
        let row = two_factor::table.find(user_id);
        let is_over = two_factor::failures_since.le(now() - window.into_sql::<Interval>());
        let begun = diesel::update(row.filter(is_over))
            .set((two_factor::failures.eq(1), two_factor::failures_since.eq(now())))
            .execute(&mut conn)
            .await?;
        if begun == 1 {
            return Ok(None);
        }
        let counted = diesel::update(row.filter(two_factor::failures.lt(max_failures)))
            .set(two_factor::failures.eq(two_factor::failures + 1))
            .execute(&mut conn)
            .await?;
        if counted == 1 {
            return Ok(None);
        }
        let times = row.select((two_factor::failures_since, clock_timestamp()));
        let times = times.first::<(DateTime<Utc>, DateTime<Utc>)>(&mut conn).await.optional()?;
        Ok(times.map(|(since, now)| since + window - now))
    }

    /// Sets the number of failures of a user to 0. The current window continues.
    pub async fn reset_failures(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<usize> {
        let failed = two_factor::table.find(user_id).filter(two_factor::failures.gt(0));
        diesel::update(failed).set(two_factor::failures.eq(0)).execute(&mut conn).await
    }

    /// Deletes the secret and the recovery codes of a user. Returns whether the second factor was enabled.
    pub async fn delete(tx: &Tx<'_>, user_id: i64) -> QueryResult<bool> {
        let mut conn = tx.conn();
        diesel::delete(recovery_codes::table.filter(recovery_codes::user_id.eq(user_id)))
            .execute(&mut conn)
            .await?;
        let confirmed: Option<Option<DateTime<Utc>>> = diesel::delete(two_factor::table.find(user_id))
            .returning(two_factor::confirmed_at)
            .get_result(&mut conn)
            .await
            .optional()?;
        Ok(confirmed.flatten().is_some())
    }
}

/// Queries on recovery codes, which are stored as hashes.
pub struct RecoveryCode;

impl RecoveryCode {
    /// Replaces the recovery codes of a user. Returns the number of new codes.
    pub async fn replace(tx: &Tx<'_>, user_id: i64, hashes: &[Vec<u8>]) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::delete(recovery_codes::table.filter(recovery_codes::user_id.eq(user_id)))
            .execute(&mut conn)
            .await?;
        let row = |hash| (recovery_codes::user_id.eq(user_id), recovery_codes::hash.eq(hash));
        let rows: Vec<_> = hashes.iter().map(row).collect();
        diesel::insert_into(recovery_codes::table).values(rows).execute(&mut conn).await
    }

    /// Deletes a recovery code. Returns whether it existed.
    pub async fn consume(mut conn: &AsyncPgConnection, user_id: i64, hash: &[u8]) -> QueryResult<bool> {
        let deleted = diesel::delete(recovery_codes::table.find((user_id, hash))).execute(&mut conn).await?;
        Ok(deleted == 1)
    }

    /// Returns the number of unused recovery codes of a user.
    pub async fn count(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<i64> {
        recovery_codes::table.filter(recovery_codes::user_id.eq(user_id)).count().get_result(&mut conn).await
    }
}
