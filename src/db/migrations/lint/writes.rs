//! The checks of UPDATE, DELETE and MERGE.

use super::{
    cursor::Cursor,
    rules,
    state::{Linter, Place},
    token::{Kind, Token},
};

/// Words before UPDATE that make it a part of another clause, such as FOR UPDATE or ON CONFLICT DO UPDATE.
const BEFORE_OTHER_UPDATE: &[&str] = &["for", "do", "key", "on", "of", "or", "before", "after", "then"];

/// Words that show that a condition restricts the rows, besides symbols such as `=`.
const COMPARISONS: &[&str] =
    &["in", "between", "like", "ilike", "similar", "any", "some", "exists", "limit", "current"];
/// Words of a condition that are no columns.
const NO_COLUMNS: &[&str] = &["is", "not", "null", "true", "false", "and", "or", "where"];

impl Linter<'_> {
    /// Checks each UPDATE, DELETE and MERGE of a statement, also those in a CTE.
    pub(super) fn writes(&mut self, tokens: &[Token]) {
        for (at, level, token) in Cursor(tokens).levels() {
            let mut rest = Cursor(&tokens[at + 1..]);
            let is_clause = at > 0 && tokens[at - 1].is_any(BEFORE_OTHER_UPDATE);
            let is_write = (token.is("update") && !is_clause)
                || (token.is("delete") && rest.skip("from"))
                || (token.is("merge") && rest.skip("into"));
            if !is_write {
                continue;
            }
            rest.skip("only");
            let Some(table) = rest.name() else { continue };
            if self.is_new(&table) {
                continue;
            }
            let is_bounded = !token.is("merge")
                && condition(tokens, at, level).is_some_and(|found| self.is_selective(found));
            let is_in_batches = match self.place {
                Place::Body { has_loop: true, has_commit } => has_commit && !self.in_transaction,
                _ => true,
            };
            if !is_bounded || !is_in_batches {
                self.report(rules::WHOLE_TABLE, token);
            }
            if !self.locked.is_empty() {
                self.report(rules::LOCK_HELD, token);
            }
        }
    }

    /// Returns whether a condition probably compares a column with a value, so that it may select a few rows. A comparison of two
    /// columns, such as in a join, may be true for all rows.
    fn is_selective(&self, condition: &[Token]) -> bool {
        let has_column = condition
            .iter()
            .any(|token| token.name().is_some() && !token.is_any(NO_COLUMNS) && !token.is_any(COMPARISONS));
        let is_inequality = |at: usize| {
            let next_is = |symbol: char| condition.get(at + 1).is_some_and(|next| next.is_symbol(symbol));
            (condition[at].is_symbol('<') && next_is('>')) || (condition[at].is_symbol('!') && next_is('='))
        };
        let has_comparison = (0..condition.len()).any(|at| match condition[at].kind {
            Kind::Symbol('=' | '>') => at == 0 || !is_inequality(at - 1),
            Kind::Symbol('<' | '~' | '@') => !is_inequality(at),
            _ => condition[at].is_any(COMPARISONS),
        });
        // In a body, the value may be a variable.
        let has_value = self.place != Place::Script
            || condition.iter().any(|token| matches!(token.kind, Kind::Text(_) | Kind::Number));
        has_column && has_comparison && has_value
    }
}

/// Returns the WHERE clause of the statement that begins at a token. `None` if the statement itself has no WHERE clause. The
/// WHERE clauses of subqueries do not count.
fn condition(tokens: &[Token], begin: usize, level: usize) -> Option<&[Token]> {
    let own = Cursor(tokens).levels().skip(begin + 1).take_while(|(_, current, token)| {
        *current > level || (*current == level && !(token.is_symbol(')') && level > 0))
    });
    let (mut start, mut end) = (None, begin + 1);
    for (at, current, token) in own {
        if current == level && token.is("where") {
            start = Some(at);
        }
        end = at + 1;
    }
    Some(&tokens[start?..end])
}
