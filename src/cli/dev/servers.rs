use std::path::Path;

use crate::{
    config::{Config, secret},
    dev::{Purpose, Server},
};

/// The private servers that this run has started.
#[derive(Default)]
pub(super) struct Servers {
    pub(super) postgres: Option<Server>,
    pub(super) redis: Option<Server>,
}

impl Servers {
    /// Starts a server for each database that is not configured, and sets its URL in `config`.
    ///
    /// # Errors
    /// If a server is not installed or does not start.
    pub(super) async fn start(&mut self, config: &mut Config, dir: &Path) -> anyhow::Result<()> {
        if !config.database.is_set() {
            let server = Server::postgres(dir, Purpose::Development).await?;
            config.database.database_url = Some(server.url.clone());
            self.postgres = Some(server);
        }
        if secret(&config.redis.redis_url).is_none() && config.redis.redis_host.is_none() {
            let server = Server::redis(dir, Purpose::Development).await?;
            config.redis.redis_url = Some(server.url.clone());
            self.redis = Some(server);
        }
        Ok(())
    }

    /// Stops the servers and waits until they have ended.
    pub(super) async fn stop(self) {
        for server in [self.redis, self.postgres].into_iter().flatten() {
            server.stop().await;
        }
    }
}
