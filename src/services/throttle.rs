//! Rate limits for passwords, codes and mails. Failed attempts are counted in Redis. After the free attempts of a rule, each
//! failure doubles the wait.
//!
//! An attempt has to wait, but no account is locked. If the owner of an account has logged in from the client's network
//! before, only failures from that network count. So an attacker elsewhere cannot delay the owner (OWASP ASVS 5, 6.1.1
//! and 6.3.1).
//!
//! While Redis is unavailable, each process counts by itself, with the same rules, and with stricter rules
//! for mails. So the limits also hold without Redis.
//!
//! Every operation that hashes a password, or sends a mail to an address that the caller may not own, must use a
//! [`Throttle`]. The limits of `src/rate_limits` apply to the requests of all operations, and know no accounts.

use std::{fmt, net::IpAddr};

use super::{
    mailbox::mailbox_of,
    security_event::{Event, SecurityEvent},
    throttle_rules::{
        HASHES, HASHES_OF_KNOWN_CLIENT, INVITATIONS_PER_INVITER, INVITATIONS_PER_RECIPIENT, MAILS_PER_CLIENT,
        MAILS_PER_RECIPIENT, PER_ACCOUNT, PER_ACCOUNT_AND_CLIENT, PER_CLIENT,
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
    /// An address that its owner may not have verified. All addresses of the mailbox are counted together, so that
    /// sub-addresses do not evade the limit.
    Unverified(&'a str),
    /// The verified address of a user, which is counted alone. Others can ask for mails to sub-addresses of the mailbox,
    /// and that must not keep the user from a link.
    Verified(&'a str),
}

/// An id that no user has. It replaces the user id for an address that is not registered.
const NO_USER: i64 = 0;

/// One attempt and the counters that limit it. All spellings of an address have the same counters.
pub struct Throttle<'a> {
    app: &'a App,
    context: &'a RequestContext,
    /// The email address of the account.
    email: &'a str,
    counters: Vec<Counter>,
    /// The share of the hashes that the attempt belongs to.
    hash_for: HashFor,
}

impl<'a> Throttle<'a> {
    /// Checks that a password of the account with this address may be tried, and counts the hash that this
    /// costs. `user_id` is the id of the account, if there is one.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
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

    /// Counts a hash for the account with this address.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub fn hash(app: &App, context: &RequestContext, email: &str) -> Result<()> {
        let network = ClientNetwork::of(context).to_string();
        let account = EmailLookup::new(email);
        let counter = app.attempts.counter(&HASHES, &pair(account.subject(), &network));
        refuse(app, context, email, app.attempts.wait_locally(Operation::Acquire, &[counter]))
    }

    /// Returns the share of the hashes that the attempt belongs to.
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

    /// Counts an attempt with a code of this user.
    ///
    /// The attempt counts as failed until [`record_success`](Self::record_success), so concurrent attempts cannot pass
    /// the limit. Codes and passwords have separate counters: a correct password must not reset the counter of codes.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while a wait is running.
    pub async fn code(app: &'a App, context: &'a RequestContext, user: &'a User) -> Result<Self> {
        let attempt = Self::account(app, context, "code of ", &user.email, Some(user.id)).await?;
        attempt.run(Operation::Acquire).await?;
        Ok(attempt)
    }

    /// Resets the password counters of an account for this client, after its owner has proven their identity.
    pub async fn reset(app: &'a App, context: &'a RequestContext, user: &'a User) {
        if let Ok(attempt) = Self::account(app, context, "", &user.email, Some(user.id)).await {
            attempt.record_success().await;
        }
    }

    /// Collects the counters of an attempt at an account. `kind` separates the counters of codes from the
    /// counters of passwords.
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
                // This query also runs for an unknown address, so that the time does not show whether it is
                // registered.
                let user_id = user_id.unwrap_or(NO_USER);
                app.db.run(async |conn| Ok(Session::has_login_from(conn, user_id, &cidr).await?)).await?
            }
            None => false,
        };
        let network = network.to_string();
        let pair = pair(subject, &network);
        let mut counters = vec![app.attempts.counter(&PER_ACCOUNT_AND_CLIENT, &pair)];
        if !is_known {
            counters.push(app.attempts.counter(&PER_ACCOUNT, subject));
            counters.push(app.attempts.counter(&PER_CLIENT, &network));
        }
        let hash_for = if is_known || context.actor.is_some() { HashFor::Known } else { HashFor::Login };
        Ok(Self { app, context, email, counters, hash_for })
    }

    /// Counts a request of this client that makes the product send a mail to `email`.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] if requests from the client's network have asked for too many mails.
    pub async fn mail_by_client(app: &App, context: &RequestContext, email: &str) -> Result<()> {
        let network = ClientNetwork::of(context).to_string();
        let counter = app.attempts.counter(&MAILS_PER_CLIENT, &network);
        refuse(app, context, email, app.attempts.wait(Operation::Acquire, &[counter]).await)
    }

    /// Counts a mail of this purpose to a recipient.
    ///
    /// The caller must not return this error to an anonymous client that asks for a link. The error shows
    /// that others have asked for links to this address.
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

    /// Counts a change that notifies its user by mail, unless the address of the user is verified. A user who
    /// has registered the address of a stranger must not flood the stranger with notices.
    ///
    /// # Errors
    /// As [`Self::mail_to_recipient`].
    pub async fn notice(app: &App, context: &RequestContext, user: &User) -> Result<()> {
        match user.email_verified_at {
            Some(_) => Ok(()),
            None => Self::mail_to_recipient(app, context, "notice", Recipient::Unverified(&user.email)).await,
        }
    }

    /// Counts an invitation to an address.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] if too many invitations were sent to the mailbox.
    pub async fn invitation(app: &App, context: &RequestContext, email: &str) -> Result<()> {
        let counter = app.attempts.counter(&INVITATIONS_PER_RECIPIENT, &mailbox_of(email));
        refuse(app, context, email, app.attempts.wait(Operation::Acquire, &[counter]).await)
    }

    /// Counts an invitation to an organization, which any user can send.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] if the inviter has sent too many, or too many were sent to the mailbox.
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

    /// Resets the counters of the account. The counter of the client network stays: it also counts other accounts.
    pub async fn record_success(mut self) {
        self.counters.retain(|counter| counter.rule.name != PER_CLIENT.name);
        self.app.attempts.run(Operation::Reset, &self.counters).await;
    }

    async fn run(&self, operation: Operation) -> Result<()> {
        let wait = self.app.attempts.wait(operation, &self.counters).await;
        refuse(self.app, self.context, self.email, wait)
    }
}

/// Returns an error if an attempt has to wait, and logs the refusal.
fn refuse(app: &App, context: &RequestContext, email: &str, wait: Option<Wait>) -> Result<()> {
    let Some(Wait { rule, seconds }) = wait else { return Ok(()) };
    SecurityEvent::new(Event::AttemptThrottled { rule }).email(email).log(app, context);
    Err(Error::TooManyAttempts { retry_after: seconds })
}

/// Returns the subject of a counter for an account and a client network.
fn pair(account: &str, network: &str) -> String {
    format!("{account}\0{network}")
}

/// The [`client_network`] of a request. Clients with an unknown address share one network, so that they do
/// not evade the limits.
#[derive(Clone, Copy)]
struct ClientNetwork(Option<IpAddr>);

impl ClientNetwork {
    fn of(context: &RequestContext) -> Self {
        Self(context.ip.map(client_network))
    }

    /// Returns the network in PostgreSQL's notation, such as `192.0.2.1/32`. `None` if it is unknown.
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
