//! Which transactions a read could see.

use chrono::{DateTime, Utc};
use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    pg::{Pg, PgValue},
    prelude::*,
    query_builder::QueryId,
    sql_types::SqlType,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};

/// A snapshot of PostgreSQL, the server that it is of, and when it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Since when the server runs: another one counts its transactions for itself.
    server: DateTime<Utc>,
    /// By the server's clock.
    taken: DateTime<Utc>,
    visible: Visible,
}

/// The type `pg_snapshot` (PostgreSQL's documentation, "Transaction ID and Snapshot Information Functions").
#[derive(Clone, Debug, PartialEq, Eq, FromSqlRow, Serialize, Deserialize)]
struct Visible {
    /// All transactions before this one have ended.
    min: u64,
    /// This one and those after it had not ended.
    max: u64,
    /// Those between that had not ended.
    running: Box<[u64]>,
}

#[derive(SqlType, QueryId)]
#[diesel(postgres_type(oid = 5038, array_oid = 5039))]
pub struct PgSnapshot;

#[diesel::declare_sql_function]
extern "SQL" {
    fn pg_current_snapshot() -> PgSnapshot;
    fn pg_postmaster_start_time() -> Timestamptz;
    fn clock_timestamp() -> Timestamptz;
}

impl Snapshot {
    /// The snapshot of this very statement. What is read after it sees as much at least.
    pub async fn take(mut conn: &AsyncPgConnection) -> QueryResult<Self> {
        let parts = (pg_current_snapshot(), pg_postmaster_start_time(), clock_timestamp());
        let (visible, server, taken) = diesel::select(parts).get_result(&mut conn).await?;
        Ok(Self { server, taken, visible })
    }

    pub fn is_of_server_of(&self, other: &Self) -> bool {
        self.server == other.server
    }

    /// Whether what a transaction has done is seen, if it was committed.
    pub fn sees(&self, transaction: u64) -> bool {
        self.visible.sees(transaction)
    }

    /// Whether this one was taken later and sees all that another one sees. The time counts since a server that has
    /// crashed may give the number of a transaction again.
    pub fn follows(&self, other: &Self) -> bool {
        self.is_of_server_of(other) && self.taken >= other.taken && self.visible.sees_all_of(&other.visible)
    }
}

impl Visible {
    fn sees(&self, transaction: u64) -> bool {
        transaction < self.min || (transaction < self.max && !self.running.contains(&transaction))
    }

    fn sees_all_of(&self, other: &Self) -> bool {
        let unseen = |transaction: &u64| !other.sees(*transaction);
        self.max >= other.max && self.running.iter().all(unseen)
    }
}

impl FromSql<PgSnapshot, Pg> for Visible {
    /// As `pg_snapshot_send` writes it: how many run, then `xmin`, `xmax`, and those.
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let bytes = value.as_bytes();
        let (_, numbers) = bytes.split_first_chunk::<4>().ok_or("a snapshot is cut short")?;
        let numbers: Vec<_> = numbers.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        match &numbers[..] {
            [min, max, running @ ..] => Ok(Self { min: *min, max: *max, running: running.into() }),
            _ => Err("a snapshot is cut short".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(min: u64, max: u64, running: &[u64]) -> Visible {
        Visible { min, max, running: running.into() }
    }

    #[test]
    fn a_snapshot_sees_what_has_ended() {
        let seen = |id| visible(10, 15, &[11, 13]).sees(id);
        assert!(seen(9) && seen(10) && seen(12) && seen(14));
        assert!(!seen(11) && !seen(13) && !seen(15) && !seen(16));
        assert!(visible(10, 10, &[]).sees(9) && !visible(10, 10, &[]).sees(10));
    }

    #[test]
    fn a_later_snapshot_sees_all_of_an_earlier_one() {
        let [a, b] = [visible(10, 15, &[11, 13]), visible(11, 16, &[11, 15])];
        assert!(a.sees_all_of(&a));
        assert!(b.sees_all_of(&a), "the one still runs, the other has just begun");
        assert!(!a.sees_all_of(&b), "13 had ended by then");
        assert!(!a.sees_all_of(&visible(10, 15, &[13])), "11 had ended there");
        assert!(!visible(10, 14, &[11]).sees_all_of(&visible(10, 15, &[11])), "14 had ended there");
    }

    #[test]
    fn another_server_counts_anew_and_one_that_has_crashed_may() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let snapshot = |server, taken, max| Snapshot {
            server: at(server),
            taken: at(taken),
            visible: visible(max, max, &[]),
        };
        assert!(snapshot(1, 9, 20).follows(&snapshot(1, 8, 20)));
        assert!(!snapshot(2, 9, 20).follows(&snapshot(1, 8, 10)));
        assert!(!snapshot(1, 7, 20).follows(&snapshot(1, 8, 10)));
    }
}
