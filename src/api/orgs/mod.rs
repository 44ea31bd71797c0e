//! Operations on organizations, their members, and their data.
//!
//! The operations in an organization have the prefix [`ORG_PATH`](super::paths::ORG_PATH). They take the argument `org`
//! of type [`OrgMember`](super::extract::OrgMember), which checks the permission of the caller. To add a resource of
//! organizations, add its file, its `mod` line, and a line in `resources`.

mod api_key_out;
mod api_keys;
mod audit;
mod invitation_links;
mod invitations;
mod jobs;
mod members;
mod my_invitations;
mod org;
mod organizations;
mod product_import;
mod products;
mod role;
mod scope;

use poem_openapi::OpenApi;

use crate::app::App;

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (
        organizations::MyOrgs(app.clone()),
        organizations::Orgs(app.clone()),
        members::Members(app.clone()),
        invitations::Invitations(app.clone()),
        my_invitations::MyInvitations(app.clone()),
        invitation_links::InvitationLinks(app.clone()),
        audit::OrgAudit(app.clone()),
        products::Products(app.clone()),
        jobs::OrgJobs(app.clone()),
        product_import::ProductImport(app.clone()),
        api_keys::ApiKeys(app.clone()),
    )
}
