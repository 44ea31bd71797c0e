use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

use secrecy::SecretString;

use super::{
    data_dir::write_private_file,
    guard::{Account, Guarded},
};

/// The purpose of a server, which determines whether its data is kept and how durable the data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The data is kept from one start to the next.
    Development,
    /// The data is removed when the server stops, and durability is turned off for speed.
    Test,
}

/// A running private server. It stops when this value is dropped or this process ends, even if this process is killed.
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

/// Returns a free port of the loopback interface: the port in the file if it is free, or else any free port. So URLs usually
/// stay valid from one start to the next.
///
/// # Errors
/// If no port is free.
pub(super) fn free_port(file: &Path) -> io::Result<u16> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let kept = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    let listener = kept.and_then(|port| bind(port).ok()).map_or_else(|| bind(0), Ok)?;
    Ok(listener.local_addr()?.port())
}

/// Returns the password in a file. If the file is missing or empty, writes a new random password to it.
///
/// # Errors
/// If the file can be neither read nor written.
pub(super) fn kept_password(file: &Path, account: Option<&Account>) -> anyhow::Result<String> {
    if let Ok(password) = fs::read_to_string(file)
        && !password.is_empty()
    {
        return Ok(password);
    }
    let password = random_password();
    write_private_file(file, &password, account)?;
    Ok(password)
}

/// Returns a random password for a private server.
pub(super) fn random_password() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::test_dir;

    #[test]
    fn ports_and_passwords_are_kept() {
        let dir = test_dir().unwrap();
        let file = dir.join("port");
        let port = free_port(&file).unwrap();
        fs::write(&file, port.to_string()).unwrap();
        assert_eq!(free_port(&file).unwrap(), port);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(free_port(&file).unwrap(), port);

        let file = dir.join("password");
        let password = kept_password(&file, None).unwrap();
        assert_eq!(kept_password(&file, None).unwrap(), password);
        fs::remove_dir_all(&dir).unwrap();
    }
}
