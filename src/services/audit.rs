//! The audit trail: each change of an account leaves an entry, in the transaction that makes it.

use serde_json::{Map, Value, json};

use super::tx::Tx;
use crate::{
    error::Result,
    models::{audit::NewAuditEntry, user::User},
};

/// What was done. The texts are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    UserRegistered,
    UserCreated,
    UserInvited,
    UserUpdated,
    UserDeletionScheduled,
    UserDeletionCancelled,
    UserDeleted,
    PasswordChanged,
    PasswordReset,
    EmailVerified,
    EmailChangeRequested,
    EmailChanged,
    InviteAccepted,
    SessionOpened,
    SessionRevoked,
    SessionsRevoked,
    /// A refresh token was used again that had been used long ago: somebody has a copy.
    SessionReplayed,
    TwoFactorEnabled,
    TwoFactorDisabled,
    RecoveryCodesReplaced,
    RecoveryCodeUsed,
}

impl Action {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserRegistered => "user.registered",
            Self::UserCreated => "user.created",
            Self::UserInvited => "user.invited",
            Self::UserUpdated => "user.updated",
            Self::UserDeletionScheduled => "user.deletion_scheduled",
            Self::UserDeletionCancelled => "user.deletion_cancelled",
            Self::UserDeleted => "user.deleted",
            Self::PasswordChanged => "password.changed",
            Self::PasswordReset => "password.reset",
            Self::EmailVerified => "email.verified",
            Self::EmailChangeRequested => "email.change_requested",
            Self::EmailChanged => "email.changed",
            Self::InviteAccepted => "invite.accepted",
            Self::SessionOpened => "session.opened",
            Self::SessionRevoked => "session.revoked",
            Self::SessionsRevoked => "sessions.revoked",
            Self::SessionReplayed => "session.replayed",
            Self::TwoFactorEnabled => "two_factor.enabled",
            Self::TwoFactorDisabled => "two_factor.disabled",
            Self::RecoveryCodesReplaced => "recovery_codes.replaced",
            Self::RecoveryCodeUsed => "recovery_code.used",
        }
    }
}

/// An entry about a user. The actor is the signed-in user of the request.
pub struct Entry {
    action: Action,
    actor: Option<i64>,
    user: i64,
    before: Option<Value>,
    after: Option<Value>,
}

impl Entry {
    pub fn about(user: i64, action: Action) -> Self {
        Self { action, actor: None, user, before: None, after: None }
    }

    /// What the user does to themselves without being signed in, as with a link from a mail.
    pub fn by_themselves(user: i64, action: Action) -> Self {
        Self { actor: Some(user), ..Self::about(user, action) }
    }

    pub fn after(self, after: Value) -> Self {
        Self { after: Some(after), ..self }
    }

    pub fn before(self, before: Value) -> Self {
        Self { before: Some(before), ..self }
    }

    /// What differs between the two states of a user.
    pub fn changed(self, before: &User, after: &User) -> Self {
        let (mut old, mut new) = (audit_fields(before), audit_fields(after));
        old.retain(|name, value| new.get(name) != Some(value));
        new.retain(|name, _| old.contains_key(name));
        Self { before: Some(old.into()), after: Some(new.into()), ..self }
    }

    pub async fn write(self, tx: &Tx<'_>) -> Result<()> {
        if self.action == Action::UserUpdated && self.before == self.after {
            return Ok(());
        }
        let context = tx.context;
        let entry = NewAuditEntry {
            actor_id: context.actor.or(self.actor),
            action: self.action.as_str(),
            target_type: "user",
            target_id: self.user.to_string(),
            before: self.before,
            after: self.after,
            address: context.ip.map(|ip| ip.to_string()),
            request_id: context.request_id.as_deref(),
        };
        entry.insert(tx).await?;
        Ok(())
    }
}

/// What of a user is told in the trail; never a secret.
pub fn audit_fields(user: &User) -> Map<String, Value> {
    let audit_fields = json!({
        "email": user.email,
        "full_name": user.full_name,
        "role": user.role.as_str(),
        "is_active": user.is_active,
        "email_verified": user.email_verified_at.is_some(),
    });
    match audit_fields {
        Value::Object(audit_fields) => audit_fields,
        _ => Map::new(),
    }
}
