//! Rate limits for passwords, codes and mails. Failed attempts are counted in Redis, and each one doubles the wait.
//!
//! An attempt has to wait, but no account is locked. If the owner of an account has logged in from the client's network
//! before, only failures from that network count. So an attacker elsewhere cannot delay the owner (OWASP ASVS 5, 6.1.1
//! and 6.3.1).
//!
//! While Redis does not count, each process counts by itself, by the same rules; for mails by stricter ones. So these
//! limits do not depend on Redis.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use crate::{
    app::App,
    attempts::{Counter, Operation, Rule},
    context::RequestContext,
    error::{Error, Result},
    models::{one_time_token::Purpose, session::Session},
};

/// Attempts at one account from one client network.
static PER_ACCOUNT_AND_CLIENT: Rule = Rule {
    name: "pair",
    free_attempts: 5,
    free_attempts_without_redis: 5,
    max_wait_seconds: 300,
    ttl_seconds: 86_400,
};
/// Attempts at one account from all client networks.
static PER_ACCOUNT: Rule = Rule {
    name: "account",
    free_attempts: 20,
    free_attempts_without_redis: 20,
    max_wait_seconds: 60,
    ttl_seconds: 86_400,
};
/// Attempts at all accounts from one client network.
static PER_CLIENT: Rule = Rule {
    name: "address",
    free_attempts: 100,
    free_attempts_without_redis: 100,
    max_wait_seconds: 60,
    ttl_seconds: 3_600,
};
/// Mails of one purpose to one email address. The longest wait is shorter than the lifetime of the links, so a user who
/// cannot ask for a new link has a valid one.
static MAILS_PER_RECIPIENT: Rule = Rule {
    name: "mailbox",
    free_attempts: 3,
    free_attempts_without_redis: 1,
    max_wait_seconds: 900,
    ttl_seconds: 86_400,
};
/// Mails that one client network asks for.
static MAILS_PER_CLIENT: Rule = Rule {
    name: "mailer",
    free_attempts: 30,
    free_attempts_without_redis: 10,
    max_wait_seconds: 600,
    ttl_seconds: 3_600,
};

/// One attempt and the counters that limit it.
pub struct Throttle<'a> {
    app: &'a App,
    counters: Vec<Counter>,
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

    /// Checks that the attempt is allowed now.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub async fn check(&self) -> Result<()> {
        self.run(Operation::Check).await
    }

    /// Counts an attempt with a code of the account with this address.
    ///
    /// The attempt counts as failed until [`record_success`](Self::record_success), so concurrent attempts cannot pass
    /// the limit. Codes and passwords have separate counters: a correct password must not reset the counter of codes.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub async fn code(app: &'a App, context: &RequestContext, email: &str) -> Result<Self> {
        let attempt = Self::account(app, context, &format!("code of {email}"), email).await?;
        attempt.run(Operation::Acquire).await?;
        Ok(attempt)
    }

    /// Resets the password counters of an account for this client, after its owner has proven their identity.
    pub async fn reset(app: &'a App, context: &RequestContext, email: &str) {
        if let Ok(attempt) = Self::account(app, context, email, email).await {
            attempt.record_success().await;
        }
    }

    async fn account(app: &'a App, context: &RequestContext, subject: &str, email: &str) -> Result<Self> {
        let network = ClientNetwork::of(context);
        let is_known = match &network {
            Some(network) => {
                let cidr = network.cidr();
                app.db.run(async |conn| Ok(Session::has_login_from(conn, email, &cidr).await?)).await?
            }
            None => false,
        };
        let network = network.map(|network| network.to_string());
        let pair = format!("{subject}\0{}", network.as_deref().unwrap_or_default());
        let mut counters = vec![app.attempts.counter(&PER_ACCOUNT_AND_CLIENT, &pair)];
        if !is_known {
            counters.push(app.attempts.counter(&PER_ACCOUNT, subject));
            counters.extend(network.map(|network| app.attempts.counter(&PER_CLIENT, &network)));
        }
        Ok(Self { app, counters })
    }

    /// Counts a request for a mail of this purpose to `email`. Returns the seconds until such a mail may be sent, 0 for
    /// now.
    ///
    /// An anonymous client must not learn the wait: it shows that others have asked for mails to this address.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] if the client asks for too many mails.
    pub async fn mail(app: &App, context: &RequestContext, purpose: Purpose, email: &str) -> Result<u64> {
        if let Some(network) = ClientNetwork::of(context) {
            let by_client = vec![app.attempts.counter(&MAILS_PER_CLIENT, &network.to_string())];
            Throttle { app, counters: by_client }.run(Operation::Acquire).await?;
        }
        let recipient = format!("{}\0{email}", purpose.as_str());
        let recipient = app.attempts.counter(&MAILS_PER_RECIPIENT, &recipient);
        Ok(app.attempts.run(Operation::Acquire, &[recipient]).await)
    }

    /// Counts the attempt as failed.
    pub async fn record_failure(&self) {
        self.app.attempts.run(Operation::Fail, &self.counters).await;
    }

    /// Resets the counters of the account. The counter of the client network stays: it also counts other accounts.
    pub async fn record_success(mut self) {
        self.counters.retain(|counter| counter.rule.name != PER_CLIENT.name);
        self.app.attempts.run(Operation::Reset, &self.counters).await;
    }

    async fn run(&self, operation: Operation) -> Result<()> {
        match self.app.attempts.run(operation, &self.counters).await {
            0 => Ok(()),
            retry_after => Err(Error::TooManyAttempts { retry_after }),
        }
    }
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
