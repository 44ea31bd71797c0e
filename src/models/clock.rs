//! The clock of the database, which all replicas of the product share.

use std::time::Instant;

use chrono::{DateTime, SubsecRound, Utc};
use diesel::{
    QueryResult,
    deserialize::{self, FromSql, FromSqlRow},
    pg::{Pg, PgValue},
    sql_types::Timestamptz,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::clock_timestamp;

/// The clock of the database: its time when a row was read, plus the time that has passed since then in this process.
///
/// Compare times from the database with this clock, never with `Utc::now()`: the clocks of hosts may differ.
#[derive(Clone, Copy, Debug, FromSqlRow)]
pub struct DatabaseClock {
    time: DateTime<Utc>,
    read_at: Instant,
}

impl DatabaseClock {
    /// Reads the clock.
    pub async fn read(mut conn: &AsyncPgConnection) -> QueryResult<Self> {
        diesel::select(clock_timestamp()).get_result(&mut conn).await
    }

    /// Returns the current time of the database, truncated to microseconds, the precision of PostgreSQL.
    pub fn now(&self) -> DateTime<Utc> {
        self.at(Instant::now())
    }

    /// Returns the time of the database at an instant in the past, truncated to microseconds.
    pub fn at(&self, instant: Instant) -> DateTime<Utc> {
        (self.time + self.read_at.elapsed() - instant.elapsed()).trunc_subsecs(6)
    }
}

impl FromSql<Timestamptz, Pg> for DatabaseClock {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self { time: FromSql::<Timestamptz, Pg>::from_sql(value)?, read_at: Instant::now() })
    }
}
