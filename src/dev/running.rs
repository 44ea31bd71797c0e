//! The servers of a running `saas dev`, which other commands in the same directory find.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};

use super::private::{create_private_dir, open_private_file};

/// The default directory for all data of `saas dev`, relative to the working directory.
pub const DEFAULT_STATE_DIR: &str = ".saas";
/// The name of the file that a running `saas dev` locks. `saas dev --reset` keeps this file, and deletes all others in its
/// directory.
pub const LOCK_FILE: &str = "lock";
/// The name of the file with the URLs of the private servers.
const URLS_FILE: &str = "servers.env";
/// Maximum number of attempts to lock the file. Another command that looks for the servers may hold the lock for a moment.
const MAX_LOCK_ATTEMPTS: u32 = 10;
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Locks a state directory until the returned file is dropped or this process ends. Creates the directory if it is missing, and
/// removes the URLs that a killed `saas dev` has left in it.
///
/// # Errors
/// If another `saas dev` uses the directory, the directory or the lock file cannot be created or locked, or the file with the
/// URLs cannot be removed.
pub async fn lock_state(dir: &Path) -> anyhow::Result<File> {
    create_private_dir(dir).with_context(|| format!("cannot create the directory {}", dir.display()))?;
    let path = dir.join(LOCK_FILE);
    let file = open_private_file(&path, File::options().truncate(false))?;
    for _ in 0..MAX_LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => {
                RunningServers::remove(dir)?;
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_RETRY_INTERVAL).await,
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
    bail!(
        "`saas dev` already runs in this directory ({}): stop it, or use another --state-dir and --port",
        path.display()
    )
}

/// The URLs of the private servers that a `saas dev` has started.
#[derive(Default)]
pub struct RunningServers {
    pub database_url: Option<SecretString>,
    pub redis_url: Option<SecretString>,
}

impl RunningServers {
    /// Writes the URLs to a file, where other processes of this user find them. The caller must hold the lock
    /// of the directory.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn publish(&self, dir: &Path) -> io::Result<()> {
        let mut text = String::new();
        for (name, url) in [("DATABASE_URL", &self.database_url), ("REDIS_URL", &self.redis_url)] {
            if let Some(url) = url {
                text += &format!("{name}={}\n", url.expose_secret());
            }
        }
        let mut file = open_private_file(&dir.join(URLS_FILE), File::options().truncate(true))?;
        file.write_all(text.as_bytes())
    }

    /// Removes the file with the URLs. A missing file is not an error.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(URLS_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the servers of the `saas dev` that runs with this state directory. `None` if there is none, or
    /// if this user cannot read its files. Removes the URLs that a killed `saas dev` has left.
    pub fn find(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(URLS_FILE)).ok()?;
        let lock = File::open(dir.join(LOCK_FILE)).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            // The `saas dev` that has written the URLs has ended. No other `saas dev` writes URLs now, because this process
            // holds the lock.
            Ok(()) => {
                let _ = Self::remove(dir);
                return None;
            }
            Err(TryLockError::Error(_)) => return None,
        }
        let url = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            lines.find(|(found, _)| *found == name).map(|(_, url)| SecretString::from(url))
        };
        Some(Self { database_url: url("DATABASE_URL"), redis_url: url("REDIS_URL") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::test_dir;

    #[tokio::test]
    async fn servers_are_found_while_their_process_holds_the_lock() {
        let dir = test_dir().unwrap();
        assert!(RunningServers::find(&dir).is_none());
        let lock = lock_state(&dir).await.unwrap();
        let servers =
            RunningServers { database_url: Some("postgres://u:p@h/d?a=b".into()), ..Default::default() };
        servers.publish(&dir).unwrap();
        let found = RunningServers::find(&dir).unwrap();
        assert_eq!(found.database_url.unwrap().expose_secret(), "postgres://u:p@h/d?a=b");
        assert!(found.redis_url.is_none());
        assert!(lock_state(&dir).await.is_err());
        // A process that is killed releases the lock and leaves the URLs.
        drop(lock);
        assert!(RunningServers::find(&dir).is_none() && !dir.join(URLS_FILE).exists());
        // The next process removes the URLs that a killed one has left.
        servers.publish(&dir).unwrap();
        let _lock = lock_state(&dir).await.unwrap();
        assert!(RunningServers::find(&dir).is_none());
        fs::remove_dir_all(&dir).unwrap();
    }
}
