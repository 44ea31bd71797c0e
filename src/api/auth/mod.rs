//! Registration, sign-in, the current session and the links in mails.

mod grants;
mod links;
mod login;
mod register;
mod session;
mod tokens;

use poem_openapi::OpenApi;

use crate::app::App;

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (
        register::Register(app.clone()),
        login::Login(app.clone()),
        session::Session(app.clone()),
        links::Links(app.clone()),
    )
}
