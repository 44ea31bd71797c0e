//! The `users` table.

use chrono::{DateTime, Utc};
use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue},
    prelude::*,
    serialize::{self, Output, ToSql},
    sql_types::Text,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::schema::users;

/// What a user may do. Text with a CHECK in the database: the cached ids of PostgreSQL enums break on change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
pub enum Role {
    User,
    Admin,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

impl ToSql<Text, Pg> for Role {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.as_str(), out)
    }
}

impl FromSql<Text, Pg> for Role {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        match std::str::from_utf8(value.as_bytes())? {
            "user" => Ok(Self::User),
            "admin" => Ok(Self::Admin),
            other => Err(format!("unknown role {other:?}").into()),
        }
    }
}

/// A row of `users`. Not `Debug`, so that a hash cannot slip into a log.
#[derive(Clone, HasQuery, Identifiable)]
pub struct User {
    pub id: i64,
    /// Lower case.
    pub email: String,
    pub hashed_password: String,
    pub full_name: Option<String>,
    pub role: Role,
    pub is_active: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
pub struct NewUser<'a> {
    pub email: &'a str,
    pub hashed_password: &'a str,
    pub full_name: Option<&'a str>,
    pub role: Role,
}

#[diesel::declare_sql_function]
extern "SQL" {
    fn lower(text: Text) -> Text;
}

impl User {
    pub async fn find(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(users::id.eq(id)).first(&mut conn).await.optional()
    }

    pub async fn find_by_email(mut conn: &AsyncPgConnection, email: &str) -> QueryResult<Option<Self>> {
        // `lower` is what the unique index is on.
        Self::query().filter(lower(users::email).eq(lower(email))).first(&mut conn).await.optional()
    }

    pub async fn any_admin(mut conn: &AsyncPgConnection) -> QueryResult<bool> {
        let admins = users::table.filter(users::role.eq(Role::Admin));
        diesel::select(diesel::dsl::exists(admins)).get_result(&mut conn).await
    }

    pub async fn set_role(mut conn: &AsyncPgConnection, id: i64, role: Role) -> QueryResult<Self> {
        diesel::update(users::table.find(id))
            .set(users::role.eq(role))
            .returning(Self::as_returning())
            .get_result(&mut conn)
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
