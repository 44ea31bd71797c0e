//! The audit trail. The entry about a change of an account or an organization is written in the transaction of the change. The
//! entry about an admin's operation on a queue or a job, or about the cancellation of an organization's job, is written before
//! Redis is changed.

use serde_json::{Map, Value, json};

use crate::{
    context::RequestContext,
    db::Tx,
    error::{Error, Result},
    models::{audit::NewAuditEntry, organization::Organization, user::User},
};

/// An action that the audit trail records. The texts of [`Self::as_str`] are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    UserRegistered,
    UserCreated,
    /// An admin has created a user without a password, or has sent the invitation to such a user again.
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
    /// An invited user has set a password by the link of the invitation. [`Self::InvitationAccepted`] is about an invitation to
    /// an organization.
    InviteAccepted,
    SessionOpened,
    SessionRevoked,
    SessionsRevoked,
    /// A refresh token was presented again at least 10 seconds after its first use, so it may have been stolen.
    SessionReplayed,
    TwoFactorEnabled,
    TwoFactorDisabled,
    RecoveryCodesReplaced,
    RecoveryCodeUsed,
    QueueChanged,
    QueueRequeued,
    QueuePurged,
    JobRequeued,
    JobCanceled,
    OrgCreated,
    OrgUpdated,
    OrgTransferred,
    OrgDeletionScheduled,
    OrgDeletionCancelled,
    OrgDeleted,
    /// An admin of the platform has suspended the organization.
    OrgSuspended,
    /// An admin of the platform has ended the suspension of the organization.
    OrgUnsuspended,
    MemberUpdated,
    MemberRemoved,
    MemberLeft,
    ProductCreated,
    ProductUpdated,
    ProductDeleted,
    ProductsImported,
    InvitationCreated,
    InvitationResent,
    InvitationRevoked,
    InvitationAccepted,
    InvitationDeclined,
    ApiKeyCreated,
    ApiKeyUpdated,
    /// The key has a new secret.
    ApiKeyRotated,
    ApiKeyRevoked,
    /// The secret from before the last rotation was revoked. The current secret stays valid.
    ApiKeyOverlapEnded,
    /// An operation on a queue or a job failed. If Redis did not answer, it is unknown whether the operation took effect.
    OperationFailed,
}

impl Action {
    /// Returns the name of the action in the database and in the API.
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
            Self::QueueChanged => "queue.changed",
            Self::QueueRequeued => "queue.requeued",
            Self::QueuePurged => "queue.purged",
            Self::JobRequeued => "job.requeued",
            Self::JobCanceled => "job.canceled",
            Self::OrgCreated => "org.created",
            Self::OrgUpdated => "org.updated",
            Self::OrgTransferred => "org.transferred",
            Self::OrgDeletionScheduled => "org.deletion_scheduled",
            Self::OrgDeletionCancelled => "org.deletion_cancelled",
            Self::OrgDeleted => "org.deleted",
            Self::OrgSuspended => "org.suspended",
            Self::OrgUnsuspended => "org.unsuspended",
            Self::MemberUpdated => "member.updated",
            Self::MemberRemoved => "member.removed",
            Self::MemberLeft => "member.left",
            Self::ProductCreated => "product.created",
            Self::ProductUpdated => "product.updated",
            Self::ProductDeleted => "product.deleted",
            Self::ProductsImported => "products.imported",
            Self::InvitationCreated => "invitation.created",
            Self::InvitationResent => "invitation.resent",
            Self::InvitationRevoked => "invitation.revoked",
            Self::InvitationAccepted => "invitation.accepted",
            Self::InvitationDeclined => "invitation.declined",
            Self::ApiKeyCreated => "api_key.created",
            Self::ApiKeyUpdated => "api_key.updated",
            Self::ApiKeyRotated => "api_key.rotated",
            Self::ApiKeyRevoked => "api_key.revoked",
            Self::ApiKeyOverlapEnded => "api_key.overlap_ended",
            Self::OperationFailed => "operation.failed",
        }
    }
}

/// An audit trail entry that is not written yet. Its actor is [`RequestContext::actor`]. If the context has no actor, the actor
/// of the entry is the user that [`Self::by`] or [`Self::by_self`] has set. Without such a user, the entry has no actor.
#[derive(Clone)]
pub struct Entry {
    action: Action,
    actor: Option<i64>,
    org_id: Option<i64>,
    target_type: &'static str,
    target_id: String,
    before: Option<Value>,
    after: Option<Value>,
}

impl Entry {
    /// Creates an entry about `user`.
    pub fn new(user: i64, action: Action) -> Self {
        Self::about("user", user.to_string(), action)
    }

    /// Creates an entry about the queue `name`.
    pub fn queue(name: &str, action: Action) -> Self {
        Self::about("queue", name.to_owned(), action)
    }

    /// Creates an entry about the job `id`.
    pub fn job(id: &str, action: Action) -> Self {
        Self::about("job", id.to_owned(), action)
    }

    /// Creates an entry about an organization, in the trail of this organization.
    pub fn org(org_id: i64, action: Action) -> Self {
        Self::about("organization", org_id.to_string(), action).in_org(org_id)
    }

    /// Creates an entry about a member, in the trail of the organization. The target id is the id of the user.
    pub fn member(org_id: i64, user_id: i64, action: Action) -> Self {
        Self::about("member", user_id.to_string(), action).in_org(org_id)
    }

    /// Creates an entry about a row of the data of an organization, in the trail of the organization. `target_type` is
    /// the type of the row, for example `product`.
    pub fn row(org_id: i64, target_type: &'static str, id: i64, action: Action) -> Self {
        Self::about(target_type, id.to_string(), action).in_org(org_id)
    }

    /// Creates an entry about an invitation, in the trail of the organization.
    pub fn invitation(org_id: i64, id: i64, action: Action) -> Self {
        Self::about("invitation", id.to_string(), action).in_org(org_id)
    }

    /// Adds the entry to the trail of an organization. Admins of the platform see the entry in the global trail, too, but without
    /// the states before and after the change if the entry is about a job or other data of the organization.
    pub fn in_org(self, org_id: i64) -> Self {
        Self { org_id: Some(org_id), ..self }
    }

    fn about(target_type: &'static str, target_id: String, action: Action) -> Self {
        Self { action, actor: None, org_id: None, target_type, target_id, before: None, after: None }
    }

    pub fn action(&self) -> Action {
        self.action
    }

    pub fn target_id(&self) -> &str {
        &self.target_id
    }

    /// Returns an entry that reports the failure of this entry's action, with the same target and organization.
    pub fn failed(&self, error: &Error) -> Self {
        let after = json!({ "action": self.action.as_str(), "error": error.to_string() });
        let target_id = self.target_id.clone();
        let entry = Self::about(self.target_type, target_id, Action::OperationFailed).after(after);
        Self { org_id: self.org_id, ..entry }
    }

    /// Creates an entry about `user`. If the request context has no actor, `user` is also the actor. For operations without a
    /// signed-in caller, such as logins and links in mails.
    pub fn by_self(user: i64, action: Action) -> Self {
        Self { actor: Some(user), ..Self::new(user, action) }
    }

    /// Sets the actor for the case that the request context has none.
    pub fn by(self, user: i64) -> Self {
        Self { actor: Some(user), ..self }
    }

    /// Sets the state after the change.
    pub fn after(self, after: Value) -> Self {
        Self { after: Some(after), ..self }
    }

    /// Sets the state before the change.
    pub fn before(self, before: Value) -> Self {
        Self { before: Some(before), ..self }
    }

    /// Sets the states before and after the change of a user. They contain only the fields that differ between `before` and
    /// `after`.
    pub fn changed(self, before: &User, after: &User) -> Self {
        let (mut old, mut new) = (audit_fields(before), audit_fields(after));
        old.retain(|name, value| new.get(name) != Some(value));
        new.retain(|name, _| old.contains_key(name));
        Self { before: Some(old.into()), after: Some(new.into()), ..self }
    }

    /// Writes the entry. Skips a `user.updated` entry whose states are equal.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if PostgreSQL does not answer.
    pub async fn write(self, tx: &Tx<'_>) -> Result<()> {
        if self.action == Action::UserUpdated && self.before == self.after {
            return Ok(());
        }
        self.into_row(tx.context).insert(tx).await?;
        Ok(())
    }

    /// Writes several entries, without skipping any.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_all(entries: Vec<Self>, tx: &Tx<'_>) -> Result<()> {
        let rows: Vec<_> = entries.into_iter().map(|entry| entry.into_row(tx.context)).collect();
        NewAuditEntry::insert_all(&rows, tx).await?;
        Ok(())
    }

    fn into_row(self, context: &RequestContext) -> NewAuditEntry<'_> {
        NewAuditEntry {
            actor_id: context.actor.or(self.actor),
            action: self.action.as_str(),
            target_type: self.target_type,
            target_id: self.target_id,
            before: self.before,
            after: self.after,
            address: context.ip.map(|ip| ip.to_string()),
            request_id: context.request_id.as_deref(),
            client_request_id: context.client_request_id.as_deref(),
            org_id: self.org_id,
            api_key_id: context.api_key,
        }
    }
}

/// Returns the fields of a user for the audit trail, without secrets.
pub fn audit_fields(user: &User) -> Map<String, Value> {
    let fields = json!({
        "email": user.email,
        "full_name": user.full_name,
        "role": user.role.as_str(),
        "is_active": user.is_active,
        "email_verified": user.email_verified_at.is_some(),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Returns the fields of an organization for the audit trail.
pub fn org_fields(org: &Organization) -> Value {
    json!({ "name": org.name, "slug": org.slug, "personal": org.personal_of.is_some() })
}
