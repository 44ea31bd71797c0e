//! The role `saas_tenant`, which all databases of a server share. Migrations of several databases create it
//! concurrently, or lack the privilege to create it.

use futures_util::future::join_all;
use saas::{
    db::migrations::Migrations,
    dev::{Purpose, Server, test_dir},
};
use secrecy::ExposeSecret;

use crate::support::{
    records::column_at,
    servers::{database_settings, execute},
};

/// Uses a private server, because the other tests share one server and its role.
#[tokio::test]
async fn the_migration_creates_the_role_or_names_the_statements_that_create_it() {
    let server = Server::postgres(&test_dir().unwrap(), Purpose::Test).await.unwrap();
    let superuser = server.url.expose_secret();
    let (address, _) = superuser.rsplit_once('/').unwrap();
    let (_, host) = address.split_once('@').unwrap();
    execute(
        superuser,
        "CREATE ROLE limited LOGIN PASSWORD 'x'; CREATE ROLE maker LOGIN PASSWORD 'x' CREATEROLE",
    )
    .await;
    let create = async |owner: &str, name: &str| {
        execute(superuser, &format!("CREATE DATABASE {name} OWNER {owner}")).await;
        format!("postgres://{owner}:x@{host}/{name}")
    };
    let migrations = Migrations::embedded();

    let url = create("limited", "first").await;
    let error = format!("{:#}", migrations.up(&database_settings(&url)).await.unwrap_err());
    let (_, fix) = error.split_once("run ").unwrap_or_else(|| panic!("{error}"));
    let fix = fix.lines().next().unwrap();
    assert_eq!(fix, "CREATE ROLE saas_tenant NOLOGIN; GRANT saas_tenant TO limited;", "{error}");

    // Four migrations run concurrently. Each succeeds, although only one of them creates the role.
    let mut urls = Vec::new();
    for number in 0..4 {
        urls.push(create("maker", &format!("other{number}")).await);
    }
    for result in
        join_all(urls.iter().map(|url| async { migrations.up(&database_settings(url)).await })).await
    {
        result.unwrap();
    }
    let members =
        "SELECT DISTINCT member::regrole FROM pg_auth_members WHERE roleid = 'saas_tenant'::regrole";
    assert_eq!(column_at(superuser, members).await.unwrap(), ["maker"]);

    let error = format!("{:#}", migrations.up(&database_settings(&url)).await.unwrap_err());
    assert!(error.contains("run GRANT saas_tenant TO limited;"), "{error}");
    // The role of the product is granted `saas_tenant`, even if the migrations run as another role.
    let mut settings = database_settings(&url);
    settings.database_direct_url = Some(format!("{address}/first").into());
    migrations.up(&settings).await.unwrap();
    let uses_role = "SET ROLE saas_tenant; SELECT current_user";
    assert_eq!(column_at(&url, uses_role).await.unwrap(), ["saas_tenant"]);

    // Policies do not apply to a role with BYPASSRLS, so the migration refuses it.
    execute(superuser, "ALTER ROLE saas_tenant BYPASSRLS").await;
    let error =
        format!("{:#}", migrations.up(&database_settings(&create("maker", "last").await)).await.unwrap_err());
    assert!(error.contains("NOBYPASSRLS"), "{error}");
    server.stop().await;
}
