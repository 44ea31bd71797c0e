//! The private PostgreSQL and Redis that `saas dev` and the tests start, and that never outlive them.

mod guard;
mod postgres;
mod redis;

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use secrecy::SecretString;

use guard::Account;
pub use guard::Guarded;

/// The names of the servers' folders.
const SERVERS: [&str; 2] = ["postgres", "redis"];

/// What the servers' data is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Kept from one start to the next.
    Development,
    /// Gone when the server ends, and fast rather than safe.
    Test,
}

/// A private server: where it is, and the process. It ends when this is dropped, or when this process dies,
/// however that happens.
pub struct Server {
    pub url: SecretString,
    process: Guarded,
}

impl Server {
    /// Starts a PostgreSQL whose data lies below `dir`.
    ///
    /// # Errors
    /// When it is not installed or does not come up; the message has its last words.
    pub async fn postgres(dir: &Path, purpose: Purpose) -> anyhow::Result<Self> {
        postgres::start(dir, purpose).await
    }

    /// Starts a Redis whose data lies below `dir`.
    ///
    /// # Errors
    /// As for [`Server::postgres`].
    pub async fn redis(dir: &Path, purpose: Purpose) -> anyhow::Result<Self> {
        redis::start(dir, purpose).await
    }

    /// Stops it and waits until it has.
    pub async fn stop(self) {
        // Nothing to do about a failure: the guard goes on by itself.
        let _ = tokio::task::spawn_blocking(move || self.process.stop()).await;
    }
}

/// A folder for one server, which its account can reach. Running as root, PostgreSQL takes another account, and
/// a project below /root is out of that one's reach: its data then goes to /var/lib.
fn server_dir(dir: &Path, name: &str, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    let make = |path: &Path| -> anyhow::Result<PathBuf> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        let path = path.canonicalize()?;
        private(&path, account)?;
        Ok(path)
    };
    let wanted = make(&dir.join(name))?;
    let Some(account) = account else { return Ok(wanted) };
    if account.reaches(&wanted) {
        return Ok(wanted);
    }
    let elsewhere = make(&elsewhere(&wanted))?;
    if !account.reaches(&elsewhere) {
        bail!(
            "the account {:?} can reach neither {} nor {}",
            account.name,
            wanted.display(),
            elsewhere.display()
        );
    }
    Ok(elsewhere)
}

fn elsewhere(dir: &Path) -> PathBuf {
    let path = dir.to_string_lossy();
    let slug: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Path::new("/var/lib/saas-dev").join(slug.trim_matches('-'))
}

/// Removes what `saas dev` has kept in its folder, and the servers' data wherever it lies.
///
/// # Errors
/// When it cannot be removed.
pub async fn wipe(dir: &Path, except: &[&str]) -> anyhow::Result<()> {
    for name in SERVERS {
        let Ok(path) = dir.join("servers").join(name).canonicalize() else { continue };
        for data in [path.clone(), elsewhere(&path)] {
            postgres::wait_for_predecessor(&data.join("data")).await;
            remove(&data)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if except.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => remove(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a path to the account, and keeps everybody else out.
fn private(path: &Path, account: Option<&Account>) -> anyhow::Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if let Some(account) = account {
        chown(path, Some(account.uid), Some(account.gid))?;
    }
    Ok(())
}

/// A new folder for the data of test servers, which their guards can remove again.
///
/// # Errors
/// When it cannot be made.
pub fn test_dir() -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("saas-test-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir_all(&dir)?;
    private(&dir, Account::unprivileged()?.as_ref())?;
    Ok(dir)
}

/// The program, from `PATH` or where packages are known to put it.
fn find_program(names: &[&str], places: &[&str], package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = places.iter().flat_map(|place| expand(place)).collect();
    dirs.extend(std::env::split_paths(&path));
    for name in names {
        if let Some(found) = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()) {
            return Ok(found);
        }
    }
    bail!("{} is not installed: run ./scripts/ensure-servers, or install the package {package}", names[0])
}

/// Folders of a pattern with one `*` in its last part but one, the highest version first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![PathBuf::from(pattern)];
    };
    let (dir, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.split('.').next()?.parse().unwrap_or(0);
            Some((version, PathBuf::from(format!("{dir}/{name}{after}"))))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// A port of the loopback interface that is free now.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A password for a server that only this process and its children are told.
fn password() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
