//! The checks of the statements of a script, other than the actions of ALTER TABLE and the changes of rows.

use super::{
    cursor::Cursor,
    rules,
    state::{Linter, Place},
    token::{Kind, Token},
};

/// Kinds of objects, other than tables and indexes, that a release may use.
const OBJECTS: &[&str] = &[
    "view",
    "sequence",
    "function",
    "procedure",
    "routine",
    "aggregate",
    "type",
    "domain",
    "schema",
    "extension",
    "collation",
    "database",
];
/// Words between CREATE and the kind of the object.
const MODIFIERS: &[&str] =
    &["global", "local", "temporary", "temp", "unlogged", "foreign", "constraint", "recursive"];

/// Returns the kind and the name of the object that a statement creates. `None` if the kind is not in [`OBJECTS`].
pub(super) fn created_object(tokens: &[Token]) -> Option<(&'static str, String)> {
    let mut rest = Cursor(tokens);
    if !rest.skip("create") {
        return None;
    }
    rest.skip("or replace");
    rest.skip_any(MODIFIERS);
    let kind = OBJECTS.iter().find(|kind| rest.skip(kind))?;
    rest.skip("if not exists");
    Some((*kind, rest.name()?))
}

impl Linter<'_> {
    /// Checks a statement. The caller checks the texts that DO and EXECUTE run.
    pub(super) fn statement(&mut self, tokens: &[Token]) {
        let mut rest = Cursor(tokens);
        let Some(first) = rest.next() else { return };
        let Kind::Word(word) = &first.kind else { return };
        match word.as_str() {
            "create" => self.create(rest, first),
            "drop" => self.drop(rest, first),
            "alter" => self.alter(rest, first),
            "lock" => {
                rest.skip("table");
                self.report_existing(rules::LOCK_TABLE, rest, first);
            }
            "truncate" => {
                rest.skip("table");
                self.report_existing(rules::TRUNCATE, rest, first);
            }
            "cluster" => {
                rest.skip("verbose");
                self.report_existing(rules::REWRITE, rest, first);
            }
            "refresh" => {
                rest.skip("materialized view");
                if !rest.skip("concurrently") {
                    self.report_existing(rules::REWRITE, rest, first);
                }
            }
            "reindex" if tokens.iter().any(|token| token.is("concurrently")) => self.concurrently(first),
            "reindex" => self.report(rules::REWRITE, first),
            "vacuum" => {
                self.concurrently(first);
                if tokens.iter().any(|token| token.is("full")) {
                    self.report(rules::REWRITE, first);
                }
            }
            "begin" | "start" | "commit" | "end" | "rollback" | "abort" => self.transaction(rest, first),
            "prepare" if rest.is_at("transaction") => self.transaction(rest, first),
            // These statements change no rows, but may contain the word UPDATE.
            "grant" | "revoke" | "comment" | "raise" | "set" => {}
            _ => {
                self.tenant_tables(tokens);
                self.writes(tokens);
            }
        }
    }

    /// Checks the calls of the function `tenant_table`, which enables row-level security.
    fn tenant_tables(&mut self, tokens: &[Token]) {
        for call in tokens.windows(3) {
            let Kind::Text(table) = &call[2].kind else { continue };
            let is_call = call[0].is("tenant_table") && call[1].is_symbol('(');
            if is_call && !self.is_new(table.trim_start_matches("public.")) {
                self.report(rules::ROW_SECURITY, &call[0]);
            }
        }
    }

    /// Reports a rule if one of the tables is not new, or if the statement names no table.
    fn report_existing(&mut self, rule: &'static rules::Rule, tables: Cursor<'_>, first: &Token) {
        let names = tables.names();
        if names.is_empty() || names.iter().any(|name| !self.is_new(name)) {
            self.report(rule, first);
        }
    }

    /// Checks a statement that cannot run in a transaction.
    fn concurrently(&mut self, first: &Token) {
        if !self.is_outside_of_transaction() {
            self.report(rules::CONCURRENTLY, first);
        }
    }

    /// Checks a statement that begins or ends a transaction.
    fn transaction(&mut self, rest: Cursor<'_>, first: &Token) {
        // In a body of PL/pgSQL, BEGIN and END mark a block and are no statements of SQL.
        let is_block = self.place != Place::Script && !first.is_any(&["commit", "rollback"]);
        let is_to_savepoint = first.is("rollback") && rest.has("to");
        if self.in_transaction && !is_block && !is_to_savepoint {
            self.report(rules::TRANSACTION, first);
        }
    }

    fn create(&mut self, mut rest: Cursor<'_>, first: &Token) {
        rest.skip("or replace");
        rest.skip_any(MODIFIERS);
        if rest.skip("table") || rest.skip("materialized view") {
            // With IF NOT EXISTS, the table may exist already.
            let may_exist = rest.skip("if not exists");
            self.new_tables.extend(rest.name().filter(|_| !may_exist));
        } else if rest.skip("unique index") || rest.skip("index") {
            self.create_index(rest, first);
        } else if rest.is_at_any(&["trigger", "policy"]) {
            self.lock_table_after_on(rest, first);
        }
    }

    fn create_index(&mut self, mut rest: Cursor<'_>, first: &Token) {
        let is_concurrent = rest.skip("concurrently");
        rest.skip("if not exists");
        if !rest.is_at("on") {
            self.new_indexes.extend(rest.name());
        }
        rest.skip("on");
        // The table of CREATE INDEX ON ONLY is usually the parent of partitions, which has no rows.
        let is_only = rest.skip("only");
        let Some(table) = rest.name() else { return };
        if is_concurrent {
            self.concurrently(first);
        } else {
            if !is_only && !self.is_new(&table) {
                self.report(rules::CREATE_INDEX, first);
            }
            self.lock(&table, first);
        }
    }

    fn lock_table_after_on(&mut self, rest: Cursor<'_>, first: &Token) {
        let Some(at) = rest.find("on") else { return };
        if let Some(table) = Cursor(&rest.0[at + 1..]).name() {
            self.lock(&table, first);
        }
    }

    fn drop(&mut self, mut rest: Cursor<'_>, first: &Token) {
        rest.skip("foreign");
        let is_materialized = rest.skip("materialized");
        if rest.skip("table") || (is_materialized && rest.is_at("view")) {
            rest.skip("view");
            rest.skip("if exists");
            self.report_existing(rules::DROP_TABLE, rest, first);
        } else if rest.skip("index") {
            let is_concurrent = rest.skip("concurrently");
            rest.skip("if exists");
            if is_concurrent {
                self.concurrently(first);
            } else if rest.names().iter().any(|name| !self.new_indexes.contains(name)) {
                self.report(rules::DROP_INDEX, first);
            }
        } else if rest.is_at_any(&["trigger", "policy", "rule"]) {
            self.lock_table_after_on(rest, first);
        } else if rest.is_at("owned") {
            self.report(rules::DROP_OBJECT, first);
        } else if let Some(kind) = OBJECTS.iter().find(|kind| rest.skip(kind)) {
            rest.skip("if exists");
            // An object that the script also creates counts as replaced, not removed.
            if rest.names().into_iter().any(|name| !self.created.contains(&(*kind, name))) {
                self.report(rules::DROP_OBJECT, first);
            }
        }
    }

    fn alter(&mut self, mut rest: Cursor<'_>, first: &Token) {
        let kinds_of_tables = ["table", "foreign table", "view", "materialized view"];
        if kinds_of_tables.iter().any(|kind| rest.skip(kind)) {
            self.alter_table(rest, first);
        } else if rest.skip("index") {
            self.alter_object("index", rest, first);
        } else if let Some(kind) = OBJECTS.iter().find(|kind| rest.skip(kind)) {
            self.alter_object(kind, rest, first);
        }
    }

    fn alter_object(&mut self, kind: &'static str, mut rest: Cursor<'_>, first: &Token) {
        rest.skip("if exists");
        let Some(name) = rest.name() else { return };
        if self.new_indexes.contains(&name) || self.created.contains(&(kind, name)) {
            return;
        }
        rest.skip_parentheses();
        if rest.skip("add value") {
            if !self.is_outside_of_transaction() {
                self.report(rules::ENUM_VALUE, first);
            }
            return;
        }
        let is_domain = kind == "domain";
        for action in rest.clauses() {
            let begins = |words: &str| Cursor(action.0).skip(words);
            let rule = if begins("rename attribute") {
                rules::RENAME_COLUMN
            } else if begins("rename") || begins("set schema") {
                rules::RENAME_OBJECT
            } else if begins("drop attribute") {
                rules::DROP_COLUMN
            } else if begins("alter attribute") {
                rules::COLUMN_TYPE
            } else if is_domain && begins("set not null") {
                rules::NOT_NULL
            } else if is_domain && begins("add") && !action.has("not valid") {
                rules::CHECK
            } else {
                continue;
            };
            self.report(rule, first);
        }
    }
}
