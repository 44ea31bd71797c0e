//! Rate limits for passwords, codes and mails. Failed attempts are counted in Redis, and each one doubles the wait.
//!
//! An attempt has to wait, but no account is locked. If the owner of an account has logged in from the client's network
//! before, only failures from that network count. So an attacker elsewhere cannot delay the owner (OWASP ASVS 5, 6.1.1
//! and 6.3.1).
//!
//! Without Redis nothing is counted. Passwords are still accepted, because hashing limits them to a few a second. Codes
//! outside a login challenge and mails have no other limit, so they are refused.

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

/// A rule by which failures are counted.
struct Rule {
    /// Part of the Redis key.
    name: &'static str,
    /// Attempts before the first wait.
    free_attempts: u32,
    max_wait_seconds: u32,
    /// The counter expires this long after the last failure.
    ttl_seconds: u32,
}

/// Attempts at one account from one client network.
const PER_ACCOUNT_AND_CLIENT: Rule =
    Rule { name: "pair", free_attempts: 5, max_wait_seconds: 300, ttl_seconds: 86_400 };
/// Attempts at one account from all client networks.
const PER_ACCOUNT: Rule =
    Rule { name: "account", free_attempts: 20, max_wait_seconds: 60, ttl_seconds: 86_400 };
/// Attempts at all accounts from one client network.
const PER_CLIENT: Rule =
    Rule { name: "address", free_attempts: 100, max_wait_seconds: 60, ttl_seconds: 3_600 };
/// Mails of one purpose to one email address. The longest wait is shorter than the lifetime of the links, so a user who
/// cannot ask for a new link has a valid one.
const MAILS_PER_RECIPIENT: Rule =
    Rule { name: "mailbox", free_attempts: 3, max_wait_seconds: 900, ttl_seconds: 86_400 };
/// Mails that one client network asks for.
const MAILS_PER_CLIENT: Rule =
    Rule { name: "mailer", free_attempts: 30, max_wait_seconds: 600, ttl_seconds: 3_600 };

/// One attempt and the counters that limit it.
pub struct Throttle<'a> {
    app: &'a App,
    keys: Vec<(&'static Rule, String)>,
}

impl<'a> Throttle<'a> {
    /// Checks that a password of the account with this address may be tried. Counts nothing.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub async fn password(app: &'a App, context: &RequestContext, email: &str) -> Result<Self> {
        let attempt = Self::account(app, context, email, email).await?;
        attempt.check().await?;
        Ok(attempt)
    }

    /// Checks that the attempt is allowed now. Without Redis it is.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub async fn check(&self) -> Result<()> {
        match self.run_script("check").await {
            Ok(0) | Err(_) => Ok(()),
            Ok(retry_after) => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// Counts an attempt with a code of the account with this address.
    ///
    /// The attempt counts as failed until [`record_success`](Self::record_success), so concurrent attempts cannot pass
    /// the limit. Codes and passwords have separate counters: a correct password must not reset the counter of codes.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running; [`Error::Unavailable`] without Redis.
    pub async fn code(app: &'a App, context: &RequestContext, email: &str) -> Result<Self> {
        let attempt = Self::account(app, context, &format!("code of {email}"), email).await?;
        match attempt.run_script("acquire").await? {
            0 => Ok(attempt),
            retry_after => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// As [`Self::code`], for a login challenge. Without Redis the attempt is allowed: the challenge itself limits how
    /// many codes can be tried.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub async fn challenge(app: &'a App, context: &RequestContext, email: &str) -> Result<Self> {
        match Self::code(app, context, email).await {
            Err(Error::Unavailable { what: "Redis", .. }) => Ok(Self { app, keys: Vec::new() }),
            result => result,
        }
    }

    /// Resets the password counters of an account for this client, after its owner has proven their identity.
    pub async fn reset(app: &'a App, context: &RequestContext, email: &str) {
        if let Ok(attempt) = Self::account(app, context, email, email).await {
            attempt.record_success().await;
        }
    }

    async fn account(app: &'a App, context: &RequestContext, subject: &str, email: &str) -> Result<Self> {
        let (id, network) = (key_hash(subject), ClientNetwork::of(context));
        let is_known = match &network {
            Some(network) => {
                let cidr = network.cidr();
                app.db.run(async |conn| Ok(Session::has_login_from(conn, email, &cidr).await?)).await?
            }
            None => false,
        };
        let network = network.map(|network| network.to_string());
        let mut keys = vec![(&PER_ACCOUNT_AND_CLIENT, format!("{id}:{}", network.as_deref().unwrap_or("-")))];
        if !is_known {
            keys.push((&PER_ACCOUNT, id));
            keys.extend(network.map(|network| (&PER_CLIENT, network)));
        }
        Ok(Self { app, keys })
    }

    /// Counts a request for a mail of this purpose to `email`. Returns the seconds until such a mail may be sent, 0 for
    /// now.
    ///
    /// An anonymous client must not learn the wait: it shows that others have asked for mails to this address.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] if the client asks for too many mails; [`Error::Unavailable`] without Redis.
    pub async fn mail(app: &'a App, context: &RequestContext, purpose: Purpose, email: &str) -> Result<u64> {
        let by_client = ClientNetwork::of(context).map(|network| (&MAILS_PER_CLIENT, network.to_string()));
        match (Self { app, keys: by_client.into_iter().collect() }).run_script("acquire").await? {
            0 => {
                let recipient = format!("{}:{}", purpose.as_str(), key_hash(email));
                Self { app, keys: vec![(&MAILS_PER_RECIPIENT, recipient)] }.run_script("acquire").await
            }
            retry_after => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// Counts the attempt as failed.
    pub async fn record_failure(&self) {
        // `run_script` logs an error.
        let _ = self.run_script("fail").await;
    }

    /// Resets the counters of the account. The counter of the client network stays: it also counts other accounts.
    pub async fn record_success(mut self) {
        self.keys.retain(|(rule, _)| rule.name != PER_CLIENT.name);
        let _ = self.run_script("reset").await;
    }

    async fn run_script(&self, operation: &str) -> Result<u64> {
        if self.keys.is_empty() {
            return Ok(0);
        }
        let prefix = &self.app.config.redis.redis_key_prefix;
        let mut invocation = SCRIPT.prepare_invoke();
        for (rule, id) in &self.keys {
            invocation.key(format!("{prefix}:throttle:{}:{id}", rule.name));
        }
        invocation.arg(operation);
        for (rule, _) in &self.keys {
            invocation.arg(rule.free_attempts).arg(rule.max_wait_seconds).arg(rule.ttl_seconds);
        }
        let wait = self.app.redis.try_invoke(&invocation).await;
        wait.inspect_err(|error| {
            tracing::warn!(
                error = crate::error::chain(error),
                operation,
                "cannot read or write rate limits in Redis: attempts are not counted"
            )
        })
    }
}

/// Returns the part of a key for an account: a hash, because the names of keys must not contain email addresses.
fn key_hash(subject: &str) -> String {
    security::hex(&security::hash(subject)[..16])
}

/// The network that a request comes from: an IPv4 address, or an IPv6 /64, since each subscriber has 2^64 addresses.
#[derive(Clone, Copy)]
struct ClientNetwork(IpAddr);

impl ClientNetwork {
    fn of(context: &RequestContext) -> Option<Self> {
        Some(Self(match context.ip? {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address => address,
        }))
    }

    /// Returns the network in PostgreSQL's notation, such as `192.0.2.1/32`.
    fn cidr(self) -> String {
        format!("{}/{}", self.0, if self.0.is_ipv4() { 32 } else { 64 })
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
