//! The account of the caller, two-factor authentication, and user administration.

mod admin_only;
mod me;
mod two_factor;
mod user;
mod user_admin;

pub(super) use user::UserOut;

use poem_openapi::OpenApi;

use crate::app::App;

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (
        admin_only::AdminOnly,
        me::Me(app.clone()),
        two_factor::TwoFactor(app.clone()),
        user_admin::UserAdmin(app.clone()),
    )
}
