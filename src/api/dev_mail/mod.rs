//! Development pages that show captured mails.

mod addresses;
mod guard;
mod list;
mod mailbox;
mod show;

use std::path::PathBuf;

use poem::{Route, get};

use self::{list::List, mailbox::Mailbox, show::Show};

/// Returns the routes of the pages that show the mails in a directory. The pages are mounted at `/dev/mail`, and only
/// local requests can read them.
pub(super) fn routes(dir: PathBuf) -> Route {
    let mailbox = Mailbox::new(dir);
    Route::new().at("/", get(List(mailbox.clone()))).at("/:id", get(Show(mailbox)))
}
