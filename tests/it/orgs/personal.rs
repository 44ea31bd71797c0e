//! Each user gets a personal organization, unless `PERSONAL_ORGANIZATIONS` is off.

use reqwest::Method;
use saas::{db, security::Passwords, services::admins::ensure_admin, services::housekeeping};
use serde_json::json;

use super::{create, leave};
use crate::support::{
    TestApp, User,
    app::PASSWORD,
    process::{production_command, run},
    records::column,
    servers::TestDatabase,
};

/// Returns the name and the owner of each personal organization, sorted by the id of the owner.
async fn personal_orgs(database: &TestDatabase) -> Vec<String> {
    let sql = "SELECT o.name || ' ' || u.email FROM organizations o
               JOIN memberships m ON m.org_id = o.id AND m.user_id = o.personal_of AND m.role = 'owner'
               JOIN users u ON u.id = o.personal_of ORDER BY u.id";
    column(database, sql).await
}

#[tokio::test]
async fn smoke_a_new_account_has_a_personal_organization() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let long = "x".repeat(255);
    for (email, name) in
        [("ada@example.com", Some("Ada L.")), ("bob@example.com", None), ("eve@example.com", Some(&*long))]
    {
        let new = json!({ "email": email, "password": PASSWORD, "full_name": name });
        assert_eq!(app.post("/auth/register", None, new).await.status, 201);
    }
    let invite = json!({ "email": "zoe@example.com", "full_name": " " });
    assert_eq!(app.post("/users", Some(&admin), invite).await.status, 201);
    let mut conn = db::connect(&app.database.settings()).await.unwrap();
    let personal = &app.app.config.organizations.personal;
    for _ in 0..2 {
        let password = Some(PASSWORD.into());
        ensure_admin(&mut conn, &Passwords::new(4), "root@example.com", password, personal).await.unwrap();
    }
    let found = personal_orgs(&app.database).await;
    let cut = format!("{} eve@example.com", "x".repeat(100));
    let expected = [
        "Ada L. ada@example.com",
        "bob bob@example.com",
        &*cut,
        "zoe zoe@example.com",
        "root root@example.com",
    ];
    assert_eq!(found, expected);
    let ada = app.login("ada@example.com", PASSWORD).await;
    let list =
        app.get("/orgs", Some(&User::signed_in(0, "ada@example.com", &ada))).await.body["items"].clone();
    assert_eq!(
        (&list[0]["name"], &list[0]["personal"], &list[1]),
        (&json!("Ada L."), &json!(true), &json!(null))
    );
}

#[tokio::test]
async fn the_commands_create_admin_and_migrate_create_personal_organizations() {
    let database = TestDatabase::migrated().await;
    let command = production_command(
        &["create-admin", "--email", "root@example.com", "--password-stdin"],
        &database,
        "p",
    );
    let mut command = command.await;
    command.env_remove("FIRST_SUPERUSER_PASSWORD");
    crate::support::process::run_with_input(command, "a password of ours\n").await.succeeded();
    assert_eq!(personal_orgs(&database).await, ["root root@example.com"]);
    // Accounts without a personal organization, as a release without organizations creates them.
    database
        .sql("INSERT INTO users (email, full_name) SELECT 'old' || n || '@example.com', 'Old ' || n FROM generate_series(1, 1200) n")
        .await;
    let mut off = production_command(&["migrate", "up"], &database, "p").await;
    off.env("PERSONAL_ORGANIZATIONS", "false");
    run(off).await.succeeded();
    assert_eq!(personal_orgs(&database).await.len(), 1);
    for _ in ["creates them", "changes nothing"] {
        run(production_command(&["migrate", "up"], &database, "p").await).await.succeeded();
        let found = personal_orgs(&database).await;
        assert_eq!(
            (found.len(), &*found[1], &*found[1200]),
            (1201, "Old 1 old1@example.com", "Old 1200 old1200@example.com")
        );
    }
}

#[tokio::test]
async fn the_nightly_job_and_the_first_list_create_missing_personal_organizations() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user().await, app.user().await);
    assert!(personal_orgs(&app.database).await.is_empty());
    // Concurrent requests of a user create only one organization.
    let (one, other) = tokio::join!(app.get("/orgs", Some(&ada)), app.get("/users/me/orgs", Some(&ada)));
    assert_eq!((one.status.as_u16(), &one.body), (200, &other.body));
    assert_eq!(personal_orgs(&app.database).await.len(), 1);
    for _ in ["creates the other one", "changes nothing"] {
        housekeeping::run(&app.app).await.unwrap();
        assert_eq!(personal_orgs(&app.database).await.len(), 2);
    }
    let list = app.get("/orgs", Some(&bob)).await.body["items"].clone();
    assert_eq!((&list[0]["personal"], &list[0]["role"]), (&json!(true), &json!("owner")));
    let id = list[0]["id"].as_i64().unwrap();
    leave(&app, id, &bob).await.is_some_problem(409, "last_owner");
    let renamed =
        super::send(&app, Method::PATCH, &format!("/orgs/{id}"), &bob, json!({ "name": "Mine" })).await;
    assert_eq!((&renamed.body["name"], &renamed.body["personal"]), (&json!("Mine"), &json!(true)));
}

#[tokio::test]
async fn the_setting_turns_personal_organizations_off() {
    let app = TestApp::with(&["--personal-organizations=false"]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    let new = json!({ "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(app.post("/auth/register", None, new).await.status, 201);
    assert_eq!(app.post("/users", Some(&admin), json!({ "email": "bob@example.com" })).await.status, 201);
    let mut conn = db::connect(&app.database.settings()).await.unwrap();
    let personal = &app.app.config.organizations.personal;
    ensure_admin(&mut conn, &Passwords::new(4), "root@example.com", Some(PASSWORD.into()), personal)
        .await
        .unwrap();
    housekeeping::run(&app.app).await.unwrap();
    assert_eq!(app.get("/orgs", Some(&user)).await.body["items"], json!([]));
    assert_eq!(column(&app.database, "SELECT count(*) FROM organizations").await, ["0"]);
    create(&app, &user, "Acme").await;
    assert_eq!(app.get("/orgs", Some(&user)).await.body["items"].as_array().unwrap().len(), 1);
}
