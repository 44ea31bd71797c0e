//! Links of invitations to organizations, and the mails that contain them.
//!
//! The token of a link is derived from `link_id` and a secret key. If the reply of the mail server is lost, the job sends the
//! mail again with the same link. So the link in the first mail stays valid, unless the process no longer has the key. The outbox
//! and the queue contain the id instead of the token, and the table `invitations` contains the hash of the token.

use uuid::Uuid;

use crate::{
    app::App,
    error::{Error, Result},
    mail::{INVITATION_PAGE, OrgInvitation, RenderedEmail},
    models::{
        invitation::{Invitation, InvitationState},
        invitation_list::InvitationDetails,
    },
    security::OpaqueToken,
};

/// A new link that is not sent yet.
pub(super) struct InvitationLink {
    pub(super) id: Uuid,
    token: OpaqueToken,
}

impl InvitationLink {
    /// Creates a link with a random id.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is no key to derive tokens. A running server always has such a key.
    pub(super) fn new(app: &App) -> Result<Self> {
        let id = Uuid::new_v4();
        Ok(Self { id, token: token_of_current_key(app, id)? })
    }

    /// Returns the hash of the token.
    pub(super) fn hash(&self) -> &[u8] {
        &self.token.hash
    }

    /// Returns the link for the inviter to pass on if no mail can be sent, and otherwise `None`. A link that is sent
    /// only by mail proves that its holder reads the mails to the address.
    pub(super) fn for_inviter(&self, app: &App) -> Option<String> {
        (!app.mailer.can_send()).then(|| app.mailer.link(INVITATION_PAGE, &self.token.text))
    }
}

fn token_of_current_key(app: &App, link_id: Uuid) -> Result<OpaqueToken> {
    app.tokens
        .invitation_tokens(link_id)
        .next()
        .ok_or_else(|| Error::internal("there is no key for invitations"))
}

/// Returns the recipient and the rendered mail of an invitation. `None` if the invitation does not exist, now has another link,
/// or is not pending.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn render(
    app: &App,
    invitation_id: i64,
    link_id: Uuid,
) -> Result<Option<(String, RenderedEmail)>> {
    let found = app.db.run(async |conn| Ok(InvitationDetails::find(conn, invitation_id).await?)).await?;
    let Some(details) = found else { return Ok(None) };
    let InvitationDetails { invitation, organization, inviter, inviter_is_verified } = details;
    if invitation.link_id != link_id || invitation.state != InvitationState::Pending {
        return Ok(None);
    }
    let Some(token) = usable_token(app, &invitation).await? else { return Ok(None) };
    let email = OrgInvitation {
        organization: inviter_is_verified.then_some(organization.as_str()),
        inviter: inviter.as_deref().filter(|_| inviter_is_verified),
        expires_at: invitation.expires_at,
    };
    let link = app.mailer.link(INVITATION_PAGE, &token);
    Ok(Some((invitation.email, email.render(&app.config.core.project_name, &link)?)))
}

/// Returns the token of an invitation. If this process cannot derive the token, gives the invitation a new token with the same
/// link id. `None` if the invitation now has another link id or no longer exists.
async fn usable_token(app: &App, invitation: &Invitation) -> Result<Option<String>> {
    let Invitation { id, link_id, token_hash, .. } = invitation;
    if let Some(token) = app.tokens.invitation_tokens(*link_id).find(|token| token.hash == *token_hash) {
        return Ok(Some(token.text));
    }
    // This process does not have the key from which the token was derived. Either `SECRET_KEY` was replaced, or `SECRET_KEY` is
    // not set in development, so that each process has a random key. So the invitation gets a new token.
    let token = token_of_current_key(app, *link_id)?;
    let replaced = app
        .db
        .run(async |conn| Ok(Invitation::set_token_hash(conn, *id, *link_id, &token.hash).await?))
        .await?;
    Ok((replaced == 1).then_some(token.text))
}
