//! Notices: what has happened to an account.

use serde::{Deserialize, Serialize};

use super::{Letter, Words, one_line};
use crate::error::Result;

/// The longest address there is (RFC 5321 section 4.5.3.1.3).
const MAX_EMAIL_CHARS: usize = 254;

/// What has happened to an account, for its owner to know: it may not have been them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    PasswordChanged,
    /// Through the link of a mail.
    PasswordReset,
    EmailChangeRequested {
        new_email: String,
    },
    EmailChanged {
        new_email: String,
    },
    TwoFactorEnabled,
    TwoFactorDisabled,
    RecoveryCodeUsed,
    /// An old refresh token was used again, so all of its session was ended.
    SessionRevoked,
    DeletionScheduled {
        /// The date, as people write it.
        on: String,
    },
    AccountDeleted,
}

/// Has no link, so that nobody gets used to following one in such a mail.
pub fn notice(product: &str, name: Option<&str>, notice: &Notice) -> Result<Letter> {
    let (subject, news, advice) = tell(product, notice);
    Words {
        subject: subject.into(),
        name,
        paragraphs: vec![news, advice.into()],
        button: None,
        reason: format!(
            "You get this mail because it is about the safety of your account at {product}. Such mails \
             cannot be switched off."
        ),
    }
    .letter(product)
}

/// The subject, what has happened, and what to do about it.
fn tell(product: &str, notice: &Notice) -> (&'static str, String, &'static str) {
    let reset = "If this was not you, reset your password at once.";
    let account = format!("your account at {product}");
    match notice {
        Notice::PasswordChanged => {
            ("Your password was changed", format!("The password of {account} was changed."), reset)
        }
        Notice::PasswordReset => (
            "Your password was reset",
            format!("The password of {account} was reset, through a link mailed to this address."),
            "If this was not you, somebody else can read your mail: change the password of your mailbox \
             first, and then reset this one.",
        ),
        Notice::EmailChangeRequested { new_email } => (
            "Your email address is about to change",
            format!(
                "Somebody asked for {account} to use the address {}. It will, once that is confirmed there.",
                one_line(new_email, MAX_EMAIL_CHARS)
            ),
            reset,
        ),
        Notice::EmailChanged { new_email } => (
            "Your email address was changed",
            format!("The address of {account} is now {}.", one_line(new_email, MAX_EMAIL_CHARS)),
            "If this was not you, ask for help at once: this address can no longer reset the password.",
        ),
        Notice::TwoFactorEnabled => (
            "Two-factor sign-in was switched on",
            format!("From now on, signing in to {account} takes a code besides the password."),
            reset,
        ),
        Notice::TwoFactorDisabled => (
            "Two-factor sign-in was switched off",
            format!("From now on, signing in to {account} takes no code besides the password."),
            reset,
        ),
        Notice::RecoveryCodeUsed => (
            "A recovery code was used",
            format!("Somebody signed in to {account} with one of its recovery codes. It works only once."),
            reset,
        ),
        Notice::SessionRevoked => (
            "You were signed out for safety",
            format!(
                "A session of {account} was ended, because an old token of it was used again. Somebody may \
                 have copied it."
            ),
            "Sign in again to go on. If this happens again, reset your password.",
        ),
        Notice::DeletionScheduled { on } => (
            "Your account will be deleted",
            format!("As asked for, {account} will be deleted on {on}. Signing in before then keeps it."),
            reset,
        ),
        Notice::AccountDeleted => (
            "Your account was deleted",
            format!("Your account at {product} was deleted."),
            "This is the last mail about it.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_have_no_link_but_words_in_both_versions() {
        let new_email = "eve@example.com".to_owned();
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
        ];
        for what in notices {
            let letter = notice("Acme", Some("Ada"), &what).unwrap();
            let (_, news, advice) = tell("Acme", &what);
            for version in [&letter.text, &letter.html] {
                assert!(version.contains(&news) && version.contains(advice), "{version}");
                assert!(version.contains("Hello Ada,") && !version.contains("http"), "{version}");
            }
        }
    }

    #[test]
    fn the_queue_keeps_notices_under_these_names() {
        let plain = serde_json::to_string(&Notice::PasswordChanged).unwrap();
        let with = serde_json::to_string(&Notice::EmailChanged { new_email: "a@b.c".into() }).unwrap();
        assert_eq!(
            (&*plain, &*with),
            (r#""password_changed""#, r#"{"email_changed":{"new_email":"a@b.c"}}"#)
        );
    }

    #[test]
    fn an_address_is_escaped_in_html() {
        let new_email = "\"<i>\"@example.com".to_owned();
        let letter = notice("Acme", None, &Notice::EmailChanged { new_email }).unwrap();
        assert!(letter.text.contains("<i>") && !letter.html.contains("<i>"));
    }
}
