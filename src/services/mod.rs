//! Business rules, and the transactions in which they run.
//!
//! A function that returns [`Result`](crate::error::Result) can also return [`Error::Internal`](crate::error::Error::Internal)
//! for an unexpected failure, such as a bug or data that this release cannot read. Most `# Errors` do not repeat this.

pub mod actor;
pub mod admin_password;
pub mod admins;
pub mod api_key_access;
pub mod api_key_notices;
pub mod api_key_revocation;
pub mod api_key_uses;
pub mod api_keys;
pub mod audit;
pub mod email_keys;
pub mod enqueue;
pub mod housekeeping;
pub mod idempotency;
pub mod invitation_claims;
pub mod invitation_guests;
mod invitation_link;
pub mod invitations;
pub mod job_outbox;
pub mod job_relay;
pub mod login;
mod mailbox;
pub mod members;
mod old_outbox;
pub mod org_access;
pub mod org_admin;
pub mod org_caller;
pub mod org_change;
mod org_erasure;
pub mod org_jobs;
pub mod org_names;
mod org_retention;
pub mod organizations;
pub mod outbox;
pub mod permissions;
pub mod personal_orgs;
pub mod precondition;
pub mod product_import;
pub mod products;
pub mod profile;
pub mod queue_admin;
pub mod recovery;
mod recovery_codes;
pub mod security_event;
pub mod session_uses;
pub mod sessions;
mod throttle;
mod throttle_rules;
pub mod transaction;
pub mod two_factor;
pub mod user_admin;
pub mod user_jobs;
pub mod users;
