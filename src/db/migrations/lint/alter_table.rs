//! The checks of ALTER TABLE, and of ALTER for foreign tables and views, which has some of the same actions.

use super::{
    column,
    cursor::Cursor,
    rules::{self, Rule},
    state::{Linter, NotNullCheck},
    token::Token,
};

impl Linter<'_> {
    /// Checks the actions of a statement. The cursor is behind ALTER and the kind of the object, such as TABLE. `first` is the
    /// first token of the statement.
    pub(super) fn alter_table(&mut self, mut rest: Cursor<'_>, first: &Token) {
        if rest.skip("all in tablespace") {
            self.report(rules::REWRITE, first);
            return;
        }
        rest.skip("if exists");
        rest.skip("only");
        let Some(table) = rest.name() else { return };
        if rest.is_at_symbol('*') {
            rest.next();
        }
        if self.is_new(&table) {
            return;
        }
        let actions = rest.clauses();
        // PostgreSQL drops constraints before the other actions of a statement, and validates constraints after them.
        for action in &actions {
            self.forget_constraint(*action, &table);
        }
        let valid_before: Vec<_> =
            self.checks.iter().filter(|check| check.is_valid && check.table == table).cloned().collect();
        let was_locked = !self.locked.is_empty();
        if actions.iter().any(|action| locks_writes(*action)) {
            self.lock(&table, first);
        }
        for action in actions {
            let Some(begin) = action.0.first() else { continue };
            if action.is_at("validate") && (was_locked || self.locked.contains(&table)) {
                self.report(rules::LOCK_HELD, begin);
            }
            for rule in self.rules_of_action(action, &table, &valid_before) {
                self.report(rule, begin);
            }
        }
    }

    fn forget_constraint(&mut self, mut action: Cursor<'_>, table: &str) {
        if action.skip("drop constraint") {
            action.skip("if exists");
            let name = action.name();
            self.checks.retain(|check| check.table != table || Some(&check.name) != name.as_ref());
        }
    }

    fn rules_of_action(
        &mut self,
        mut action: Cursor<'_>,
        table: &str,
        valid: &[NotNullCheck],
    ) -> Vec<&'static Rule> {
        if action.skip("add") {
            if is_constraint(action) {
                return self.rule_of_constraint(action, table).into_iter().collect();
            }
            action.skip("column");
            action.skip("if not exists");
            action.name();
            return column::broken_rules(action);
        }
        if action.skip("validate constraint") {
            let name = action.name();
            for check in self.checks.iter_mut().filter(|check| check.table == table) {
                check.is_valid |= Some(&check.name) == name.as_ref();
            }
            return Vec::new();
        }
        rule_of_other_action(action, valid).into_iter().collect()
    }

    fn rule_of_constraint(&mut self, mut action: Cursor<'_>, table: &str) -> Option<&'static Rule> {
        let name = if action.skip("constraint") { action.name().unwrap_or_default() } else { String::new() };
        let is_valid = !action.has("not valid");
        if let Some(column) = not_null_column(action) {
            self.checks.push(NotNullCheck { table: table.to_owned(), name, column, is_valid });
        }
        if action.is_at("check") {
            is_valid.then_some(rules::CHECK)
        } else if action.is_at("foreign") {
            is_valid.then_some(rules::FOREIGN_KEY)
        } else if action.is_at("not") {
            is_valid.then_some(rules::NOT_NULL)
        } else {
            let has_index = action.has("using index") && !action.has("using index tablespace");
            (!has_index).then_some(rules::UNIQUE)
        }
    }
}

/// Returns whether an action may lock the table against writes of other sessions. An unknown action counts as one that does.
fn locks_writes(action: Cursor<'_>) -> bool {
    let is_storage_parameter = action.0.get(1).is_some_and(|second| second.is_symbol('('));
    !(action.is_at_any(&["validate", "attach"]) || action.has("set statistics") || is_storage_parameter)
}

/// Returns whether ADD is followed by a constraint, and not by a column.
fn is_constraint(action: Cursor<'_>) -> bool {
    let second_is = |symbol: char, keyword: &str| {
        action.0.get(1).is_some_and(|second| second.is_symbol(symbol) || second.is(keyword))
    };
    action.is_at_any(&["constraint", "check", "unique", "primary", "foreign"])
        || (action.is_at("exclude") && second_is('(', "using"))
        || (action.is_at("not") && second_is('(', "null"))
}

/// Returns the column of `CHECK (column IS NOT NULL)` or `NOT NULL column`. `None` for other constraints.
fn not_null_column(mut constraint: Cursor<'_>) -> Option<String> {
    if constraint.skip("not null") {
        return constraint.name();
    }
    if !constraint.skip("check") {
        return None;
    }
    let mut open = 0;
    while constraint.is_at_symbol('(') {
        constraint.next();
        open += 1;
    }
    let column = constraint.name()?;
    if !constraint.skip("is not null") {
        return None;
    }
    // If all parentheses close here, the condition has no other part.
    let closed = constraint.0.iter().take_while(|token| token.is_symbol(')')).count();
    (closed == open).then_some(column)
}

/// Returns the rule that an action other than ADD and VALIDATE breaks, if any. `valid` has the valid NOT NULL constraints of
/// the table.
fn rule_of_other_action(mut action: Cursor<'_>, valid: &[NotNullCheck]) -> Option<&'static Rule> {
    if action.skip("drop") {
        return (!action.is_at("constraint")).then_some(rules::DROP_COLUMN);
    }
    if action.skip("alter") {
        return if action.is_at("constraint") { None } else { rule_of_column_change(action, valid) };
    }
    if action.skip("rename") {
        return Some(if action.is_at("to") {
            rules::RENAME_TABLE
        } else if action.is_at("constraint") {
            rules::RENAME_OBJECT
        } else {
            rules::RENAME_COLUMN
        });
    }
    if action.skip("enable row level security") || action.skip("force row level security") {
        return Some(rules::ROW_SECURITY);
    }
    if action.skip("set schema") {
        return Some(rules::RENAME_TABLE);
    }
    let rewrites = action.skip("set") && action.is_at_any(&["tablespace", "logged", "unlogged", "access"]);
    rewrites.then_some(rules::REWRITE)
}

/// Returns the rule that `ALTER COLUMN` breaks, if any. The cursor is behind ALTER.
fn rule_of_column_change(mut action: Cursor<'_>, valid: &[NotNullCheck]) -> Option<&'static Rule> {
    action.skip("column");
    let column = action.name()?;
    if action.skip("set not null") {
        let is_proven = valid.iter().any(|check| check.column == column);
        return (!is_proven).then_some(rules::NOT_NULL);
    }
    let changes: &[(&str, &'static Rule)] = &[
        ("drop not null", rules::DROP_NOT_NULL),
        ("drop default", rules::DROP_DEFAULT),
        ("drop identity", rules::DROP_DEFAULT),
        ("drop expression", rules::DROP_DEFAULT),
        ("type", rules::COLUMN_TYPE),
        ("set data type", rules::COLUMN_TYPE),
        ("set expression", rules::REWRITE),
    ];
    changes.iter().find(|(words, _)| action.skip(words)).map(|(_, rule)| *rule)
}
