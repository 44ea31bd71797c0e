//! Splits SQL into tokens and statements (PostgreSQL documentation, section 4.1, "Lexical Structure").

use std::ops::Range;

use super::super::source::block_comment_length;

/// A token of SQL: a word, a quoted name, a string, a number or a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: Kind,
    /// The number of its first line, from 1.
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name, in lower case.
    Word(String),
    /// A name in double quotes.
    Quoted(String),
    /// The content of a string. Only a newline of the source is a newline here, not the escape `\n`, so that lines can be
    /// counted.
    Text(String),
    Number,
    Symbol(char),
}

/// A comment, including its `--` or `/*`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Comment {
    pub text: String,
    pub line: usize,
    /// The number of tokens before the comment.
    pub position: usize,
}

/// Tokens and comments of a text.
#[derive(Default)]
pub(super) struct Tokens {
    pub tokens: Vec<Token>,
    pub comments: Vec<Comment>,
}

impl Token {
    /// Returns whether this is the given keyword. A name in quotes is no keyword.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(&self.kind, Kind::Word(word) if word == keyword)
    }

    pub fn is_any(&self, keywords: &[&str]) -> bool {
        matches!(&self.kind, Kind::Word(word) if keywords.contains(&word.as_str()))
    }

    pub fn is_symbol(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol(symbol)
    }

    /// Returns the text of a word or a quoted name. A keyword may be a name too.
    pub fn name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(name) | Kind::Quoted(name) => Some(name),
            _ => None,
        }
    }
}

/// Splits a text into tokens. `line` is the number of its first line.
pub(super) fn tokenize(sql: &str, line: usize) -> Tokens {
    let mut lexer = Lexer { rest: sql, line, found: Tokens::default() };
    while let Some(c) = lexer.rest.chars().next() {
        lexer.read(c);
    }
    lexer.found
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    found: Tokens,
}

impl<'a> Lexer<'a> {
    /// Reads the token, comment or blank that begins with `c`.
    fn read(&mut self, c: char) {
        let (rest, line) = (self.rest, self.line);
        if rest.starts_with("--") {
            let text = self.take(rest.find(['\n', '\r']).unwrap_or(rest.len()));
            self.add_comment(text, line);
        } else if rest.starts_with("/*") {
            let text = self.take(block_comment_length(rest));
            self.add_comment(text, line);
        } else if c.is_whitespace() {
            self.take(c.len_utf8());
        } else if let Some((open, quote, has_escapes)) = string_start(rest) {
            self.take(open);
            let text = self.take_quoted(quote, has_escapes);
            let kind = if quote == '"' { Kind::Quoted(text) } else { Kind::Text(text) };
            self.add(kind, line);
        } else if let Some(delimiter) = dollar_delimiter(rest) {
            self.take(delimiter.len());
            let text = self.take(self.rest.find(delimiter).unwrap_or(self.rest.len()));
            // A string that is not closed ends with the text, without a delimiter.
            self.take(delimiter.len().min(self.rest.len()));
            self.add(Kind::Text(text.to_owned()), line);
        } else if c.is_ascii_digit() {
            self.take(length_while(rest, |c| c.is_alphanumeric() || c == '_' || c == '.'));
            self.add(Kind::Number, line);
        } else if is_name_start(c) {
            let word = self.take(length_while(rest, is_name_part));
            self.add(Kind::Word(word.to_ascii_lowercase()), line);
        } else {
            self.take(c.len_utf8());
            self.add(Kind::Symbol(c), line);
        }
    }

    /// Removes the next bytes from the text and returns them.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// Removes a string up to the quote that closes it. Returns its content.
    fn take_quoted(&mut self, quote: char, has_escapes: bool) -> String {
        let mut text = String::new();
        while let Some(c) = self.rest.chars().next() {
            self.take(c.len_utf8());
            let following = self.rest.chars().next();
            if c == quote && following != Some(quote) {
                break;
            }
            let is_escape = has_escapes && c == '\\';
            match following {
                Some(following) if is_escape || c == quote => {
                    self.take(following.len_utf8());
                    let is_blank = is_escape && "nrtbf".contains(following);
                    text.push(if is_blank { ' ' } else { following });
                }
                _ => text.push(c),
            }
        }
        text
    }

    fn add(&mut self, kind: Kind, line: usize) {
        self.found.tokens.push(Token { kind, line });
    }

    fn add_comment(&mut self, text: &str, line: usize) {
        let position = self.found.tokens.len();
        self.found.comments.push(Comment { text: text.to_owned(), line, position });
    }
}

/// Returns how a string or quoted name at the beginning of a text starts: the bytes before its content, the quote, and
/// whether a backslash escapes. `None` if the text does not begin with a string or quoted name.
fn string_start(text: &str) -> Option<(usize, char, bool)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    let second = chars.next();
    match first.to_ascii_lowercase() {
        '\'' | '"' => Some((1, first, false)),
        'e' if second == Some('\'') => Some((2, '\'', true)),
        'b' | 'x' | 'n' if second == Some('\'') => Some((2, '\'', false)),
        'u' if second == Some('&') => {
            let quote = chars.next().filter(|c| ['\'', '"'].contains(c))?;
            Some((3, quote, false))
        }
        _ => None,
    }
}

/// Returns the delimiter of a dollar-quoted string at the beginning of a text, such as `$$` or `$body$`.
fn dollar_delimiter(text: &str) -> Option<&str> {
    let tag = text.strip_prefix('$')?;
    let length = length_while(tag, |c| is_name_part(c) && c != '$');
    let is_tag = tag[length..].starts_with('$') && !tag.starts_with(|c: char| c.is_ascii_digit());
    is_tag.then(|| &text[..length + 2])
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_name_part(c: char) -> bool {
    is_name_start(c) || c.is_ascii_digit() || c == '$'
}

fn length_while(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !is_part(c)).unwrap_or(text.len())
}

/// Returns the statements of a script, each without its semicolon. The body of a function in standard SQL (`BEGIN ATOMIC`)
/// and an expression in parentheses may contain semicolons.
pub(super) fn statements(tokens: &[Token]) -> Vec<Range<usize>> {
    let mut list = Vec::new();
    let (mut start, mut depth, mut blocks) = (0, 0_usize, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        let is_atomic = token.is("begin") && tokens.get(at + 1).is_some_and(|next| next.is("atomic"));
        match &token.kind {
            Kind::Symbol('(') => depth += 1,
            Kind::Symbol(')') => depth = depth.saturating_sub(1),
            Kind::Word(_) if is_atomic && tokens[start].is("create") => blocks += 1,
            Kind::Word(word) if blocks > 0 && word == "case" => blocks += 1,
            Kind::Word(word) if blocks > 0 && word == "end" => blocks -= 1,
            Kind::Symbol(';') if depth == 0 && blocks == 0 => {
                list.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
    }
    list.push(start..tokens.len());
    list
}

/// Returns the statements of a body in PL/pgSQL. Words such as THEN and LOOP end a part too, so `IF x THEN DROP TABLE y;` has
/// the parts `IF x` and `DROP TABLE y`.
pub(super) fn procedural_statements(tokens: &[Token]) -> Vec<Range<usize>> {
    const ENDS: &[&str] = &["declare", "begin", "then", "else", "loop"];
    let mut list = Vec::new();
    // `cases` counts the open CASE expressions: their THEN and ELSE do not end a part.
    let (mut start, mut depth, mut cases) = (0, 0_usize, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        let follows_end = at > 0 && tokens[at - 1].is("end");
        match &token.kind {
            Kind::Symbol('(') => depth += 1,
            Kind::Symbol(')') => depth = depth.saturating_sub(1),
            Kind::Word(word) if word == "case" && at > start && !follows_end => cases += 1,
            Kind::Word(word) if word == "end" && cases > 0 => cases -= 1,
            Kind::Symbol(';') if depth == 0 => {
                list.push(start..at);
                (start, cases) = (at + 1, 0);
            }
            Kind::Word(_) if depth == 0 && cases == 0 && token.is_any(ENDS) => {
                list.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
    }
    list.push(start..tokens.len());
    list
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(sql: &str) -> Vec<Kind> {
        tokenize(sql, 1).tokens.into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn strings_names_and_comments_are_told_apart() {
        let word = |text: &str| Kind::Word(text.to_owned());
        let text = |text: &str| Kind::Text(text.to_owned());
        for (sql, expected) in [
            ("DROP Table", vec![word("drop"), word("table")]),
            ("'it''s -- no comment'", vec![text("it's -- no comment")]),
            (r"E'a\'b\nc' 'a\'", vec![text("a'b c"), text(r"a\")]),
            ("U&'x' n'y'", vec![text("x"), text("y")]),
            ("u & e", vec![word("u"), Kind::Symbol('&'), word("e")]),
            ("\"a\"\"b\"", vec![Kind::Quoted("a\"b".into())]),
            ("$$a;$b$'$$", vec![text("a;$b$'")]),
            ("$ä_1$x$$y$ä_1$", vec![text("x$$y")]),
            ("a$1$b", vec![word("a$1$b")]),
            ("$1", vec![Kind::Symbol('$'), Kind::Number]),
            ("1.5e3;", vec![Kind::Number, Kind::Symbol(';')]),
            ("/* a /* b */ ' */x", vec![word("x")]),
            ("'open", vec![text("open")]),
            ("$a$open", vec![text("open")]),
            ("/* open", vec![]),
        ] {
            assert_eq!(kinds(sql), expected, "{sql}");
        }
    }

    #[test]
    fn lines_are_counted() {
        let found = tokenize("a\n/* b\n */ c '\n' d -- e", 1);
        let lines: Vec<_> = found.tokens.iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 3, 4]);
        let places: Vec<_> = found.comments.iter().map(|comment| (comment.line, comment.position)).collect();
        assert_eq!(places, [(2, 1), (4, 4)]);
    }

    #[test]
    fn a_script_is_split_at_its_semicolons() {
        let count = |sql: &str| statements(&tokenize(sql, 1).tokens).len();
        assert_eq!(count("a; b"), 2);
        assert_eq!(count("create rule r as on insert to t do (delete from a; delete from b)"), 1);
        assert_eq!(
            count("create function f() begin atomic select case when a then b end; select 1; end; c"),
            2
        );
        assert_eq!(count("begin; commit; a"), 3);
    }

    #[test]
    fn a_body_is_split_at_its_keywords() {
        let parts = |sql: &str| {
            let tokens = tokenize(sql, 1).tokens;
            let parts = procedural_statements(&tokens);
            parts.into_iter().filter(|part| !part.is_empty()).map(|part| part.len()).collect::<Vec<_>>()
        };
        assert_eq!(parts("begin if a then drop table b; else c; end if; end"), [2, 3, 1, 2, 1]);
        assert_eq!(parts("update t set x = case when a then b else c end where d"), [15]);
        assert_eq!(parts("case a when b then c; end case; d"), [4, 1, 2, 1]);
    }
}
