//! Concurrent requests. In most tests, a transaction of the test holds the row lock of the organization until all requests wait
//! for a lock, so that the requests overlap.

use futures_util::future::join_all;
use saas::services::housekeeping;
use serde_json::json;

use super::{
    assert_status, create, delete, delete_account, leave, list_members, member, owner_ids, patch_member,
    remove_member, transfer,
};
use crate::support::{TestApp, app::Answer, eventually, records::column};

/// A transaction that holds the row lock of an organization.
struct Hold(tokio_postgres::Client);

impl Hold {
    async fn on(app: &TestApp, org: i64) -> Self {
        let (client, connection) =
            tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let lock = format!("BEGIN; SELECT id FROM organizations WHERE id = {org} FOR UPDATE");
        client.batch_execute(&lock).await.unwrap();
        Self(client)
    }

    /// Runs SQL in the transaction and commits, once this number of requests wait for a lock.
    async fn commit_when_waiting(self, app: &TestApp, requests: usize, sql: &str) {
        let waiting = "SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("the requests wait for a lock", || async {
            (column(&app.database, waiting).await.len() == requests).then_some(())
        })
        .await;
        self.0.batch_execute(&format!("{sql}; COMMIT")).await.unwrap();
    }
}

/// Returns the status of a response, and the error code, or an empty text if there is none.
fn outcome(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn only_one_of_two_concurrent_transfers_succeeds() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let (bob, eve) = (member(&app, id, "member").await, member(&app, id, "member").await);
    let hold = Hold::on(&app, id).await;
    let (first, second, ()) = tokio::join!(
        transfer(&app, id, &owner, &bob),
        transfer(&app, id, &owner, &eve),
        hold.commit_when_waiting(&app, 2, "")
    );
    let mut outcomes = [outcome(&first), outcome(&second)];
    outcomes.sort();
    assert_eq!(outcomes, [(200, ""), (403, "forbidden")]);
    let new = if first.status == 200 { &bob } else { &eve };
    assert_eq!(owner_ids(&app, id).await, [new.id.to_string()]);
}

#[tokio::test]
async fn two_concurrent_requests_of_the_owner_to_leave_are_refused() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    member(&app, id, "admin").await;
    let hold = Hold::on(&app, id).await;
    let (first, second, ()) =
        tokio::join!(leave(&app, id, &owner), leave(&app, id, &owner), hold.commit_when_waiting(&app, 2, ""));
    assert_eq!([outcome(&first), outcome(&second)], [(409, "last_owner"); 2]);
    assert_eq!(owner_ids(&app, id).await, [owner.id.to_string()]);
}

#[tokio::test]
async fn a_transfer_to_a_member_who_leaves_at_the_same_time_keeps_one_owner() {
    for _ in 0..5 {
        let app = TestApp::start().await;
        let owner = app.user().await;
        let id = create(&app, &owner, "Acme").await;
        let bob = member(&app, id, "member").await;
        let hold = Hold::on(&app, id).await;
        let (moved, left, ()) = tokio::join!(
            transfer(&app, id, &owner, &bob),
            leave(&app, id, &bob),
            hold.commit_when_waiting(&app, 2, "")
        );
        match outcome(&moved) {
            (200, _) => {
                assert_eq!(outcome(&left), (409, "last_owner"));
                assert_eq!(owner_ids(&app, id).await, [bob.id.to_string()]);
            }
            refused => {
                assert_eq!((refused, left.status.as_u16()), ((422, "validation_error"), 204));
                assert_eq!(list_members(&app, id).await, [format!("{} owner", owner.id)]);
            }
        }
    }
}

#[tokio::test]
async fn a_transfer_by_an_owner_who_leaves_at_the_same_time_keeps_one_owner() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let bob = member(&app, id, "member").await;
    let hold = Hold::on(&app, id).await;
    let (moved, left, ()) = tokio::join!(
        transfer(&app, id, &owner, &bob),
        leave(&app, id, &owner),
        hold.commit_when_waiting(&app, 2, "")
    );
    assert_status(&moved, 200);
    // The response is 409 if the request to leave ran before the transfer.
    assert!([(204, ""), (409, "last_owner")].contains(&outcome(&left)), "{}", left.text);
    assert_eq!(owner_ids(&app, id).await, [bob.id.to_string()]);
}

#[tokio::test]
async fn a_member_who_is_updated_and_removed_at_the_same_time_is_removed() {
    for _ in 0..5 {
        let app = TestApp::start().await;
        let owner = app.user().await;
        let id = create(&app, &owner, "Acme").await;
        let (admin, bob) = (member(&app, id, "admin").await, member(&app, id, "viewer").await);
        let hold = Hold::on(&app, id).await;
        let (updated, removed, ()) = tokio::join!(
            patch_member(&app, id, &owner, &bob, json!({ "role": "admin" })),
            remove_member(&app, id, &admin, &bob),
            hold.commit_when_waiting(&app, 2, "")
        );
        assert_status(&removed, 204);
        assert!([(200, ""), (404, "not_found")].contains(&outcome(&updated)), "{}", updated.text);
        assert_eq!(
            list_members(&app, id).await,
            [format!("{} owner", owner.id), format!("{} admin", admin.id)]
        );
    }
}

#[tokio::test]
async fn only_one_of_two_admins_who_remove_each_other_succeeds() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let (one, other) = (member(&app, id, "admin").await, member(&app, id, "admin").await);
    let hold = Hold::on(&app, id).await;
    let (first, second, ()) = tokio::join!(
        remove_member(&app, id, &one, &other),
        remove_member(&app, id, &other, &one),
        hold.commit_when_waiting(&app, 2, "")
    );
    let mut outcomes = [outcome(&first), outcome(&second)];
    outcomes.sort();
    assert_eq!(outcomes, [(204, ""), (404, "org_not_found")]);
    assert_eq!(list_members(&app, id).await.len(), 2);
}

#[tokio::test]
async fn a_request_is_refused_if_its_caller_loses_the_rights_while_it_waits() {
    for (change, status, code) in [
        ("UPDATE memberships SET suspended_at = now() WHERE user_id = {id}", 403, "member_suspended"),
        ("UPDATE memberships SET role = 'member' WHERE user_id = {id}", 403, "forbidden"),
        ("DELETE FROM memberships WHERE user_id = {id}", 404, "org_not_found"),
        ("UPDATE organizations SET suspended_at = now()", 403, "org_suspended"),
        ("UPDATE organizations SET deletion_due_at = now() + interval '1 day'", 403, "org_deleting"),
    ] {
        let app = TestApp::start().await;
        let owner = app.user().await;
        let id = create(&app, &owner, "Acme").await;
        let (admin, bob) = (member(&app, id, "admin").await, member(&app, id, "viewer").await);
        let hold = Hold::on(&app, id).await;
        let change = change.replace("{id}", &admin.id.to_string());
        let (refused, ()) =
            tokio::join!(remove_member(&app, id, &admin, &bob), hold.commit_when_waiting(&app, 1, &change));
        refused.is_some_problem(status, code);
        assert!(list_members(&app, id).await.contains(&format!("{} viewer", bob.id)), "{change}");
    }
}

/// The only member requests the deletion of the account while another user joins the organization.
#[tokio::test]
async fn an_account_is_not_deleted_while_another_user_joins_its_organization() {
    let app = TestApp::start().await;
    let (owner, bob) = (app.user().await, app.user().await);
    let id = create(&app, &owner, "Acme").await;
    let hold = Hold::on(&app, id).await;
    let join = format!("INSERT INTO memberships (org_id, user_id, role) VALUES ({id}, {}, 'member')", bob.id);
    let (refused, ()) = tokio::join!(delete_account(&app, &owner), hold.commit_when_waiting(&app, 1, &join));
    refused.is_some_problem(409, "last_owner");
}

#[tokio::test]
async fn a_user_whose_account_is_deleted_at_the_same_time_does_not_become_the_owner() {
    for _ in 0..5 {
        let app = TestApp::start().await;
        let owner = app.user().await;
        let id = create(&app, &owner, "Acme").await;
        let bob = member(&app, id, "member").await;
        let (moved, deleted) = tokio::join!(transfer(&app, id, &owner, &bob), delete_account(&app, &bob));
        let outcomes = (outcome(&moved), outcome(&deleted));
        let consistent = [((200, ""), (409, "last_owner")), ((422, "validation_error"), (202, ""))];
        assert!(consistent.contains(&outcomes), "{outcomes:?}");
        let leaving = format!(
            "SELECT u.id FROM memberships m JOIN users u ON u.id = m.user_id
             WHERE m.org_id = {id} AND m.role = 'owner' AND u.deletion_due_at IS NOT NULL"
        );
        assert!(column(&app.database, &leaving).await.is_empty());
    }
}

#[tokio::test]
async fn an_organization_always_has_one_owner_under_load() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let mut users = vec![owner];
    for _ in 0..3 {
        users.push(member(&app, id, "admin").await);
    }
    let (app, users) = (&app, &users);
    let calls = users.iter().enumerate().map(|(at, user)| async move {
        let next = &users[(at + 1) % users.len()];
        for _ in 0..3 {
            tokio::join!(
                transfer(app, id, user, next),
                patch_member(app, id, user, next, json!({ "role": "member" })),
                patch_member(app, id, user, next, json!({ "role": "admin", "suspended": at == 2 })),
                leave(app, id, user),
            );
            assert_eq!(owner_ids(app, id).await.len(), 1);
        }
    });
    join_all(calls).await;
    let active =
        format!("SELECT 1 FROM memberships WHERE org_id = {id} AND role = 'owner' AND suspended_at IS NULL");
    assert_eq!(column(&app.database, &active).await, ["1"]);
}

#[tokio::test]
async fn an_organization_cannot_be_restored_while_it_is_erased() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    assert_status(&delete(&app, id, &owner).await, 202);
    app.sql("UPDATE organizations SET deletion_due_at = now()").await;
    let path = format!("/orgs/{id}/restore");
    let (restored, erased) = tokio::join!(
        app.call(reqwest::Method::POST, &path, &owner),
        saas::services::housekeeping::run(&app.app)
    );
    restored.is_some_problem(404, "org_not_found");
    assert_eq!(erased.unwrap().organizations, 1);
}

#[tokio::test]
async fn housekeeping_skips_an_organization_that_was_erased_or_joined_since_it_was_read() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for change in [
        "DELETE FROM organizations WHERE id = {org}",
        "INSERT INTO memberships (org_id, user_id, role) VALUES ({org}, {user}, 'owner')",
    ] {
        let insert = "INSERT INTO organizations (name) VALUES ('Empty') RETURNING id";
        let id: i64 = column(&app.database, insert).await[0].parse().unwrap();
        let change = change.replace("{org}", &id.to_string()).replace("{user}", &user.id.to_string());
        let hold = Hold::on(&app, id).await;
        let (deleted, ()) =
            tokio::join!(housekeeping::run(&app.app), hold.commit_when_waiting(&app, 1, &change));
        assert_eq!(deleted.unwrap().organizations, 0, "{change}");
    }
    let left = "SELECT count(*) FROM organizations WHERE name = 'Empty' AND deletion_due_at IS NULL";
    assert_eq!(column(&app.database, left).await, ["1"]);
}
