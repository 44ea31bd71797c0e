//! The messages that the product sends to its users.

mod content;
mod invitation;
pub mod link;
mod notice;

pub use content::RenderedEmail;
pub use invitation::{OrgInvitation, PAGE as INVITATION_PAGE};
pub use link::LinkEmail;
pub use notice::Notice;
