//! What handlers take as arguments.

mod body;
mod schema;
mod text;
mod user;

pub use body::{Body, Form};
pub(super) use schema::check_params;
pub use text::{Email, NewPassword};
pub use user::{Admin, CurrentUser, Leaving, SignedIn};
