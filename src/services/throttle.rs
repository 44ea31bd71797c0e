//! Guessing made slow: failed attempts are counted in Redis, and the next has to wait ever longer.
//!
//! A wait, never a lockout, and never one that somebody else can bring about: where the owner of an account has
//! signed in before, only the failures of that very place count (OWASP ASVS 5, 6.3.1 and 6.3.5).
//!
//! Without Redis nothing is counted and attempts go on: bcrypt and the width of its queue still bound them to a few
//! a second. That is better than nobody being able to sign in.

use std::{net::IpAddr, sync::LazyLock};

use redis::Script;

use crate::{
    app::App,
    error::{Error, Result},
    models::session::Session,
    security, telemetry,
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
/// Mails that somebody asks for, to one address.
const MAILBOX: Rule = Rule { name: "mailbox", free: 3, longest: 3_600, keep: 86_400 };
/// Mails that one place asks for.
const MAILER: Rule = Rule { name: "mailer", free: 30, longest: 600, keep: 3_600 };

/// An attempt at something that can be guessed.
pub struct Attempt<'a> {
    app: &'a App,
    keys: Vec<(&'static Rule, String)>,
}

impl<'a> Attempt<'a> {
    /// A password or a code of the account with that address.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while the last failure is too fresh.
    pub async fn at_account(app: &'a App, email: &str) -> Result<Self> {
        let place = place();
        let id = hashed(email);
        let pair = format!("{id}:{}", place.as_deref().unwrap_or("-"));
        let mut keys = vec![(&PAIR, pair)];
        let address =
            telemetry::request().and_then(|request| request.address).map(|address| address.to_string());
        let known = match &address {
            Some(address) => {
                app.db.run(async |conn| Ok(Session::known_address(conn, email, address).await?)).await?
            }
            None => false,
        };
        if !known {
            keys.push((&ACCOUNT, id));
            keys.extend(place.map(|place| (&ADDRESS, place)));
        }
        Self { app, keys }.check().await
    }

    /// A mail to that address, wanted by somebody who is not signed in. `None` where it has had its share: nobody
    /// is to know.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] where one place asks for too many.
    pub async fn at_mailbox(app: &'a App, email: &str) -> Result<Option<()>> {
        let by_place: Vec<_> = place().map(|place| (&MAILER, place)).into_iter().collect();
        let asked = Self { app, keys: by_place }.check().await?;
        asked.failed().await;
        let mailbox = Self { app, keys: vec![(&MAILBOX, hashed(email))] };
        match mailbox.check().await {
            Ok(mailbox) => {
                mailbox.failed().await;
                Ok(Some(()))
            }
            Err(Error::TooManyAttempts { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    async fn check(self) -> Result<Self> {
        match self.call("check").await {
            0 => Ok(self),
            retry_after => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// It was wrong.
    pub async fn failed(&self) {
        self.call("failed").await;
    }

    /// It was right: the failures at this account are forgotten, those of the place at others are not.
    pub async fn succeeded(mut self) {
        self.keys.retain(|(rule, _)| rule.name != ADDRESS.name);
        self.call("forget").await;
    }

    async fn call(&self, what: &str) -> u64 {
        if self.keys.is_empty() {
            return 0;
        }
        let prefix = &self.app.config.redis.queue_prefix;
        let call = || {
            let mut call = SCRIPT.prepare_invoke();
            for (rule, id) in &self.keys {
                call.key(format!("{prefix}:throttle:{}:{id}", rule.name));
            }
            call.arg(what);
            for (rule, _) in &self.keys {
                call.arg(rule.free).arg(rule.longest).arg(rule.keep);
            }
            call
        };
        self.app.redis.invoke(call, |_| None).await.unwrap_or_else(|error| {
            tracing::warn!(error = telemetry::chain(&error), "attempts are not counted");
            0
        })
    }
}

/// An address has no place in the names of keys.
fn hashed(email: &str) -> String {
    security::hash(email).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Where the request comes from: an IPv6 network as a whole, since each subscriber has 2^64 addresses.
fn place() -> Option<String> {
    Some(match telemetry::request()?.address?.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::")
        }
    })
}
