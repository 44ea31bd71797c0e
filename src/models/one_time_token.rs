//! The table `one_time_tokens`: what a link in a mail or the second step of a login is worth.

use chrono::{Duration, Utc};
use diesel::{deserialize::FromSqlRow, expression::AsExpression, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{delete_some, now, text_enum, user::User};
use crate::schema::{one_time_tokens, users};

text_enum! {
    /// What a token allows. A token is valid for one purpose only.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
    pub enum Purpose {
        VerifyEmail = "verify_email",
        ResetPassword = "reset_password",
        ChangeEmail = "change_email",
        AcceptInvite = "accept_invite",
        SecondFactor = "second_factor",
    }
}

/// A token that was presented and is good.
#[derive(HasQuery)]
#[diesel(table_name = one_time_tokens)]
pub struct OneTimeToken {
    /// The address that it was sent to, and proves.
    pub email: Option<String>,
}

impl OneTimeToken {
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
                one_time_tokens::expires_at.eq(Utc::now() + lifetime),
            ))
            .execute(&mut conn)
            .await
    }

    /// Whose token it is, if it could be taken.
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

    /// Takes a token away and says what it was good for: of two who bring it at once, one gets it.
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

    /// Counts a try of a token that may be tried `tries` times; false where it has had them.
    pub async fn count_attempt(
        mut conn: &AsyncPgConnection,
        hash: &[u8],
        purpose: Purpose,
        tries: i32,
    ) -> QueryResult<bool> {
        let token = one_time_tokens::table.find(hash).filter(one_time_tokens::purpose.eq(purpose));
        let good =
            token.filter(one_time_tokens::expires_at.gt(now())).filter(one_time_tokens::tries.lt(tries));
        let counted = diesel::update(good)
            .set(one_time_tokens::tries.eq(one_time_tokens::tries + 1))
            .execute(&mut conn)
            .await?;
        Ok(counted == 1)
    }

    /// Makes the tokens of a user worthless that have these purposes.
    pub async fn revoke(
        mut conn: &AsyncPgConnection,
        user_id: i64,
        purposes: &[Purpose],
    ) -> QueryResult<usize> {
        diesel::delete(one_time_tokens::table)
            .filter(one_time_tokens::user_id.eq(user_id))
            .filter(one_time_tokens::purpose.eq_any(purposes))
            .execute(&mut conn)
            .await
    }

    /// Removes some whose time is over.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        delete_some(conn, "one_time_tokens", "expires_at < now()", limit).await
    }
}
