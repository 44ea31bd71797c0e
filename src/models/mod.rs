//! The tables of the database and the queries on them.
//!
//! All queries return [`QueryResult`]. They fail, for example, if PostgreSQL does not answer or a constraint is violated. An
//! update that returns the new row, and not an `Option`, also fails if the row does not exist. So the documentation of the
//! queries has no `# Errors`.

pub mod api_key;
pub mod api_key_identity;
pub mod api_key_use;
pub mod audit;
pub mod clock;
pub mod email_key;
pub mod idempotency_key;
pub mod invitation;
pub mod invitation_list;
pub mod job_outbox;
pub mod member_list;
pub mod membership;
pub mod one_time_token;
pub mod org_erasure;
pub mod org_job;
pub mod org_job_retention;
pub mod organization;
pub mod organization_list;
pub mod outbox;
pub mod product;
pub mod product_import;
pub mod session;
pub mod session_use;
pub mod two_factor;
pub mod user;
pub mod user_list;

use chrono::{DateTime, Datelike, Utc};
use diesel::{
    QueryResult,
    data_types::PgInterval,
    dsl::{IntervalDsl as _, sql},
    expression::{SqlLiteral, UncheckedBind},
    sql_types::{Interval, Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

diesel::joinable!(crate::schema::api_keys -> crate::schema::organizations (org_id));
diesel::joinable!(crate::schema::api_keys -> crate::schema::users (created_by));
diesel::joinable!(crate::schema::sessions -> crate::schema::users (user_id));
diesel::joinable!(crate::schema::one_time_tokens -> crate::schema::users (user_id));
diesel::joinable!(crate::schema::invitations -> crate::schema::organizations (org_id));
diesel::joinable!(crate::schema::invitations -> crate::schema::users (invited_by));
diesel::joinable!(crate::schema::memberships -> crate::schema::organizations (org_id));
diesel::joinable!(crate::schema::memberships -> crate::schema::users (user_id));

/// Defines an enum whose values are texts in SQL.
///
/// A column of the enum has the type `text` and a CHECK, instead of a PostgreSQL enum type: clients cache the ids of enum types,
/// and an id changes if its type is recreated.
macro_rules! text_enum {
    ($(#[$attribute:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$attribute])*
        #[diesel(sql_type = diesel::sql_types::Text)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All values, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Returns the text of the value in SQL.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl diesel::serialize::ToSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn to_sql<'b>(
                &'b self,
                out: &mut diesel::serialize::Output<'b, '_, diesel::pg::Pg>,
            ) -> diesel::serialize::Result {
                <str as diesel::serialize::ToSql<diesel::sql_types::Text, diesel::pg::Pg>>::to_sql(self.as_str(), out)
            }
        }

        impl diesel::deserialize::FromSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn from_sql(value: diesel::pg::PgValue<'_>) -> diesel::deserialize::Result<Self> {
                match std::str::from_utf8(value.as_bytes())? {
                    $($text => Ok(Self::$variant),)+
                    other => Err(format!("unknown {} {other:?}", stringify!($name)).into()),
                }
            }
        }
    };
}
use text_enum;

#[diesel::declare_sql_function]
extern "SQL" {
    fn lower(text: Text) -> Text;

    /// Returns the current time by the clock of the database, not the time at which the transaction began.
    fn clock_timestamp() -> Timestamptz;
}

/// Returns the time at which the transaction began, by the clock of the database, which all replicas of the product share.
fn now() -> SqlLiteral<Timestamptz> {
    sql("now()")
}

/// Returns the time `span` before [`now`].
fn ago(span: PgInterval) -> ShiftedTime {
    sql("now() - ").bind::<Interval, _>(span)
}

/// Returns the time `span` after [`now`].
fn after(span: PgInterval) -> ShiftedTime {
    sql("now() + ").bind::<Interval, _>(span)
}

/// Returns an interval of 24 hours for each day. A day of PostgreSQL may have 23 or 25 hours in the time zone of the session.
fn days(number: i32) -> PgInterval {
    (number * 24).hours()
}

type ShiftedTime = UncheckedBind<
    SqlLiteral<Timestamptz>,
    <PgInterval as diesel::expression::AsExpression<Interval>>::Expression,
>;

/// Converts the time in the position of a row in a list, in microseconds since 1970. A client may send any number. Returns
/// `None` outside of the years 1 to 9999: PostgreSQL refuses some times that chrono can express.
fn time_of_position(microseconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(microseconds).filter(|time| (1..=9999).contains(&time.year()))
}

/// Deletes at most `limit` rows that meet a condition. Returns how many. `table` and `condition` become part of the SQL
/// text, so they must not contain user input.
async fn delete_batch(
    mut conn: &AsyncPgConnection,
    table: &'static str,
    condition: &str,
    limit: i64,
) -> QueryResult<usize> {
    diesel::sql_query(format!(
        "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {condition} LIMIT {limit}))"
    ))
    .execute(&mut conn)
    .await
}
