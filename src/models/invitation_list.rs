//! Lists of invitations, for organizations and for recipients.

use chrono::{DateTime, Utc};
use diesel::{pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::invitation::{Invitation, InvitationState, state};
use crate::schema::{invitations, organizations, users};

/// A query for a page of the invitations of an organization, the newest first. `None` does not filter.
#[derive(Debug, Clone)]
pub struct InvitationListing {
    pub org_id: i64,
    pub state: Option<InvitationState>,
    /// Only invitations with a lower id, which are older.
    pub before: Option<i64>,
    pub limit: i64,
}

impl InvitationListing {
    /// Returns the invitations of the page.
    pub async fn load(&self, mut conn: &AsyncPgConnection) -> QueryResult<Vec<Invitation>> {
        let own = Invitation::query().filter(invitations::org_id.eq(self.org_id));
        let mut query = own.into_boxed::<Pg>();
        if let Some(wanted) = self.state {
            query = query.filter(state().eq(wanted));
        }
        if let Some(before) = self.before {
            query = query.filter(invitations::id.lt(before));
        }
        query.order(invitations::id.desc()).limit(self.limit).load(&mut conn).await
    }
}

/// An invitation with the data of the organization and the inviter that its recipient may see.
#[derive(Clone, Debug)]
pub struct InvitationDetails {
    pub invitation: Invitation,
    /// The name of the organization.
    pub organization: String,
    /// The name of the inviter. `None` if the account has no name or was deleted.
    pub inviter: Option<String>,
    /// Whether the inviter has verified the address of the account.
    pub inviter_is_verified: bool,
}

/// The conditions for the invitations that [`InvitationDetails::load`] returns. `None` does not filter.
#[derive(Clone, Debug, Default)]
pub struct DetailsFilter<'a> {
    pub id: Option<i64>,
    /// The hash of the token of the link.
    pub token_hash: Option<&'a [u8]>,
    /// The key of the invited address.
    pub email_key: Option<&'a str>,
    pub state: Option<InvitationState>,
    /// Only invitations with a lower id, which are older.
    pub before: Option<i64>,
    pub limit: i64,
}

/// An invitation, the name of the organization, the name of the inviter, and when the inviter verified the address.
type DetailsRow = (Invitation, String, Option<String>, Option<DateTime<Utc>>);

impl InvitationDetails {
    /// Returns an invitation by id.
    pub async fn find(conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        let filter = DetailsFilter { id: Some(id), limit: 1, ..Default::default() };
        Ok(Self::load(conn, &filter).await?.pop())
    }

    /// Returns the invitation whose link has the token with this hash.
    pub async fn find_by_token(conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<Option<Self>> {
        let filter = DetailsFilter { token_hash: Some(hash), limit: 1, ..Default::default() };
        Ok(Self::load(conn, &filter).await?.pop())
    }

    /// Returns the invitations that match a filter, the newest first.
    pub async fn load(mut conn: &AsyncPgConnection, filter: &DetailsFilter<'_>) -> QueryResult<Vec<Self>> {
        let mut query = invitations::table
            .inner_join(organizations::table)
            .left_join(users::table)
            .select((
                Invitation::as_select(),
                organizations::name,
                users::full_name.nullable(),
                users::email_verified_at.nullable(),
            ))
            .into_boxed::<Pg>();
        if let Some(id) = filter.id {
            query = query.filter(invitations::id.eq(id));
        }
        if let Some(hash) = filter.token_hash {
            query = query.filter(invitations::token_hash.eq(hash));
        }
        if let Some(key) = filter.email_key {
            query = query.filter(invitations::email_key.eq(key));
        }
        if let Some(wanted) = filter.state {
            query = query.filter(state().eq(wanted));
        }
        if let Some(before) = filter.before {
            query = query.filter(invitations::id.lt(before));
        }
        let page = query.order(invitations::id.desc()).limit(filter.limit);
        let rows: Vec<DetailsRow> = page.load(&mut conn).await?;
        let details = |(invitation, organization, inviter, verified_at): DetailsRow| Self {
            invitation,
            organization,
            inviter,
            inviter_is_verified: verified_at.is_some(),
        };
        Ok(rows.into_iter().map(details).collect())
    }
}
