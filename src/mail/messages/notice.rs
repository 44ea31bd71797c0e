//! Notices: messages about a change to an account or an organization.

use serde::{Deserialize, Serialize};

use super::content::{EmailContent, RenderedEmail, one_line};
use crate::error::Result;

/// Maximum length of a valid email address (RFC 5321 section 4.5.3.1.3).
const MAX_EMAIL_CHARS: usize = 254;
const IF_NOT_YOU: &str = "If this was not you, reset your password at once.";
/// Maximum length of the name of an organization in a mail.
const MAX_ORGANIZATION_CHARS: usize = 100;
/// Replaces the name of an organization in a mail to an unverified address.
const HIDDEN: &str = "an organization";
const HIDDEN_MEMBER: &str = "another member";
/// Replaces the address of an invited person, at the beginning of a sentence.
const HIDDEN_GUEST: &str = "The invited person";
/// Maximum length of the name of an API key in a mail.
const MAX_KEY_CHARS: usize = 100;
const HIDDEN_KEY: &str = "(hidden)";

/// A change that a user is notified about, because another person may have made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    PasswordChanged,
    /// The password was set through the link in a mail.
    PasswordReset,
    EmailChangeRequested {
        /// `None` if the recipient's address is not verified, so that the recipient may not be the user.
        new_email: Option<String>,
    },
    EmailChanged {
        /// As in [`Self::EmailChangeRequested`].
        new_email: Option<String>,
    },
    TwoFactorEnabled,
    TwoFactorDisabled,
    RecoveryCodeUsed,
    /// A session was revoked because one of its used refresh tokens was presented again.
    SessionRevoked,
    DeletionScheduled {
        /// The date in words, such as `3 May 2026`.
        on: String,
    },
    AccountDeleted,
    /// The recipient is an admin now.
    AdminRoleGranted,
    /// For the other admins: a user became an admin, or was invited as an admin.
    AdminAdded {
        email: String,
        /// The address of the admin who has made the change; `None` for the operator of the server.
        by: Option<String>,
    },
    /// For the old owner.
    OrganizationTransferred {
        organization: String,
        /// The address of the new owner.
        to: String,
    },
    /// For the new owner.
    OrganizationReceived {
        organization: String,
        /// The address of the old owner.
        from: String,
    },
    /// For the owner and the admins of the organization.
    OrganizationDeletionScheduled {
        organization: String,
        /// As in [`Self::DeletionScheduled`].
        on: String,
    },
    /// For the member who was removed.
    MemberRemoved {
        organization: String,
    },
    /// For the inviter.
    InvitationAccepted {
        organization: String,
        /// The invited address.
        email: String,
    },
    /// For the inviter.
    InvitationDeclined {
        organization: String,
        /// The invited address.
        email: String,
    },
    /// For the creator of the key and the owner of the organization, like the other notices about keys.
    ApiKeyCreated {
        organization: String,
        /// The name of the key.
        key: String,
        /// The address of the creator.
        by: String,
        /// The date in words; `None` if the key does not expire.
        expires_on: Option<String>,
    },
    ApiKeyExpires {
        organization: String,
        key: String,
        /// As in [`Self::DeletionScheduled`].
        on: String,
    },
    /// The key was reported as leaked, so it was revoked.
    ApiKeyLeaked {
        organization: String,
        key: String,
        /// True if only the secret from before the last rotation was revoked, and the current secret stays valid.
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

    /// Returns the notice without what the user has entered, for an address that the user has not verified.
    pub fn without_input(self) -> Self {
        match self {
            Self::EmailChangeRequested { .. } => Self::EmailChangeRequested { new_email: None },
            Self::EmailChanged { .. } => Self::EmailChanged { new_email: None },
            Self::OrganizationTransferred { .. } => {
                Self::OrganizationTransferred { organization: HIDDEN.into(), to: HIDDEN_MEMBER.into() }
            }
            Self::OrganizationReceived { .. } => {
                Self::OrganizationReceived { organization: HIDDEN.into(), from: HIDDEN_MEMBER.into() }
            }
            Self::OrganizationDeletionScheduled { on, .. } => {
                Self::OrganizationDeletionScheduled { organization: HIDDEN.into(), on }
            }
            Self::MemberRemoved { .. } => Self::MemberRemoved { organization: HIDDEN.into() },
            Self::InvitationAccepted { .. } => {
                Self::InvitationAccepted { organization: HIDDEN.into(), email: HIDDEN_GUEST.into() }
            }
            Self::InvitationDeclined { .. } => {
                Self::InvitationDeclined { organization: HIDDEN.into(), email: HIDDEN_GUEST.into() }
            }
            Self::ApiKeyCreated { expires_on, .. } => Self::ApiKeyCreated {
                organization: HIDDEN.into(),
                key: HIDDEN_KEY.into(),
                by: HIDDEN_MEMBER.into(),
                expires_on,
            },
            Self::ApiKeyExpires { on, .. } => {
                Self::ApiKeyExpires { organization: HIDDEN.into(), key: HIDDEN_KEY.into(), on }
            }
            Self::ApiKeyLeaked { present_is_valid, .. } => {
                Self::ApiKeyLeaked { organization: HIDDEN.into(), key: HIDDEN_KEY.into(), present_is_valid }
            }
            other => other,
        }
    }

    /// Renders the notice. A notice has no link, so that users do not learn to follow links in such mails.
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

    /// Returns the subject, what happened, and what to do about it.
    fn text(&self, product: &str) -> (&'static str, String, &'static str) {
        let account = format!("your account at {product}");
        match self {
            Self::PasswordChanged => {
                ("Your password was changed", format!("The password of {account} was changed."), IF_NOT_YOU)
            }
            Self::PasswordReset => (
                "Your password was reset",
                format!("The password of {account} was reset through a link sent to this address."),
                "If this was not you, another person can read your mail: change the password of your mailbox first, \
                 then reset this one.",
            ),
            Self::EmailChangeRequested { new_email } => (
                "Your email address is about to change",
                format!(
                    "A change of the email address of {account}{} was requested. It takes effect when the new \
                     address is confirmed.",
                    with_prefix(" to ", new_email.as_deref())
                ),
                IF_NOT_YOU,
            ),
            Self::EmailChanged { new_email } => (
                "Your email address was changed",
                format!(
                    "The email address of {account} was changed{}.",
                    with_prefix(" to ", new_email.as_deref())
                ),
                "If this was not you, ask for help at once: you can no longer reset the password from this address.",
            ),
            Self::TwoFactorEnabled => (
                "Two-factor sign-in was switched on",
                format!("From now on, signing in to {account} requires a code besides the password."),
                IF_NOT_YOU,
            ),
            Self::TwoFactorDisabled => (
                "Two-factor sign-in was switched off",
                format!("From now on, signing in to {account} requires only the password."),
                IF_NOT_YOU,
            ),
            Self::RecoveryCodeUsed => (
                "A recovery code was used",
                format!("A recovery code was used to sign in to {account}. It cannot be used again."),
                IF_NOT_YOU,
            ),
            Self::SessionRevoked => (
                "You were signed out for safety",
                format!(
                    "A session of {account} was ended because an old token of it was used again. The token may have \
                     been stolen."
                ),
                "Sign in again to continue. If this happens again, reset your password.",
            ),
            Self::DeletionScheduled { on } => (
                "Your account will be deleted",
                format!("As requested, {account} will be deleted on {on}. To keep it, sign in before then."),
                IF_NOT_YOU,
            ),
            Self::AccountDeleted => (
                "Your account was deleted",
                format!("Your account at {product} was deleted."),
                "This is the last mail about it.",
            ),
            Self::AdminRoleGranted => (
                "You are an administrator now",
                format!(
                    "You are an administrator of {product} now. All your sessions were ended: sign in again."
                ),
                "If you do not expect this, tell another administrator.",
            ),
            Self::AdminAdded { email, by } => (
                "There is a new administrator",
                format!(
                    "{} was made an administrator of {product}{}.",
                    one_line(email, MAX_EMAIL_CHARS),
                    with_prefix(" by ", by.as_deref().or(Some("the operator of the server")))
                ),
                "If you do not expect this, take the role away, and reset your password if it was done in your name.",
            ),
            Self::OrganizationTransferred { organization, to } => (
                "An organization was transferred",
                format!(
                    "You have transferred {} at {product} to {}. You are an admin of it now.",
                    named(organization),
                    one_line(to, MAX_EMAIL_CHARS)
                ),
                IF_NOT_YOU,
            ),
            Self::OrganizationReceived { organization, from } => (
                "You are the owner of an organization now",
                format!(
                    "{} at {product} was transferred to you by {}.",
                    named(organization),
                    one_line(from, MAX_EMAIL_CHARS)
                ),
                "If you do not want it, transfer it to another member, or delete it.",
            ),
            Self::OrganizationDeletionScheduled { organization, on } => (
                "An organization will be deleted",
                format!(
                    "{} at {product} will be deleted on {on}, as its owner has requested. Until then, the owner can restore \
                     it.",
                    named(organization)
                ),
                "If you do not expect this, ask the owner. If you are the owner and have not requested it, reset your password \
                 at once and restore the organization.",
            ),
            Self::MemberRemoved { organization } => (
                "You were removed from an organization",
                format!("You are no longer a member of {} at {product}.", named(organization)),
                "If you do not expect this, ask an admin of the organization.",
            ),
            Self::InvitationAccepted { organization, email } => (
                "Your invitation was accepted",
                format!(
                    "{} has accepted your invitation to {} at {product}, and is a member now.",
                    one_line(email, MAX_EMAIL_CHARS),
                    named(organization)
                ),
                "If you do not expect this, remove the member, and reset your password if the invitation was sent in your \
                 name.",
            ),
            Self::InvitationDeclined { organization, email } => (
                "Your invitation was declined",
                format!(
                    "{} has declined your invitation to {} at {product}.",
                    one_line(email, MAX_EMAIL_CHARS),
                    named(organization)
                ),
                "You do not have to do anything.",
            ),
            Self::ApiKeyCreated { organization, key, by, expires_on } => (
                "An API key was created",
                format!(
                    "{} has created the API key {} of {} at {product}. It {}.",
                    one_line(by, MAX_EMAIL_CHARS),
                    one_line(key, MAX_KEY_CHARS),
                    named(organization),
                    match expires_on {
                        Some(on) => format!("expires on {on}"),
                        None => "does not expire".to_owned(),
                    }
                ),
                "If you do not expect this, revoke the key at once. If it was created in your name, reset your password, too.",
            ),
            Self::ApiKeyExpires { organization, key, on } => (
                "An API key expires soon",
                format!(
                    "The API key {} of {} at {product} expires on {on}. Programs that use it are refused from then on.",
                    one_line(key, MAX_KEY_CHARS),
                    named(organization)
                ),
                "If it is still needed, rotate it before then, and give the new key to the programs that use it.",
            ),
            Self::ApiKeyLeaked { organization, key, present_is_valid } => (
                "A leaked API key was revoked",
                format!(
                    "The API key {} of {} at {product} was found in a public place. {}",
                    one_line(key, MAX_KEY_CHARS),
                    named(organization),
                    match present_is_valid {
                        true =>
                            "It is the key from before the last rotation, and was revoked. The present key stays valid.",
                        false => "It was revoked: programs that use it are refused.",
                    }
                ),
                "Remove it from the place where it was found. The audit trail of the organization shows what was done with it.",
            ),
        }
    }
}

/// Returns the name of an organization on one line.
fn named(organization: &str) -> String {
    one_line(organization, MAX_ORGANIZATION_CHARS)
}

/// Returns `prefix` followed by the address on one line, or an empty string without an address.
fn with_prefix(prefix: &str, address: Option<&str>) -> String {
    address.map(|address| format!("{prefix}{}", one_line(address, MAX_EMAIL_CHARS))).unwrap_or_default()
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
        for what in notices {
            let email = what.render("Acme", Some("Ada")).unwrap();
            let (_, news, advice) = what.text("Acme");
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
    fn an_unverified_recipient_gets_no_text_of_the_user() {
        let new_email = Some("call-0900@example.com".to_owned());
        for notice in [
            Notice::EmailChangeRequested { new_email: new_email.clone() },
            Notice::EmailChanged { new_email },
        ] {
            let email = notice.without_input().render("Acme", None).unwrap();
            assert!(!email.text.contains("0900") && !email.html.contains("0900"), "{}", email.text);
            assert!(email.text.contains("email address of your account at Acme was"), "{}", email.text);
        }
    }

    #[test]
    fn an_unverified_recipient_does_not_get_the_name_of_an_organization() {
        let (organization, member) = ("Call 0900".to_owned(), "call-0900@example.com".to_owned());
        let guest = member.clone();
        for notice in [
            Notice::OrganizationTransferred { organization: organization.clone(), to: member.clone() },
            Notice::OrganizationReceived { organization: organization.clone(), from: member },
            Notice::OrganizationDeletionScheduled {
                organization: organization.clone(),
                on: "3 May 2026".into(),
            },
            Notice::MemberRemoved { organization: organization.clone() },
            Notice::InvitationAccepted { organization: organization.clone(), email: guest.clone() },
            Notice::InvitationDeclined { organization: organization.clone(), email: guest },
            Notice::ApiKeyCreated {
                organization: organization.clone(),
                key: organization.clone(),
                by: "call-0900@example.com".into(),
                expires_on: None,
            },
            Notice::ApiKeyExpires {
                organization: organization.clone(),
                key: organization.clone(),
                on: "3 May 2026".into(),
            },
            Notice::ApiKeyLeaked {
                organization: organization.clone(),
                key: organization,
                present_is_valid: false,
            },
        ] {
            let email = notice.without_input().render("Acme", None).unwrap();
            assert!(!email.text.contains("0900") && !email.html.contains("0900"), "{}", email.text);
        }
    }

    #[test]
    fn an_address_is_escaped_in_html() {
        let new_email = Some("\"<i>\"@example.com".to_owned());
        let email = Notice::EmailChanged { new_email }.render("Acme", None).unwrap();
        assert!(email.text.contains("<i>") && !email.html.contains("<i>"));
    }
}
