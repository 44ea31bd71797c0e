//! The letters that accounts get: what each one says. How they look is in `templates/`.
//!
//! The words are written once and go into both versions, so that these cannot differ.

mod notice;

use askama::Template;

pub use notice::{Notice, notice};

use crate::error::{Error, Result};

/// The longest name that a letter greets.
const MAX_NAME_CHARS: usize = 60;

/// A letter, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// Goes to whoever has registered.
///
/// # Errors
/// When the template cannot be filled in; so with all letters.
pub fn verify_email(product: &str, name: Option<&str>, link: &str, hours: i64) -> Result<Letter> {
    Words {
        subject: "Confirm your email address".into(),
        name,
        paragraphs: vec![format!(
            "Please confirm that this is your address, so that {product} knows whom it writes to."
        )],
        button: Some(Button::new("Confirm address", link, &count(hours, "hour"))),
        reason: format!(
            "You get this mail because somebody registered at {product} with your address. If that was not \
             you, you can ignore it."
        ),
    }
    .letter(product)
}

/// Goes to whoever has asked for it, or for whom somebody has.
pub fn reset_password(product: &str, name: Option<&str>, link: &str, minutes: i64) -> Result<Letter> {
    Words {
        subject: "Reset your password".into(),
        name,
        paragraphs: vec![format!(
            "Somebody asked to reset the password of your account at {product}. If that was you, choose a \
             new one:"
        )],
        button: Some(Button::new("Choose a new password", link, &count(minutes, "minute"))),
        reason: "If you did not ask for this, you can ignore it: your password stays as it is.".into(),
    }
    .letter(product)
}

/// Goes to somebody who has no account yet.
pub fn invite(product: &str, link: &str, days: i64) -> Result<Letter> {
    Words {
        subject: format!("You are invited to {product}"),
        name: None,
        paragraphs: vec![format!(
            "You have been invited to {product}. Choose a password, and your account is ready:"
        )],
        button: Some(Button::new("Accept the invitation", link, &count(days, "day"))),
        reason: format!(
            "You get this mail because somebody at {product} entered your address. If you do not expect it, \
             you can ignore it."
        ),
    }
    .letter(product)
}

/// Goes to the new address.
pub fn confirm_new_email(product: &str, name: Option<&str>, link: &str, hours: i64) -> Result<Letter> {
    Words {
        subject: "Confirm your new email address".into(),
        name,
        paragraphs: vec![format!(
            "Please confirm that your account at {product} should use this address from now on."
        )],
        button: Some(Button::new("Use this address", link, &count(hours, "hour"))),
        reason: format!(
            "You get this mail because somebody wants to use your address for an account at {product}. If \
             that was not you, you can ignore it: nothing changes then."
        ),
    }
    .letter(product)
}

/// What a letter says, in both versions.
struct Words<'a> {
    subject: String,
    name: Option<&'a str>,
    paragraphs: Vec<String>,
    button: Option<Button<'a>>,
    /// Why one gets this mail.
    reason: String,
}

struct Button<'a> {
    label: &'static str,
    link: &'a str,
    life: String,
}

#[derive(Template)]
#[template(path = "mail/templates/letter.html", config = "src/askama.toml")]
struct Html<'a> {
    product: &'a str,
    greeting: &'a str,
    words: &'a Words<'a>,
}

#[derive(Template)]
#[template(path = "mail/templates/letter.txt", config = "src/askama.toml")]
struct Text<'a> {
    product: &'a str,
    greeting: &'a str,
    words: &'a Words<'a>,
}

impl<'a> Button<'a> {
    fn new(label: &'static str, link: &'a str, life: &str) -> Self {
        Self { label, link, life: format!("The link works once, within {life}.") }
    }
}

impl Words<'_> {
    fn letter(self, product: &str) -> Result<Letter> {
        let greeting = match self.name.and_then(printable_name) {
            Some(name) => format!("Hello {name},"),
            None => "Hello,".to_owned(),
        };
        let html = Html { product, greeting: &greeting, words: &self }.render().map_err(Error::internal)?;
        let text = Text { product, greeting: &greeting, words: &self }.render().map_err(Error::internal)?;
        Ok(Letter { subject: self.subject, text, html })
    }
}

fn count(number: i64, unit: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

/// The name, unless it could pass for a link.
///
/// Whoever registers chooses both the name and the address, so it could be a message to somebody else.
fn printable_name(name: &str) -> Option<String> {
    let line = one_line(name, usize::MAX);
    let lower = line.to_lowercase();
    // Mail readers make links of bare domains, too. An initial has one letter after the dot, or a space.
    let domain = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric()).count() >= 2;
    let link = lower.contains(['/', '\\']) || lower.contains("www.") || lower.split('.').skip(1).any(domain);
    let name = one_line(&line, MAX_NAME_CHARS);
    (!link && !name.is_empty()).then_some(name)
}

/// The text on one line, cut where it is too long, and without what would turn the direction of writing.
fn one_line(text: &str, max_chars: usize) -> String {
    let turns =
        |c: &char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain: String =
        text.chars().filter(|c| !turns(c)).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<_> = plain.split_whitespace().collect();
    words.join(" ").chars().take(max_chars).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "https://app.example.com/verify-email#token=abc";

    #[test]
    fn a_letter_with_a_link_has_it_in_both_versions() {
        let letters = [
            verify_email("Acme", Some("Ada"), LINK, 24),
            reset_password("Acme", Some("Ada"), LINK, 30),
            invite("Acme", LINK, 1),
            confirm_new_email("Acme", None, LINK, 24),
        ];
        for letter in letters.map(Result::unwrap) {
            assert!(letter.text.contains(&format!("\n{LINK}\n")), "{}", letter.text);
            assert!(letter.html.contains(&format!("href=\"{LINK}\"")), "{}", letter.html);
            assert!(letter.html.contains(&format!(">{LINK}</a>")), "{}", letter.html);
            assert!(letter.text.contains("Acme") && letter.html.contains("Acme"));
            assert!(!letter.subject.is_empty() && letter.html.contains(&letter.subject));
            assert!(!letter.text.contains("\n\n\n"), "{:?}", letter.text);
        }
    }

    #[test]
    fn a_life_is_in_the_singular_where_it_is_one() {
        assert!(invite("Acme", LINK, 1).unwrap().text.contains("within 1 day."));
        assert!(reset_password("Acme", None, LINK, 30).unwrap().text.contains("within 30 minutes."));
    }

    #[test]
    fn html_is_escaped_and_text_is_not() {
        let letter = verify_email("R&D", Some("Ada <b>\"O'Hara\""), LINK, 2).unwrap();
        assert!(
            letter.text.contains("Hello Ada <b>\"O'Hara\",") && letter.text.contains("R&D"),
            "{}",
            letter.text
        );
        assert!(!letter.html.contains("<b>") && !letter.html.contains("R&D"), "{}", letter.html);
        assert!(letter.html.contains("Ada &#60;b&#62;"), "{}", letter.html);
    }

    #[test]
    fn a_name_stays_on_its_line_and_is_cut() {
        assert_eq!(printable_name("Ada\r\n\u{2028}\tLovelace\0").unwrap(), "Ada Lovelace");
        assert_eq!(printable_name("Ada \u{202e}ecalevoL").unwrap(), "Ada ecalevoL");
        assert_eq!(printable_name(&"ä".repeat(80)).unwrap().chars().count(), MAX_NAME_CHARS);
        assert_eq!(printable_name(" \n "), None);
    }

    #[test]
    fn a_name_that_could_be_a_link_is_left_out() {
        for name in
            ["https://evil.example", "Go to WWW.evil", "evil.example", "Click evil.co/x", "a\\b", "x/y"]
        {
            let letter = reset_password("Acme", Some(name), LINK, 30).unwrap();
            assert!(letter.text.starts_with("Hello,\n"), "{}", letter.text);
            assert!(!letter.text.contains(name) && !letter.html.contains(name));
        }
        // A link that begins behind the place where a name is cut is one all the same.
        assert_eq!(printable_name(&format!("{}https://evil.example", "x ".repeat(40))), None);
        for name in ["J.R.R. Tolkien", "Martin Luther King Jr.", "Dr. O'Neil-Müller", "李小龍"] {
            assert_eq!(printable_name(name).as_deref(), Some(name));
        }
    }
}
