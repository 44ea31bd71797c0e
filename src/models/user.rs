//! The table `users`.

use chrono::{DateTime, Utc};
use diesel::{deserialize::FromSqlRow, expression::AsExpression, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{lower, now, text_enum};
use crate::db::Tx;
use crate::email_address::EmailLookup;
use crate::schema::users;

text_enum! {
    /// The role of a user on the platform. Roles in organizations are separate.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
    pub enum Role {
        User = "user",
        Admin = "admin",
    }
}

/// A row of `users`. Not `Debug`, so that a password hash cannot get into a log.
#[derive(Clone, HasQuery, Identifiable)]
pub struct User {
    pub id: i64,
    /// The [stored form](crate::email_address::EmailAddress::stored) of the address, unless an earlier release or SQL has written
    /// it. [`Self::find_by_email`] also finds the user by another spelling of the address.
    pub email: String,
    /// `None` until an invited user has set a password, and in an [`Identity`](super::session::Identity).
    pub hashed_password: Option<String>,
    pub full_name: Option<String>,
    pub role: Role,
    pub is_active: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub email_verified_at: Option<DateTime<Utc>>,
    /// A new address that the user has requested but not confirmed yet.
    pub pending_email: Option<String>,
    /// When the password was last set. Before a first change: when the account was created, or the column was added. A rehash of
    /// the same password does not change this time.
    pub password_set_at: DateTime<Utc>,
    /// When the account becomes due for deletion. `None` if no deletion is scheduled.
    pub deletion_due_at: Option<DateTime<Utc>>,
}

/// A user to insert. [`Self::insert`] adds the key of the address.
#[derive(Insertable)]
#[diesel(table_name = users)]
pub struct NewUser<'a> {
    /// The [stored form](crate::email_address::EmailAddress::stored) of an address.
    pub email: &'a str,
    pub hashed_password: Option<&'a str>,
    pub full_name: Option<&'a str>,
    pub role: Role,
    pub email_verified_at: Option<DateTime<Utc>>,
}

/// Changes to a user. `None` keeps a column; `Some(None)` sets it to NULL.
#[derive(AsChangeset, Default)]
#[diesel(table_name = users)]
pub struct UserChanges<'a> {
    /// The [stored form](crate::email_address::EmailAddress::stored) of an address. [`User::update`] adds its key.
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
    /// Returns the changes that set a new password. They also cancel a pending change of the address, because
    /// an attacker who knew the old password may have requested it.
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
    /// Returns a user by id.
    pub async fn find(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(users::id.eq(id)).first(&mut conn).await.optional()
    }

    /// Returns the user whose stored address is `email`, or else the user whose address is another spelling of `email`.
    ///
    /// Users that an earlier release has created may have different spellings of one address. Each of these users is found by
    /// the stored spelling.
    pub async fn find_by_email(
        mut conn: &AsyncPgConnection,
        email: &EmailLookup,
    ) -> QueryResult<Option<Self>> {
        // One query for both conditions, so that its time does not show which of them matches. The first condition uses the
        // unique index, which is on `lower(email)`. An invalid address has no key; the empty text matches no user.
        let key = email.key.as_deref().unwrap_or_default();
        let is_stored = lower(users::email).eq(lower(&*email.stored));
        let is_spelling = users::email_key.assume_not_null().eq(key);
        Self::query()
            .filter(is_stored.or(is_spelling))
            .order(lower(users::email).eq(lower(&*email.stored)).desc())
            .first(&mut conn)
            .await
            .optional()
    }

    /// Returns whether a user exists, is active, and is not scheduled for deletion.
    pub async fn is_active(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<bool> {
        let user = users::table.find(id).filter(users::is_active).filter(users::deletion_due_at.is_null());
        diesel::select(diesel::dsl::exists(user)).get_result(&mut conn).await
    }

    /// Locks a user until the transaction ends, and returns the latest version of the row.
    pub async fn lock(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(users::id.eq(id)).for_update().first(&mut conn).await.optional()
    }

    /// Like [`Self::lock`], but several transactions may hold this lock at the same time.
    pub async fn lock_shared(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(users::id.eq(id)).for_share().first(&mut conn).await.optional()
    }

    /// Like [`Self::lock`], but also returns `None` if the user is deactivated, or if the password was set since `checked` was
    /// read.
    pub async fn lock_if_unchanged(conn: &AsyncPgConnection, checked: &Self) -> QueryResult<Option<Self>> {
        let same = |now: &Self| now.is_active && now.password_set_at == checked.password_set_at;
        Ok(Self::lock(conn, checked.id).await?.filter(same))
    }

    /// Locks users until the transaction ends, in the order of their ids, and returns the latest versions of the rows.
    pub async fn lock_all(mut conn: &AsyncPgConnection, ids: &[i64]) -> QueryResult<Vec<Self>> {
        Self::query().filter(users::id.eq_any(ids)).order(users::id).for_update().load(&mut conn).await
    }

    /// Like [`Self::lock_all`], but also locks all users for whom [`Self::can_administer`] returns true.
    pub async fn lock_all_with_admins(mut conn: &AsyncPgConnection, ids: &[i64]) -> QueryResult<Vec<Self>> {
        let admins = users::role
            .eq(Role::Admin)
            .and(users::is_active)
            .and(users::deletion_due_at.is_null())
            .and(users::hashed_password.is_not_null());
        Self::query()
            .filter(users::id.eq_any(ids).or(admins))
            .order(users::id)
            .for_update()
            .load(&mut conn)
            .await
    }

    /// Returns whether this user is an admin who is active, is not scheduled for deletion, and has a password.
    pub fn can_administer(&self) -> bool {
        self.role == Role::Admin
            && self.is_active
            && self.deletion_due_at.is_none()
            && self.hashed_password.is_some()
    }

    /// Returns whether there is an admin, active or not.
    pub async fn any_admin(mut conn: &AsyncPgConnection) -> QueryResult<bool> {
        let admins = users::table.filter(users::role.eq(Role::Admin));
        diesel::select(diesel::dsl::exists(admins)).get_result(&mut conn).await
    }

    /// Returns the email addresses and the password hashes of at most `limit` active admins with a password, the newest password
    /// first.
    pub async fn admin_passwords(
        mut conn: &AsyncPgConnection,
        limit: i64,
    ) -> QueryResult<Vec<(String, String)>> {
        users::table
            .filter(users::role.eq(Role::Admin))
            .filter(users::is_active)
            .filter(users::hashed_password.is_not_null())
            .order((users::password_set_at.desc(), users::id.desc()))
            .limit(limit)
            .select((users::email, users::hashed_password.assume_not_null()))
            .load(&mut conn)
            .await
    }

    /// Returns the users for whom [`Self::can_administer`] returns true, and who have verified their address.
    pub async fn verified_admins(mut conn: &AsyncPgConnection) -> QueryResult<Vec<Self>> {
        Self::query()
            .filter(users::role.eq(Role::Admin))
            .filter(users::is_active)
            .filter(users::deletion_due_at.is_null())
            .filter(users::hashed_password.is_not_null())
            .filter(users::email_verified_at.is_not_null())
            .order(users::id)
            .load(&mut conn)
            .await
    }

    /// Updates a user and returns the new row.
    pub async fn update(tx: &Tx<'_>, id: i64, changes: &UserChanges<'_>) -> QueryResult<Self> {
        let mut conn = tx.conn();
        let key = changes.email.map(|email| users::email_key.eq(EmailLookup::new(email).key));
        diesel::update(users::table.find(id))
            .set((changes, key))
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
    }

    /// Replaces the password hash `old` with `new`. Returns 0 if the user no longer has the hash `old`.
    pub async fn rehash(mut conn: &AsyncPgConnection, id: i64, old: &str, new: &str) -> QueryResult<usize> {
        diesel::update(users::table.find(id).filter(users::hashed_password.eq(old)))
            .set(users::hashed_password.eq(new))
            .execute(&mut conn)
            .await
    }

    /// Deletes a user, and by the foreign keys also the sessions, tokens, second factor, codes, memberships and API keys of the
    /// user.
    pub async fn delete(tx: &Tx<'_>, id: i64) -> QueryResult<usize> {
        let mut conn = tx.conn();
        diesel::delete(users::table.find(id)).execute(&mut conn).await
    }

    /// Returns the ids of at most `limit` users whose deletion is due and whose ids are greater than `after`.
    pub async fn due_for_deletion(
        mut conn: &AsyncPgConnection,
        after: i64,
        limit: i64,
    ) -> QueryResult<Vec<i64>> {
        users::table
            .filter(users::deletion_due_at.le(now().nullable()))
            .filter(users::id.gt(after))
            .order(users::id)
            .limit(limit)
            .select(users::id)
            .load(&mut conn)
            .await
    }
}

impl NewUser<'_> {
    /// Inserts the user and returns the row.
    pub async fn insert(&self, tx: &Tx<'_>) -> QueryResult<User> {
        let mut conn = tx.conn();
        diesel::insert_into(users::table)
            .values((self, users::email_key.eq(EmailLookup::new(self.email).key)))
            .returning(User::as_returning())
            .get_result(&mut conn)
            .await
    }
}
