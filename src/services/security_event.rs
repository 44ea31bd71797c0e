//! Security events: log lines that let operators detect, count and block attacks (OWASP ASVS 5, 16.2.1, 16.3.1 and
//! 16.3.3).
//!
//! `docs/security-events.md` lists the events and their fields. A log line contains no secret and no email address. The
//! tracing span of the request adds the request id.

use uuid::Uuid;

use crate::{app::App, context::RequestContext, email_address::EmailLookup};

/// The `tracing` target of the log lines. Operators filter by it.
const TARGET: &str = "saas::security";

/// The kind of a security event, with the fields of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    LoginAccepted {
        second_factor: bool,
    },
    /// The password was correct, but the login also requires a code.
    LoginChallenged,
    LoginRefused {
        reason: &'static str,
    },
    /// A code of an authenticator, a recovery code or a challenge was wrong or no longer valid.
    CodeRefused,
    /// The password that confirms an action was wrong, or was replaced during the request.
    PasswordRefused,
    /// The token of a link was invalid or expired, or an invitation was no longer pending.
    LinkRefused,
    UserRegistered,
    RegistrationRefused {
        reason: &'static str,
    },
    /// A client exceeded a rate limit of passwords, codes or mails (`services/throttle.rs`, `services/two_factor.rs`).
    AttemptThrottled {
        rule: &'static str,
    },
    /// A caller exceeded a rate limit of requests (`src/rate_limits`). Each process usually logs this event at most once a minute
    /// for each caller and limit.
    RequestThrottled {
        rule: &'static str,
    },
    /// A refresh token was presented again at least 10 seconds after its first use, so its session was revoked.
    TokenReplayed,
    AccessForbidden {
        reason: &'static str,
    },
    /// An API key was reported as leaked. The key, or its leaked old secret, was revoked.
    ApiKeyLeaked,
    CrossSiteRefused,
    HostRefused,
    /// An operation of an admin on a queue or a job. `action` and `target` are as in the audit trail.
    QueueOperation {
        action: &'static str,
        target: &'a str,
    },
}

impl Event<'_> {
    /// Returns the name of the event. Operators filter by it, so it must not change.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LoginAccepted { .. } => "login.accepted",
            Self::LoginChallenged => "login.challenged",
            Self::LoginRefused { .. } => "login.refused",
            Self::CodeRefused => "code.refused",
            Self::PasswordRefused => "password.refused",
            Self::LinkRefused => "link.refused",
            Self::UserRegistered => "user.registered",
            Self::RegistrationRefused { .. } => "registration.refused",
            Self::AttemptThrottled { .. } => "attempt.throttled",
            Self::RequestThrottled { .. } => "request.throttled",
            Self::TokenReplayed => "token.replayed",
            Self::AccessForbidden { .. } => "access.forbidden",
            Self::ApiKeyLeaked => "api_key.leaked",
            Self::CrossSiteRefused => "cross_site.refused",
            Self::HostRefused => "host.refused",
            Self::QueueOperation { .. } => "queue.operation",
        }
    }
}

/// An event with the user, the session and the API key that it concerns.
pub struct SecurityEvent<'a> {
    event: Event<'a>,
    user_id: Option<i64>,
    session_id: Option<Uuid>,
    api_key_id: Option<i64>,
    email: Option<&'a str>,
}

impl<'a> SecurityEvent<'a> {
    /// Creates an event about the caller of the request: the user, the session and the API key of the context, if the caller is
    /// authenticated.
    pub fn new(event: Event<'a>) -> Self {
        Self { event, user_id: None, session_id: None, api_key_id: None, email: None }
    }

    /// Sets the user, for an event that is not about the caller. With `None`, the event is about the caller.
    pub fn user(self, user_id: Option<i64>) -> Self {
        Self { user_id, ..self }
    }

    /// Sets the session, for an event that is not about the caller's session.
    pub fn session(self, session_id: Uuid) -> Self {
        Self { session_id: Some(session_id), ..self }
    }

    /// Sets the API key, for an event that is not about the caller's key.
    pub fn api_key(self, id: i64) -> Self {
        Self { api_key_id: Some(id), ..self }
    }

    /// Sets the email address that the event concerns. The log line contains a keyed hash of the address, which is the same for
    /// all spellings.
    pub fn email(self, email: &'a str) -> Self {
        Self { email: Some(email), ..self }
    }

    /// Writes the log line.
    pub fn log(self, app: &App, context: &RequestContext) {
        let name = self.event.name();
        let (address, address_hash) = match (context.ip, app.config.logs.log_client_address) {
            (Some(ip), true) => (Some(ip), None),
            (Some(ip), false) => (None, Some(app.pseudonyms.of(&ip.to_string()))),
            (None, _) => (None, None),
        };
        let account_hash = self.email.map(|email| app.pseudonyms.of(EmailLookup::new(email).subject()));
        let (mut reason, mut rule, mut second_factor, mut operation) = (None, None, None, None);
        match self.event {
            Event::LoginRefused { reason: why }
            | Event::RegistrationRefused { reason: why }
            | Event::AccessForbidden { reason: why } => reason = Some(why),
            Event::AttemptThrottled { rule: name } | Event::RequestThrottled { rule: name } => {
                rule = Some(name)
            }
            Event::LoginAccepted { second_factor: used } => second_factor = Some(used),
            Event::QueueOperation { action, target } => operation = Some((action, target)),
            _ => {}
        }
        tracing::info!(
            target: TARGET,
            event = name,
            client_address = address.map(display),
            client_address_hash = address_hash.as_deref(),
            user_id = self.user_id.or(context.actor),
            session_id = self.session_id.or(context.session).map(display),
            api_key_id = self.api_key_id.or(context.api_key),
            account_hash = account_hash.as_deref(),
            reason,
            rule,
            second_factor,
            action = operation.map(|(action, _)| action),
            // Not named `target`, because tracing uses this name for the module of a log line.
            object = operation.map(|(_, target)| target),
            "{}",
            name.replace(['.', '_'], " ")
        );
    }
}
