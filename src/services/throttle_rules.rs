//! The rules of [`Throttle`](super::throttle::Throttle). `docs/auth.md` lists them.

use crate::attempts::Rule;

/// Failed attempts at the password, or at the code, of one account from one client network.
pub(super) static ATTEMPTS_PER_ACCOUNT_AND_CLIENT: Rule = Rule {
    name: "pair",
    free_attempts: 5,
    free_attempts_without_redis: 5,
    max_wait_seconds: 300,
    ttl_seconds: 86_400,
};
/// Failed attempts at the password, or at the code, of one account from all client networks, except networks from which the
/// owner has logged in.
pub(super) static ATTEMPTS_PER_ACCOUNT: Rule = Rule {
    name: "account",
    free_attempts: 20,
    free_attempts_without_redis: 20,
    max_wait_seconds: 60,
    ttl_seconds: 86_400,
};
/// Failed attempts at the passwords and codes of all accounts from one client network, except accounts whose owner has logged
/// in from this network.
pub(super) static ATTEMPTS_PER_CLIENT: Rule = Rule {
    name: "address",
    free_attempts: 100,
    free_attempts_without_redis: 100,
    max_wait_seconds: 60,
    ttl_seconds: 3_600,
};
/// Password hashes for one account from one client network: verifications of correct and wrong passwords, and passwords that are
/// set by a link. Each process counts its own hashes, because they use its CPU time.
pub(super) static HASHES_PER_ACCOUNT_AND_CLIENT: Rule = Rule {
    name: "hashes",
    free_attempts: 30,
    free_attempts_without_redis: 30,
    max_wait_seconds: 60,
    ttl_seconds: 3_600,
};
/// Hashes that verify a password, for all accounts from one client network, in the share of known callers
/// ([`HashFor::Known`](crate::security::HashFor)). A client can register accounts and so become a known caller, so this
/// share needs a limit. Over the limit, the client is not refused: its hashes then run in the share of all other
/// logins.
pub(super) static HASHES_OF_KNOWN_CLIENT: Rule = Rule {
    name: "known",
    free_attempts: 200,
    free_attempts_without_redis: 200,
    max_wait_seconds: 60,
    ttl_seconds: 3_600,
};
/// Mails of one purpose to one mailbox, or to one verified address. The longest wait is shorter than the lifetime of the links.
/// So a user whose own requests have reached the limit still has a valid link.
pub(super) static MAILS_PER_RECIPIENT: Rule = Rule {
    name: "mailbox",
    free_attempts: 3,
    free_attempts_without_redis: 1,
    max_wait_seconds: 900,
    ttl_seconds: 86_400,
};
/// Registrations, changes of an address and requests for links, from one client network.
pub(super) static MAILS_PER_CLIENT: Rule = Rule {
    name: "mailer",
    free_attempts: 30,
    free_attempts_without_redis: 10,
    max_wait_seconds: 600,
    ttl_seconds: 3_600,
};

/// Invitations to organizations that one user sends. The limit is needed because any user can create an organization
/// and invite strangers.
pub(super) static INVITATIONS_PER_INVITER: Rule = Rule {
    name: "inviter",
    free_attempts: 100,
    free_attempts_without_redis: 20,
    max_wait_seconds: 600,
    ttl_seconds: 3_600,
};
/// Invitations to one mailbox, to the product or to organizations. An inviter may need to repeat an invitation, but must not
/// flood a stranger with mails.
pub(super) static INVITATIONS_PER_RECIPIENT: Rule = Rule {
    name: "invitations",
    free_attempts: 20,
    free_attempts_without_redis: 20,
    max_wait_seconds: 900,
    ttl_seconds: 86_400,
};
