//! The table `invitations`.

use chrono::{DateTime, Utc};
use diesel::{
    deserialize::FromSqlRow,
    dsl::sql,
    expression::{AsExpression, SqlLiteral},
    prelude::*,
    sql_types::Text,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{after, days, delete_batch, membership::OrgRole, now, text_enum};
use crate::db::Tx;
use crate::schema::invitations;

/// Lifetime of an invitation. It begins again when the invitation is sent again.
pub const LIFETIME_DAYS: i32 = 7;
/// How long [`Invitation::purge`] keeps an invitation after `expires_at`, in every state.
const RETENTION_DAYS: i32 = 30;

/// The roles of members who may invite. `STATE` has the same roles.
pub const INVITER_ROLES: [OrgRole; 2] = [OrgRole::Admin, OrgRole::Owner];

text_enum! {
    /// The state of an invitation.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
    pub enum InvitationState {
        Pending = "pending",
        Accepted = "accepted",
        Declined = "declined",
        /// Revoked by a member, replaced by a newer invitation to the address, or revoked because the owner of the inviter's
        /// address took over the account of the inviter.
        Revoked = "revoked",
        Expired = "expired",
        /// The inviter may no longer invite, or the organization is suspended or scheduled for deletion.
        Void = "void",
    }
}

/// The SQL expression that computes the state of an invitation.
const STATE: &str = "CASE
    WHEN invitations.accepted_at IS NOT NULL THEN 'accepted'
    WHEN invitations.declined_at IS NOT NULL THEN 'declined'
    WHEN invitations.revoked_at IS NOT NULL THEN 'revoked'
    WHEN invitations.expires_at <= now() THEN 'expired'
    WHEN EXISTS (
        SELECT FROM memberships m JOIN users u ON u.id = m.user_id JOIN organizations o ON o.id = m.org_id
        WHERE m.org_id = invitations.org_id AND m.user_id = invitations.invited_by
            AND m.role IN ('admin', 'owner') AND m.suspended_at IS NULL
            AND u.is_active AND u.deletion_due_at IS NULL
            AND o.suspended_at IS NULL AND o.deletion_due_at IS NULL
    ) THEN 'pending'
    ELSE 'void'
END";

/// Returns the expression of [`Invitation::state`].
pub(super) fn state() -> SqlLiteral<Text> {
    sql(STATE)
}

/// An invitation of an address to an organization.
#[derive(Clone, Debug, HasQuery, Identifiable)]
pub struct Invitation {
    pub id: i64,
    pub org_id: i64,
    /// The [stored form](crate::email_address::EmailAddress::stored) of the invited address.
    pub email: String,
    /// The [key](crate::email_address::EmailAddress::key) of the address.
    pub email_key: String,
    pub role: OrgRole,
    /// The member who has sent the current link. `None` if the account was deleted.
    pub invited_by: Option<i64>,
    /// The id from which the token of the link is derived.
    pub link_id: Uuid,
    /// The SHA-256 of the token.
    pub token_hash: Vec<u8>,
    /// Whether the API has returned the link to the inviter, because no mail could be sent. Then the link does not prove that
    /// its holder owns the address.
    pub link_shown: bool,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    #[diesel(select_expression = state())]
    #[diesel(select_expression_type = SqlLiteral<Text>)]
    pub state: InvitationState,
}

/// An invitation to insert. It expires after [`LIFETIME_DAYS`].
#[derive(Insertable)]
#[diesel(table_name = invitations)]
pub struct NewInvitation<'a> {
    pub org_id: i64,
    pub email: &'a str,
    pub email_key: &'a str,
    pub role: OrgRole,
    pub invited_by: i64,
    pub link_id: Uuid,
    pub token_hash: &'a [u8],
    pub link_shown: bool,
}

/// A new link of an invitation.
#[derive(AsChangeset)]
#[diesel(table_name = invitations)]
pub struct NewLink<'a> {
    pub invited_by: i64,
    pub link_id: Uuid,
    pub token_hash: &'a [u8],
    pub link_shown: bool,
}

/// How an open invitation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Accepted,
    Declined,
    Revoked,
}

impl Invitation {
    /// Returns the invitation whose link has the token with this hash.
    pub async fn find_by_token(mut conn: &AsyncPgConnection, hash: &[u8]) -> QueryResult<Option<Self>> {
        Self::query().filter(invitations::token_hash.eq(hash)).first(&mut conn).await.optional()
    }

    /// Returns the invitation with this id, if it is to this address.
    pub async fn find_addressed(
        mut conn: &AsyncPgConnection,
        id: i64,
        email_key: &str,
    ) -> QueryResult<Option<Self>> {
        let row = invitations::id.eq(id).and(invitations::email_key.eq(email_key));
        Self::query().filter(row).first(&mut conn).await.optional()
    }

    /// Returns the invitation with this id, if it is of this organization.
    pub async fn find_in_org(
        mut conn: &AsyncPgConnection,
        org_id: i64,
        id: i64,
    ) -> QueryResult<Option<Self>> {
        let row = invitations::id.eq(id).and(invitations::org_id.eq(org_id));
        Self::query().filter(row).first(&mut conn).await.optional()
    }

    /// Returns the open invitation of an organization to an address: neither accepted, declined nor revoked. It may be
    /// expired or void.
    pub async fn find_open(
        mut conn: &AsyncPgConnection,
        org_id: i64,
        email_key: &str,
    ) -> QueryResult<Option<Self>> {
        Self::query()
            .filter(invitations::org_id.eq(org_id))
            .filter(invitations::email_key.eq(email_key))
            .filter(invitations::accepted_at.is_null())
            .filter(invitations::declined_at.is_null())
            .filter(invitations::revoked_at.is_null())
            .first(&mut conn)
            .await
            .optional()
    }

    /// Locks an invitation until the transaction ends, and returns the latest version of the row. The caller must have locked
    /// its organization.
    pub async fn lock(mut conn: &AsyncPgConnection, id: i64) -> QueryResult<Option<Self>> {
        Self::query().filter(invitations::id.eq(id)).for_update().first(&mut conn).await.optional()
    }

    /// Returns the number of pending invitations of an organization. Does not count the invitation with the id `except`.
    pub async fn count_pending(
        mut conn: &AsyncPgConnection,
        org_id: i64,
        except: Option<i64>,
    ) -> QueryResult<i64> {
        invitations::table
            .filter(invitations::org_id.eq(org_id))
            .filter(invitations::id.ne(except.unwrap_or_default()))
            .filter(state().eq(InvitationState::Pending))
            .count()
            .get_result(&mut conn)
            .await
    }

    /// Ends an open invitation. The caller must have checked that it is open.
    pub async fn end(tx: &Tx<'_>, id: i64, ending: Ending) -> QueryResult<usize> {
        let mut conn = tx.conn();
        let row = diesel::update(invitations::table.find(id));
        let at = now().nullable();
        match ending {
            Ending::Accepted => row.set(invitations::accepted_at.eq(at)).execute(&mut conn).await,
            Ending::Declined => row.set(invitations::declined_at.eq(at)).execute(&mut conn).await,
            Ending::Revoked => row.set(invitations::revoked_at.eq(at)).execute(&mut conn).await,
        }
    }

    /// Revokes all open, unexpired invitations whose current link a user has sent. Returns the organization and the id of
    /// each.
    pub async fn revoke_of_inviter(tx: &Tx<'_>, user_id: i64) -> QueryResult<Vec<(i64, i64)>> {
        let mut conn = tx.conn();
        diesel::update(invitations::table)
            .filter(invitations::invited_by.eq(user_id))
            .filter(invitations::accepted_at.is_null())
            .filter(invitations::declined_at.is_null())
            .filter(invitations::revoked_at.is_null())
            .filter(invitations::expires_at.gt(now()))
            .set(invitations::revoked_at.eq(now().nullable()))
            .returning((invitations::org_id, invitations::id))
            .get_results(&mut conn)
            .await
    }

    /// Replaces the link and the inviter, and begins the lifetime again. Returns the new row.
    pub async fn renew(tx: &Tx<'_>, id: i64, link: &NewLink<'_>) -> QueryResult<Self> {
        let mut conn = tx.conn();
        diesel::update(invitations::table.find(id))
            .set((link, invitations::expires_at.eq(after(days(LIFETIME_DAYS)))))
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
    }

    /// Replaces the hash of the token of a link. Returns 0 if the invitation has another link now, or no longer exists.
    pub async fn set_token_hash(
        mut conn: &AsyncPgConnection,
        id: i64,
        link_id: Uuid,
        hash: &[u8],
    ) -> QueryResult<usize> {
        diesel::update(invitations::table.find(id).filter(invitations::link_id.eq(link_id)))
            .set(invitations::token_hash.eq(hash))
            .execute(&mut conn)
            .await
    }

    /// Deletes all accepted, declined, revoked and expired invitations to an address. Returns how many.
    pub async fn delete_ended_to(tx: &Tx<'_>, email_key: &str) -> QueryResult<usize> {
        let mut conn = tx.conn();
        let ended = invitations::accepted_at
            .is_not_null()
            .or(invitations::declined_at.is_not_null())
            .or(invitations::revoked_at.is_not_null())
            .or(invitations::expires_at.le(now()));
        diesel::delete(invitations::table)
            .filter(invitations::email_key.eq(email_key))
            .filter(ended)
            .execute(&mut conn)
            .await
    }

    /// Deletes at most `limit` invitations that expired over 30 days ago. Returns how many.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        let old = format!("expires_at < now() - {RETENTION_DAYS} * interval '24 hours'");
        delete_batch(conn, "invitations", &old, limit).await
    }
}

impl NewInvitation<'_> {
    /// Inserts the invitation and returns the row.
    pub async fn insert(&self, tx: &Tx<'_>) -> QueryResult<Invitation> {
        let mut conn = tx.conn();
        diesel::insert_into(invitations::table)
            .values((self, invitations::expires_at.eq(after(days(LIFETIME_DAYS)))))
            .returning(Invitation::as_returning())
            .get_result(&mut conn)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sql_of_the_state_has_all_roles_of_inviters_and_all_states() {
        let roles: Vec<_> = INVITER_ROLES.iter().map(|role| format!("'{}'", role.as_str())).collect();
        assert!(STATE.contains(&format!("m.role IN ({})", roles.join(", "))), "{STATE}");
        for state in InvitationState::ALL {
            assert!(STATE.contains(&format!("'{}'", state.as_str())), "{state:?}");
        }
    }
}
