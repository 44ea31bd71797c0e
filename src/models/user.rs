//! The `users` table.

use chrono::{DateTime, Utc};
use diesel::{deserialize::FromSqlRow, expression::AsExpression, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{lower, now, text_enum};
use crate::schema::users;

text_enum! {
    /// What a user may do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
    pub enum Role {
        User = "user",
        Admin = "admin",
    }
}

/// A row of `users`. Not `Debug`, so that a hash cannot slip into a log.
#[derive(Clone, HasQuery, Identifiable)]
pub struct User {
    pub id: i64,
    /// Lower case.
    pub email: String,
    /// `None` until an invited user has chosen a password, and in an [`Identity`](super::session::Identity).
    pub hashed_password: Option<String>,
    pub full_name: Option<String>,
    pub role: Role,
    pub is_active: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub email_verified_at: Option<DateTime<Utc>>,
    /// The address that the user wants, until a link that went there is opened.
    pub pending_email: Option<String>,
    /// Not when it was hashed again with more work.
    pub password_set_at: DateTime<Utc>,
    /// The account is erased then, unless its owner signs in before.
    pub deletion_due_at: Option<DateTime<Utc>>,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
pub struct NewUser<'a> {
    pub email: &'a str,
    pub hashed_password: Option<&'a str>,
    pub full_name: Option<&'a str>,
    pub role: Role,
    pub email_verified_at: Option<DateTime<Utc>>,
}

/// What is to change; `None` leaves it as it is.
#[derive(AsChangeset, Default)]
#[diesel(table_name = users)]
pub struct UserChanges<'a> {
    pub email: Option<&'a str>,
    pub hashed_password: Option<&'a str>,
    pub full_name: Option<Option<&'a str>>,
    pub role: Option<Role>,
    pub is_active: Option<bool>,
    pub email_verified_at: Option<Option<DateTime<Utc>>>,
    pub pending_email: Option<Option<&'a str>>,
    pub password_set_at: Option<DateTime<Utc>>,
    pub deletion_due_at: Option<Option<DateTime<Utc>>>,
}

impl<'a> UserChanges<'a> {
    /// Another password. Whoever knew the one before must not go on to another address.
    pub fn password(hashed: &'a str) -> Self {
        Self {
            hashed_password: Some(hashed),
            password_set_at: Some(Utc::now()),
            pending_email: Some(None),
            ..Self::default()
        }
    }
}

impl User {
    pub async fn find(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(users::id.eq(id)).first(&mut conn).await.optional()
    }

    pub async fn find_by_email(mut conn: &AsyncPgConnection, email: &str) -> QueryResult<Option<Self>> {
        // `lower` is what the unique index is on.
        Self::query().filter(lower(users::email).eq(lower(email))).first(&mut conn).await.optional()
    }

    /// The row as it is once nobody else is changing it, held until the transaction ends.
    pub async fn lock(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(users::id.eq(id)).for_update().first(&mut conn).await.optional()
    }

    /// The row as [`Self::lock`] gives it, if the user may still do what their password was just checked for.
    pub async fn lock_if_unchanged(conn: &AsyncPgConnection, checked: &Self) -> QueryResult<Option<Self>> {
        let same = |now: &Self| now.is_active && now.password_set_at == checked.password_set_at;
        Ok(Self::lock(conn, checked.id).await?.filter(same))
    }

    /// The ids of the admins who can act, held until the transaction ends: of two who demote each other, the second
    /// waits here and then sees what the first has done. Take it before any other lock on users.
    pub async fn lock_admins(mut conn: &AsyncPgConnection) -> QueryResult<Vec<i64>> {
        users::table
            .filter(users::role.eq(Role::Admin))
            .filter(users::is_active)
            .filter(users::deletion_due_at.is_null())
            .filter(users::hashed_password.is_not_null())
            .order(users::id)
            .select(users::id)
            .for_update()
            .load(&mut conn)
            .await
    }

    pub async fn any_admin(mut conn: &AsyncPgConnection) -> QueryResult<bool> {
        let admins = users::table.filter(users::role.eq(Role::Admin));
        diesel::select(diesel::dsl::exists(admins)).get_result(&mut conn).await
    }

    pub async fn update(
        mut conn: &AsyncPgConnection,
        id: i64,
        changes: &UserChanges<'_>,
    ) -> QueryResult<Self> {
        diesel::update(users::table.find(id))
            .set(changes)
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
    }

    /// Puts a hash of more work in the place of one, unless the password has been changed meanwhile.
    pub async fn rehash(mut conn: &AsyncPgConnection, id: i64, old: &str, new: &str) -> QueryResult<usize> {
        diesel::update(users::table.find(id).filter(users::hashed_password.eq(old)))
            .set(users::hashed_password.eq(new))
            .execute(&mut conn)
            .await
    }

    /// Erases the user and what hangs on them.
    pub async fn delete(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<usize> {
        diesel::delete(users::table.find(id)).execute(&mut conn).await
    }

    /// The users whose grace is over.
    pub async fn due_for_deletion(mut conn: &AsyncPgConnection, limit: i64) -> QueryResult<Vec<i64>> {
        let due = users::deletion_due_at.le(now().nullable());
        users::table
            .filter(due)
            .order(users::deletion_due_at)
            .limit(limit)
            .select(users::id)
            .load(&mut conn)
            .await
    }
}

impl NewUser<'_> {
    pub async fn insert(&self, mut conn: &AsyncPgConnection) -> QueryResult<User> {
        diesel::insert_into(users::table)
            .values(self)
            .returning(User::as_returning())
            .get_result(&mut conn)
            .await
    }
}
