//! Notices to an unverified address.

use super::Notice;

/// Replaces the name of an organization in a mail to an unverified address.
const HIDDEN_ORG: &str = "an organization";
const HIDDEN_MEMBER: &str = "another member";
/// Replaces the address of an invited person, at the beginning of a sentence.
const HIDDEN_GUEST: &str = "The invited person";
const HIDDEN_KEY: &str = "(hidden)";

impl Notice {
    /// Returns the notice for a recipient whose address is not verified: without addresses and names that users have
    /// entered. [`Self::AdminAdded`] stays unchanged, because only admins with a verified address receive it.
    pub fn without_input(self) -> Self {
        match self {
            Self::EmailChangeRequested { .. } => Self::EmailChangeRequested { new_email: None },
            Self::EmailChanged { .. } => Self::EmailChanged { new_email: None },
            Self::OrganizationTransferred { .. } => {
                Self::OrganizationTransferred { organization: HIDDEN_ORG.into(), to: HIDDEN_MEMBER.into() }
            }
            Self::OrganizationReceived { .. } => {
                Self::OrganizationReceived { organization: HIDDEN_ORG.into(), from: HIDDEN_MEMBER.into() }
            }
            Self::OrganizationDeletionScheduled { on, .. } => {
                Self::OrganizationDeletionScheduled { organization: HIDDEN_ORG.into(), on }
            }
            Self::MemberRemoved { .. } => Self::MemberRemoved { organization: HIDDEN_ORG.into() },
            Self::InvitationAccepted { .. } => {
                Self::InvitationAccepted { organization: HIDDEN_ORG.into(), email: HIDDEN_GUEST.into() }
            }
            Self::InvitationDeclined { .. } => {
                Self::InvitationDeclined { organization: HIDDEN_ORG.into(), email: HIDDEN_GUEST.into() }
            }
            Self::ApiKeyCreated { expires_on, .. } => Self::ApiKeyCreated {
                organization: HIDDEN_ORG.into(),
                key: HIDDEN_KEY.into(),
                by: HIDDEN_MEMBER.into(),
                expires_on,
            },
            Self::ApiKeyExpires { on, .. } => {
                Self::ApiKeyExpires { organization: HIDDEN_ORG.into(), key: HIDDEN_KEY.into(), on }
            }
            Self::ApiKeyLeaked { present_is_valid, .. } => Self::ApiKeyLeaked {
                organization: HIDDEN_ORG.into(),
                key: HIDDEN_KEY.into(),
                present_is_valid,
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unverified_recipient_does_not_get_the_new_address() {
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
}
