//! Signed in: access tokens that live minutes, and the session behind them that can be ended at once.
//!
//! A session has a chain of refresh tokens, each good for one use. One that comes back after it was used is a copy
//! in the wrong hands, or the right ones after it was stolen; nobody can tell, so the session ends (RFC 9700 section
//! 4.14.2, OWASP ASVS 5, 10.4.5).

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use diesel_async::AsyncPgConnection;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    audit::{Action, Entry},
    outbox::Message,
};
use crate::{
    app::App,
    cache::Cached,
    db::Row,
    error::{Error, Result},
    mail::letters::Notice,
    models::{
        session::{IDLE_DAYS, MAX_DAYS, NewSession, RefreshToken, Session, TokenState},
        user::{Role, User},
    },
    security::{self, Access, Opaque},
    telemetry,
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

/// Who is asking, and in which session; may be 100 ms old.
#[derive(Serialize, Deserialize)]
pub struct Identity {
    /// Without the password's hash.
    pub user: User,
    pub session: Session,
}

impl Cached for Identity {
    const NAME: &'static str = "identity";

    fn rows(&self) -> Vec<Row> {
        vec![Row::new("users", self.user.id), Row::new("sessions", self.session.id)]
    }
}

impl Identity {
    /// Whether they may use what is for admins only.
    pub fn administers(&self, app: &App) -> bool {
        self.user.role == Role::Admin && !self.lacks_second_factor(app)
    }

    pub fn lacks_second_factor(&self, app: &App) -> bool {
        app.config.auth.require_admin_two_factor && !self.session.second_factor
    }
}

/// Signs a user in.
pub async fn open(app: &App, conn: &AsyncPgConnection, user: &User, second_factor: bool) -> Result<Grant> {
    let request = telemetry::request().unwrap_or_default();
    let address = request.address.map(|address| address.to_string());
    let user_agent: Option<String> = request
        .user_agent
        .map(|text| text.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect());
    let (id, token) = (Uuid::new_v4(), Opaque::random()?);
    let expires_at = Utc::now() + Duration::days(MAX_DAYS);
    let session = NewSession {
        id,
        user_id: user.id,
        user_agent: user_agent.as_deref(),
        address: address.as_deref(),
        second_factor,
        expires_at,
    };
    session.insert(conn).await?;
    RefreshToken::insert(conn, id, &token.hash).await?;
    Entry::by_themselves(user.id, Action::SessionOpened)
        .after(serde_json::json!({ "session_id": id, "second_factor": second_factor }))
        .write(conn)
        .await?;
    grant(app, Access { user_id: user.id, session_id: id }, token, expires_at)
}

fn grant(app: &App, access: Access, token: Opaque, session_ends: DateTime<Utc>) -> Result<Grant> {
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
pub async fn refresh(app: &App, token: &str) -> Result<Grant> {
    let outcome = app.db.transaction(async |conn| rotate(app, conn, token).await).await?;
    match outcome {
        Refreshed::Granted(grant) => Ok(grant),
        Refreshed::Refused => Err(Error::InvalidToken),
    }
}

async fn rotate(app: &App, conn: &AsyncPgConnection, token: &str) -> Result<Refreshed> {
    let hash = security::hash(token);
    // The session first, as whoever ends it does.
    let Some(id) = RefreshToken::session_of(conn, &hash).await? else { return Ok(Refreshed::Refused) };
    Session::lock(conn, id).await?;
    let Some((session, user)) = Session::with_user(conn, id).await? else { return Ok(Refreshed::Refused) };
    if session.is_over() || !user.is_active {
        return Ok(Refreshed::Refused);
    }
    let next = match RefreshToken::state(conn, &hash).await? {
        None | Some(TokenState::Expired) => return Ok(Refreshed::Refused),
        Some(TokenState::Spent) => {
            replayed(conn, &user, &session).await?;
            return Ok(Refreshed::Refused);
        }
        Some(TokenState::JustSpent) => {
            let mut again = None;
            for candidate in app.tokens.successors(token) {
                if again.is_none() && RefreshToken::exists(conn, &candidate.hash).await? {
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
            RefreshToken::spend(conn, &hash).await?;
            RefreshToken::insert(conn, session.id, &next.hash).await?;
            Session::touch(conn, session.id).await?;
            next
        }
    };
    let access = Access { user_id: user.id, session_id: session.id };
    Ok(Refreshed::Granted(grant(app, access, next, session.expires_at)?))
}

async fn replayed(conn: &AsyncPgConnection, user: &User, session: &Session) -> Result<()> {
    tracing::warn!(user_id = user.id, session_id = %session.id, "refresh token replayed, session ended");
    Session::revoke(conn, user.id, session.id).await?;
    Entry::about(user.id, Action::SessionReplayed)
        .after(serde_json::json!({ "session_id": session.id }))
        .write(conn)
        .await?;
    Message::notice(user, Notice::SessionRevoked).send(conn).await
}

/// How old what is known of somebody may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// 100 ms.
    Moment,
    /// It is read now.
    Now,
}

/// Whom an access token was issued to, and in which session.
///
/// # Errors
/// [`Error::InvalidToken`] when the token is no good, its user is gone or its session is over;
/// [`Error::Inactive`] when the user may no longer sign in.
pub async fn identify(app: &App, token: &str, age: Age) -> Result<Arc<Identity>> {
    let access = app.tokens.verify(token)?;
    let load = async |conn: &AsyncPgConnection| {
        let found = Session::with_user(conn, access.session_id).await?;
        Ok(found.map(|(session, user)| Identity { user: User { hashed_password: None, ..user }, session }))
    };
    let who = match age {
        Age::Moment => app.cache.get_or_load(access.session_id, load).await?,
        Age::Now => app.db.run(async |conn| load(conn).await).await?.map(Arc::new),
    };
    let who = who.filter(|who| who.session.user_id == access.user_id).ok_or(Error::InvalidToken)?;
    if !who.user.is_active {
        return Err(Error::Inactive);
    }
    if who.session.is_over() {
        return Err(Error::InvalidToken);
    }
    if who.session.is_stale() {
        app.db.run(async |conn| Ok(Session::touch(conn, who.session.id).await?)).await?;
    }
    Ok(who)
}

/// The session of a refresh token that could be used.
///
/// # Errors
/// [`Error::InvalidToken`] for whatever is wrong with it.
pub async fn of_refresh_token(app: &App, token: &str) -> Result<Access> {
    let hash = security::hash(token);
    app.db
        .run(async |conn| {
            let id = RefreshToken::session_of(conn, &hash).await?.ok_or(Error::InvalidToken)?;
            let found = Session::with_user(conn, id).await?.filter(|(session, _)| !session.is_over());
            let (session, user) = found.ok_or(Error::InvalidToken)?;
            Ok(Access { user_id: user.id, session_id: session.id })
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
pub async fn revoke(app: &App, user_id: i64, id: Uuid) -> Result<()> {
    app.db
        .transaction(async |conn| {
            if Session::revoke(conn, user_id, id).await? == 0 {
                return Err(Error::NotFound("Session"));
            }
            let entry = Entry::about(user_id, Action::SessionRevoked);
            entry.after(serde_json::json!({ "session_id": id })).write(conn).await
        })
        .await
}

/// Ends every session of a user.
pub async fn revoke_all(app: &App, user_id: i64) -> Result<()> {
    app.db
        .transaction(async |conn| {
            Session::revoke_all(conn, user_id, None).await?;
            Entry::about(user_id, Action::SessionsRevoked).write(conn).await
        })
        .await
}
