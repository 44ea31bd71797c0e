//! Guessing made slow: failed attempts are counted in Redis, and the next has to wait ever longer.
//!
//! A wait, never a lockout, and never one that somebody else can bring about: where the owner of an account has
//! signed in before, only the failures of that very place count (OWASP ASVS 5, 6.1.1 and 6.3.1).
//!
//! Without Redis nothing can be counted. Passwords may still be tried, since hashing bounds that to a few a second, and
//! nobody being able to sign in would be worse; codes alone and mails have no such bound, and are refused.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::LazyLock,
};

use redis::Script;

use crate::{
    app::App,
    context::RequestContext,
    error::{Error, Result},
    models::{one_time_token::Purpose, session::Session},
    security,
};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("throttle.lua")));

/// What failures are counted by.
struct Rule {
    name: &'static str,
    /// Attempts before the first wait.
    free: u32,
    /// The longest wait, in seconds.
    longest: u32,
    /// Seconds without a failure after which all is forgotten.
    keep: u32,
}

/// Somebody who tries one account from one place.
const PAIR: Rule = Rule { name: "pair", free: 5, longest: 300, keep: 86_400 };
/// Many places that try one account.
const ACCOUNT: Rule = Rule { name: "account", free: 20, longest: 60, keep: 86_400 };
/// One place that tries many accounts.
const ADDRESS: Rule = Rule { name: "address", free: 100, longest: 60, keep: 3_600 };
/// Mails of one kind that somebody asks for, to one address. The longest wait is shorter than their links live, so that
/// who is kept from asking has one that works.
const MAILBOX: Rule = Rule { name: "mailbox", free: 3, longest: 900, keep: 86_400 };
/// Mails that one place asks for.
const MAILER: Rule = Rule { name: "mailer", free: 30, longest: 600, keep: 3_600 };

/// An attempt at something that can be guessed.
pub struct Throttle<'a> {
    app: &'a App,
    keys: Vec<(&'static Rule, String)>,
}

impl<'a> Throttle<'a> {
    /// A password of the account with that address.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while the last failure is too fresh.
    pub async fn password(app: &'a App, context: &RequestContext, email: &str) -> Result<Self> {
        let attempt = Self::account(app, context, email, email).await?;
        attempt.check().await?;
        Ok(attempt)
    }

    /// Whether the attempt is within the limits now. Without Redis it is.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while the last failure is too fresh.
    pub async fn check(&self) -> Result<()> {
        match self.call("check").await {
            Ok(0) | Err(_) => Ok(()),
            Ok(retry_after) => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// A code of the account with that address. It counts as failed until it [`succeeded`](Self::succeeded), so that
    /// many at once are no way around; and apart from passwords, the right one of which says nothing of codes.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while the last failure is too fresh; [`Error::Unavailable`] without Redis.
    pub async fn code(app: &'a App, context: &RequestContext, email: &str) -> Result<Self> {
        let attempt = Self::account(app, context, &format!("code of {email}"), email).await?;
        match attempt.call("ask").await? {
            0 => Ok(attempt),
            retry_after => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// As [`Self::code`], for one whose tries are bounded in another way too: it goes on without Redis.
    pub async fn challenge(app: &'a App, context: &RequestContext, email: &str) -> Result<Self> {
        match Self::code(app, context, email).await {
            Err(Error::Unavailable { what: "Redis", .. }) => Ok(Self { app, keys: Vec::new() }),
            result => result,
        }
    }

    /// Forgets the failures at an account from here, whose owner has just proven who they are.
    pub async fn reset(app: &'a App, context: &RequestContext, email: &str) {
        if let Ok(attempt) = Self::account(app, context, email, email).await {
            attempt.succeeded().await;
        }
    }

    async fn account(app: &'a App, context: &RequestContext, what: &str, email: &str) -> Result<Self> {
        let (id, place) = (hashed(what), Place::of(context));
        let known = match &place {
            Some(place) => {
                let network = place.network();
                app.db.run(async |conn| Ok(Session::known_network(conn, email, &network).await?)).await?
            }
            None => false,
        };
        let place = place.map(|place| place.to_string());
        let mut keys = vec![(&PAIR, format!("{id}:{}", place.as_deref().unwrap_or("-")))];
        if !known {
            keys.push((&ACCOUNT, id));
            keys.extend(place.map(|place| (&ADDRESS, place)));
        }
        Ok(Self { app, keys })
    }

    /// A mail for that purpose to that address. Answers how many seconds the address has to be left alone: for who is not
    /// signed in, nobody is to know of these.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] where one place asks for too many; [`Error::Unavailable`] without Redis.
    pub async fn mailbox(
        app: &'a App,
        context: &RequestContext,
        purpose: Purpose,
        email: &str,
    ) -> Result<u64> {
        let by_place = Place::of(context).map(|place| (&MAILER, place.to_string()));
        match (Self { app, keys: by_place.into_iter().collect() }).call("ask").await? {
            0 => {
                Self { app, keys: vec![(&MAILBOX, format!("{}:{}", purpose.as_str(), hashed(email)))] }
                    .call("ask")
                    .await
            }
            retry_after => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// It was wrong.
    pub async fn failed(&self) {
        // If it is not counted, that is in the log.
        let _ = self.call("failed").await;
    }

    /// It was right: the failures at this account are forgotten, those of the place at others are not.
    pub async fn succeeded(mut self) {
        self.keys.retain(|(rule, _)| rule.name != ADDRESS.name);
        let _ = self.call("forget").await;
    }

    async fn call(&self, what: &str) -> Result<u64> {
        if self.keys.is_empty() {
            return Ok(0);
        }
        let prefix = &self.app.config.redis.redis_key_prefix;
        let mut call = SCRIPT.prepare_invoke();
        for (rule, id) in &self.keys {
            call.key(format!("{prefix}:throttle:{}:{id}", rule.name));
        }
        call.arg(what);
        for (rule, _) in &self.keys {
            call.arg(rule.free).arg(rule.longest).arg(rule.keep);
        }
        let answer = self.app.redis.try_invoke(&call).await;
        answer.inspect_err(|error| {
            tracing::warn!(error = crate::error::chain(error), "attempts are not counted")
        })
    }
}

/// An address has no place in the names of keys.
fn hashed(email: &str) -> String {
    security::hex(&security::hash(email)[..16])
}

/// Where the request comes from: an IPv6 network as a whole, since each subscriber has 2^64 addresses.
#[derive(Clone, Copy)]
struct Place(IpAddr);

impl Place {
    fn of(context: &RequestContext) -> Option<Self> {
        Some(Self(match context.ip? {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address => address,
        }))
    }

    /// In PostgreSQL's notation.
    fn network(self) -> String {
        format!("{}/{}", self.0, if self.0.is_ipv4() { 32 } else { 64 })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
