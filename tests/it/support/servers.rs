//! The PostgreSQL and Redis servers of this test run, and a database for each test.

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

/// The database that [`TestDatabase::migrated`] copies.
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

/// Returns the default settings with this database URL.
pub fn database_settings(url: &str) -> Database {
    DatabaseSettings::parse_from(["test", "--database-url", url]).database
}

/// Returns the servers. The first call starts them, and they stop when this process ends.
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

    /// Runs SQL in the server's default database as the superuser.
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

/// The database of one test. It is dropped with this value.
pub struct TestDatabase {
    pub url: String,
    name: String,
}

/// Returns a number that is unique in this test run.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl TestDatabase {
    /// Creates a database with all migrations applied.
    pub async fn migrated() -> Self {
        Self::create(&format!("TEMPLATE {TEMPLATE}")).await
    }

    /// Creates a database without tables.
    pub async fn empty() -> Self {
        Self::create("").await
    }

    /// Creates a database with the given options of `CREATE DATABASE`. It has the tables of its template.
    pub async fn create(how: &str) -> Self {
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
        // The thread is not joined, because DROP DATABASE waits for connections that are being opened. A task
        // of the current thread may be opening one, which would be a deadlock. Databases that remain are
        // deleted with the server.
        std::thread::spawn(drop);
    }
}
