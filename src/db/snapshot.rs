//! Which transactions a read could see.

use std::str::FromStr;

use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};

/// A snapshot of PostgreSQL (`pg_snapshot`, chapter "Transaction ID and Snapshot Information Functions"), and the
/// server that it is of: since when that runs, in microseconds. Another one counts its transactions for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    server: i64,
    /// All transactions before this one have ended.
    min: u64,
    /// This one and those after it had not begun.
    max: u64,
    /// Those between that had not ended.
    running: Box<[u64]>,
}

#[diesel::declare_sql_function]
extern "SQL" {
    fn snapshot_text() -> Text;
}

impl Snapshot {
    /// The snapshot of this very statement. What is read after it sees as much at least.
    pub async fn take(mut conn: &AsyncPgConnection) -> QueryResult<Self> {
        let text: String = diesel::select(snapshot_text()).get_result(&mut conn).await?;
        text.parse().map_err(|error: Unreadable| diesel::result::Error::DeserializationError(error.into()))
    }

    /// Whether what a transaction has done is seen, if it was committed.
    pub fn sees(&self, transaction: u64) -> bool {
        transaction < self.min || (transaction < self.max && !self.running.contains(&transaction))
    }

    /// Whether all is seen that another one sees.
    pub fn sees_all_of(&self, other: &Self) -> bool {
        let unseen = |transaction: &u64| !other.sees(*transaction);
        self.server == other.server && self.max >= other.max && self.running.iter().all(unseen)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL has written a snapshot in a way that is not known: {0}")]
pub struct Unreadable(String);

impl FromStr for Snapshot {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let read = || {
            let mut parts = text.split(':');
            let mut next = || parts.next();
            let (server, min, max) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
            let running = next()?.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().ok());
            Some(Self { server, min, max, running: running.collect::<Option<_>>()? })
        };
        read().ok_or_else(|| Unreadable(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_snapshot_sees_what_has_ended() {
        let seen = |id| snapshot("7:10:15:11,13").sees(id);
        assert!(seen(9) && seen(10) && seen(12) && seen(14));
        assert!(!seen(11) && !seen(13) && !seen(15) && !seen(16));
        assert!(snapshot("7:10:10:").sees(9) && !snapshot("7:10:10:").sees(10));
    }

    #[test]
    fn a_later_snapshot_sees_all_of_an_earlier_one() {
        let covers = |later: &str, earlier: &str| snapshot(later).sees_all_of(&snapshot(earlier));
        assert!(covers("7:10:15:11,13", "7:10:15:11,13"));
        assert!(covers("7:11:16:11,15", "7:10:15:11,13"), "the one still runs, the other has just begun");
        assert!(!covers("7:10:15:11,13", "7:11:16:11,15"), "13 had ended by then");
        assert!(!covers("7:10:15:11,13", "7:10:15:13"), "11 had ended there");
        assert!(!covers("7:10:14:11", "7:10:15:11"), "14 had ended there");
        assert!(!covers("8:20:20:", "7:10:10:"), "another server counts anew");
    }

    #[test]
    fn nonsense_is_no_snapshot() {
        for text in ["", "7:10:15", "7:10:x:", "7:10:15:a", "now"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }
}
