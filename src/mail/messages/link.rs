//! The messages with a single-use link.

use std::fmt;

use chrono::Duration;

use super::content::{Button, EmailContent, RenderedEmail};
use crate::error::Result;

/// A message with a link. In its texts, `{product}` is the name of the product.
#[derive(Debug)]
pub struct LinkEmail {
    /// Path of the page that the link leads to: below `FRONTEND_URL`, or below `/account` of the API if that is not set.
    pub page: &'static str,
    /// How long the link works.
    pub lifetime: Lifetime,
    subject: &'static str,
    text: &'static str,
    button: &'static str,
    reason: &'static str,
}

/// Asks a user to confirm the address of a new account.
pub static VERIFY_EMAIL: LinkEmail = LinkEmail {
    page: "verify-email",
    lifetime: Lifetime::Hours(24),
    subject: "Confirm your email address",
    text: "Please confirm that this is your email address.",
    button: "Confirm address",
    reason: "You receive this mail because your address was used to register at {product}. If you did not \
             register, you can ignore this mail.",
};

/// Lets a user replace a forgotten password.
pub static RESET_PASSWORD: LinkEmail = LinkEmail {
    page: "reset-password",
    lifetime: Lifetime::Minutes(30),
    subject: "Reset your password",
    text: "A new password was requested for your account at {product}. If you requested it, choose one now.",
    button: "Choose a new password",
    reason: "If you did not request this, you can ignore this mail: your password stays the same.",
};

/// Invites a person to create an account. The link sets the password.
pub static INVITE: LinkEmail = LinkEmail {
    page: "accept-invite",
    lifetime: Lifetime::Days(7),
    subject: "You are invited to {product}",
    text: "You have been invited to {product}. Choose a password to create your account.",
    button: "Accept the invitation",
    reason: "You receive this mail because an administrator of {product} invited you. If you do not expect an \
             invitation, you can ignore this mail.",
};

/// Asks a user to confirm the new address of an account.
pub static CONFIRM_NEW_EMAIL: LinkEmail = LinkEmail {
    page: "confirm-email",
    lifetime: Lifetime::Hours(24),
    subject: "Confirm your new email address",
    text: "Please confirm that your account at {product} should use this address.",
    button: "Use this address",
    reason: "You receive this mail because your address was entered as the new address of an account at {product}. \
             If you did not do this, you can ignore this mail: nothing changes.",
};

impl LinkEmail {
    /// Renders the message with its link. `name` is the name in the greeting. It must be `None` if the address may
    /// belong to another person, because a stranger may have chosen the name.
    ///
    /// # Errors
    /// If a template fails.
    pub fn render(&self, product: &str, name: Option<&str>, link: &str) -> Result<RenderedEmail> {
        let fill = |text: &str| text.replace("{product}", product);
        EmailContent {
            subject: fill(self.subject),
            name,
            paragraphs: vec![fill(self.text)],
            button: Some(Button {
                label: self.button,
                link,
                lifetime: format!("The link works once, within {}.", self.lifetime),
            }),
            reason: fill(self.reason),
        }
        .render(product)
    }
}

/// How long a link works, in the unit that the message states.
#[derive(Debug, Clone, Copy)]
pub enum Lifetime {
    Minutes(u16),
    Hours(u16),
    Days(u16),
}

impl Lifetime {
    pub fn duration(self) -> Duration {
        match self {
            Self::Minutes(n) => Duration::minutes(n.into()),
            Self::Hours(n) => Duration::hours(n.into()),
            Self::Days(n) => Duration::days(n.into()),
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, unit) = match self {
            Self::Minutes(n) => (n, "minute"),
            Self::Hours(n) => (n, "hour"),
            Self::Days(n) => (n, "day"),
        };
        write!(f, "{n} {unit}{}", if *n == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "https://app.example.com/verify-email#token=abc";

    #[test]
    fn the_link_is_in_both_versions() {
        for email in [&VERIFY_EMAIL, &RESET_PASSWORD, &INVITE, &CONFIRM_NEW_EMAIL] {
            let RenderedEmail { subject, text, html } = email.render("Acme", Some("Ada"), LINK).unwrap();
            assert!(text.contains(&format!("\n{LINK}\n")), "{text}");
            assert!(html.contains(&format!("href=\"{LINK}\"")), "{html}");
            assert!(html.contains(&format!(">{LINK}</a>")), "{html}");
            assert!(text.contains("Acme") && html.contains("Acme"));
            assert!(!subject.is_empty() && html.contains(&subject));
            assert!(!text.contains("\n\n\n") && !text.contains("{product}"), "{text:?}");
            assert!(text.contains("Hello Ada,"), "{text}");
            assert!(email.render("Acme", None, LINK).unwrap().text.starts_with("Hello,\n"));
        }
    }

    #[test]
    fn the_lifetime_is_stated() {
        let text = RESET_PASSWORD.render("Acme", None, LINK).unwrap().text;
        assert!(text.contains("within 30 minutes."), "{text}");
        assert_eq!(Lifetime::Days(1).to_string(), "1 day");
        assert_eq!(Lifetime::Hours(24).duration(), Duration::days(1));
    }

    #[test]
    fn html_is_escaped_and_text_is_not() {
        let email = RESET_PASSWORD.render("R&D", Some("Ada <b>\"O'Hara\""), LINK).unwrap();
        assert!(
            email.text.contains("Hello Ada <b>\"O'Hara\",") && email.text.contains("R&D"),
            "{}",
            email.text
        );
        assert!(!email.html.contains("<b>") && !email.html.contains("R&D"), "{}", email.html);
        assert!(email.html.contains("Ada &#60;b&#62;"), "{}", email.html);
    }

    #[test]
    fn a_name_with_a_link_is_left_out() {
        let email = RESET_PASSWORD.render("Acme", Some("evil.example"), LINK).unwrap();
        assert!(email.text.starts_with("Hello,\n"), "{}", email.text);
        assert!(!email.text.contains("evil") && !email.html.contains("evil"));
    }
}
