//! The API keys of an organization: create, list, change, rotate, revoke. These operations require a session.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    actor::{Actor, Affected},
    api_key_notices,
    audit::{Action, Entry},
    org_access::{self, LockedOrg, OrgAccess},
    org_names::parse_name,
    permissions::Permission,
    precondition::Precondition,
    throttle::Throttle,
    transaction::change,
};
use crate::{
    app::App,
    db::Tx,
    error::{Error, Result},
    mail::Notice,
    models::{
        api_key::{ApiKey, ApiKeyChanges, NewApiKey, Rotation},
        clock::DatabaseClock,
        membership::Membership,
    },
    security::{api_key, hash},
};

/// Default lifetime of a key.
pub const DEFAULT_LIFETIME_DAYS: i32 = 90;
/// Maximum time for which the old and the new secret are both valid after a rotation.
pub const MAX_OVERLAP_HOURS: u64 = 24;
/// Maximum number of valid keys of an organization.
pub const MAX_KEYS: i64 = 100;

const NOT_FOUND: Error = Error::NotFound("API key");

/// The lifetime of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    Days(i32),
    /// The key does not expire.
    Unlimited,
}

impl Lifetime {
    fn days(self) -> Option<i32> {
        match self {
            Self::Days(days) => Some(days),
            Self::Unlimited => None,
        }
    }
}

/// A key to create.
pub struct NewKey {
    pub name: String,
    pub scopes: Vec<Permission>,
    pub lifetime: Lifetime,
}

/// Changes to a key. `None` keeps a field.
#[derive(Default)]
pub struct Changes {
    pub name: Option<String>,
    pub scopes: Option<Vec<Permission>>,
    /// The new lifetime, counted from the time of the change.
    pub lifetime: Option<Lifetime>,
}

/// A key and its secret. The secret cannot be read again later, because the database does not have it. Not `Debug`, so
/// that no log contains the secret.
pub struct KeyWithSecret {
    pub key: ApiKey,
    pub secret: String,
}

/// Returns at most `limit` keys of an organization, the newest first. With `before`, only keys with a lower id.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn list(app: &App, access: &OrgAccess, before: Option<i64>, limit: i64) -> Result<Vec<ApiKey>> {
    let org_id = access.org_id();
    let keys = app.db.run(async |conn| Ok(ApiKey::list(conn, org_id, before, limit).await?)).await?;
    Ok(keys.into_iter().map(|key| with_pending_use(app, key)).collect())
}

/// Returns a key.
///
/// # Errors
/// [`Error::NotFound`] if the organization has no such key; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn find(app: &App, access: &OrgAccess, id: i64) -> Result<ApiKey> {
    let org_id = access.org_id();
    let found = app.db.run(async |conn| Ok(ApiKey::find(conn, org_id, id).await?)).await?;
    Ok(with_pending_use(app, found.ok_or(NOT_FOUND)?))
}

fn with_pending_use(app: &App, mut key: ApiKey) -> ApiKey {
    if let Some(used_at) = app.key_uses.get(&key.id) {
        key.add_pending_use(used_at);
    }
    key
}

/// Creates a key that acts on behalf of the actor. Notifies the owner of the organization and the actor by mail, as
/// `api_key_notices::send` does; an actor with an unverified address only within the rate limit of these notices.
///
/// # Errors
/// [`Error::Invalid`] for the name or the scopes; [`Error::KeyLimit`] if the organization has [`MAX_KEYS`] valid keys; those of
/// [`org_access::lock`] and [`change`].
pub async fn create(app: &App, actor: &Actor, access: &OrgAccess, new: &NewKey) -> Result<KeyWithSecret> {
    let (name, scopes) = (parse_name(&new.name)?, scopes_text(&new.scopes)?);
    let secret = api_key::random()?;
    let (secret_hash, hint) = (hash(&secret), api_key::hint(&secret));
    // An unverified address of the actor may belong to a stranger, and gets only a few mails. The limit of mails does not limit
    // the keys.
    let may_notify = Throttle::key_notice(app, actor.context(), actor.user()).await.is_ok();
    let muted = (!may_notify).then(|| actor.user().id);
    let key = change(app, actor, Affected::Actor, async |tx, locked| {
        let org = org_access::lock(tx, access).await?.org;
        // The lock of the organization serializes concurrent requests, so that they cannot exceed the limit together.
        if ApiKey::count_active(tx, org.id).await? >= MAX_KEYS {
            return Err(Error::KeyLimit { limit: MAX_KEYS });
        }
        // No cache contains the new key, so no cached value has to be discarded.
        tx.set_identities_unchanged();
        let now = DatabaseClock::read(tx).await?.now();
        let lifetime_days = new.lifetime.days();
        let row = NewApiKey {
            org_id: org.id,
            created_by: locked.actor().id,
            name,
            scopes: &scopes,
            hash: &secret_hash,
            hint: &hint,
            lifetime_days,
            expires_at: lifetime_days.map(|days| now + in_days(days)),
        };
        let key = row.insert(tx).await?;
        entry(&key, Action::ApiKeyCreated).after(fields(&key)).write(tx).await?;
        let notice = Notice::ApiKeyCreated {
            organization: org.name,
            key: key.name.clone(),
            by: locked.actor().email.clone(),
            expires_on: key.expires_at.map(api_key_notices::date_in_words),
        };
        api_key_notices::send(tx, &key, &notice, muted).await?;
        Ok(key)
    })
    .await?;
    Ok(KeyWithSecret { key, secret })
}

/// Changes the name, the scopes and the expiry of a key.
///
/// # Errors
/// [`Error::Invalid`] for the name or the scopes; [`Error::NotFound`] if the organization has no such key; [`Error::KeyEnded`] if
/// the key is revoked or expired; [`Error::RoleTooHigh`] if the role of the key's creator is above the role of the actor;
/// [`Error::PreconditionFailed`] if the key does not meet `condition`; those of [`org_access::lock`] and [`change`].
pub async fn update(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    id: i64,
    changes: &Changes,
    condition: &Precondition<'_, ApiKey>,
) -> Result<ApiKey> {
    let name = changes.name.as_deref().map(parse_name).transpose()?;
    let scopes = changes.scopes.as_deref().map(scopes_text).transpose()?;
    let key = change(app, actor, Affected::Actor, async |tx, _| {
        let before = lock_changeable(tx, access, id).await?;
        condition.check(&before)?;
        let now = DatabaseClock::read(tx).await?.now();
        let lifetime_days = changes.lifetime.map(Lifetime::days);
        let row = ApiKeyChanges {
            name,
            scopes: scopes.as_deref(),
            lifetime_days,
            expires_at: lifetime_days.map(|days| days.map(|days| now + in_days(days))),
            expiry_notified_at: lifetime_days.map(|_| None),
        };
        if name.is_none() && scopes.is_none() && lifetime_days.is_none() {
            return Ok(before);
        }
        let after = ApiKey::update(tx, id, &row).await?;
        if fields(&before) != fields(&after) {
            let entry = entry(&after, Action::ApiKeyUpdated);
            entry.before(fields(&before)).after(fields(&after)).write(tx).await?;
        }
        Ok(after)
    })
    .await?;
    Ok(with_pending_use(app, key))
}

/// Gives a key a new secret. The current secret stays valid for `overlap`, but not beyond the old expiry of the key. A
/// secret from before an earlier rotation is no longer valid. If `lifetime` is `None`, the key gets its previous
/// lifetime again, counted from now.
///
/// # Errors
/// [`Error::NotFound`], [`Error::KeyEnded`] and [`Error::RoleTooHigh`] as for [`update`]; those of [`org_access::lock`] and
/// [`change`].
pub async fn rotate(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    id: i64,
    overlap: Duration,
    lifetime: Option<Lifetime>,
) -> Result<KeyWithSecret> {
    let secret = api_key::random()?;
    let (secret_hash, hint) = (hash(&secret), api_key::hint(&secret));
    let key = change(app, actor, Affected::Actor, async |tx, _| {
        let before = lock_changeable(tx, access, id).await?;
        let now = DatabaseClock::read(tx).await?.now();
        let lifetime_days = lifetime.map_or(before.lifetime_days, Lifetime::days);
        let overlap_ends = now + overlap;
        let new = Rotation {
            hash: &secret_hash,
            hint: &hint,
            lifetime_days,
            previous_expires_at: before
                .expires_at
                .map_or(overlap_ends, |expires_at| expires_at.min(overlap_ends)),
            expires_at: lifetime_days.map(|days| now + in_days(days)),
        };
        let after = ApiKey::rotate(tx, id, &new).await?;
        let until =
            json!({ "previous_expires_at": after.previous_expires_at, "expires_at": after.expires_at });
        entry(&after, Action::ApiKeyRotated).after(until).write(tx).await?;
        Ok(after)
    })
    .await?;
    Ok(KeyWithSecret { key: with_pending_use(app, key), secret })
}

/// Revokes a key. Does nothing if the key is already revoked.
///
/// # Errors
/// [`Error::NotFound`] if the organization has no such key; those of [`org_access::lock`] and [`change`].
pub async fn revoke(app: &App, actor: &Actor, access: &OrgAccess, id: i64) -> Result<()> {
    change(app, actor, Affected::Actor, async |tx, _| {
        let org = org_access::lock_shared(tx, access).await?.org;
        let key = ApiKey::lock(tx, org.id, id).await?.ok_or(NOT_FOUND)?;
        if ApiKey::revoke(tx, key.id).await? == 0 {
            return Ok(());
        }
        let by_member = json!({ "reason": "revoked" });
        entry(&key, Action::ApiKeyRevoked).before(fields(&key)).after(by_member).write(tx).await
    })
    .await
}

/// Locks a valid key that the actor may change. A member may revoke the key of a creator with a higher role. But the member
/// must not change or rotate the key, because the key acts on behalf of its creator.
async fn lock_changeable(tx: &Tx<'_>, access: &OrgAccess, id: i64) -> Result<ApiKey> {
    let LockedOrg { org, actor } = org_access::lock_shared(tx, access).await?;
    let key = ApiKey::lock(tx, org.id, id).await?.ok_or(NOT_FOUND)?;
    if key.has_ended() {
        return Err(Error::KeyEnded);
    }
    let creator = Membership::find(tx, org.id, key.created_by).await?;
    match creator.is_some_and(|creator| creator.role > actor.role) {
        true => {
            Err(Error::RoleTooHigh("This key acts in the name of a member with a higher role than yours"))
        }
        false => Ok(key),
    }
}

/// Returns the scopes as stored text: separated by spaces, without duplicates, in the order of [`Permission::ALL`].
///
/// # Errors
/// [`Error::Invalid`] for an empty list, and for a permission that is not a scope.
fn scopes_text(scopes: &[Permission]) -> Result<String> {
    if scopes.is_empty() {
        return Err(Error::invalid("scopes", "Choose at least one scope"));
    }
    let chosen = Permission::ALL.iter().filter(|permission| scopes.contains(permission));
    let texts: Vec<_> = chosen.map(|permission| permission.as_str()).collect();
    match scopes.iter().find(|scope| !scope.is_scope()) {
        Some(other) => Err(Error::invalid("scopes", format!("An API key cannot have {}", other.as_str()))),
        None => Ok(texts.join(" ")),
    }
}

fn in_days(days: i32) -> chrono::Duration {
    chrono::Duration::days(days.into())
}

fn entry(key: &ApiKey, action: Action) -> Entry {
    Entry::row(key.org_id, "api_key", key.id, action)
}

/// Returns the fields of a key for the audit trail, without secrets.
fn fields(key: &ApiKey) -> Value {
    json!({ "name": key.name, "scopes": key.scopes, "expires_at": key.expires_at })
}
