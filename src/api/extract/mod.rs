//! The extractors: arguments of operations that are read from the request.

mod body;
mod body_bytes;
mod cursor;
mod idempotency;
mod media_type;
mod org;
mod paging;
mod security_scheme;
mod text;
mod user;

pub use body::{Body, BodyOrQuery, Form, FormContent, FormFields, parse_form};
pub use cursor::Cursor;
pub use idempotency::{IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_FORMAT, IdempotencyKey, OperationId};
pub use org::OrgMember;
pub use paging::{Limit, Offset};
pub use text::{Currency, Email, NewPassword, Slug, Text};
pub use user::{Admin, CurrentUser, LogoutSession, SignedIn};
pub(in crate::api) use user::{CallerIds, LoggedUser};
