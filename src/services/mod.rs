//! Business rules, and the transactions in which they run.

pub mod actor;
pub mod admin_password;
pub mod admins;
pub mod audit;
pub mod email_keys;
pub mod enqueue;
pub mod housekeeping;
pub mod idempotency;
pub mod job_outbox;
pub mod job_relay;
pub mod login;
mod mailbox;
mod old_outbox;
pub mod outbox;
pub mod profile;
pub mod queue_admin;
pub mod recovery;
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
