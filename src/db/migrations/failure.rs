//! The message about a failed migration: the reason and the fix.

use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;

use super::{
    privileges,
    run::{Direction, Effect, Failed},
};
use crate::{db::sqlstate::sqlstate, error::shortened};

/// Maximum number of characters of a line of SQL that a message repeats.
const MAX_LINE_CHARS: usize = 120;

/// SQLSTATEs that an error about a missing privilege, extension or schema may have.
const PRIVILEGE_SQLSTATES: &[&str] = &["42501", "3F000", "42704", "0A000", "58P01"];

const OBJECT_EXISTS: &str = "the database has this object, but no record of this migration. Use a database of its own for each \
                      product. If the migration was applied by other means, record it: INSERT INTO \
                      __diesel_schema_migrations (version) VALUES ('{version}');";
const OBJECT_IS_MISSING: &str = "migrations run in the order of their folder names: check the spelling, and that an earlier \
                          migration creates the object";

/// The fix of an error, by the first characters of its SQLSTATE (PostgreSQL documentation, appendix "Error Codes").
const ADVICE: &[(&str, &str)] = &[
    ("08", "the connection was lost: check that the server is running"),
    ("57P", "the server ended the connection: check that it is running"),
    ("22", "rows in the database do not fit: correct them in the same file, before this statement"),
    (
        "23",
        "rows in the database do not meet the constraint: correct them in the same file, before this statement",
    ),
    (
        "25001",
        "a statement such as CREATE INDEX CONCURRENTLY must be alone in its migration, beside a file metadata.toml with the \
         line `run_in_transaction = false`",
    ),
    ("25006", "the server is read-only: name the primary server in DATABASE_URL"),
    ("40P01", "another transaction locked the same tables in another order: run this again"),
    (
        "42501",
        "run the migrations as the owner of the object, or let the owner grant the privilege to the role in DATABASE_URL",
    ),
    ("42601", "correct the syntax"),
    ("42P01", OBJECT_IS_MISSING),
    ("42703", OBJECT_IS_MISSING),
    ("42704", OBJECT_IS_MISSING),
    ("42883", OBJECT_IS_MISSING),
    ("42P07", OBJECT_EXISTS),
    ("42P06", OBJECT_EXISTS),
    ("42701", OBJECT_EXISTS),
    ("42710", OBJECT_EXISTS),
    ("42723", OBJECT_EXISTS),
    ("53100", "the disk of the server is full: make room"),
    ("53200", "the server has too little memory"),
    (
        "55P03",
        "another transaction holds a lock on the table for longer than lock_timeout: find it in pg_stat_activity, end it",
    ),
    ("57014", "the statement was canceled, or the server has a time limit"),
];

/// Explains a failure in several lines: the migration and the place in its script, the error of the server, and known fixes.
/// The connection must not be in a transaction.
pub(super) async fn explain(conn: &AsyncPgConnection, failed: &Failed) -> Vec<String> {
    let Failed { script, error, position, .. } = failed;
    let name = &script.migration.name;
    let line = position.and_then(|position| line_at(script.sql(), position));
    let what = match script.direction {
        Direction::Up => format!("the migration {name} failed"),
        Direction::Down => format!("reverting the migration {name} failed"),
    };
    let place = line.map(|(number, _)| format!(" at line {number} of {}", script.file())).unwrap_or_default();
    let code = sqlstate(error).unwrap_or_default();
    let (message, detail, hint) = match error {
        DieselError::DatabaseError(_, info) => (info.message().to_owned(), info.details(), info.hint()),
        error => (error.to_string(), None, None),
    };
    let mut lines = vec![match message.strip_prefix(&format!("[{code}] ")) {
        Some(message) => format!("{what}{place}: {message} (SQLSTATE {code})"),
        None => format!("{what}{place}: {message}"),
    }];
    lines.extend(line.map(|(number, text)| format!("Line {number}: {}", shortened(text, MAX_LINE_CHARS))));
    lines.extend(detail.map(|text| format!("Detail: {text}")));
    lines.extend(hint.map(|text| format!("Hint: {text}")));
    lines.extend(fixes(conn, code, failed).await.into_iter().map(|text| format!("Fix: {text}")));
    lines
}

async fn fixes(conn: &AsyncPgConnection, code: &str, failed: &Failed) -> Vec<String> {
    if PRIVILEGE_SQLSTATES.contains(&code) {
        let missing = privileges::missing(conn, failed.script.sql()).await.unwrap_or_default();
        if !missing.is_empty() {
            return missing;
        }
    }
    let advice = ADVICE.iter().find(|(prefix, _)| code.starts_with(prefix));
    let version = failed.script.migration.version();
    advice.map(|(_, text)| text.replace("{version}", &version)).into_iter().collect()
}

/// Describes what a failed script has changed, and which migrations this run has applied or reverted before it.
pub(super) fn outcome(failed: &Failed, done: &[String]) -> String {
    let (verb, command) = match failed.script.direction {
        Direction::Up => ("applied", "saas migrate up"),
        Direction::Down => ("reverted", "saas migrate down"),
    };
    let own = match failed.effect {
        Effect::Nothing => format!("Nothing of it was {verb}"),
        Effect::Part => {
            "The part before its COMMIT is in effect, because the script ends its own transaction".into()
        }
        Effect::Unknown if failed.script.migration.in_transaction => {
            "The connection was lost, so it may be in effect: run `saas migrate status`".into()
        }
        Effect::Unknown => {
            "It has no transaction, so a part may be in effect, such as an invalid index".into()
        }
    };
    let before = match done {
        [] => format!("this run {verb} no other migration"),
        done => format!("{verb} before it: {}", done.join(", ")),
    };
    format!("{own}; {before}. After the fix, run `{command}` again.")
}

/// Returns the number and the text of the line that contains the character at `position`. Positions count from 1, as in the
/// errors of the server.
fn line_at(sql: &str, position: usize) -> Option<(usize, &str)> {
    let at = sql.char_indices().nth(position.checked_sub(1)?).map_or(sql.len(), |(at, _)| at);
    // An error at the end of the script belongs to its last line.
    let before = if at == sql.len() { sql.trim_end() } else { &sql[..at] };
    let number = before.matches('\n').count() + 1;
    Some((number, sql.lines().nth(number - 1)?.trim()))
}

#[cfg(test)]
mod tests {
    use super::line_at;

    #[test]
    fn a_position_counts_characters() {
        let sql = "-- Größe\nSELECT 'ä',\n  x;\n";
        assert_eq!(line_at(sql, 1), Some((1, "-- Größe")));
        assert_eq!(line_at(sql, 10), Some((2, "SELECT 'ä',")));
        assert_eq!(line_at(sql, 24), Some((3, "x;")));
        // One character beyond the end.
        assert_eq!(line_at(sql, sql.chars().count() + 1), Some((3, "x;")));
        assert_eq!(line_at(sql, 0), None);
    }
}
