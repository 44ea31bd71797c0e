use askama::Template;

use crate::error::{Error, Result};

/// Maximum length of a name that [`printable_name`] returns.
const MAX_NAME_CHARS: usize = 60;

/// A rendered message, as text and as HTML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedEmail {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// The content of a message, from which both the text version and the HTML version are rendered.
pub(super) struct EmailContent<'a> {
    pub(super) subject: String,
    /// The name in the greeting, or `None` for a greeting without a name. A name that [`printable_name`] refuses is omitted,
    /// too.
    pub(super) name: Option<&'a str>,
    pub(super) paragraphs: Vec<String>,
    pub(super) button: Option<Button<'a>>,
    /// Why the recipient receives this message.
    pub(super) reason: String,
}

/// A link with a label.
pub(super) struct Button<'a> {
    pub(super) label: &'static str,
    pub(super) link: &'a str,
    /// A sentence that says how long the link works.
    pub(super) lifetime: String,
}

#[derive(Template)]
#[template(path = "mail/templates/message.html", config = "src/askama.toml")]
struct Html<'a> {
    product: &'a str,
    greeting: &'a str,
    content: &'a EmailContent<'a>,
}

#[derive(Template)]
#[template(path = "mail/templates/message.txt", config = "src/askama.toml")]
struct Text<'a> {
    product: &'a str,
    greeting: &'a str,
    content: &'a EmailContent<'a>,
}

impl EmailContent<'_> {
    /// Renders the message. `product` is `PROJECT_NAME`.
    ///
    /// # Errors
    /// If a template fails.
    pub(super) fn render(self, product: &str) -> Result<RenderedEmail> {
        let greeting = match self.name.and_then(printable_name) {
            Some(name) => format!("Hello {name},"),
            None => "Hello,".to_owned(),
        };
        let html = Html { product, greeting: &greeting, content: &self }.render().map_err(Error::internal)?;
        let text = Text { product, greeting: &greeting, content: &self }.render().map_err(Error::internal)?;
        Ok(RenderedEmail { subject: self.subject, text, html })
    }
}

/// Returns the name in one line of at most [`MAX_NAME_CHARS`] characters. Returns `None` if the name is empty or looks like a
/// link: it contains a slash, a backslash, `www.` or a domain.
///
/// Users choose their name and the names of their organizations. An invitation to an organization sends these names to a
/// stranger, so names with links would allow spam.
pub(super) fn printable_name(name: &str) -> Option<String> {
    let line = one_line(name, usize::MAX);
    let lower = line.to_lowercase().replace(['\u{3002}', '\u{ff0e}', '\u{ff61}'], ".");
    // Mail readers turn bare domains into links. A domain has at least two letters or digits directly after a dot. "J. Smith"
    // and "J.R. Smith" have at most one. Domains can be written with other dots, too (UTS #46).
    let is_domain_end = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric()).count() >= 2;
    let has_link =
        lower.contains(['/', '\\']) || lower.contains("www.") || lower.split('.').skip(1).any(is_domain_end);
    let name = one_line(&line, MAX_NAME_CHARS);
    (!has_link && !name.is_empty()).then_some(name)
}

/// Returns the text in one line of at most `max_chars` characters. Replaces each run of control characters and white space
/// by one space, and removes these characters at both ends. Removes marks that change the writing direction.
pub(super) fn one_line(text: &str, max_chars: usize) -> String {
    let is_direction_mark = |c: &char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain: String = text
        .chars()
        .filter(|c| !is_direction_mark(c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words: Vec<_> = plain.split_whitespace().collect();
    words.join(" ").chars().take(max_chars).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_and_stays_in_one_line() {
        assert_eq!(printable_name("Ada\r\n\u{2028}\tLovelace\0").unwrap(), "Ada Lovelace");
        for mark in ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}'] {
            assert_eq!(printable_name(&format!("Ada {mark}ecalevoL")).unwrap(), "Ada ecalevoL", "{mark:?}");
        }
        assert_eq!(printable_name(&"ä".repeat(80)).unwrap().chars().count(), MAX_NAME_CHARS);
        assert_eq!(printable_name(" \n "), None);
    }

    #[test]
    fn a_name_with_a_link_is_not_printed() {
        for name in [
            "https://evil.example",
            "Go to WWW.evil",
            "evil.example",
            "evil。example",
            "evil．com",
            "x/y",
            "a\\b",
        ] {
            assert_eq!(printable_name(name), None, "{name}");
        }
        // A link after the point where the name is truncated counts too.
        assert_eq!(printable_name(&format!("{}https://evil.example", "x ".repeat(40))), None);
        for name in ["J.R.R. Tolkien", "Martin Luther King Jr.", "Dr. O'Neil-Müller", "李小龍"] {
            assert_eq!(printable_name(name).as_deref(), Some(name));
        }
    }
}
