//! The signed-in caller of a service, and the check that this caller is still allowed to make a change.
//!
//! An extractor of the API creates an [`Actor`] from a verified access token and the [`Identity`] of its session. The transaction
//! of a change checks the actor again, against locked rows. For example, the caller may have lost the admin role since the
//! request began (OWASP ASVS 5, 8.3.2).

use std::{ops::Deref, sync::Arc};

use crate::{
    app::App,
    config::SecondFactorFor,
    context::RequestContext,
    db::Tx,
    error::{Error, Result},
    models::{
        session::{Identity, Session},
        user::{Role, User},
    },
};

/// The signed-in user in whose name a service reads or changes data.
#[derive(Clone)]
pub struct Actor {
    identity: Arc<Identity>,
    context: RequestContext,
    required: Requirement,
}

/// The requirements of an operation on its caller, besides an active account and a valid session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// No second factor and no role. For the operations that a user without a required second factor needs: to set up the
    /// second factor, to read the own account, and to log out.
    SignedIn,
    /// The second factor if the server requires it of all users.
    User,
    /// The admin role, and the second factor if the server requires it of admins or of all users.
    Admin,
}

/// An actor who is an admin. The role is checked when this value is created, and again in the transaction of a change.
#[derive(Clone)]
pub struct AdminActor(Actor);

impl Actor {
    /// Creates the actor of a request. The session must have the second factor if the server requires it of all users.
    ///
    /// # Errors
    /// As [`check`] with [`Requirement::User`].
    pub fn new(app: &App, identity: Arc<Identity>, context: RequestContext) -> Result<Self> {
        Self::require(app, identity, context, Requirement::User)
    }

    /// Creates the actor of a request, without requiring a second factor.
    ///
    /// # Errors
    /// As [`check`] with [`Requirement::SignedIn`].
    pub fn signed_in(app: &App, identity: Arc<Identity>, context: RequestContext) -> Result<Self> {
        Self::require(app, identity, context, Requirement::SignedIn)
    }

    fn require(
        app: &App,
        identity: Arc<Identity>,
        context: RequestContext,
        required: Requirement,
    ) -> Result<Self> {
        check(app, &identity.user, &identity.session, required)?;
        let context = context.signed_in(identity.user.id, identity.session.id);
        Ok(Self { identity, context, required })
    }

    /// Returns the user, without the password hash. The values may come from a cache, whose values are at most
    /// `IDENTITY_CACHE_MS` old.
    pub fn user(&self) -> &User {
        &self.identity.user
    }

    /// Returns the session of the request, which may come from the same cache as [`Self::user`].
    pub fn session(&self) -> &Session {
        &self.identity.session
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn context(&self) -> &RequestContext {
        &self.context
    }

    /// Returns this actor as an admin.
    ///
    /// # Errors
    /// As [`AdminActor::new`].
    pub fn as_admin(&self, app: &App) -> Result<AdminActor> {
        AdminActor::new(app, self.identity.clone(), self.context.clone())
    }

    /// Locks the rows of the users that a change affects, then the session, and checks that the actor may still make the
    /// change.
    ///
    /// # Errors
    /// Those of [`check`]; [`Error::InvalidToken`] if the account or the session of the actor no longer exists;
    /// [`Error::Unavailable`] if PostgreSQL does not answer.
    pub(super) async fn lock(&self, app: &App, tx: &Tx<'_>, affected: Affected) -> Result<LockedUsers> {
        let id = self.user().id;
        let users = match affected {
            Affected::Actor => User::lock_all(tx, &[id]).await?,
            Affected::User(other) => User::lock_all(tx, &[id, other]).await?,
            Affected::UserAndAdmins(other) => User::lock_all_with_admins(tx, &[id, other]).await?,
        };
        let actor = users.iter().find(|user| user.id == id).ok_or(Error::InvalidToken)?.clone();
        let session = Session::lock(tx, self.session().id).await?.ok_or(Error::InvalidToken)?;
        check(app, &actor, &session, self.required)?;
        Ok(LockedUsers { actor, users })
    }
}

impl AdminActor {
    /// Creates the actor of a request of an admin.
    ///
    /// # Errors
    /// As [`check`] with [`Requirement::Admin`].
    pub fn new(app: &App, identity: Arc<Identity>, context: RequestContext) -> Result<Self> {
        Ok(Self(Actor::require(app, identity, context, Requirement::Admin)?))
    }
}

impl Deref for AdminActor {
    type Target = Actor;
    fn deref(&self) -> &Actor {
        &self.0
    }
}

/// Checks that a user may act in a session.
///
/// # Errors
/// [`Error::InvalidToken`] if the session has ended or belongs to another user; [`Error::Inactive`] if the user is
/// deactivated; [`Error::TwoFactorRequired`] if the session lacks a second factor that `required` demands;
/// [`Error::Forbidden`] if `required` is [`Requirement::Admin`] and the user is not an admin.
pub fn check(app: &App, user: &User, session: &Session, required: Requirement) -> Result<()> {
    if session.user_id != user.id {
        return Err(Error::InvalidToken);
    }
    // Checked before the session, because deactivation also revokes the sessions: `Inactive` tells the user more than
    // `InvalidToken`.
    if !user.is_active {
        return Err(Error::Inactive);
    }
    if session.has_ended() {
        return Err(Error::InvalidToken);
    }
    if required == Requirement::Admin && user.role != Role::Admin {
        return Err(Error::Forbidden);
    }
    match lacks_second_factor(app, session, required) {
        true => Err(Error::TwoFactorRequired),
        false => Ok(()),
    }
}

/// Returns whether a user has the permissions of an admin in this session. The caller must have checked that the user is active
/// and the session is valid.
pub fn is_admin(app: &App, identity: &Identity) -> bool {
    identity.user.role == Role::Admin && !lacks_second_factor(app, &identity.session, Requirement::Admin)
}

/// Returns whether the session lacks the second factor that the server requires for the operation.
fn lacks_second_factor(app: &App, session: &Session, required: Requirement) -> bool {
    let is_demanded = match app.config.auth.second_factor.required_for() {
        SecondFactorFor::None => false,
        SecondFactorFor::Admins => required == Requirement::Admin,
        SecondFactorFor::All => required != Requirement::SignedIn,
    };
    is_demanded && !session.second_factor
}

/// The users whose rows a change locks. One statement locks all these rows in the order of their ids, so that two changes
/// cannot deadlock on these rows.
#[derive(Clone, Copy)]
pub enum Affected {
    /// The actor alone.
    Actor,
    /// The actor and the user with this id.
    User(i64),
    /// The actor, the user with this id, and all users for whom [`User::can_administer`] returns true. For a change that may
    /// leave no such user.
    UserAndAdmins(i64),
}

/// The current rows of the affected users, locked until the transaction ends.
pub struct LockedUsers {
    actor: User,
    users: Vec<User>,
}

impl LockedUsers {
    pub fn actor(&self) -> &User {
        &self.actor
    }

    /// Returns the actor, unless the password was set since `checked` was read. For a change after a check of the password:
    /// `checked` is the row whose password was verified.
    ///
    /// # Errors
    /// [`Error::WrongPassword`] if the password was set since `checked` was read.
    pub fn actor_if_password_unchanged(&self, checked: &User) -> Result<&User> {
        match self.actor.password_set_at == checked.password_set_at {
            true => Ok(&self.actor),
            false => Err(Error::WrongPassword),
        }
    }

    /// Returns a locked user by id.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the user does not exist or the lock did not include the user (see [`Affected`]).
    pub fn user(&self, id: i64) -> Result<&User> {
        self.users.iter().find(|user| user.id == id).ok_or(Error::NotFound("User"))
    }

    /// Checks that a user is not the only one for whom [`User::can_administer`] returns true. The lock must be
    /// [`Affected::UserAndAdmins`].
    ///
    /// # Errors
    /// [`Error::LastAdmin`] if the user is the only one.
    pub fn ensure_another_admin(&self, id: i64) -> Result<()> {
        let mut admins = self.users.iter().filter(|user| user.can_administer()).map(|user| user.id);
        match admins.next() == Some(id) && admins.next().is_none() {
            true => Err(Error::LastAdmin),
            false => Ok(()),
        }
    }
}
