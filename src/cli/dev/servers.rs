use std::path::Path;

use crate::{
    config::{Config, Database},
    dev::{Purpose, RunningServers, Server},
};

/// The private servers that this run has started.
#[derive(Default)]
pub(super) struct Servers {
    pub(super) postgres: Option<Server>,
    pub(super) redis: Option<Server>,
}

impl Servers {
    /// Starts PostgreSQL and Redis, each if `config` names no such server, and sets the URLs in `config`.
    ///
    /// # Errors
    /// As [`Server::postgres`] and [`Server::redis`].
    pub(super) async fn start(&mut self, config: &mut Config, dir: &Path) -> anyhow::Result<()> {
        if !config.database.is_set() {
            let server = Server::postgres(dir, Purpose::Development).await?;
            // Replaces all settings of the connection, so that none of them applies to the private server.
            config.database = Database::at(server.url.clone());
            self.postgres = Some(server);
        }
        if !config.redis.is_set() {
            let server = Server::redis(dir, Purpose::Development).await?;
            config.redis.redis_url = Some(server.url.clone());
            self.redis = Some(server);
        }
        Ok(())
    }

    /// Returns the URLs of the servers, for other commands.
    pub(super) fn running(&self) -> RunningServers {
        let url = |server: &Option<Server>| server.as_ref().map(|server| server.url.clone());
        RunningServers { database_url: url(&self.postgres), redis_url: url(&self.redis) }
    }

    /// Stops the servers and waits until they have ended.
    pub(super) async fn stop(self) {
        for server in [self.redis, self.postgres].into_iter().flatten() {
            server.stop().await;
        }
    }
}
