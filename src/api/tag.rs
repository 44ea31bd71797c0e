//! The groups of operations in the API document.

use poem_openapi::Tags;

/// A group of operations.
#[derive(Tags)]
pub(super) enum Tag {
    /// Health checks.
    Health,
    /// Registration, sign-in, refresh, sign-out and the links in mails.
    Auth,
    /// The account of the caller with its sessions and second factor, and user administration.
    Users,
    /// Organizations with their members, invitations, API keys and audit trails.
    Organizations,
    /// The products of an organization, the example of a resource.
    Products,
    /// Background jobs: enqueue, read the status, cancel.
    Jobs,
    /// For admins: the audit trail, queues, jobs, workers and organizations.
    Admin,
}
