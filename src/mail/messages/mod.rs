//! The messages that the product sends to its users.

mod content;
pub mod link;
mod notice;

pub use content::RenderedEmail;
pub use link::LinkEmail;
pub use notice::Notice;
