//! The mail with an invitation to an organization.

use chrono::{DateTime, Utc};

use super::content::{Button, EmailContent, RenderedEmail, printable_name};
use crate::error::Result;

/// Path of the page that the link leads to: below `FRONTEND_URL`, or below `/account` of the API if that is not set.
pub const PAGE: &str = "invitation";

/// Invites a person to an organization. The person may have no account yet.
///
/// The recipient may be a stranger to the inviter, so a name that looks like a link is replaced by "an organization" or "A
/// member".
#[derive(Debug)]
pub struct OrgInvitation<'a> {
    /// The name of the organization. `None` if the inviter's address is not verified: an inviter without a verified address must
    /// not send text to strangers.
    pub organization: Option<&'a str>,
    /// The name of the inviter. `None` if the inviter has no name or no verified address.
    pub inviter: Option<&'a str>,
    pub expires_at: DateTime<Utc>,
}

impl OrgInvitation<'_> {
    /// Renders the invitation with its link.
    ///
    /// # Errors
    /// If a template fails.
    pub fn render(&self, product: &str, link: &str) -> Result<RenderedEmail> {
        let organization = self.organization.and_then(printable_name);
        let organization = organization.as_deref().unwrap_or("an organization");
        let inviter = self.inviter.and_then(printable_name);
        let inviter = inviter.as_deref().unwrap_or("A member");
        EmailContent {
            subject: format!("You are invited to join {organization}"),
            name: None,
            paragraphs: vec![format!("{inviter} invites you to join {organization} at {product}.")],
            button: Some(Button {
                label: "View the invitation",
                link,
                lifetime: format!("The link works once, until {}.", self.expires_at.format("%-d %B %Y")),
            }),
            reason: format!(
                "You receive this mail because a member of an organization at {product} has entered your address. If you do \
                 not expect an invitation, you can ignore this mail: nothing happens unless you accept."
            ),
        }
        .render(product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "https://app.example.com/invitation#token=abc";

    fn render(organization: Option<&str>, inviter: Option<&str>) -> RenderedEmail {
        let expires_at = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        OrgInvitation { organization, inviter, expires_at }.render("Product", LINK).unwrap()
    }

    #[test]
    fn both_versions_have_the_names_the_link_and_the_last_day() {
        let RenderedEmail { subject, text, html } = render(Some("Acme"), Some("Ada"));
        assert_eq!(subject, "You are invited to join Acme");
        for version in [&text, &html] {
            assert!(version.contains("Ada invites you to join Acme at Product."), "{version}");
            assert!(version.contains(LINK) && version.contains("until 1 January 2026."), "{version}");
        }
    }

    #[test]
    fn names_are_escaped_and_a_name_with_a_link_is_left_out() {
        let email = render(Some("R&D <b>"), Some("Ada\r\nBcc: eve"));
        assert!(email.html.contains("R&#38;D &#60;b&#62;") && !email.html.contains("<b>"), "{}", email.html);
        assert!(!email.subject.contains('\n') && !email.text.contains("\nBcc"), "{}", email.text);
        for (organization, inviter) in
            [(Some("Prizes at evil.example"), Some("www.evil")), (None, Some("https://evil.example"))]
        {
            let email = render(organization, inviter);
            assert_eq!(email.subject, "You are invited to join an organization");
            assert!(email.text.contains("A member invites you to join an organization at Product."));
            assert!(!email.text.contains("evil") && !email.html.contains("evil"), "{}", email.text);
        }
    }
}
