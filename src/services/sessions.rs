//! Sessions, their short-lived access tokens and their refresh tokens.
//!
//! The use of a refresh token returns the next token. For 10 seconds, a retry gets the next token again. If a used token is
//! presented later, it may have been stolen: the client and an attacker may both have it. The server cannot distinguish them, so
//! it revokes the session (RFC 9700 section 4.14.2, OWASP ASVS 5, 10.4.5).

use std::{cmp::Reverse, sync::Arc};

use chrono::Duration;
use uuid::Uuid;

use super::{
    actor::{Actor, Affected},
    audit::{Action, Entry},
    outbox::OutboxMessage,
    security_event::{Event, SecurityEvent},
    session_uses,
    transaction::{change, change_without_actor},
};
use crate::{
    app::App,
    context::RequestContext,
    db::Tx,
    error::{Error, Result},
    mail::Notice,
    models::{
        one_time_token::{OneTimeToken, Purpose},
        session::{
            IDLE_TIMEOUT_DAYS, Identity, MAX_LIFETIME_DAYS, NewSession, RefreshToken, Session, TokenState,
        },
        user::User,
    },
    security::{self, OpaqueToken, TokenSubject},
};

/// Maximum number of stored characters of the `User-Agent` header.
const MAX_USER_AGENT_CHARS: usize = 255;

/// The tokens that a client receives from a login or a refresh. Not `Debug`, so that no log contains them.
pub struct Grant {
    pub session_id: Uuid,
    pub access_token: String,
    /// Lifetime of the access token in seconds.
    pub expires_in: u64,
    pub refresh_token: String,
    /// Lifetime of the unused refresh token in seconds.
    pub refresh_expires_in: u64,
}

/// Opens a session for a user. `second_factor` says whether the user has logged in with a second factor.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn open(app: &App, tx: &Tx<'_>, user: &User, second_factor: bool) -> Result<Grant> {
    let context = tx.context;
    let address = context.ip.map(|ip| ip.to_string());
    let user_agent: Option<String> = context
        .user_agent
        .as_ref()
        .map(|text| text.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT_CHARS).collect());
    let (id, token) = (Uuid::new_v4(), OpaqueToken::random()?);
    let session = NewSession {
        id,
        user_id: user.id,
        user_agent: user_agent.as_deref(),
        address: address.as_deref(),
        second_factor,
    };
    session.insert(tx).await?;
    RefreshToken::insert(tx, id, &token.hash).await?;
    Entry::by_self(user.id, Action::SessionOpened)
        .after(serde_json::json!({ "session_id": id, "second_factor": second_factor }))
        .write(tx)
        .await?;
    let left = Duration::days(MAX_LIFETIME_DAYS.into());
    grant(app, TokenSubject { user_id: user.id, session_id: id }, token, left)
}

/// Issues an access token for a session. The session ends after `left` at the latest. `token` is the new refresh token.
fn grant(app: &App, subject: TokenSubject, token: OpaqueToken, left: Duration) -> Result<Grant> {
    let (access_token, expires_in) = app.tokens.issue(subject)?;
    let left = Duration::days(IDLE_TIMEOUT_DAYS.into()).min(left);
    let refresh_expires_in = left.num_seconds().max(0).unsigned_abs();
    let session_id = subject.session_id;
    Ok(Grant { session_id, access_token, expires_in, refresh_token: token.text, refresh_expires_in })
}

/// The result of [`rotate`].
enum Refreshed {
    Granted(Grant),
    /// The token is unknown or expired, the session has ended, or the user is inactive. Or this process cannot derive the next
    /// token again for a retry.
    Refused,
    /// The token was already used at least 10 seconds ago, so its session was revoked.
    Revoked(TokenSubject),
}

/// Exchanges a refresh token for a new refresh token and an access token.
///
/// A token that was used less than 10 seconds ago returns the same new refresh token again. The client may retry after a lost
/// response, and two browser tabs may refresh at the same time. Presenting a token that was used earlier revokes the session,
/// and notifies the user by mail.
///
/// # Errors
/// [`Error::InvalidToken`] for an unknown or expired token, a token that was used earlier, an ended session or an inactive
/// user, and for a retry after `SECRET_KEY` was replaced if this process cannot derive the next token again;
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn refresh(app: &App, context: &RequestContext, token: &str) -> Result<Grant> {
    let work = async |tx: &Tx<'_>| {
        let outcome = rotate(app, tx, token).await?;
        if !matches!(outcome, Refreshed::Revoked(_)) {
            tx.set_identities_unchanged();
        }
        Ok(outcome)
    };
    match change_without_actor(app, context, work).await? {
        Refreshed::Granted(grant) => Ok(grant),
        Refreshed::Refused => Err(Error::InvalidToken),
        Refreshed::Revoked(TokenSubject { user_id, session_id }) => {
            let event = SecurityEvent::new(Event::TokenReplayed).user(Some(user_id));
            event.session(session_id).log(app, context);
            Err(Error::InvalidToken)
        }
    }
}

async fn rotate(app: &App, tx: &Tx<'_>, token: &str) -> Result<Refreshed> {
    let hash = security::hash(token);
    // Locks the session before its tokens, in the same order as a deletion of the session, to avoid deadlocks.
    let Some(id) = RefreshToken::session_id(tx, &hash).await? else { return Ok(Refreshed::Refused) };
    Session::lock(tx, id).await?;
    let Some((session, user)) = Session::with_user(tx, id).await? else { return Ok(Refreshed::Refused) };
    if session.has_ended() || !user.is_active {
        return Ok(Refreshed::Refused);
    }
    let subject = TokenSubject { user_id: user.id, session_id: session.id };
    let next = match RefreshToken::state(tx, &hash).await? {
        None | Some(TokenState::Expired) => return Ok(Refreshed::Refused),
        Some(TokenState::Used) => {
            revoke_replayed(tx, &user, &session).await?;
            return Ok(Refreshed::Revoked(subject));
        }
        Some(TokenState::JustUsed) => {
            let mut issued = None;
            for candidate in app.tokens.next_refresh_tokens(token) {
                if issued.is_none() && RefreshToken::exists(tx, &candidate.hash).await? {
                    issued = Some(candidate);
                }
            }
            // No candidate exists if this replica does not have the key from which the next token was derived, for example
            // while `SECRET_KEY` is being replaced.
            let Some(issued) = issued else { return Ok(Refreshed::Refused) };
            issued
        }
        Some(TokenState::Unused) => {
            let next = app.tokens.next_refresh_tokens(token).next();
            let next = next.ok_or_else(|| Error::internal("no key for refresh tokens; set SECRET_KEY"))?;
            RefreshToken::mark_used(tx, &hash).await?;
            RefreshToken::insert(tx, session.id, &next.hash).await?;
            Session::touch(tx, session.id).await?;
            next
        }
    };
    Ok(Refreshed::Granted(grant(app, subject, next, session.time_left())?))
}

async fn revoke_replayed(tx: &Tx<'_>, user: &User, session: &Session) -> Result<()> {
    Session::revoke(tx, user.id, session.id).await?;
    Entry::new(user.id, Action::SessionReplayed)
        .after(serde_json::json!({ "session_id": session.id }))
        .write(tx)
        .await?;
    OutboxMessage::notice(user, Notice::SessionRevoked).send(tx).await
}

/// Returns the user and the session of a verified access token, from a cache whose values are at most `IDENTITY_CACHE_MS` old.
/// The session may have ended. Calls `session_uses::record` for the session.
///
/// # Errors
/// [`Error::InvalidToken`] if the user has no such session; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn identify(app: &App, subject: TokenSubject) -> Result<Arc<Identity>> {
    let load = async || app.db.run(async |conn| Ok(Identity::find(conn, subject.session_id).await?)).await;
    let found = app.identities.get_or_load(subject.session_id, load).await?;
    let identity =
        found.filter(|found| found.session.user_id == subject.user_id).ok_or(Error::InvalidToken)?;
    session_uses::record(app, &identity.session).await;
    Ok(identity)
}

/// Returns the user and the session of a refresh token, without marking the token as used.
///
/// # Errors
/// [`Error::InvalidToken`] for an unknown token or an ended session; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn find_by_refresh_token(app: &App, token: &str) -> Result<TokenSubject> {
    let hash = security::hash(token);
    app.db
        .run(async |conn| {
            let id = RefreshToken::session_id(conn, &hash).await?.ok_or(Error::InvalidToken)?;
            let found = Session::with_user(conn, id).await?.filter(|(session, _)| !session.has_ended());
            let (session, user) = found.ok_or(Error::InvalidToken)?;
            Ok(TokenSubject { user_id: user.id, session_id: session.id })
        })
        .await
}

/// Returns at most 1,000 active sessions of a user, the most recently used first.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn list(app: &App, user_id: i64) -> Result<Vec<Session>> {
    let mut list = app.db.run(async |conn| Ok(Session::list(conn, user_id).await?)).await?;
    for session in &mut list {
        if let Some(used_at) = app.session_uses.get(&session.id) {
            session.add_pending_use(used_at);
        }
    }
    list.sort_by_key(|session| Reverse(session.last_seen_at));
    Ok(list)
}

/// Revokes a session of the actor.
///
/// # Errors
/// [`Error::NotFound`] if the actor has no such session or the session is already revoked; and those of [`change`].
pub async fn revoke(app: &App, actor: &Actor, id: Uuid) -> Result<()> {
    change(app, actor, Affected::Actor, async |tx, locked| revoke_in(tx, locked.actor().id, id).await).await
}

/// Revokes the session of an access or refresh token. The token is the only authorization that this needs.
///
/// # Errors
/// [`Error::NotFound`] if the session is already revoked or does not exist; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn log_out(app: &App, context: &RequestContext, subject: TokenSubject) -> Result<()> {
    let TokenSubject { user_id, session_id } = subject;
    change_without_actor(app, context, async |tx| revoke_in(tx, user_id, session_id).await).await
}

/// Revokes all sessions and login challenges of the actor.
///
/// # Errors
/// Those of [`change`].
pub async fn revoke_all(app: &App, actor: &Actor) -> Result<()> {
    change(app, actor, Affected::Actor, async |tx, locked| revoke_all_in(tx, locked.actor().id).await).await
}

async fn revoke_in(tx: &Tx<'_>, user_id: i64, id: Uuid) -> Result<()> {
    if Session::revoke(tx, user_id, id).await? == 0 {
        return Err(Error::NotFound("Session"));
    }
    let entry = Entry::by_self(user_id, Action::SessionRevoked);
    entry.after(serde_json::json!({ "session_id": id })).write(tx).await
}

/// Revokes all sessions and login challenges of a user whose row is locked.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn revoke_all_in(tx: &Tx<'_>, user_id: i64) -> Result<()> {
    revoke_access(tx, user_id, None, &[]).await?;
    Entry::new(user_id, Action::SessionsRevoked).write(tx).await
}

/// Revokes the sessions of a user except `keep`, and the links with these purposes. Also revokes the challenges of
/// logins that wait for a code. The caller must have locked the user.
///
/// All code that revokes all sessions of a user calls this function, so no pending challenge outlives the sessions.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn revoke_access(
    tx: &Tx<'_>,
    user_id: i64,
    keep: Option<Uuid>,
    links: &[Purpose],
) -> Result<()> {
    Session::revoke_all(tx, user_id, keep).await?;
    let purposes = [links, &[Purpose::SecondFactor]].concat();
    OneTimeToken::revoke(tx, user_id, &purposes).await?;
    Ok(())
}

/// Revokes the sessions that a login replaces in a browser (OWASP ASVS 5, 7.2.4). Returns whether this call has revoked a
/// session.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn revoke_replaced(tx: &Tx<'_>, replaced: &[TokenSubject]) -> Result<bool> {
    let mut revoked = false;
    for subject in replaced {
        match revoke_in(tx, subject.user_id, subject.session_id).await {
            Ok(()) => revoked = true,
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(revoked)
}
