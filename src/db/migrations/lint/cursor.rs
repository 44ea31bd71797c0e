//! Reads a statement from left to right.

use super::token::{Kind, Token};

/// The tokens of a statement that are not read yet.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub &'a [Token]);

impl<'a> Cursor<'a> {
    pub fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub fn is_at(&self, keyword: &str) -> bool {
        self.0.first().is_some_and(|token| token.is(keyword))
    }

    pub fn is_at_any(&self, keywords: &[&str]) -> bool {
        self.0.first().is_some_and(|token| token.is_any(keywords))
    }

    pub fn is_at_symbol(&self, symbol: char) -> bool {
        self.0.first().is_some_and(|token| token.is_symbol(symbol))
    }

    /// Skips keywords, separated by blanks, if they are next. Returns whether they were.
    pub fn skip(&mut self, keywords: &str) -> bool {
        let mut rest = *self;
        let found = keywords.split(' ').all(|keyword| rest.next().is_some_and(|token| token.is(keyword)));
        if found {
            *self = rest;
        }
        found
    }

    /// Skips any number of the keywords.
    pub fn skip_any(&mut self, keywords: &[&str]) {
        while self.is_at_any(keywords) {
            self.next();
        }
    }

    /// Reads a name, with its schema unless that is `public`.
    pub fn name(&mut self) -> Option<String> {
        let mut parts = vec![self.next()?.name()?.to_owned()];
        while self.is_at_symbol('.') {
            self.next();
            parts.push(self.next()?.name()?.to_owned());
        }
        if parts.len() > 1 && parts[0] == "public" {
            parts.remove(0);
        }
        Some(parts.join("."))
    }

    /// Returns names that are separated by commas, without the arguments of functions.
    pub fn names(&self) -> Vec<String> {
        let clauses = self.clauses();
        clauses
            .into_iter()
            .filter_map(|mut clause| {
                clause.skip("only");
                clause.name()
            })
            .collect()
    }

    /// Skips an expression in parentheses, if it is next. The cursor is then behind the closing parenthesis.
    pub fn skip_parentheses(&mut self) {
        if self.is_at_symbol('(') {
            let end =
                self.levels().skip(1).find(|(_, level, _)| *level == 0).map_or(self.0.len(), |(at, ..)| at);
            self.0 = &self.0[end..];
        }
    }

    /// Returns whether the keywords, separated by blanks, follow each other somewhere outside of parentheses.
    pub fn has(&self, keywords: &str) -> bool {
        self.find(keywords).is_some()
    }

    /// Returns where the keywords begin, outside of parentheses.
    pub fn find(&self, keywords: &str) -> Option<usize> {
        let mut levels = self.levels();
        levels.find(|(at, level, _)| *level == 0 && Cursor(&self.0[*at..]).skip(keywords)).map(|(at, ..)| at)
    }

    /// Returns the parts that commas outside of parentheses separate.
    pub fn clauses(&self) -> Vec<Cursor<'a>> {
        let commas =
            self.levels().filter(|(_, level, token)| *level == 0 && token.is_symbol(',')).map(|(at, ..)| at);
        let mut clauses = Vec::new();
        let mut start = 0;
        for end in commas.chain([self.0.len()]) {
            clauses.push(Cursor(&self.0[start..end]));
            start = end + 1;
        }
        clauses
    }

    /// Returns the tokens with their positions, and the number of parentheses and brackets that are open before each.
    pub fn levels(&self) -> impl Iterator<Item = (usize, usize, &'a Token)> + use<'a> {
        let mut level = 0_usize;
        self.0.iter().enumerate().map(move |(at, token)| {
            let before = level;
            match token.kind {
                Kind::Symbol('(' | '[') => level += 1,
                Kind::Symbol(')' | ']') => level = level.saturating_sub(1),
                _ => {}
            }
            (at, before, token)
        })
    }
}
