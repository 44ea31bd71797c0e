//! The check of a script: its statements, the bodies of DO, the texts that EXECUTE runs, and the markers.

use std::{mem, ops::Range};

use super::{
    rules::{self, Rule},
    state::{Found, Linter, NotNullCheck, Place},
    statement::created_object,
    token::{Comment, Kind, Token, Tokens, procedural_statements, statements, tokenize},
};

/// Replaces a variable, or a placeholder other than `%L`, in a text that EXECUTE runs, because its value is not known.
const UNKNOWN: &str = " _unknown_ ";

/// Returns the rules that a script breaks, in the order of its lines. `checks` has the NOT NULL table constraints that
/// ALTER TABLE has added in earlier scripts. This function adds those of this script, and removes those that it drops by
/// DROP CONSTRAINT.
pub(super) fn lint(sql: &str, in_transaction: bool, checks: &mut Vec<NotNullCheck>) -> Vec<Found> {
    let tokens = tokenize(sql, 1).tokens;
    let parts: Vec<_> = statements(&tokens).into_iter().filter(|part| !part.is_empty()).collect();
    let mut linter = Linter {
        in_transaction,
        is_single: parts.len() == 1,
        place: Place::Script,
        created: parts.iter().filter_map(|part| created_object(&tokens[part.clone()])).collect(),
        new_tables: Default::default(),
        new_indexes: Default::default(),
        locked: Default::default(),
        checks,
        found: Vec::new(),
    };
    let mut found = lint_text(&mut linter, sql, 1, Place::Script, false);
    found.sort_by_key(|found| found.line);
    found
}

/// Checks a text whose first line has the number `line`. `is_body` says whether the text is PL/pgSQL.
fn lint_text(linter: &mut Linter<'_>, sql: &str, line: usize, place: Place, is_body: bool) -> Vec<Found> {
    let Tokens { tokens, comments } = tokenize(sql, line);
    let parts = if is_body { procedural_statements(&tokens) } else { statements(&tokens) };
    let mut markers: Vec<_> = comments.iter().filter_map(Marker::parse).collect();
    let mut all = Vec::new();
    for part in parts {
        linter.place = place;
        linter.statement(&tokens[part.clone()]);
        let mut found = mem::take(&mut linter.found);
        found.extend(lint_strings(linter, &tokens[part.clone()], place));
        for marker in markers.iter_mut().filter(|marker| marker.belongs_to(&part, &tokens)) {
            found.retain(|found| !marker.allows(found.rule));
        }
        all.extend(found);
    }
    let unused = markers.iter().filter(|marker| !marker.is_used());
    all.extend(unused.map(|marker| Found { line: marker.line, rule: rules::MARKER }));
    all
}

/// Checks the body of a DO statement, or the text that a statement of such a body runs.
fn lint_strings(linter: &mut Linter<'_>, statement: &[Token], place: Place) -> Vec<Found> {
    let is_dynamic = statement.iter().any(|token| token.is("execute")) || is_assignment(statement);
    if statement.first().is_some_and(|first| first.is("do")) {
        // The name of the language may be a string too, so the longest string is the body.
        let bodies = statement.iter().filter_map(|token| Some((token.line, text_of(token)?)));
        let Some((line, body)) = bodies.max_by_key(|(_, body)| body.len()) else { return Vec::new() };
        let words = tokenize(body, line).tokens;
        let has = |word: &str| words.iter().any(|token| token.is(word));
        let place = Place::Body { has_loop: has("loop"), has_commit: has("commit") };
        lint_text(linter, body, line, place, true)
    } else if place != Place::Script && is_dynamic && !statement[0].is("raise") {
        let Some((line, sql)) = dynamic_sql(statement) else { return Vec::new() };
        lint_text(linter, &sql, line, place, false)
    } else {
        Vec::new()
    }
}

/// Returns whether a statement of PL/pgSQL looks like an assignment.
fn is_assignment(statement: &[Token]) -> bool {
    let has_colon = statement.windows(2).any(|pair| pair[0].is_symbol(':') && pair[1].is_symbol('='));
    has_colon || statement.get(1).is_some_and(|second| second.is_symbol('='))
}

/// Joins the strings of a statement. Replaces each run of words after the first string, such as variables and calls of functions,
/// with [`UNKNOWN`]. Also returns the line of the first string. `None` if the statement has no string.
fn dynamic_sql(statement: &[Token]) -> Option<(usize, String)> {
    let first = statement.iter().position(|token| text_of(token).is_some())?;
    let mut sql = String::new();
    for token in &statement[first..] {
        match &token.kind {
            Kind::Text(text) => sql += text,
            Kind::Word(_) | Kind::Quoted(_) if !sql.ends_with(UNKNOWN) => sql += UNKNOWN,
            _ => {}
        }
    }
    // The placeholders of `format` for names and texts.
    for placeholder in ["%I", "%s"] {
        sql = sql.replace(placeholder, UNKNOWN.trim());
    }
    Some((statement[first].line, sql.replace("%L", "''")))
}

fn text_of(token: &Token) -> Option<&str> {
    match &token.kind {
        Kind::Text(text) => Some(text),
        _ => None,
    }
}

/// A comment that allows a statement to break rules: `-- lint: allow drop-column because ...`.
struct Marker {
    line: usize,
    /// The number of tokens before the comment.
    position: usize,
    /// The names of the allowed rules, and whether the statement breaks each of them.
    rules: Vec<(String, bool)>,
}

impl Marker {
    /// Returns `None` if the comment is no marker. A marker without a reason allows nothing.
    fn parse(comment: &Comment) -> Option<Self> {
        let text = comment.text.trim_start_matches(['-', '/', '*', ' ', '\t', '\n']);
        let allowed = text.strip_prefix("lint:")?.trim_start().strip_prefix("allow ").unwrap_or_default();
        let (names, reason) = allowed.split_once(" because ").unwrap_or_default();
        let names = if reason.trim_end_matches(['*', '/', ' ', '\n']).is_empty() { "" } else { names };
        let names = names.split([',', ' ']).filter(|name| !name.is_empty());
        let rules = names.map(|name| (name.to_owned(), false)).collect();
        Some(Self { line: comment.line, position: comment.position, rules })
    }

    /// Returns whether the marker is in this statement, between the previous statement and this one, or behind this statement on
    /// the line of its semicolon.
    fn belongs_to(&self, statement: &Range<usize>, tokens: &[Token]) -> bool {
        let before = self.position.checked_sub(1).and_then(|at| tokens.get(at));
        let follows_end = before.is_some_and(|token| token.is_symbol(';') && token.line == self.line);
        match follows_end {
            true => self.position == statement.end + 1,
            false => !statement.is_empty() && (statement.start..=statement.end).contains(&self.position),
        }
    }

    fn allows(&mut self, rule: &Rule) -> bool {
        let Some((_, is_used)) = self.rules.iter_mut().find(|(name, _)| name == rule.name) else {
            return false;
        };
        *is_used = true;
        true
    }

    fn is_used(&self) -> bool {
        !self.rules.is_empty() && self.rules.iter().all(|(_, is_used)| *is_used)
    }
}
