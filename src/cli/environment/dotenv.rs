//! The format of `.env`.
//!
//! A line is `NAME=value`, also with `export` in front, a comment or blank. An ambiguous value is refused with its line number:
//! shells, Compose and libraries disagree about `$`, `#`, backslashes and quotes in the middle of a value, so a password would
//! silently differ between them.
//!
//! - Without quotes, a value has no spaces, no quotes and no backslash, and no `#` at its beginning. A comment may follow after
//!   ` # `, except after a secret. A JSON list may have spaces and quotes.
//! - In single quotes, all characters are literal. In double quotes, `\n` is a line feed, and `\` escapes `"`, `'`, `\`, `$`
//!   and a space. Values in quotes may have several lines.
//! - `${NAME}` is replaced by the value of NAME in the environment or in an earlier line, except in single quotes. If neither
//!   sets NAME, the value is refused.

use std::{fs, io, path::Path};

/// The variables of a file, and the problems of its lines.
#[derive(Debug, Default)]
pub(super) struct Dotenv {
    pub(super) variables: Vec<Variable>,
    pub(super) problems: Vec<Problem>,
}

/// A variable of the file.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) line: usize,
}

/// Why a line or the whole file cannot be read. The text has no part of a value, which may be a secret.
#[derive(Debug)]
pub(super) struct Problem {
    /// The name of the variable. `None` if the line has no valid name, or the whole file cannot be read.
    pub(super) name: Option<String>,
    pub(super) text: String,
}

const DOLLAR_PROBLEM: &str = "has a $, which begins the name of a variable: put the value into single quotes";
const COMMENT_PROBLEM: &str =
    "has a #, which begins a comment: put the value into single quotes, and a comment on a line of its own";

/// Reads a file. A missing file has no variables. `is_secret` returns whether a variable is a secret: a comment after a secret
/// without quotes is refused, because it may be a part of the secret.
pub(super) fn read(path: &Path, is_secret: &dyn Fn(&str) -> bool) -> Dotenv {
    let unreadable =
        |text: String| Dotenv { variables: Vec::new(), problems: vec![Problem { name: None, text }] };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Dotenv::default(),
        Err(error) => return unreadable(format!("the file .env cannot be read: {error}")),
    };
    match str::from_utf8(&bytes) {
        Ok(text) => parse(text, is_secret),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            unreadable(format!("line {line} of .env cannot be read: it is not UTF-8 text"))
        }
    }
}

fn parse(text: &str, is_secret: &dyn Fn(&str) -> bool) -> Dotenv {
    let mut file = Dotenv::default();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let (first, mut next) = rest.split_once('\n').unwrap_or((rest, ""));
        if !matches!(first.trim().chars().next(), None | Some('#')) {
            match parse_assignment(first) {
                Err(why) => file.refuse(line, None, why),
                Ok((name, from)) => match parse_value(&rest[from..], is_secret(name), &file) {
                    Err(why) => file.refuse(line, Some(name), why),
                    Ok((value, after)) => {
                        next = after;
                        file.add(name, value, line);
                    }
                },
            }
        }
        line += rest[..rest.len() - next.len()].matches('\n').count();
        rest = next;
    }
    file
}

/// Returns the name of the variable that a line sets, and the index of the byte at which the value begins.
fn parse_assignment(line: &str) -> Result<(&str, usize), &'static str> {
    let start = line.trim_start();
    // A variable may have the name `export`.
    let exported = start.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
    let start = exported.map(str::trim_start).filter(|rest| !rest.starts_with('=')).unwrap_or(start);
    let (name, value) = start.split_once('=').ok_or("write NAME=value")?;
    let name = name.trim_end();
    match is_name(name) {
        true => Ok((name, line.len() - value.trim_start_matches([' ', '\t']).len())),
        false => Err("write NAME=value, with letters, digits and _ in the name"),
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
}

/// Reads the value at the beginning of a text. Also returns the text after the line in which the value ends.
fn parse_value<'a>(text: &'a str, is_secret: bool, file: &Dotenv) -> Result<(String, &'a str), &'static str> {
    let Some(quote @ ('\'' | '"')) = text.chars().next() else {
        let (line, next) = text.split_once('\n').unwrap_or((text, ""));
        return Ok((parse_unquoted(line.trim(), is_secret, file)?, next));
    };
    let inside = &text[1..];
    let (value, length) = match quote {
        '\'' => {
            let end = inside.find('\'').ok_or("has no closing quote")?;
            (inside[..end].to_owned(), end + 1)
        }
        _ => parse_double_quoted(inside, file)?,
    };
    let after = &inside[length..];
    let (trailing, next) = after.split_once('\n').unwrap_or((after, ""));
    let comment = trailing.trim();
    match comment.is_empty() || (comment.starts_with('#') && trailing.starts_with([' ', '\t'])) {
        true => Ok((value, next)),
        false => Err("has something after the closing quote"),
    }
}

/// Reads a value up to the closing quote. Also returns how many bytes were read, including this quote.
fn parse_double_quoted(text: &str, file: &Dotenv) -> Result<(String, usize), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, at + 1)),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"' | '\'' | '$' | ' '))) => value.push(c),
                _ => return Err("has a backslash in double quotes: write two of them, or use single quotes"),
            },
            '$' => {
                let (inserted, length) = expand_reference(&text[at..], file)?;
                value.push_str(&inserted);
                // Skips the rest of the reference: its `$` is read already, and its other characters are
                // ASCII.
                chars.nth(length - 2);
            }
            c => value.push(c),
        }
    }
    Err("has no closing quote")
}

fn parse_unquoted(text: &str, is_secret: bool, file: &Dotenv) -> Result<String, &'static str> {
    let text = match comment_start(text) {
        None => text,
        Some(at) => {
            let (value, comment) = (text[..at].trim_end(), &text[at + 1..]);
            let is_comment = comment.is_empty() || comment.starts_with([' ', '\t', '#']);
            if !is_comment || (is_secret && !value.is_empty()) {
                return Err(COMMENT_PROBLEM);
            }
            value
        }
    };
    let is_list = text.starts_with('[') && text.ends_with(']');
    if text.contains('\\') {
        return Err("has a backslash: put the value into single quotes");
    }
    if !is_list && text.contains(char::is_whitespace) {
        return Err("has a space: put the value into quotes");
    }
    if !is_list && text.contains(['\'', '"']) {
        return Err("has a quote: put the whole value into quotes of the other kind");
    }
    let (mut value, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        let (inserted, length) = expand_reference(&rest[at..], file)?;
        value.push_str(&rest[..at]);
        value.push_str(&inserted);
        rest = &rest[at + length..];
    }
    Ok(value + rest)
}

/// Returns the index of the first `#` that is at the beginning or after whitespace.
fn comment_start(text: &str) -> Option<usize> {
    let mut hashes = text.match_indices('#').map(|(at, _)| at);
    hashes.find(|at| text[..*at].chars().next_back().is_none_or(char::is_whitespace))
}

/// Returns the value of the `${NAME}` at the beginning of a text, and the length of the reference.
fn expand_reference(text: &str, file: &Dotenv) -> Result<(String, usize), &'static str> {
    let inside = text.strip_prefix("${").and_then(|rest| rest.split_once('}'));
    let name = inside.map(|(name, _)| name).filter(|name| is_name(name)).ok_or(DOLLAR_PROBLEM)?;
    let value = match std::env::var(name) {
        Ok(value) => Some(value),
        Err(_) => file.get(name).map(|variable| variable.value.clone()),
    };
    // The `$` and the braces are three bytes.
    Ok((value.ok_or(DOLLAR_PROBLEM)?, name.len() + 3))
}

impl Dotenv {
    pub(super) fn get(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().find(|variable| variable.name == name)
    }

    fn refuse(&mut self, line: usize, name: Option<&str>, why: &str) {
        let subject = name.map(|name| format!("{name} ")).unwrap_or_default();
        let text = format!("line {line} of .env cannot be read: {subject}{why}");
        self.problems.push(Problem { name: name.map(str::to_owned), text });
    }

    /// Adds a variable. If the file sets it twice, a blank value is ignored. If neither value is blank, different values are a
    /// problem.
    fn add(&mut self, name: &str, value: String, line: usize) {
        if value.contains('\0') {
            return self.refuse(line, Some(name), "has a NUL character");
        }
        let new = Variable { name: name.to_owned(), value, line };
        let Some(old) = self.variables.iter_mut().find(|variable| variable.name == name) else {
            return self.variables.push(new);
        };
        let (is_blank, was_blank) = (new.value.trim().is_empty(), old.value.trim().is_empty());
        if was_blank {
            *old = new;
        } else if !is_blank && old.value != new.value {
            // Some programs use the first value, others the last, so two values are refused.
            let why = format!("has another value in line {}: remove one of them", old.line);
            self.refuse(line, Some(name), &why);
        }
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Dotenv {
        parse(text, &|name| name.contains("PASSWORD") || name.contains("KEY"))
    }

    #[test]
    fn values_are_read_as_written() {
        for (text, wanted) in [
            ("A=b", "b"),
            ("\u{feff}A=b\r\n", "b"),
            ("  export\tA = b  ", "b"),
            ("A=", ""),
            ("A=   # comment", ""),
            ("A=b # comment", "b"),
            ("A=b#c", "b#c"),
            ("A=b=c", "b=c"),
            ("A='p$a ss\\ #w\"'", "p$a ss\\ #w\""),
            ("A='b' # comment", "b"),
            (r#"A="p\$a \"s\\s' #w""#, "p$a \"s\\s' #w"),
            ("A=\"b\\nc\"", "b\nc"),
            ("A='b\nc=d'\n", "b\nc=d"),
            (
                r#"A=["https://a.example", "https://b.example"]"#,
                r#"["https://a.example", "https://b.example"]"#,
            ),
            ("B=x\nA=${B}y${B}", "xyx"),
            ("B=x\nA=\"${B} y\"", "x y"),
            ("A=\nA=b\nA=", "b"),
            ("A=b\nA='b'", "b"),
        ] {
            let file = read_text(text);
            assert!(file.problems.is_empty(), "{text:?}: {:?}", file.problems);
            assert_eq!(file.get("A").map(|variable| &*variable.value), Some(wanted), "{text:?}");
        }
    }

    #[test]
    fn ambiguous_values_are_refused_with_their_line() {
        for (line, why) in [
            ("MY_PASSWORD=hunter2$x", "single quotes"),
            ("MY_PASSWORD=hunter2$", "single quotes"),
            ("MY_PASSWORD=$$hunter2", "single quotes"),
            ("MY_PASSWORD=hunter2${nowhere}x", "single quotes"),
            ("MY_PASSWORD=\"hunter2$x\"", "single quotes"),
            ("MY_PASSWORD=hunter2 #x", "single quotes"),
            ("MY_PASSWORD=hunter2 # x", "single quotes"),
            ("MY_PASSWORD=#hunter2", "single quotes"),
            ("NAME=hunter2 #1", "single quotes"),
            ("MY_PASSWORD=hunter2 hunter2", "has a space"),
            ("MY_PASSWORD=hun'ter2'", "has a quote"),
            ("MY_PASSWORD=hun\\ter2", "has a backslash"),
            ("MY_PASSWORD=\"hun\\ter2\"", "has a backslash"),
            ("MY_PASSWORD='hunter2", "no closing quote"),
            ("MY_PASSWORD=\"hunter2", "no closing quote"),
            ("MY_PASSWORD='hunter2'x", "after the closing quote"),
            ("MY_PASSWORD='hunter2'#x", "after the closing quote"),
            ("MY_PASSWORD=a\nMY_PASSWORD=hunter2", "another value in line 3"),
            ("hunter2", "write NAME=value"),
            ("MY-PASSWORD=hunter2", "write NAME=value"),
            ("=hunter2", "write NAME=value"),
        ] {
            let file = read_text(&format!("# a comment\n\n{line}\nLAST=x\n"));
            let [problem] = &file.problems[..] else { panic!("{line}: {:?}", file.problems) };
            let number = 3 + line.matches('\n').count();
            assert!(
                problem.text.starts_with(&format!("line {number} of .env cannot be read: ")),
                "{problem:?}"
            );
            assert!(problem.text.contains(why) && !problem.text.contains("hunter2"), "{line}: {problem:?}");
            assert_eq!(file.get("LAST").map(|variable| variable.line), Some(number + 1), "{line}");
        }
    }

    #[test]
    fn lines_are_counted_across_quoted_values() {
        let file = read_text("A='1\n2\n3'\r\nB=\"x\ny\"\nC=z");
        let lines: Vec<_> = file.variables.iter().map(|variable| variable.line).collect();
        assert_eq!(lines, [1, 4, 6]);
    }
}
