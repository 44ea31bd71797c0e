//! The mails that were captured rather than sent, for the developer to read and to follow their links.

mod addresses;
mod guard;
mod list;
mod mailbox;
mod show;

use std::path::PathBuf;

use poem::{Route, get};

use self::{list::List, mailbox::Mailbox, show::Show};

/// The pages of the mails in a folder, to be mounted at `/dev/mail`. They are for this machine alone.
pub(super) fn routes(dir: PathBuf) -> Route {
    let mailbox = Mailbox::new(dir);
    Route::new().at("/", get(List(mailbox.clone()))).at("/:id", get(Show(mailbox)))
}
