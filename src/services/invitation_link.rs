//! The links of invitations to organizations, and the mails with them.
//!
//! The token of a link is derived from `link_id`. So the job that sends a mail again after a lost answer sends the same link, and
//! no mail has a dead one. The token is in the mail only: the outbox and the queue have the id, and the table has the hash.

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

/// A link that was not sent yet.
pub(super) struct InvitationLink {
    pub(super) id: Uuid,
    token: OpaqueToken,
}

impl InvitationLink {
    /// Creates a link.
    ///
    /// # Errors
    /// [`Error::Internal`] without a key, which does not happen.
    pub(super) fn new(app: &App) -> Result<Self> {
        let id = Uuid::new_v4();
        Ok(Self { id, token: current_token(app, id)? })
    }

    /// Returns the hash of its token.
    pub(super) fn hash(&self) -> &[u8] {
        &self.token.hash
    }

    /// Returns the link for the inviter if no mail can be sent, and else `None`: the link proves that its holder reads the
    /// mails to the address.
    pub(super) fn for_inviter(&self, app: &App) -> Option<String> {
        (!app.mailer.can_send()).then(|| app.mailer.link(INVITATION_PAGE, &self.token.text))
    }
}

fn current_token(app: &App, link_id: Uuid) -> Result<OpaqueToken> {
    app.tokens
        .invitation_tokens(link_id)
        .next()
        .ok_or_else(|| Error::internal("there is no key for invitations"))
}

/// Returns the recipient and the rendered mail of an invitation; `None` if the invitation has another link now, or is not
/// pending.
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

/// Returns the token of an invitation; `None` if the invitation has got another link meanwhile.
async fn usable_token(app: &App, invitation: &Invitation) -> Result<Option<String>> {
    let Invitation { id, link_id, token_hash, .. } = invitation;
    if let Some(token) = app.tokens.invitation_tokens(*link_id).find(|token| token.hash == *token_hash) {
        return Ok(Some(token.text));
    }
    // The token was derived with a key that this process does not have: `SECRET_KEY` was replaced, or is missing in
    // development, where each process has its own.
    let token = current_token(app, *link_id)?;
    let replaced = app
        .db
        .run(async |conn| Ok(Invitation::set_token_hash(conn, *id, *link_id, &token.hash).await?))
        .await?;
    Ok((replaced == 1).then_some(token.text))
}
