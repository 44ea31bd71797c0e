//! Signed in: access tokens that live minutes, and the session behind them that can be ended at once.
//!
//! A session has a chain of refresh tokens, each good for one use. One that comes back after it was used is a copy
//! in the wrong hands, or the right ones after it was stolen; nobody can tell, so the session ends (RFC 9700 section
//! 4.14.2, OWASP ASVS 5, 10.4.5).

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use uuid::Uuid;

use super::{
    audit::{Action, Entry},
    outbox::OutboxMessage,
    transaction::transaction,
    tx::Tx,
};
use crate::{
    app::App,
    context::RequestContext,
    error::{Error, Result},
    mail::Notice,
    models::{
        session::{IDLE_DAYS, Identity, MAX_DAYS, NewSession, RefreshToken, Session, TokenState},
        user::{Role, User},
    },
    security::{self, OpaqueToken, TokenSubject},
};

/// Characters that are kept of what a client calls itself.
const MAX_USER_AGENT: usize = 255;

/// What a client gets when it has signed in or come back. Not `Debug`.
pub struct Grant {
    pub access_token: String,
    /// Seconds that the access token lives.
    pub expires_in: u64,
    pub refresh_token: String,
    /// Seconds that the refresh token lives, if it is not used.
    pub refresh_expires_in: u64,
}

/// Signs a user in.
pub async fn open(app: &App, tx: &Tx<'_>, user: &User, second_factor: bool) -> Result<Grant> {
    let context = tx.context;
    let address = context.ip.map(|ip| ip.to_string());
    let user_agent: Option<String> = context
        .user_agent
        .as_ref()
        .map(|text| text.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect());
    let (id, token) = (Uuid::new_v4(), OpaqueToken::random()?);
    let expires_at = Utc::now() + Duration::days(MAX_DAYS);
    let session = NewSession {
        id,
        user_id: user.id,
        user_agent: user_agent.as_deref(),
        address: address.as_deref(),
        second_factor,
        expires_at,
    };
    session.insert(tx).await?;
    RefreshToken::insert(tx, id, &token.hash).await?;
    Entry::by_themselves(user.id, Action::SessionOpened)
        .after(serde_json::json!({ "session_id": id, "second_factor": second_factor }))
        .write(tx)
        .await?;
    grant(app, TokenSubject { user_id: user.id, session_id: id }, token, expires_at)
}

fn grant(app: &App, access: TokenSubject, token: OpaqueToken, session_ends: DateTime<Utc>) -> Result<Grant> {
    let (access_token, expires_in) = app.tokens.issue(access)?;
    let left = Duration::days(IDLE_DAYS.into()).min(session_ends - Utc::now());
    let refresh_expires_in = left.num_seconds().max(0).unsigned_abs();
    Ok(Grant { access_token, expires_in, refresh_token: token.text, refresh_expires_in })
}

enum Refreshed {
    Granted(Grant),
    Refused,
}

/// Trades a refresh token for the next one and an access token.
///
/// A token that was used within the last 10 seconds gets the same next one again: an answer may have been lost, and
/// two tabs may wake up at once. One that was used before ends the session.
///
/// # Errors
/// [`Error::InvalidToken`] for whatever is wrong with it.
pub async fn refresh(app: &App, context: &RequestContext, token: &str) -> Result<Grant> {
    let outcome = transaction(app, context, async |tx| rotate(app, tx, token).await).await?;
    match outcome {
        Refreshed::Granted(grant) => Ok(grant),
        Refreshed::Refused => Err(Error::InvalidToken),
    }
}

async fn rotate(app: &App, tx: &Tx<'_>, token: &str) -> Result<Refreshed> {
    let hash = security::hash(token);
    // The session first, as whoever ends it does.
    let Some(id) = RefreshToken::session_of(tx, &hash).await? else { return Ok(Refreshed::Refused) };
    Session::lock(tx, id).await?;
    let Some((session, user)) = Session::with_user(tx, id).await? else { return Ok(Refreshed::Refused) };
    if session.is_over() || !user.is_active {
        return Ok(Refreshed::Refused);
    }
    let next = match RefreshToken::state(tx, &hash).await? {
        None | Some(TokenState::Expired) => return Ok(Refreshed::Refused),
        Some(TokenState::Spent) => {
            replayed(tx, &user, &session).await?;
            return Ok(Refreshed::Refused);
        }
        Some(TokenState::JustSpent) => {
            let mut again = None;
            for candidate in app.tokens.successors(token) {
                if again.is_none() && RefreshToken::exists(tx, &candidate.hash).await? {
                    again = Some(candidate);
                }
            }
            // The keys have been changed in these seconds, and not all replicas know both.
            let Some(again) = again else { return Ok(Refreshed::Refused) };
            again
        }
        Some(TokenState::Fresh) => {
            let next =
                app.tokens.successors(token).next().ok_or_else(|| Error::internal("there is no key"))?;
            RefreshToken::spend(tx, &hash).await?;
            RefreshToken::insert(tx, session.id, &next.hash).await?;
            Session::touch(tx, session.id).await?;
            next
        }
    };
    tx.keeps_identities();
    let access = TokenSubject { user_id: user.id, session_id: session.id };
    Ok(Refreshed::Granted(grant(app, access, next, session.expires_at)?))
}

async fn replayed(tx: &Tx<'_>, user: &User, session: &Session) -> Result<()> {
    tracing::warn!(user_id = user.id, session_id = %session.id, "refresh token replayed, session ended");
    Session::revoke(tx, user.id, session.id).await?;
    Entry::about(user.id, Action::SessionReplayed)
        .after(serde_json::json!({ "session_id": session.id }))
        .write(tx)
        .await?;
    OutboxMessage::notice(user, Notice::SessionRevoked).send(tx).await
}

/// Whether a user may use what is for admins only.
pub fn is_admin(app: &App, identity: &Identity) -> bool {
    identity.user.role == Role::Admin && !lacks_second_factor(app, identity)
}

/// Whether an admin has to sign in with a second factor first.
pub fn lacks_second_factor(app: &App, identity: &Identity) -> bool {
    app.config.auth.require_admin_two_factor && !identity.session.second_factor
}

/// How recent an [`Identity`] has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Read at most `IDENTITY_CACHE_MS` ago.
    Cached,
    /// Read now.
    Fresh,
}

/// Returns the user and session of an access token.
///
/// # Errors
/// [`Error::InvalidToken`] when the token is not valid, its user is gone or its session is over;
/// [`Error::Inactive`] when the user may no longer sign in.
pub async fn identify(app: &App, token: &str, freshness: Freshness) -> Result<Arc<Identity>> {
    let access = app.tokens.verify(token)?;
    let load = async || app.db.run(async |conn| Ok(Identity::find(conn, access.session_id).await?)).await;
    let found = match freshness {
        Freshness::Cached => app.identities.get_or_load(access.session_id, load).await?,
        Freshness::Fresh => load().await?.map(Arc::new),
    };
    let identity =
        found.filter(|found| found.session.user_id == access.user_id).ok_or(Error::InvalidToken)?;
    if !identity.user.is_active {
        return Err(Error::Inactive);
    }
    if identity.session.is_over() {
        return Err(Error::InvalidToken);
    }
    if identity.session.is_stale() {
        app.db.run(async |conn| Ok(Session::touch(conn, identity.session.id).await?)).await?;
    }
    Ok(identity)
}

/// The session of a refresh token that could be used.
///
/// # Errors
/// [`Error::InvalidToken`] for whatever is wrong with it.
pub async fn of_refresh_token(app: &App, token: &str) -> Result<TokenSubject> {
    let hash = security::hash(token);
    app.db
        .run(async |conn| {
            let id = RefreshToken::session_of(conn, &hash).await?.ok_or(Error::InvalidToken)?;
            let found = Session::with_user(conn, id).await?.filter(|(session, _)| !session.is_over());
            let (session, user) = found.ok_or(Error::InvalidToken)?;
            Ok(TokenSubject { user_id: user.id, session_id: session.id })
        })
        .await
}

/// The sessions of a user that go on.
pub async fn list(app: &App, user_id: i64) -> Result<Vec<Session>> {
    app.db.run(async |conn| Ok(Session::list(conn, user_id).await?)).await
}

/// Ends one session of a user.
///
/// # Errors
/// [`Error::NotFound`] where the user has no such session that goes on.
pub async fn revoke(app: &App, context: &RequestContext, user_id: i64, id: Uuid) -> Result<()> {
    transaction(app, context, async |tx| {
        if Session::revoke(tx, user_id, id).await? == 0 {
            return Err(Error::NotFound("Session"));
        }
        let entry = Entry::about(user_id, Action::SessionRevoked);
        entry.after(serde_json::json!({ "session_id": id })).write(tx).await
    })
    .await
}

/// Ends every session of a user.
pub async fn revoke_all(app: &App, context: &RequestContext, user_id: i64) -> Result<()> {
    transaction(app, context, async |tx| {
        Session::revoke_all(tx, user_id, None).await?;
        Entry::about(user_id, Action::SessionsRevoked).write(tx).await
    })
    .await
}
