//! The deletion of an organization: its grace period, its restoration and its erasure.

use reqwest::Method;
use saas::services::housekeeping;
use serde_json::{Value, json};

use super::{assert_status, create, delete, member, send};
use crate::support::{TestApp, app::PASSWORD, records::column};

#[tokio::test]
async fn smoke_the_owner_can_restore_a_deleted_organization() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let (admin, viewer) = (member(&app, id, "admin").await, member(&app, id, "viewer").await);
    let answer = delete(&app, id, &owner).await;
    assert_status(&answer, 202);
    let due = answer.body["deletion_due_at"].as_str().unwrap();
    let days = format!("SELECT round(extract(epoch FROM '{due}'::timestamptz - now()) / 86400)");
    assert_eq!(column(&app.database, &days).await, ["14"]);
    let mails = app.mails().await;
    let mut told: Vec<_> = mails.iter().map(|mail| mail.to.clone()).collect();
    told.sort();
    let mut expected = [owner.email.clone(), admin.email];
    expected.sort();
    assert_eq!(told, expected, "the owner and the admins get a mail");
    assert!(mails[0].subject == "An organization will be deleted" && mails[0].text.contains("Acme at saas"));
    let list = app.get("/orgs", Some(&viewer)).await.body["items"].clone();
    let org = list.as_array().unwrap().iter().find(|org| org["id"] == id).unwrap();
    assert_eq!((&org["deletion_due_at"], &org["permissions"]), (&json!(due), &json!([])));

    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 0, "not yet");
    for _ in ["cancels the deletion", "changes nothing"] {
        let restored = app.call(Method::POST, &format!("/orgs/{id}/restore"), &owner).await;
        assert_status(&restored, 200);
        assert_eq!(restored.body["deletion_due_at"], Value::Null);
    }
    assert_eq!(app.get(&format!("/orgs/{id}"), Some(&viewer)).await.status, 200);
}

#[tokio::test]
async fn an_organization_is_erased_with_its_data_after_the_grace_period() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let (id, kept) = (create(&app, &owner, "Acme").await, create(&app, &owner, "Kept").await);
    member(&app, id, "member").await;
    // Creates a table that this release does not know, and a table with names that need quotes.
    app.sql(&format!(
        "CREATE TABLE notes (org_id BIGINT NOT NULL REFERENCES organizations ON DELETE CASCADE, text TEXT);
         CREATE TABLE \"Odd notes\" (\"the org\" BIGINT NOT NULL REFERENCES organizations ON DELETE CASCADE);
         INSERT INTO notes SELECT {id}, 'x' FROM generate_series(1, 1300);
         INSERT INTO notes VALUES ({kept}, 'x');
         INSERT INTO \"Odd notes\" VALUES ({id}), ({kept})"
    ))
    .await;
    let body = json!({ "password": PASSWORD });
    assert_status(&send(&app, Method::DELETE, &format!("/orgs/{id}"), &owner, body).await, 202);
    app.sql("UPDATE organizations SET deletion_due_at = deletion_due_at - interval '15 days'").await;
    let restore = app.call(Method::POST, &format!("/orgs/{id}/restore"), &owner).await;
    restore.is_some_problem(404, "org_not_found");
    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 1);
    let left = "SELECT concat_ws(' ', (SELECT count(*) FROM organizations WHERE personal_of IS NULL),
                    (SELECT count(*) FROM notes), (SELECT count(*) FROM \"Odd notes\"))";
    assert_eq!(column(&app.database, left).await, ["1 1 1"]);
    app.get(&format!("/orgs/{id}"), Some(&owner)).await.is_some_problem(404, "org_not_found");
    let trail = format!("SELECT action FROM audit_log WHERE org_id = {id} ORDER BY id");
    let actions = column(&app.database, &trail).await;
    assert_eq!(actions, ["org.created", "org.deletion_scheduled", "org.deleted"], "the trail outlives it");
}

#[tokio::test]
async fn an_organization_that_cannot_be_erased_does_not_prevent_the_erasure_of_others() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let (held, gone) = (create(&app, &owner, "Held").await, create(&app, &owner, "Gone").await);
    app.sql(&format!(
        "CREATE TABLE holds (org_id BIGINT NOT NULL REFERENCES organizations);
         INSERT INTO holds VALUES ({held});
         UPDATE organizations SET deletion_due_at = now() WHERE id IN ({held}, {gone})"
    ))
    .await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 1);
    app.sql("DROP TABLE holds").await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 1);
}

#[tokio::test]
async fn an_organization_whose_deletion_cannot_be_scheduled_does_not_prevent_the_erasure_of_others() {
    let app = TestApp::start().await;
    app.sql(
        "INSERT INTO organizations (name) VALUES ('Held'), ('Gone');
         ALTER TABLE organizations ADD CONSTRAINT held CHECK (name <> 'Held' OR deletion_due_at IS NULL)",
    )
    .await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 1);
    app.sql("ALTER TABLE organizations DROP CONSTRAINT held").await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 1);
}

#[tokio::test]
async fn a_personal_organization_cannot_be_deleted() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let id = app.get("/orgs", Some(&user)).await.body["items"][0]["id"].as_i64().unwrap();
    delete(&app, id, &user).await.is_some_problem(409, "personal_org");
    assert_eq!(app.get(&format!("/orgs/{id}"), Some(&user)).await.status, 200);
}
