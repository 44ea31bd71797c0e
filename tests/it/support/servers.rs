//! The private servers of this run, and a database for each test.

use std::sync::atomic::{AtomicU32, Ordering};

use clap::Parser;
use saas::{
    config::Database,
    db::migrations,
    dev::{self, Purpose, Server},
};
use secrecy::ExposeSecret;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

const TEMPLATE: &str = "migrated";

pub struct Servers {
    postgres: Server,
    redis: Server,
}

#[derive(Parser)]
struct DatabaseSettings {
    #[command(flatten)]
    database: Database,
}

/// The settings of a database by its URL.
pub fn database_settings(url: &str) -> Database {
    DatabaseSettings::parse_from(["test", "--database-url", url]).database
}

/// Starts the servers the first time. They end with this process.
pub async fn servers() -> &'static Servers {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    SERVERS
        .get_or_init(|| async {
            let dir = dev::test_dir().unwrap();
            let (postgres, redis) =
                tokio::try_join!(Server::postgres(&dir, Purpose::Test), Server::redis(&dir, Purpose::Test))
                    .unwrap();
            let servers = Servers { postgres, redis };
            servers.sql(&format!("CREATE DATABASE {TEMPLATE}")).await;
            migrations::up(&database_settings(&servers.database_url(TEMPLATE))).await.unwrap();
            servers
        })
        .await
}

impl Servers {
    pub fn redis_url(&self) -> String {
        self.redis.url.expose_secret().to_owned()
    }

    pub fn database_url(&self, name: &str) -> String {
        let url = self.postgres.url.expose_secret();
        format!("{}/{name}", url.rsplit_once('/').unwrap().0)
    }

    /// Runs SQL as the owner of the server.
    pub async fn sql(&self, sql: &str) {
        execute(self.postgres.url.expose_secret(), sql).await;
    }
}

/// Runs SQL in a database.
pub async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
}

/// A database of one test, gone when it is dropped.
pub struct TestDatabase {
    pub url: String,
    name: String,
}

/// A number that no other test of this run has.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl TestDatabase {
    pub async fn migrated() -> Self {
        Self::create(&format!("TEMPLATE {TEMPLATE}")).await
    }

    /// One that no migration has touched.
    pub async fn empty() -> Self {
        Self::create("").await
    }

    async fn create(how: &str) -> Self {
        let servers = servers().await;
        let name = format!("test_{}", unique());
        servers.sql(&format!("CREATE DATABASE {name} {how}")).await;
        Self { url: servers.database_url(&name), name }
    }

    pub fn settings(&self) -> Database {
        database_settings(&self.url)
    }

    pub async fn sql(&self, sql: &str) {
        execute(&self.url, sql).await;
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        let drop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (server, _) = url.rsplit_once('/').unwrap();
                execute(&format!("{server}/postgres"), &format!("DROP DATABASE {name} WITH (FORCE)")).await;
            });
        };
        // Nobody waits for it: PostgreSQL lets those first who are just signing in, and one of them may be a task of this
        // very thread. What is not done in the end goes with the server.
        std::thread::spawn(drop);
    }
}
