//! The effects of deleting or deactivating an account on the organizations of the user.

use reqwest::Method;
use saas::services::housekeeping;
use serde_json::json;

use super::{
    assert_status, create, delete_account, leave, list_members, member, owner_ids, remove_member, send,
    transfer,
};
use crate::support::{TestApp, User, app::PASSWORD, records::column};

async fn erase_account(app: &TestApp, admin: &User, user: &User) -> crate::support::app::Answer {
    app.call(Method::DELETE, &format!("/users/{}", user.id), admin).await
}

async fn count_orgs(app: &TestApp) -> String {
    column(&app.database, "SELECT count(*) FROM organizations").await.concat()
}

#[tokio::test]
async fn smoke_an_owner_with_other_members_cannot_delete_the_account() {
    let app = TestApp::start().await;
    let (owner, admin) = (app.user().await, app.admin().await);
    let id = create(&app, &owner, "Acme").await;
    let bob = member(&app, id, "viewer").await;
    app.sql("UPDATE memberships SET suspended_at = now() WHERE role = 'viewer'").await;
    for refused in [delete_account(&app, &owner).await, erase_account(&app, &admin, &owner).await] {
        refused.is_problem(
            409,
            "last_owner",
            &format!(
                "This account is the owner of organizations with other members: Acme (id {id}). Transfer them or remove the \
                 other members first"
            ),
        );
    }
    assert_eq!(app.get("/users/me", Some(&owner)).await.body["deletion_due_at"], json!(null));
    app.sql("UPDATE memberships SET suspended_at = NULL").await;
    assert_status(&transfer(&app, id, &owner, &bob).await, 200);
    assert_status(&delete_account(&app, &owner).await, 202);
    assert_status(&erase_account(&app, &admin, &owner).await, 204);
    assert_eq!(list_members(&app, id).await, [format!("{} owner", bob.id)]);
}

#[tokio::test]
async fn a_refused_account_deletion_names_three_owned_organizations_and_counts_the_others() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    for number in 0..5 {
        let id = create(&app, &owner, &format!("Org {number}")).await;
        member(&app, id, "member").await;
    }
    let refused = delete_account(&app, &owner).await;
    refused.is_some_problem(409, "last_owner");
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(
        ["Org 0 (", "Org 1 (", "Org 2 (", "and 2 more"].iter().all(|part| detail.contains(part)),
        "{detail}"
    );
    assert!(!detail.contains("Org 3"), "{detail}");
}

#[tokio::test]
async fn an_organization_with_one_member_is_erased_with_the_account() {
    let app = TestApp::start().await;
    let (ada, bob, admin) = (app.user().await, app.user().await, app.admin().await);
    for user in [&ada, &bob] {
        app.get("/orgs", Some(user)).await;
        create(&app, user, "Alone").await;
    }
    assert_eq!(count_orgs(&app).await, "4");
    // During the grace period of the account, the organization stays.
    assert_status(&delete_account(&app, &ada).await, 202);
    housekeeping::run(&app.app).await.unwrap();
    let ada = User::signed_in(ada.id, &ada.email, &app.login(&ada.email, PASSWORD).await);
    assert_eq!(app.get("/orgs", Some(&ada)).await.body["items"].as_array().unwrap().len(), 2);

    assert_status(&delete_account(&app, &ada).await, 202);
    app.sql("UPDATE users SET deletion_due_at = deletion_due_at - interval '15 days'").await;
    let removed = housekeeping::run(&app.app).await.unwrap();
    assert_eq!((removed.users, removed.organizations), (1, 2));
    assert_status(&erase_account(&app, &admin, &bob).await, 204);
    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 2);
    let left = "SELECT count(*) FROM organizations WHERE name = 'Alone'";
    assert_eq!(column(&app.database, left).await, ["0"]);
}

/// Release 0.1.0 schedules the deletion of an account even if the user owns organizations with other members. It may run beside
/// this release during an upgrade.
#[tokio::test]
async fn an_account_that_is_due_for_deletion_stays_while_it_owns_an_organization_with_other_members() {
    let app = TestApp::start().await;
    let (owner, other) = (app.user().await, app.user().await);
    let id = create(&app, &owner, "Acme").await;
    let bob = member(&app, id, "admin").await;
    let due = format!("UPDATE users SET deletion_due_at = now() WHERE id IN ({}, {})", owner.id, other.id);
    app.sql(&due).await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().users, 1, "that of the other user");
    assert_eq!(owner_ids(&app, id).await, [owner.id.to_string()]);
    assert_status(&leave(&app, id, &bob).await, 204);
    let removed = housekeeping::run(&app.app).await.unwrap();
    assert_eq!((removed.users, removed.organizations), (1, 2), "the other one is the personal organization");
}

#[tokio::test]
async fn accounts_that_cannot_be_deleted_do_not_block_later_ones() {
    let app = TestApp::start().await;
    let member = app.user().await;
    // Creates 501 owners of organizations with other members. Housekeeping reads 500 accounts in one batch.
    app.sql(&format!(
        "WITH owners AS (
            INSERT INTO users (email, deletion_due_at) SELECT n || '@example.org', now() - interval '1 day'
            FROM generate_series(1, 501) n RETURNING id
        ), orgs AS (
            INSERT INTO organizations (name) SELECT 'Shared' FROM owners RETURNING id
        )
        INSERT INTO memberships (org_id, user_id, role)
        SELECT org.id, owner.id, 'owner' FROM (SELECT id, row_number() OVER () AS n FROM orgs) org
            JOIN (SELECT id, row_number() OVER () AS n FROM owners) owner USING (n)
        UNION ALL SELECT id, {}, 'viewer' FROM orgs",
        member.id
    ))
    .await;
    let due = app.user().await;
    app.sql(&format!("UPDATE users SET deletion_due_at = now() WHERE id = {}", due.id)).await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().users, 1);
    let left = format!("SELECT count(*) FROM users WHERE id = {} OR email LIKE '%@example.org'", due.id);
    assert_eq!(column(&app.database, &left).await, ["501"]);
}

/// Release 0.1.0, which may run beside this release during an upgrade, deletes an account even if the user owns organizations.
#[tokio::test]
async fn organizations_without_members_are_erased_and_others_without_an_owner_stay() {
    let app = TestApp::start().await;
    let (ada, eve) = (app.user().await, app.user().await);
    let (alone, shared) = (create(&app, &ada, "Alone").await, create(&app, &eve, "Shared").await);
    let bob = member(&app, shared, "admin").await;
    app.sql(&format!("DELETE FROM users WHERE id IN ({}, {})", ada.id, eve.id)).await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 1);
    let left = format!("SELECT id FROM organizations WHERE id IN ({alone}, {shared})");
    assert_eq!(column(&app.database, &left).await, [shared.to_string()]);
    let trail = format!("SELECT action FROM audit_log WHERE org_id = {alone} ORDER BY id");
    let actions = column(&app.database, &trail).await;
    assert_eq!(actions[actions.len() - 2..], ["org.deletion_scheduled", "org.deleted"]);
    assert_eq!(
        list_members(&app, shared).await,
        [format!("{} admin", bob.id)],
        "an admin does not become the owner"
    );
}

#[tokio::test]
async fn a_deactivated_owner_keeps_the_organization() {
    let app = TestApp::start().await;
    let (owner, platform) = (app.user().await, app.admin().await);
    let id = create(&app, &owner, "Acme").await;
    let admin = member(&app, id, "admin").await;
    let path = format!("/users/{}", owner.id);
    assert_status(&send(&app, Method::PATCH, &path, &platform, json!({ "is_active": false })).await, 200);
    assert_eq!(owner_ids(&app, id).await, [owner.id.to_string()]);
    assert_eq!(app.get(&format!("/orgs/{id}"), Some(&admin)).await.status, 200);
    remove_member(&app, id, &admin, &owner).await.is_some_problem(403, "role_too_high");
}
