//! Checks whether a user may act in an organization. Only this module creates an [`OrgScope`].
//!
//! The check of a request needs no query, because the memberships are part of the cached [`Identity`]. A change checks
//! the membership again, against locked rows.

use uuid::Uuid;

use super::{
    actor::{self, Requirement},
    permissions::Permission,
};
use crate::{
    app::App,
    db::{OrgScope, Tx, Via},
    error::{Error, ORGANIZATION, Result},
    models::{
        api_key::ApiKey,
        api_key_identity::KeyIdentity,
        membership::{IdentityMembership, Membership, OrgRole},
        organization::Organization,
        session::{Identity, Session},
        user::User,
    },
};

/// A checked membership: the organization, the member who could act in it at the time of the check, and the permission that was
/// required.
#[derive(Clone, Copy, Debug)]
pub struct OrgAccess {
    scope: OrgScope,
    role: OrgRole,
    required: Option<Permission>,
    /// The session of the request; `None` for a request with an API key and for a job.
    session: Option<Uuid>,
    /// The SHA-256 of the secret in a request with an API key. After a rotation, a key can have two secrets for a while, and the
    /// hash identifies the one in the request.
    key_hash: Option<[u8; 32]>,
}

impl OrgAccess {
    pub fn scope(&self) -> &OrgScope {
        &self.scope
    }

    pub fn org_id(&self) -> i64 {
        self.scope.org_id()
    }

    /// Returns the role of the member. The role may come from a cache, and be up to `IDENTITY_CACHE_MS` old.
    pub fn role(&self) -> OrgRole {
        self.role
    }
}

/// Checks that the user of a request is a member of the organization and has the required permission. Without `permission`, any
/// member who may act in the organization passes.
///
/// # Errors
/// Those of [`admit`]; [`Error::NotFound`] if the user is not a member or the organization does not exist.
pub fn check(
    identity: &Identity,
    org_id: i64,
    permission: impl Into<Option<Permission>>,
) -> Result<OrgAccess> {
    let membership = identity.memberships.iter().find(|membership| membership.org_id == org_id);
    let membership = membership.ok_or(Error::NotFound(ORGANIZATION))?;
    let scope = OrgScope::verified(org_id, identity.user.id, Via::Session);
    let access = grant(scope, *membership, permission.into())?;
    Ok(OrgAccess { session: Some(identity.session.id), ..access })
}

/// Like [`check`], for a request with an API key. The operation must be allowed by both the scopes of the key and the
/// role of its creator.
///
/// # Errors
/// As [`check`]; [`Error::NotFound`] also if the key belongs to another organization; [`Error::ScopeMissing`];
/// [`Error::SessionRequired`] without `permission`, and if the permission cannot be a scope; [`Error::Internal`] if
/// `identity.hash` does not have the 32 bytes of a SHA-256. [`KeyIdentity::find`] returns only such hashes.
pub fn check_key(
    identity: &KeyIdentity,
    org_id: i64,
    permission: impl Into<Option<Permission>>,
) -> Result<OrgAccess> {
    let (key, required): (_, Option<Permission>) = (&identity.key, permission.into());
    let membership = identity.membership.filter(|membership| membership.org_id == org_id);
    let membership = membership.ok_or(Error::NotFound(ORGANIZATION))?;
    ensure_scope(key, required)?;
    let scope = OrgScope::verified(org_id, key.created_by, Via::ApiKey(key.id));
    let access = grant(scope, membership, required)?;
    let key_hash: [u8; 32] = identity.hash.as_slice().try_into().map_err(Error::internal)?;
    Ok(OrgAccess { key_hash: Some(key_hash), ..access })
}

fn ensure_scope(key: &ApiKey, required: Option<Permission>) -> Result<()> {
    // An operation whose permission cannot be a scope does not accept API keys.
    let scope = required.filter(|permission| permission.is_scope()).ok_or(Error::SessionRequired)?;
    match key.has_scope(scope.as_str()) {
        true => Ok(()),
        false => Err(Error::ScopeMissing(scope.as_str())),
    }
}

/// Like [`check`], for a job that a member has enqueued. Reads the membership again, because it may have changed since the job
/// was enqueued.
///
/// # Errors
/// As [`check`]; [`Error::NotFound`] also if the user is deactivated or scheduled for deletion; [`Error::Unavailable`] if
/// PostgreSQL does not answer.
pub async fn of_job(
    app: &App,
    org_id: i64,
    user_id: i64,
    permission: impl Into<Option<Permission>>,
) -> Result<OrgAccess> {
    let found = app.db.run(async |conn| Ok(Membership::find_active(conn, org_id, user_id).await?)).await?;
    let (org, membership) = found.ok_or(Error::NotFound(ORGANIZATION))?;
    let scope = OrgScope::verified(org_id, user_id, Via::Job);
    grant(scope, IdentityMembership::of(&org, &membership), permission.into())
}

fn grant(scope: OrgScope, membership: IdentityMembership, required: Option<Permission>) -> Result<OrgAccess> {
    admit(membership, required)?;
    Ok(OrgAccess { scope, role: membership.role, required, session: None, key_hash: None })
}

/// Checks that a member may act in the organization and, unless `required` is `None`, has the permission. While the deletion of
/// the organization is scheduled, the only accepted permission is [`Permission::OrgRestore`].
///
/// # Errors
/// [`Error::MemberSuspended`], [`Error::OrgSuspended`], [`Error::OrgDeleting`]; [`Error::Forbidden`] if the role lacks
/// the permission.
pub fn admit(membership: IdentityMembership, required: Option<Permission>) -> Result<()> {
    if membership.suspended {
        return Err(Error::MemberSuspended);
    }
    if membership.org_suspended {
        return Err(Error::OrgSuspended);
    }
    if membership.org_deleting && required != Some(Permission::OrgRestore) {
        return Err(Error::OrgDeleting);
    }
    match required.is_none_or(|permission| membership.role.may(permission)) {
        true => Ok(()),
        false => Err(Error::Forbidden),
    }
}

/// The current state of an organization and of the actor's membership. The organization is locked until the transaction
/// ends.
pub struct LockedOrg {
    pub org: Organization,
    pub actor: Membership,
}

/// Locks an organization for a change of the organization or its members, and checks the access again.
///
/// Other changes of memberships also take this lock or lock the user, except in the erasure of an organization whose deletion
/// is due. Apart from such an erasure, the membership of the actor cannot change during the transaction. Users are locked
/// before the organization, see [`Affected`](super::actor::Affected).
///
/// # Errors
/// As [`check`] and [`check_key`]; [`Error::InvalidToken`] if the API key of the request has ended or was rotated out;
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn lock(tx: &Tx<'_>, access: &OrgAccess) -> Result<LockedOrg> {
    recheck(tx, access, Organization::lock(tx, access.org_id()).await?).await
}

/// Like [`lock`], but with a shared lock, for a change of the data of the organization. This lock conflicts with the lock of
/// changes of members and of the organization, but not with other shared locks.
///
/// # Errors
/// As [`lock`].
pub async fn lock_shared(tx: &Tx<'_>, access: &OrgAccess) -> Result<LockedOrg> {
    recheck(tx, access, Organization::lock_shared(tx, access.org_id()).await?).await
}

/// Locks the account of the caller and the session of the request, and checks that both are still valid. The locks are
/// shared, so that concurrent changes of one user do not wait for each other.
///
/// Call this before the organization is locked, because all changes that lock both lock users first. An insert into `org_jobs`
/// also locks the account, through its foreign key.
///
/// # Errors
/// Those of [`actor::check`]; [`Error::InvalidToken`] if the account or the session no longer exists;
/// [`Error::Inactive`] if the creator of an API key is deactivated, deleted or scheduled for deletion; for a job,
/// [`Error::NotFound`] in these cases; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn lock_caller(app: &App, tx: &Tx<'_>, access: &OrgAccess) -> Result<()> {
    let user = User::lock_shared(tx, access.scope.user_id()).await?;
    if let Some(session_id) = access.session {
        let user = user.ok_or(Error::InvalidToken)?;
        let session = Session::lock_shared(tx, session_id).await?.ok_or(Error::InvalidToken)?;
        return actor::check(app, &user, &session, Requirement::User);
    }
    let is_active = user.is_some_and(|user| user.is_active && user.deletion_due_at.is_none());
    match access.scope.via() {
        _ if is_active => Ok(()),
        Via::Job => Err(Error::NotFound(ORGANIZATION)),
        Via::Session | Via::ApiKey(_) => Err(Error::Inactive),
    }
}

async fn recheck(tx: &Tx<'_>, access: &OrgAccess, org: Option<Organization>) -> Result<LockedOrg> {
    let org = org.ok_or(Error::NotFound(ORGANIZATION))?;
    let actor = Membership::find(tx, org.id, access.scope.user_id()).await?;
    let actor = actor.ok_or(Error::NotFound(ORGANIZATION))?;
    admit(IdentityMembership::of(&org, &actor), access.required)?;
    if let Via::ApiKey(id) = access.scope.via() {
        // The lock makes a later revocation of the key wait for this transaction. An earlier revocation is visible here.
        let found = ApiKey::lock_shared(tx, id, &access.key_hash.unwrap_or_default()).await?;
        let valid = found.filter(|(key, is_previous)| !key.secret_has_ended(*is_previous));
        ensure_scope(&valid.ok_or(Error::InvalidToken)?.0, access.required)?;
    }
    Ok(LockedOrg { org, actor })
}
