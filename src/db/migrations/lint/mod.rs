//! A linter for migrations: finds statements that are dangerous while requests are served, or that break the release that is
//! being replaced.
//!
//! | file | concern |
//! |---|---|
//! | `token` | splits SQL into tokens and statements |
//! | `cursor` | reads a statement from left to right |
//! | `rules` | the rules, with the reason and the safe way of each |
//! | `state` | the facts from earlier statements, such as new tables and locked tables |
//! | `column`, `alter_table`, `writes`, `statement` | the checks |
//! | `script` | statements, bodies of DO, and markers |
//!
//! The linter reads the scripts only, not the database. It does not read the bodies of functions, because a migration creates
//! functions, but seldom calls them.

mod alter_table;
mod column;
mod cursor;
mod rules;
mod script;
mod state;
mod statement;
mod token;
mod writes;

pub use rules::{RULES, Rule};

use self::token::{statements, tokenize};
use super::source::Migrations;

/// The version of the newest migration of release 0.1.0. Migrations up to this version are not checked by default, because no
/// earlier release ran beside them.
const BASELINE: &str = "20261126400001";

/// Returns whether a script has a statement that can end its transaction, such as COMMIT, END or ROLLBACK. Bodies of functions
/// and of DO are not searched, because they cannot end the transaction of a script.
pub(super) fn ends_transaction(sql: &str) -> bool {
    const ENDS: &[&str] = &["commit", "end", "rollback", "abort", "prepare"];
    let tokens = tokenize(sql, 1).tokens;
    statements(&tokens).into_iter().any(|part| tokens[part].first().is_some_and(|token| token.is_any(ENDS)))
}

/// The result of [`Migrations::lint`].
pub struct Report {
    /// The number of migrations that were checked.
    pub checked: usize,
    pub findings: Vec<Finding>,
}

/// A dangerous statement of a migration, or a marker with an unknown or unneeded rule, or without a rule or a reason.
pub struct Finding {
    /// The name of the migration.
    pub migration: String,
    /// The number of the line in `up.sql`, from 1.
    pub line: usize,
    /// The text of this line.
    pub text: String,
    pub rule: &'static Rule,
}

impl Migrations {
    /// Searches the files `up.sql` for dangerous statements. Checks the migrations that are newer than release 0.1.0, or all
    /// migrations if `all` is true.
    pub fn lint(&self, all: bool) -> Report {
        let mut report = Report { checked: 0, findings: Vec::new() };
        let mut checks = Vec::new();
        for migration in &self.0 {
            // Also reads migrations that are not checked: a constraint in such a migration can make a later SET NOT NULL safe.
            let found = script::lint(&migration.up, migration.in_transaction, &mut checks);
            if !all && migration.version().as_str() <= BASELINE {
                continue;
            }
            report.checked += 1;
            report.findings.extend(found.into_iter().map(|found| Finding {
                migration: migration.name.to_string(),
                line: found.line,
                text: migration.up.lines().nth(found.line - 1).unwrap_or_default().trim().to_owned(),
                rule: found.rule,
            }));
        }
        report
    }
}
