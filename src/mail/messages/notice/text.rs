//! The texts of notices.

use super::Notice;
use crate::mail::messages::content::one_line;

/// Maximum length of an email address in a mail: a valid address has at most 254 octets (RFC 5321 section 4.5.3.1.3).
const MAX_EMAIL_CHARS: usize = 254;
const IF_NOT_YOU: &str = "If this was not you, reset your password at once.";
/// Maximum length of the name of an organization in a mail. The table allows the same length.
const MAX_ORGANIZATION_CHARS: usize = 100;
/// Maximum length of the name of an API key in a mail. The table allows the same length.
const MAX_KEY_CHARS: usize = 100;

impl Notice {
    /// Returns the subject, a paragraph about the event, and a paragraph with advice.
    pub(super) fn text(&self, product: &str) -> (&'static str, String, &'static str) {
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
                    org_name(organization),
                    one_line(to, MAX_EMAIL_CHARS)
                ),
                IF_NOT_YOU,
            ),
            Self::OrganizationReceived { organization, from } => (
                "You are the owner of an organization now",
                format!(
                    "{} at {product} was transferred to you by {}.",
                    org_name(organization),
                    one_line(from, MAX_EMAIL_CHARS)
                ),
                "If you do not want it, transfer it to another member, or delete it.",
            ),
            Self::OrganizationDeletionScheduled { organization, on } => (
                "An organization will be deleted",
                format!(
                    "{} at {product} will be deleted on {on}, as its owner has requested. Until then, the owner can restore \
                     it.",
                    org_name(organization)
                ),
                "If you do not expect this, ask the owner. If you are the owner and have not requested it, reset your password \
                 at once and restore the organization.",
            ),
            Self::MemberRemoved { organization } => (
                "You were removed from an organization",
                format!("You are no longer a member of {} at {product}.", org_name(organization)),
                "If you do not expect this, ask an admin of the organization.",
            ),
            Self::InvitationAccepted { organization, email } => (
                "Your invitation was accepted",
                format!(
                    "{} has accepted your invitation to {} at {product}, and is a member now.",
                    one_line(email, MAX_EMAIL_CHARS),
                    org_name(organization)
                ),
                "If you do not expect this, remove the member, and reset your password if the invitation was sent in your \
                 name.",
            ),
            Self::InvitationDeclined { organization, email } => (
                "Your invitation was declined",
                format!(
                    "{} has declined your invitation to {} at {product}.",
                    one_line(email, MAX_EMAIL_CHARS),
                    org_name(organization)
                ),
                "You do not have to do anything.",
            ),
            Self::ApiKeyCreated { organization, key, by, expires_on } => (
                "An API key was created",
                format!(
                    "{} has created the API key {} of {} at {product}. It {}.",
                    one_line(by, MAX_EMAIL_CHARS),
                    one_line(key, MAX_KEY_CHARS),
                    org_name(organization),
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
                    org_name(organization)
                ),
                "If it is still needed, rotate it before then, and give the new key to the programs that use it.",
            ),
            Self::ApiKeyLeaked { organization, key, present_is_valid } => (
                "A leaked API key was revoked",
                format!(
                    "The API key {} of {} at {product} was found in a public place. {}",
                    one_line(key, MAX_KEY_CHARS),
                    org_name(organization),
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
fn org_name(organization: &str) -> String {
    one_line(organization, MAX_ORGANIZATION_CHARS)
}

/// Returns `prefix` followed by the text on one line, or an empty string without a text.
fn with_prefix(prefix: &str, text: Option<&str>) -> String {
    text.map(|text| format!("{prefix}{}", one_line(text, MAX_EMAIL_CHARS))).unwrap_or_default()
}
