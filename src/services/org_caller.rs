//! The caller of an operation in an organization: a signed-in user, or an API key that acts on behalf of its creator.

use std::sync::Arc;

use super::actor::Actor;
use crate::{
    app::App,
    config::SecondFactorFor,
    context::RequestContext,
    error::{Error, Result},
    models::{api_key_identity::KeyIdentity, session::Identity},
};

/// A signed-in user or an API key.
pub enum OrgCaller {
    Session(Actor),
    Key(KeyCaller),
}

/// A valid API key, whose creator has an active account.
pub struct KeyCaller {
    identity: Arc<KeyIdentity>,
    context: RequestContext,
}

/// The credentials that authenticated a caller.
pub enum Credentials<'a> {
    Session(&'a Identity),
    Key(&'a KeyIdentity),
}

/// A kind of caller that operations accept: [`Actor`] accepts only signed-in users, [`OrgCaller`] also accepts API
/// keys.
pub trait AcceptedCaller: Sized {
    const ACCEPTS_KEYS: bool;

    /// Returns the caller, if the operation accepts this kind of caller.
    ///
    /// # Errors
    /// [`Error::SessionRequired`] for an API key that is not accepted.
    fn accept(caller: OrgCaller) -> Result<Self>;

    fn context(&self) -> &RequestContext;

    fn credentials(&self) -> Credentials<'_>;
}

impl KeyCaller {
    /// Creates the caller of a request with an API key. `context` must contain the ids of the key and its creator.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] if the key has ended or was rotated out; [`Error::Inactive`] if its creator is deactivated or
    /// scheduled for deletion; [`Error::TwoFactorRequired`] if the server requires a second factor of all users, and the creator
    /// has none.
    pub fn new(app: &App, identity: Arc<KeyIdentity>, context: RequestContext) -> Result<Self> {
        if identity.has_ended() {
            return Err(Error::InvalidToken);
        }
        if !identity.is_creator_active {
            return Err(Error::Inactive);
        }
        let is_required = app.config.auth.second_factor.required_for() == SecondFactorFor::All;
        match is_required && !identity.has_second_factor {
            true => Err(Error::TwoFactorRequired),
            false => Ok(Self { identity, context }),
        }
    }
}

impl AcceptedCaller for Actor {
    const ACCEPTS_KEYS: bool = false;

    fn accept(caller: OrgCaller) -> Result<Self> {
        match caller {
            OrgCaller::Session(actor) => Ok(actor),
            OrgCaller::Key(_) => Err(Error::SessionRequired),
        }
    }

    fn context(&self) -> &RequestContext {
        Actor::context(self)
    }

    fn credentials(&self) -> Credentials<'_> {
        Credentials::Session(self.identity())
    }
}

impl AcceptedCaller for OrgCaller {
    const ACCEPTS_KEYS: bool = true;

    fn accept(caller: OrgCaller) -> Result<Self> {
        Ok(caller)
    }

    fn context(&self) -> &RequestContext {
        match self {
            Self::Session(actor) => actor.context(),
            Self::Key(key) => &key.context,
        }
    }

    fn credentials(&self) -> Credentials<'_> {
        match self {
            Self::Session(actor) => actor.credentials(),
            Self::Key(key) => Credentials::Key(&key.identity),
        }
    }
}
