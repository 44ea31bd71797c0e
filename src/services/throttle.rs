//! Rate limits for passwords, codes and mails. Redis counts the failed attempts and the mails, and each process counts
//! password hashes. After the free attempts of a rule, each counted attempt doubles the time that the next attempt has to wait,
//! up to the maximum of the rule.
//!
//! No account is ever locked: every wait ends after some minutes. If the owner of an account has logged in from the client's
//! network in about the last 90 days, only failures from this network count. So an attacker in another network cannot delay the
//! owner in this network (OWASP ASVS 5, 6.1.1 and 6.3.1).
//!
//! While Redis is unavailable, each process counts attempts in memory. Some rules then have lower limits, see
//! [`Rule`](crate::attempts::Rule). So attempts are limited without Redis, too, but by each process separately.
//!
//! Every operation of the API that hashes a password, or sends a mail to an address that the client has chosen, must use a
//! [`Throttle`]. The limits of `src/rate_limits` are separate: they count the requests of a caller.

use std::{fmt, net::IpAddr};

use super::{
    mailbox::mailbox_of,
    security_event::{Event, SecurityEvent},
    throttle_rules::{
        ATTEMPTS_PER_ACCOUNT, ATTEMPTS_PER_ACCOUNT_AND_CLIENT, ATTEMPTS_PER_CLIENT, HASHES_OF_KNOWN_CLIENT,
        HASHES_PER_ACCOUNT_AND_CLIENT, INVITATIONS_PER_INVITER, INVITATIONS_PER_RECIPIENT, MAILS_PER_CLIENT,
        MAILS_PER_RECIPIENT,
    },
};
use crate::{
    app::App,
    attempts::{Counter, Operation, Wait},
    context::{RequestContext, client_network},
    email_address::EmailLookup,
    error::{Error, Result},
    models::{session::Session, user::User},
    security::HashFor,
};

/// The recipient of a mail that a request triggers.
#[derive(Clone, Copy)]
pub enum Recipient<'a> {
    /// An address that may be unverified or unregistered. All addresses of a mailbox share one counter, so that sub-addresses do
    /// not evade the limit.
    Unverified(&'a str),
    /// The verified address of a user, which has its own counter. With a shared counter, requests for mails to sub-addresses of
    /// the mailbox could prevent the user from getting a link.
    Verified(&'a str),
}

/// An id that no user has. Queries for an unregistered address use it instead of a user id.
const NO_USER: i64 = 0;

/// One attempt and the counters that limit it. All spellings of an address share the same counters.
pub struct Throttle<'a> {
    app: &'a App,
    context: &'a RequestContext,
    /// The email address of the account.
    email: &'a str,
    counters: Vec<Counter>,
    /// The kind of caller: the password hash of the attempt uses the share of this kind.
    hash_for: HashFor,
}

impl<'a> Throttle<'a> {
    /// Checks that the client may try a password of the account with this address, and counts the password hash of the
    /// attempt. `user_id` is the id of the account, or `None` if the address is not registered.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running; [`Error::Unavailable`] if PostgreSQL does not answer.
    pub async fn password(
        app: &'a App,
        context: &'a RequestContext,
        email: &'a str,
        user_id: Option<i64>,
    ) -> Result<Self> {
        let mut attempt = Self::account(app, context, "", email, user_id).await?;
        attempt.check().await?;
        Self::hash(app, context, email)?;
        let known = app.attempts.counter(&HASHES_OF_KNOWN_CLIENT, &ClientNetwork::of(context).to_string());
        if attempt.hash_for == HashFor::Known
            && app.attempts.wait_locally(Operation::Acquire, &[known]).is_some()
        {
            attempt.hash_for = HashFor::Login;
        }
        Ok(attempt)
    }

    /// Counts a password hash for the account with this address.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub fn hash(app: &App, context: &RequestContext, email: &str) -> Result<()> {
        let network = ClientNetwork::of(context).to_string();
        let account = EmailLookup::new(email);
        let counter =
            app.attempts.counter(&HASHES_PER_ACCOUNT_AND_CLIENT, &pair_subject(account.subject(), &network));
        refuse(app, context, email, app.attempts.wait_locally(Operation::Acquire, &[counter]))
    }

    /// Returns the kind of caller: the password hash of the attempt uses the share of this kind.
    pub fn hash_for(&self) -> HashFor {
        self.hash_for
    }

    /// Checks that the attempt is allowed now.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub async fn check(&self) -> Result<()> {
        self.run(Operation::Check).await
    }

    /// Counts an attempt to enter a code of this user's second factor.
    ///
    /// The attempt counts as failed until [`record_success`](Self::record_success), so that concurrent attempts cannot exceed the
    /// limit. The codes and passwords of an account have separate counters: a correct password must not reset the counters of
    /// codes.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running; [`Error::Unavailable`] if PostgreSQL does not answer.
    pub async fn code(app: &'a App, context: &'a RequestContext, user: &'a User) -> Result<Self> {
        let attempt = Self::account(app, context, "code of ", &user.email, Some(user.id)).await?;
        attempt.run(Operation::Acquire).await?;
        Ok(attempt)
    }

    /// Resets the counters of failed passwords that limit this client's attempts at an account, after the owner has proven their
    /// identity. The counter of the client's network stays. Errors are ignored.
    pub async fn reset(app: &'a App, context: &'a RequestContext, user: &'a User) {
        if let Ok(attempt) = Self::account(app, context, "", &user.email, Some(user.id)).await {
            attempt.record_success().await;
        }
    }

    /// Collects the counters of an attempt at an account. `kind` separates the counters of codes from the counters of passwords,
    /// except the counter of the client network.
    async fn account(
        app: &'a App,
        context: &'a RequestContext,
        kind: &str,
        email: &'a str,
        user_id: Option<i64>,
    ) -> Result<Self> {
        let subject = &format!("{kind}{}", EmailLookup::new(email).subject());
        let network = ClientNetwork::of(context);
        let is_known = match network.cidr() {
            Some(cidr) => {
                // This query also runs for an unregistered address, so that the response time does not show whether the
                // address is registered.
                let user_id = user_id.unwrap_or(NO_USER);
                app.db.run(async |conn| Ok(Session::has_login_from(conn, user_id, &cidr).await?)).await?
            }
            None => false,
        };
        let network = network.to_string();
        let pair = pair_subject(subject, &network);
        let mut counters = vec![app.attempts.counter(&ATTEMPTS_PER_ACCOUNT_AND_CLIENT, &pair)];
        if !is_known {
            counters.push(app.attempts.counter(&ATTEMPTS_PER_ACCOUNT, subject));
            counters.push(app.attempts.counter(&ATTEMPTS_PER_CLIENT, &network));
        }
        let hash_for = if is_known || context.actor.is_some() { HashFor::Known } else { HashFor::Login };
        Ok(Self { app, context, email, counters, hash_for })
    }

    /// Counts a request of this client that sends a mail to `email`.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] after too many such requests from the client's network.
    pub async fn mail_by_client(app: &App, context: &RequestContext, email: &str) -> Result<()> {
        let network = ClientNetwork::of(context).to_string();
        let counter = app.attempts.counter(&MAILS_PER_CLIENT, &network);
        refuse(app, context, email, app.attempts.wait(Operation::Acquire, &[counter]).await)
    }

    /// Counts a mail of this purpose to a recipient.
    ///
    /// [`recovery`](super::recovery) must not return this error to the client, because the error shows that others have requested
    /// links to this address. A registration returns it, since it shows anyway whether the address has an account.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] if too many such mails were requested.
    pub async fn mail_to_recipient(
        app: &App,
        context: &RequestContext,
        purpose: &str,
        recipient: Recipient<'_>,
    ) -> Result<()> {
        let (email, subject) = match recipient {
            Recipient::Unverified(email) => (email, format!("{purpose}\0{}", mailbox_of(email))),
            Recipient::Verified(email) => {
                (email, format!("{purpose}\0verified\0{}", EmailLookup::new(email).subject()))
            }
        };
        let counter = app.attempts.counter(&MAILS_PER_RECIPIENT, &subject);
        refuse(app, context, email, app.attempts.wait(Operation::Acquire, &[counter]).await)
    }

    /// Counts a notice to a user whose address is not verified. Does nothing for a user with a verified address. A user who has
    /// registered the address of a stranger must not flood the stranger with notices.
    ///
    /// # Errors
    /// As [`Self::mail_to_recipient`].
    pub async fn notice(app: &App, context: &RequestContext, user: &User) -> Result<()> {
        Self::notice_about(app, context, "notice", user).await
    }

    /// As [`Self::notice`], for a notice of a new API key. These notices have their own counter: a session can create keys
    /// without the password, and must not use up the notices of operations that require the password.
    ///
    /// # Errors
    /// As [`Self::mail_to_recipient`].
    pub async fn key_notice(app: &App, context: &RequestContext, user: &User) -> Result<()> {
        Self::notice_about(app, context, "key_notice", user).await
    }

    async fn notice_about(app: &App, context: &RequestContext, purpose: &str, user: &User) -> Result<()> {
        match user.email_verified_at {
            Some(_) => Ok(()),
            None => Self::mail_to_recipient(app, context, purpose, Recipient::Unverified(&user.email)).await,
        }
    }

    /// Counts an invitation to the product, which an admin sends to an address.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] if too many invitations were sent to the mailbox.
    pub async fn invitation(app: &App, context: &RequestContext, email: &str) -> Result<()> {
        let counter = app.attempts.counter(&INVITATIONS_PER_RECIPIENT, &mailbox_of(email));
        refuse(app, context, email, app.attempts.wait(Operation::Acquire, &[counter]).await)
    }

    /// Counts an invitation to an organization.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] after too many invitations by the inviter or to the mailbox.
    pub async fn org_invitation(
        app: &App,
        context: &RequestContext,
        inviter_id: i64,
        email: &str,
    ) -> Result<()> {
        let counters = [
            app.attempts.counter(&INVITATIONS_PER_INVITER, &inviter_id.to_string()),
            app.attempts.counter(&INVITATIONS_PER_RECIPIENT, &mailbox_of(email)),
        ];
        refuse(app, context, email, app.attempts.wait(Operation::Acquire, &counters).await)
    }

    /// Counts the attempt as failed.
    pub async fn record_failure(&self) {
        self.app.attempts.run(Operation::Fail, &self.counters).await;
    }

    /// Resets the counters that limit this attempt, except the counter of the client network, because it also counts attempts at
    /// other accounts.
    pub async fn record_success(mut self) {
        self.counters.retain(|counter| counter.rule.name != ATTEMPTS_PER_CLIENT.name);
        self.app.attempts.run(Operation::Reset, &self.counters).await;
    }

    async fn run(&self, operation: Operation) -> Result<()> {
        let wait = self.app.attempts.wait(operation, &self.counters).await;
        refuse(self.app, self.context, self.email, wait)
    }
}

/// Returns an error if the attempt has to wait, and logs the refusal.
fn refuse(app: &App, context: &RequestContext, email: &str, wait: Option<Wait>) -> Result<()> {
    let Some(Wait { rule, seconds }) = wait else { return Ok(()) };
    SecurityEvent::new(Event::AttemptThrottled { rule }).email(email).log(app, context);
    Err(Error::TooManyAttempts { retry_after: seconds })
}

/// Returns the subject of a counter for an account and a client network.
fn pair_subject(account: &str, network: &str) -> String {
    format!("{account}\0{network}")
}

/// The [`client_network`] of a request. All clients with an unknown IP address share one network, so that they do not
/// evade the limits.
#[derive(Clone, Copy)]
struct ClientNetwork(Option<IpAddr>);

impl ClientNetwork {
    fn of(context: &RequestContext) -> Self {
        Self(context.ip.map(client_network))
    }

    /// Returns the network in PostgreSQL's notation, such as `192.0.2.1/32`. `None` if the IP address is unknown.
    fn cidr(self) -> Option<String> {
        self.0.map(|network| format!("{network}/{}", if network.is_ipv4() { 32 } else { 64 }))
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(network) => network.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}
