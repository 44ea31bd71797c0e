use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use secrecy::SecretString;

use super::guard::Guarded;

/// What a server is started for. It decides how long its data is kept and how durable it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The data is kept from one start to the next.
    Development,
    /// The data is removed when the server stops, and durability is turned off for speed.
    Test,
}

/// A running private server. It stops when this value is dropped or this process ends, for whatever reason.
pub struct Server {
    /// Connection URL, including the password.
    pub url: SecretString,
    pub(super) process: Guarded,
}

impl Server {
    /// Stops the server and waits until it has ended.
    pub async fn stop(self) {
        // If the task fails, the guard still stops the server.
        let _ = tokio::task::spawn_blocking(move || self.process.stop()).await;
    }
}

/// Returns a port of the loopback interface that is free at the moment.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Returns a random password for a private server.
pub(super) fn random_password() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
