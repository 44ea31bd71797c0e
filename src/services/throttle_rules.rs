//! The rules of the rate limits. `docs/auth.md` lists them.

use crate::attempts::Rule;

/// Attempts at one account from one client network.
pub(super) static PER_ACCOUNT_AND_CLIENT: Rule = Rule {
    name: "pair",
    free_attempts: 5,
    free_attempts_without_redis: 5,
    max_wait_seconds: 300,
    ttl_seconds: 86_400,
};
/// Attempts at one account from all client networks.
pub(super) static PER_ACCOUNT: Rule = Rule {
    name: "account",
    free_attempts: 20,
    free_attempts_without_redis: 20,
    max_wait_seconds: 60,
    ttl_seconds: 86_400,
};
/// Attempts at all accounts from one client network.
pub(super) static PER_CLIENT: Rule = Rule {
    name: "address",
    free_attempts: 100,
    free_attempts_without_redis: 100,
    max_wait_seconds: 60,
    ttl_seconds: 3_600,
};
/// Hashes for one account from one client network, for right and wrong passwords. Each process counts its own
/// hashes, because they take its CPU time. A client that logs in less than once a minute never has to wait.
pub(super) static HASHES: Rule = Rule {
    name: "hashes",
    free_attempts: 30,
    free_attempts_without_redis: 30,
    max_wait_seconds: 60,
    ttl_seconds: 3_600,
};
/// Hashes for all accounts from one client network, in the share of known callers. The limit is needed
/// because a client can register accounts and so become known. Over the limit, the client is not refused: its
/// hashes then run in the share of all other logins.
pub(super) static HASHES_OF_KNOWN_CLIENT: Rule = Rule {
    name: "known",
    free_attempts: 200,
    free_attempts_without_redis: 200,
    max_wait_seconds: 60,
    ttl_seconds: 3_600,
};
/// Mails of one purpose to one mailbox. The longest wait is shorter than the lifetime of the links, so a user who cannot
/// ask for a new link has a valid one.
pub(super) static MAILS_PER_RECIPIENT: Rule = Rule {
    name: "mailbox",
    free_attempts: 3,
    free_attempts_without_redis: 1,
    max_wait_seconds: 900,
    ttl_seconds: 86_400,
};
/// Mails that one client network asks for.
pub(super) static MAILS_PER_CLIENT: Rule = Rule {
    name: "mailer",
    free_attempts: 30,
    free_attempts_without_redis: 10,
    max_wait_seconds: 600,
    ttl_seconds: 3_600,
};

/// Invitations to organizations that one user sends. Any user can create an organization and invite strangers.
pub(super) static INVITATIONS_PER_INVITER: Rule = Rule {
    name: "inviter",
    free_attempts: 100,
    free_attempts_without_redis: 20,
    max_wait_seconds: 600,
    ttl_seconds: 3_600,
};
/// Invitations to one mailbox. An admin may need to repeat an invitation, but must not flood a stranger with
/// mails.
pub(super) static INVITATIONS_PER_RECIPIENT: Rule = Rule {
    name: "invitations",
    free_attempts: 20,
    free_attempts_without_redis: 20,
    max_wait_seconds: 900,
    ttl_seconds: 86_400,
};
