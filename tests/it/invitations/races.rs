//! Concurrent requests. In most tests, a transaction of the test holds a row lock until all requests wait for a lock, so that
//! the requests overlap.

use futures_util::future::join_all;
use serde_json::json;

use super::*;
use crate::support::eventually;

/// A transaction that holds the row locks of a statement.
struct Hold(tokio_postgres::Client);

impl Hold {
    async fn on(app: &TestApp, sql: &str) -> Self {
        let (client, connection) =
            tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
        Self(client)
    }

    async fn on_org(app: &TestApp, org: &Org) -> Self {
        Self::on(app, &format!("SELECT id FROM organizations WHERE id = {} FOR UPDATE", org.id)).await
    }

    /// Commits once `requests` requests wait for a lock.
    async fn commit_when_waiting(self, app: &TestApp, requests: usize) {
        let waiting = "SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("the requests wait for a lock", || async {
            (column(&app.database, waiting).await.len() == requests).then_some(())
        })
        .await;
        self.0.batch_execute("COMMIT").await.unwrap();
    }
}

/// Returns the statuses and error codes of responses, sorted. The code of a success is empty.
fn outcomes<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> Vec<(u16, &'a str)> {
    let outcome =
        |answer: &'a Answer| (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default());
    let mut all: Vec<_> = answers.into_iter().map(outcome).collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn only_one_of_ten_concurrent_acceptances_gets_the_last_seat() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    let mut guests = Vec::new();
    for _ in 0..10 {
        let user = app.user().await;
        org.invite(&app, &user.email).await;
        let token = app.mailed_token(&user.email).await;
        guests.push((user, token));
    }
    let full =
        TestApp::on(app.database.clone(), &["--max-organization-seats=2", "--database-pool-size=20"]).await;
    let hold = Hold::on_org(&app, &org).await;
    let (answers, ()) = tokio::join!(
        join_all(guests.iter().map(|(user, token)| accept(&full, user, token))),
        hold.commit_when_waiting(&app, 10)
    );
    let mut wanted = vec![(409, "seat_limit_reached"); 9];
    wanted.insert(0, (200, ""));
    assert_eq!(outcomes(&answers), wanted);
    assert_eq!(org.members(&app).await.len(), 2);
    let count = |state: &str| format!("SELECT count({state}_at) FROM invitations");
    assert_eq!(column(&app.database, &count("accepted")).await, ["1"]);
    assert_eq!(org.trail(&app).await.iter().filter(|action| *action == "invitation.accepted").count(), 1);
}

#[tokio::test]
async fn concurrent_invitations_do_not_exceed_the_seats() {
    let app = TestApp::with(&["--max-organization-seats=3"]).await;
    let org = Org::create(&app).await;
    let admins = [org.owner.clone(), org.member(&app, "admin").await];
    let hold = Hold::on_org(&app, &org).await;
    let invites = ["one@example.com", "two@example.com"];
    let invites = admins.iter().zip(invites).map(|(by, email)| org.invite_as(&app, by, email, "member"));
    let (answers, ()) = tokio::join!(join_all(invites), hold.commit_when_waiting(&app, 2));
    assert_eq!(outcomes(&answers), [(201, ""), (409, "seat_limit_reached")]);
    assert_eq!(org.states(&app).await.len(), 1);
}

#[tokio::test]
async fn an_invitation_that_is_accepted_twice_at_once_is_accepted_once() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let id = org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    let other = app.signed_in_again(&bob).await;
    // Each of the requests first locks the row of its user.
    let hold = Hold::on(&app, &format!("SELECT id FROM users WHERE id = {} FOR UPDATE", bob.id)).await;
    let (one, two, three, ()) = tokio::join!(
        accept(&app, &bob, &token),
        accept(&app, &other, &token),
        accept_by_id(&app, &bob, id),
        hold.commit_when_waiting(&app, 3)
    );
    let invalid = (400, "invitation_invalid");
    assert_eq!(outcomes([&one, &two, &three]), [(200, ""), invalid, invalid]);
    assert_eq!(org.members(&app).await.len(), 2);
    assert_eq!(org.trail(&app).await, ["invitation.created", "invitation.accepted"]);
}

#[tokio::test]
async fn concurrent_registrations_with_one_invitation_create_one_account() {
    let app = TestApp::start().await;
    let org = Org::create(&app).await;
    org.invite(&app, BOB).await;
    let token = app.mailed_token(BOB).await;
    let answers = join_all((0..4).map(|_| sign_up(&app, &token, PASSWORD))).await;
    let found = outcomes(&answers);
    assert_eq!(found[0], (200, ""));
    for refused in &found[1..] {
        assert!([(400, "email_taken"), (400, "invitation_invalid")].contains(refused), "{found:?}");
    }
    assert_eq!(org.members(&app).await.len(), 2);
    let users = "SELECT count(*) FROM users WHERE email = 'bob@example.com'";
    assert_eq!(column(&app.database, users).await, ["1"]);
}

/// The transaction that makes the change holds the lock that the acceptance waits for.
#[tokio::test]
async fn an_acceptance_sees_changes_that_are_committed_while_it_waits() {
    let causes = [
        ("DELETE FROM memberships WHERE user_id = {by}", (400, "invitation_invalid")),
        ("UPDATE memberships SET role = 'member' WHERE user_id = {by}", (400, "invitation_invalid")),
        ("UPDATE memberships SET suspended_at = now() WHERE user_id = {by}", (400, "invitation_invalid")),
        ("UPDATE organizations SET suspended_at = now() WHERE id = {org}", (400, "invitation_invalid")),
        ("UPDATE invitations SET revoked_at = now()", (400, "invitation_invalid")),
        ("UPDATE invitations SET token_hash = 'x', link_id = gen_random_uuid()", (400, "invitation_invalid")),
        ("UPDATE invitations SET expires_at = now() - interval '1 day'", (400, "invitation_expired")),
        (
            "UPDATE users SET email = 'new@example.com', email_key = 'new@example.com' WHERE id = {bob}",
            (403, "invitation_other_address"),
        ),
        ("UPDATE users SET email_verified_at = NULL WHERE id = {bob}", (403, "email_not_verified")),
        ("UPDATE users SET is_active = false WHERE id = {bob}", (403, "inactive_user")),
    ];
    for (cause, wanted) in causes {
        let app = TestApp::start().await;
        let org = Org::create(&app).await;
        let (admin, bob) = (org.member(&app, "admin").await, user_with(&app, BOB).await);
        assert_status(&org.invite_as(&app, &admin, BOB, "member").await, 201);
        let token = app.mailed_token(BOB).await;
        let cause = cause
            .replace("{by}", &admin.id.to_string())
            .replace("{org}", &org.id.to_string())
            .replace("{bob}", &bob.id.to_string());
        // The row that the acceptance waits for: the row of the user if the change updates that row, and otherwise the row of
        // the organization.
        let locked = match cause.contains("UPDATE users") {
            true => format!("SELECT id FROM users WHERE id = {} FOR UPDATE", bob.id),
            false => format!("SELECT id FROM organizations WHERE id = {} FOR UPDATE", org.id),
        };
        let lock = format!("{locked}; {cause}");
        let hold = Hold::on(&app, &lock).await;
        let (answer, ()) = tokio::join!(accept(&app, &bob, &token), hold.commit_when_waiting(&app, 1));
        assert_eq!(outcomes([&answer]), [wanted], "{cause}");
        let joined =
            format!("SELECT count(*) FROM memberships WHERE org_id = {} AND user_id = {}", org.id, bob.id);
        assert_eq!(column(&app.database, &joined).await, ["0"], "{cause}");
    }
}

#[tokio::test]
async fn only_one_of_a_revocation_and_a_concurrent_answer_to_an_invitation_succeeds() {
    for declines in [false, true] {
        let app = TestApp::start().await;
        let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
        let id = org.invite(&app, BOB).await;
        let token = app.mailed_token(BOB).await;
        let hold = Hold::on_org(&app, &org).await;
        let claim = async {
            match declines {
                true => decline(&app, &token).await,
                false => accept(&app, &bob, &token).await,
            }
        };
        let (claimed, revoked, ()) =
            tokio::join!(claim, org.revoke(&app, &org.owner, id), hold.commit_when_waiting(&app, 2));
        match outcomes([&claimed])[0] {
            (400, code) => assert_eq!((code, revoked.status.as_u16()), ("invitation_invalid", 204)),
            (200 | 204, _) => revoked.is_some_problem(409, "conflict"),
            other => panic!("{other:?}"),
        }
        let is_member = claimed.status == 200;
        assert_eq!(org.members(&app).await.len(), 1 + usize::from(is_member));
        let ended = "SELECT num_nonnulls(accepted_at, declined_at, revoked_at) FROM invitations";
        assert_eq!(column(&app.database, ended).await, ["1"]);
    }
}

#[tokio::test]
async fn of_two_concurrent_invitations_to_one_address_one_stays_valid() {
    let app = TestApp::start().await;
    let (org, bob) = (Org::create(&app).await, user_with(&app, BOB).await);
    let admin = org.member(&app, "admin").await;
    let hold = Hold::on_org(&app, &org).await;
    let (one, two, ()) = tokio::join!(
        org.invite_as(&app, &org.owner, BOB, "member"),
        org.invite_as(&app, &admin, "Bob@example.com", "viewer"),
        hold.commit_when_waiting(&app, 2)
    );
    assert_eq!(outcomes([&one, &two]), [(201, ""); 2]);
    assert_eq!(org.states(&app).await, ["bob@example.com pending", "bob@example.com revoked"]);
    let token = app.mailed_token(BOB).await;
    assert_eq!(app.mails().await.len(), 1, "only the valid link is sent");
    assert_status(&accept(&app, &bob, &token).await, 200);
}

/// The cached identity does not expire during the test, so only the transaction can refuse the request.
#[tokio::test]
async fn a_member_who_has_lost_the_permission_meanwhile_cannot_invite() {
    let app = TestApp::with(&["--identity-cache-ms=60000"]).await;
    let org = Org::create(&app).await;
    let admin = org.member(&app, "admin").await;
    assert_eq!(app.get(&org.path("/invitations"), Some(&admin)).await.status, 200);
    let id = org.invite(&app, BOB).await;
    for (sql, status, code) in [
        ("UPDATE memberships SET role = 'member' WHERE role = 'admin'", 403, "forbidden"),
        ("UPDATE memberships SET suspended_at = now() WHERE role = 'member'", 403, "member_suspended"),
        ("DELETE FROM memberships WHERE role = 'member'", 404, "org_not_found"),
    ] {
        app.database.sql(sql).await;
        let body = json!({ "email": "eve@example.com", "role": "viewer" });
        let path = org.path("/invitations");
        app.post(&path, Some(&admin), body).await.is_some_problem(status, code);
        org.resend(&app, &admin, id).await.is_some_problem(status, code);
        org.revoke(&app, &admin, id).await.is_some_problem(status, code);
    }
    assert_eq!(org.states(&app).await, ["bob@example.com pending"]);
}
