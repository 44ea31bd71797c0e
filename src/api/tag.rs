//! The groups of operations in the API document.

use poem_openapi::Tags;

/// The group that an operation is listed under.
#[derive(Tags)]
pub(super) enum Tag {
    /// Is it up?
    Health,
    /// Register, sign in and out, and what the links in mails do.
    Auth,
    /// Accounts.
    Users,
    /// Work in the background: put it in a queue, follow it, cancel it.
    Jobs,
    /// For admins: the audit trail, the job queues, their jobs and the workers.
    Admin,
}
