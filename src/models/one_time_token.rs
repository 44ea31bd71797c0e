//! The table `one_time_tokens`: hashes of the tokens of links in mails to accounts, and of logins that wait for the second
//! factor. The hashes for invitations to organizations are in the table `invitations`.

use chrono::Duration;
use diesel::{deserialize::FromSqlRow, dsl::IntervalDsl as _, expression::AsExpression, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{after, delete_batch, now, text_enum, user::User};
use crate::db::Tx;
use crate::schema::{one_time_tokens, users};

text_enum! {
    /// The action that a token allows. A token is valid for one purpose.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
    pub enum Purpose {
        VerifyEmail = "verify_email",
        ResetPassword = "reset_password",
        ChangeEmail = "change_email",
        AcceptInvite = "accept_invite",
        SecondFactor = "second_factor",
    }
}

/// A token that [`consume`](Self::consume) has deleted.
#[derive(HasQuery)]
#[diesel(table_name = one_time_tokens)]
pub struct OneTimeToken {
    /// The address that the token was sent to. `None` for a login, because its client gets the token directly.
    pub email: Option<String>,
}

impl OneTimeToken {
    /// Inserts a token that expires after `lifetime`, in whole seconds. `hash` is the hash of the token. `email` is the address that
    /// the token is sent to; `None` for a login, because its client gets the token directly.
    pub async fn insert(
        mut conn: &AsyncPgConnection,
        hash: &[u8],
        user_id: i64,
        purpose: Purpose,
        email: Option<&str>,
        lifetime: Duration,
    ) -> QueryResult<usize> {
        diesel::insert_into(one_time_tokens::table)
            .values((
                one_time_tokens::hash.eq(hash),
                one_time_tokens::user_id.eq(user_id),
                one_time_tokens::purpose.eq(purpose),
                one_time_tokens::email.eq(email),
                one_time_tokens::expires_at.eq(after(lifetime.num_seconds().seconds())),
            ))
            .execute(&mut conn)
            .await
    }

    /// Returns the user that a valid token belongs to, without consuming it.
    pub async fn owner(
        mut conn: &AsyncPgConnection,
        hash: &[u8],
        purpose: Purpose,
    ) -> QueryResult<Option<User>> {
        one_time_tokens::table
            .inner_join(users::table)
            .filter(one_time_tokens::hash.eq(hash))
            .filter(one_time_tokens::purpose.eq(purpose))
            .filter(one_time_tokens::expires_at.gt(now()))
            .select(User::as_select())
            .first(&mut conn)
            .await
            .optional()
    }

    /// Deletes a valid token and returns it. `None` if the token is not valid. If two requests present the token at the same
    /// time, only one of them gets it.
    pub async fn consume(
        mut conn: &AsyncPgConnection,
        hash: &[u8],
        purpose: Purpose,
    ) -> QueryResult<Option<Self>> {
        let token = one_time_tokens::table.find(hash).filter(one_time_tokens::purpose.eq(purpose));
        diesel::delete(token.filter(one_time_tokens::expires_at.gt(now())))
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
            .optional()
    }

    /// Counts an attempt with a token. Returns false if the token is not valid, or if `max_attempts` attempts were already
    /// counted.
    pub async fn count_attempt(
        mut conn: &AsyncPgConnection,
        hash: &[u8],
        purpose: Purpose,
        max_attempts: i32,
    ) -> QueryResult<bool> {
        let token = one_time_tokens::table.find(hash).filter(one_time_tokens::purpose.eq(purpose));
        let allowed = token
            .filter(one_time_tokens::expires_at.gt(now()))
            .filter(one_time_tokens::tries.lt(max_attempts));
        let counted = diesel::update(allowed)
            .set(one_time_tokens::tries.eq(one_time_tokens::tries + 1))
            .execute(&mut conn)
            .await?;
        Ok(counted == 1)
    }

    /// Deletes the tokens of a user with these purposes. Returns how many.
    pub async fn revoke(tx: &Tx<'_>, user_id: i64, purposes: &[Purpose]) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::delete(one_time_tokens::table)
            .filter(one_time_tokens::user_id.eq(user_id))
            .filter(one_time_tokens::purpose.eq_any(purposes))
            .execute(&mut conn)
            .await
    }

    /// Deletes at most `limit` expired tokens. Returns how many.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        delete_batch(conn, "one_time_tokens", "expires_at < now()", limit).await
    }
}
