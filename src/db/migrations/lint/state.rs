//! The state of the linter while it reads a script.

use std::collections::BTreeSet;

use super::{
    rules::{self, Rule},
    token::Token,
};

/// A rule that a line of a script breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub line: usize,
    pub rule: &'static Rule,
}

/// A constraint `CHECK (column IS NOT NULL)` or `NOT NULL column`. If the constraint is valid, SET NOT NULL does not read the
/// table.
#[derive(Clone)]
pub(super) struct NotNullCheck {
    pub table: String,
    pub name: String,
    pub column: String,
    pub is_valid: bool,
}

/// Where a statement is: in the script itself, or in a body that the script runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Script,
    /// In the body of a DO statement, or in a text that such a body runs.
    Body {
        has_loop: bool,
        has_commit: bool,
    },
}

/// The state of the linter in a script, and the rules that it has found broken.
pub(super) struct Linter<'a> {
    /// Whether the runner begins a transaction for the script.
    pub in_transaction: bool,
    /// Whether the script has a single statement.
    pub is_single: bool,
    pub place: Place,
    /// The views, functions and other objects of `statement::OBJECTS` that the script creates: their kinds and names.
    pub created: BTreeSet<(&'static str, String)>,
    /// The tables and materialized views that the script has created. No running release uses them yet.
    pub new_tables: BTreeSet<String>,
    pub new_indexes: BTreeSet<String>,
    /// The tables, except new tables, that the script has locked against writes or against all queries.
    pub locked: BTreeSet<String>,
    /// The NOT NULL table constraints that ALTER TABLE in this and earlier migrations has added to existing tables, except those
    /// that DROP CONSTRAINT has dropped.
    pub checks: &'a mut Vec<NotNullCheck>,
    pub found: Vec<Found>,
}

impl Linter<'_> {
    pub fn report(&mut self, rule: &'static Rule, at: &Token) {
        let found = Found { line: at.line, rule };
        if !self.found.contains(&found) {
            self.found.push(found);
        }
    }

    pub fn is_new(&self, table: &str) -> bool {
        self.new_tables.contains(table)
    }

    /// Records that the script locks a table. Reports each locked table after the first.
    pub fn lock(&mut self, table: &str, at: &Token) {
        if self.is_new(table) {
            return;
        }
        if self.locked.insert(table.to_owned()) && self.locked.len() > 1 {
            self.report(rules::SEVERAL_TABLES, at);
        }
    }

    /// Returns whether the current statement runs outside of a transaction. Several statements of a script share a
    /// transaction even if the runner begins none (PostgreSQL documentation, "Multiple Statements in a Simple Query").
    pub fn is_outside_of_transaction(&self) -> bool {
        !self.in_transaction && self.is_single && self.place == Place::Script
    }
}
