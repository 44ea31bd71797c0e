//! Notices: messages about an event of an account or an organization, without a link.

mod text;
mod unverified;

use serde::{Deserialize, Serialize};

use super::content::{EmailContent, RenderedEmail};
use crate::error::Result;

/// An event that a user is notified about by mail, such as a change that another person may have made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    PasswordChanged,
    /// The password was set through a link in a mail.
    PasswordReset,
    EmailChangeRequested {
        /// `None` if the address of the recipient is not verified. The recipient may then be another person than the
        /// user.
        new_email: Option<String>,
    },
    /// Sent to the old address.
    EmailChanged {
        /// As in [`Self::EmailChangeRequested`].
        new_email: Option<String>,
    },
    TwoFactorEnabled,
    TwoFactorDisabled,
    RecoveryCodeUsed,
    /// A session was revoked because a client presented a refresh token that was already used.
    SessionRevoked,
    DeletionScheduled {
        /// The date of the deletion in words, such as `3 May 2026`.
        on: String,
    },
    AccountDeleted,
    /// The recipient is an admin now.
    AdminRoleGranted,
    /// Sent to the other active admins with a verified address: a user became an admin, or was invited as an admin.
    AdminAdded {
        email: String,
        /// The address of the admin who has made the change. `None` if the operator of the server has made it by a
        /// command.
        by: Option<String>,
    },
    /// Sent to the old owner.
    OrganizationTransferred {
        organization: String,
        /// The address of the new owner.
        to: String,
    },
    /// Sent to the new owner.
    OrganizationReceived {
        organization: String,
        /// The address of the old owner.
        from: String,
    },
    /// Sent to the owner and the active admins of the organization.
    OrganizationDeletionScheduled {
        organization: String,
        /// As in [`Self::DeletionScheduled`].
        on: String,
    },
    /// Sent to the member who was removed.
    MemberRemoved {
        organization: String,
    },
    /// Sent to the inviter.
    InvitationAccepted {
        organization: String,
        /// The invited address.
        email: String,
    },
    /// Sent to the inviter.
    InvitationDeclined {
        organization: String,
        /// The invited address.
        email: String,
    },
    /// Sent to the creator of the key and to the owner of the organization, like the other notices about keys.
    /// `services/api_key_notices.rs` leaves out some users, such as a suspended member.
    ApiKeyCreated {
        organization: String,
        /// The name of the key.
        key: String,
        /// The address of the creator.
        by: String,
        /// The date of the expiry in words. `None` if the key does not expire.
        expires_on: Option<String>,
    },
    ApiKeyExpires {
        organization: String,
        key: String,
        /// The date of the expiry in words.
        on: String,
    },
    /// A secret of the key was reported as leaked, and was revoked.
    ApiKeyLeaked {
        organization: String,
        key: String,
        /// Whether the current secret stays valid, because only the secret from before the last rotation has leaked.
        /// If false, the whole key was revoked.
        present_is_valid: bool,
    },
}

impl Notice {
    /// Returns whether release 0.1.0 can read the notice.
    pub fn is_known_to_0_1_0(&self) -> bool {
        matches!(
            self,
            Self::PasswordChanged
                | Self::PasswordReset
                | Self::EmailChangeRequested { .. }
                | Self::EmailChanged { .. }
                | Self::TwoFactorEnabled
                | Self::TwoFactorDisabled
                | Self::RecoveryCodeUsed
                | Self::SessionRevoked
                | Self::DeletionScheduled { .. }
                | Self::AccountDeleted
                | Self::AdminRoleGranted
                | Self::AdminAdded { .. }
        )
    }

    /// Renders the notice. `name` is the name in the greeting. A notice has no link, so that users do not learn to follow links
    /// in mails about security.
    ///
    /// # Errors
    /// If a template fails.
    pub fn render(&self, product: &str, name: Option<&str>) -> Result<RenderedEmail> {
        let (subject, news, advice) = self.text(product);
        EmailContent {
            subject: subject.into(),
            name,
            paragraphs: vec![news, advice.into()],
            button: None,
            reason: format!(
                "You receive this mail because it concerns the security of your account at {product}. Such mails \
                 cannot be turned off."
            ),
        }
        .render(product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_have_no_link_and_their_text_is_in_both_versions() {
        let new_email = Some("eve@example.com".to_owned());
        let notices = [
            Notice::PasswordChanged,
            Notice::PasswordReset,
            Notice::EmailChangeRequested { new_email: new_email.clone() },
            Notice::EmailChanged { new_email },
            Notice::TwoFactorEnabled,
            Notice::TwoFactorDisabled,
            Notice::RecoveryCodeUsed,
            Notice::SessionRevoked,
            Notice::DeletionScheduled { on: "3 May 2026".into() },
            Notice::AccountDeleted,
            Notice::AdminRoleGranted,
            Notice::AdminAdded { email: "eve@example.com".into(), by: Some("ada@example.com".into()) },
            Notice::AdminAdded { email: "eve@example.com".into(), by: None },
            Notice::OrganizationTransferred { organization: "Beta".into(), to: "eve@example.com".into() },
            Notice::OrganizationReceived { organization: "Beta".into(), from: "eve@example.com".into() },
            Notice::OrganizationDeletionScheduled { organization: "Beta".into(), on: "3 May 2026".into() },
            Notice::MemberRemoved { organization: "Beta".into() },
            Notice::InvitationAccepted { organization: "Beta".into(), email: "eve@example.com".into() },
            Notice::InvitationDeclined { organization: "Beta".into(), email: "eve@example.com".into() },
            Notice::ApiKeyCreated {
                organization: "Beta".into(),
                key: "CI".into(),
                by: "eve@example.com".into(),
                expires_on: Some("3 May 2026".into()),
            },
            Notice::ApiKeyExpires { organization: "Beta".into(), key: "CI".into(), on: "3 May 2026".into() },
            Notice::ApiKeyLeaked { organization: "Beta".into(), key: "CI".into(), present_is_valid: true },
            Notice::ApiKeyLeaked { organization: "Beta".into(), key: "CI".into(), present_is_valid: false },
        ];
        for notice in notices {
            let email = notice.render("Acme", Some("Ada")).unwrap();
            let (_, news, advice) = notice.text("Acme");
            for version in [&email.text, &email.html] {
                assert!(version.contains(&news) && version.contains(advice), "{version}");
                assert!(version.contains("Hello Ada,") && !version.contains("http"), "{version}");
            }
        }
    }

    #[test]
    fn the_stored_names_of_notices_do_not_change() {
        let plain = serde_json::to_string(&Notice::PasswordChanged).unwrap();
        let with = serde_json::to_string(&Notice::EmailChanged { new_email: Some("a@b.c".into()) }).unwrap();
        assert_eq!(
            (&*plain, &*with),
            (r#""password_changed""#, r#"{"email_changed":{"new_email":"a@b.c"}}"#)
        );
    }

    #[test]
    fn an_address_is_escaped_in_html() {
        let new_email = Some("\"<i>\"@example.com".to_owned());
        let email = Notice::EmailChanged { new_email }.render("Acme", None).unwrap();
        assert!(email.text.contains("<i>") && !email.html.contains("<i>"));
    }
}
