//! What handlers take as arguments.

mod body;
mod text;
mod user;

pub use body::{Body, Form};
pub use text::{Email, NewPassword};
pub(in crate::api) use user::Actor;
pub use user::{Admin, CurrentUser, LogoutSession, SignedIn};
