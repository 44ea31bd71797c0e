//! The tables `two_factor` and `recovery_codes`.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::now;
use crate::schema::{recovery_codes, two_factor};

/// The second factor of a user.
#[derive(HasQuery)]
#[diesel(table_name = two_factor)]
pub struct TwoFactor {
    /// Encrypted.
    pub secret: Vec<u8>,
    pub confirmed_at: Option<DateTime<Utc>>,
}

impl TwoFactor {
    pub async fn find(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(two_factor::user_id.eq(user_id)).first(&mut conn).await.optional()
    }

    pub async fn is_enabled(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<bool> {
        let on = two_factor::table.find(user_id).filter(two_factor::confirmed_at.is_not_null());
        diesel::select(diesel::dsl::exists(on)).get_result(&mut conn).await
    }

    /// Begins to set it up; 0 where it is on already.
    pub async fn begin(mut conn: &AsyncPgConnection, user_id: i64, secret: &[u8]) -> QueryResult<usize> {
        use diesel::query_dsl::methods::FilterDsl;
        let upsert = diesel::insert_into(two_factor::table)
            .values((two_factor::user_id.eq(user_id), two_factor::secret.eq(secret)))
            .on_conflict(two_factor::user_id)
            .do_update()
            .set((two_factor::secret.eq(secret), two_factor::last_step.eq(0)));
        FilterDsl::filter(upsert, two_factor::confirmed_at.is_null()).execute(&mut conn).await
    }

    /// Turns it on; 0 where it is on already.
    pub async fn confirm(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<usize> {
        diesel::update(two_factor::table.find(user_id).filter(two_factor::confirmed_at.is_null()))
            .set(two_factor::confirmed_at.eq(now().nullable()))
            .execute(&mut conn)
            .await
    }

    /// Uses up a time step and those before it (RFC 6238 section 5.2), and keeps the secret as it is sealed now; false
    /// where the step was used up already.
    pub async fn consume_step(
        mut conn: &AsyncPgConnection,
        user_id: i64,
        step: i64,
        secret: &[u8],
    ) -> QueryResult<bool> {
        let burnt = diesel::update(two_factor::table.find(user_id).filter(two_factor::last_step.lt(step)))
            .set((two_factor::last_step.eq(step), two_factor::secret.eq(secret)))
            .execute(&mut conn)
            .await?;
        Ok(burnt == 1)
    }

    /// Turns it off; whether it was on.
    pub async fn delete(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<bool> {
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

/// A code for when the authenticator is lost.
pub struct RecoveryCode;

impl RecoveryCode {
    /// Puts these in the place of those there are.
    pub async fn replace(
        mut conn: &AsyncPgConnection,
        user_id: i64,
        hashes: &[Vec<u8>],
    ) -> QueryResult<usize> {
        diesel::delete(recovery_codes::table.filter(recovery_codes::user_id.eq(user_id)))
            .execute(&mut conn)
            .await?;
        let row = |hash| (recovery_codes::user_id.eq(user_id), recovery_codes::hash.eq(hash));
        let rows: Vec<_> = hashes.iter().map(row).collect();
        diesel::insert_into(recovery_codes::table).values(rows).execute(&mut conn).await
    }

    /// Uses one up; whether there was one.
    pub async fn consume(mut conn: &AsyncPgConnection, user_id: i64, hash: &[u8]) -> QueryResult<bool> {
        let taken = diesel::delete(recovery_codes::table.find((user_id, hash))).execute(&mut conn).await?;
        Ok(taken == 1)
    }

    pub async fn count(mut conn: &AsyncPgConnection, user_id: i64) -> QueryResult<i64> {
        recovery_codes::table.filter(recovery_codes::user_id.eq(user_id)).count().get_result(&mut conn).await
    }
}
