//! Mails: their content, and how they are sent.
//!
//! | file | concern |
//! |---|---|
//! | `mailer` | sends a mail by SMTP, or writes it to a file in development |
//! | `smtp` | the SMTP client: which errors are permanent, and when the connection is encrypted |
//! | `send_error` | why a mail was not sent |
//! | `messages/link` | the mails to accounts with a single-use link: one static each |
//! | `messages/invitation` | the invitation to an organization |
//! | `messages/notice` | the mails about an event of an account or organization: one variant each |
//! | `messages/content` | renders a message as text and HTML |
//! | `templates/` | the layout of all messages |
//!
//! A change and its mail are committed in one transaction. A service enqueues an `OutboxMessage`
//! (`services/outbox.rs`), and a job renders and sends the mail later.
//!
//! # Add a mail with a link
//!
//! 1. A migration that adds the purpose of the link to the CHECK of `one_time_tokens.purpose`.
//! 2. `models/one_time_token.rs`: a variant of `Purpose`.
//! 3. `mail/messages/link.rs`: a [`LinkEmail`] with subject, text, page and lifetime.
//! 4. `services/outbox.rs`: a variant of `OutboxMessage`, and its arms in `link_email` (who receives it, and whether it is
//!    still needed), `max_age` and `is_known_to_0_1_0` (`false`).
//!
//! Then `OutboxMessage::YourVariant { .. }.send(tx)` enqueues the mail. The page and the operation behind the link are ordinary
//! parts of the API: a row in `api/account_pages.rs` and an operation in `api/auth/links.rs`.
//!
//! # Add a notice
//!
//! A variant of [`Notice`] in `mail/messages/notice/mod.rs`, and its text in `notice/text.rs`. If it contains text that a
//! user has entered, also an arm in `notice/unverified.rs`. Then
//! `OutboxMessage::notice(&user, Notice::YourVariant).send(tx)` enqueues the mail.
//!
//! Workers of release 0.1.0 cannot parse a message of a kind that was added later, so the job of the message would fail
//! permanently there. `OutboxMessage::send` therefore enqueues messages of these kinds under another job name. Workers leave a
//! job whose name they do not know to newer workers.

mod mailer;
mod messages;
mod send_error;
mod smtp;

pub use mailer::{Mail, Mailer, Sent, recipient};
pub use messages::{INVITATION_PAGE, LinkEmail, Notice, OrgInvitation, RenderedEmail, link};
pub use send_error::SendError;
