//! The permission to work on the data of one organization.

/// An organization and the user who works on its data. A value of this type proves that the membership was checked.
///
/// Only `services::org_access` creates a scope: the test `tree::scopes_are_made_in_one_place` checks that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrgScope {
    org_id: i64,
    user_id: i64,
    via: Via,
}

/// The means by which the user acts in the organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Session,
    /// The id of the API key.
    ApiKey(i64),
    /// A job whose owner is the user.
    Job,
}

impl OrgScope {
    /// Creates a scope. The caller must have checked the membership.
    pub(crate) fn verified(org_id: i64, user_id: i64, via: Via) -> Self {
        Self { org_id, user_id, via }
    }

    pub fn org_id(&self) -> i64 {
        self.org_id
    }

    pub fn user_id(&self) -> i64 {
        self.user_id
    }

    pub fn via(&self) -> Via {
        self.via
    }
}
