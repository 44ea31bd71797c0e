use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{PermissionsExt, chown, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::{
    guard::Account,
    private::{create_private_dir, open_private_file},
};

/// Creates the directory of one server, which only the account of the server can access. Returns its path.
///
/// If this process runs as root, servers run under another account: `account`. If `account` cannot write to the directory
/// `name` in `dir`, the data is stored in [`fallback_dir`], and earlier data is moved there.
///
/// # Errors
/// If a directory cannot be created, the data cannot be moved, or `account` can write to neither directory.
pub(super) fn server_dir(dir: &Path, name: &str, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    // The directory of all servers belongs to this user, not to the account of one server.
    create_private_dir(dir).with_context(|| format!("cannot create the directory {}", dir.display()))?;
    let preferred = create_for(&dir.join(name), account)?;
    let Some(account) = account else { return Ok(preferred) };
    if account.can_write_to(&preferred) {
        return Ok(preferred);
    }
    let fallback = fallback_dir(&preferred);
    if let Some(parent) = fallback.parent() {
        create_fallback_parent(parent)
            .with_context(|| format!("cannot create the directory {}", parent.display()))?;
    }
    move_data(&preferred, &fallback)?;
    create_for(&preferred, Some(account))?;
    let fallback = create_for(&fallback, Some(account))?;
    if !account.can_write_to(&fallback) {
        bail!(
            "the account {:?} can write neither to {} nor to {}",
            account.name,
            preferred.display(),
            fallback.display()
        );
    }
    Ok(fallback)
}

/// Creates the parent of all fallback directories. With any umask, all accounts can reach the directories in it, but not list
/// them.
fn create_fallback_parent(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o711))
}

/// Creates a private directory that belongs to `account` or, without an account, to this user. Returns its path without
/// symbolic links.
fn create_for(path: &Path, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    create_private_dir(path).with_context(|| format!("cannot create the directory {}", path.display()))?;
    let path = path.canonicalize()?;
    if let Some(account) = account {
        chown(&path, Some(account.uid), Some(account.gid))?;
    }
    Ok(path)
}

/// Moves the data in `from` to `to`, unless `to` exists or `from` is empty. An earlier release may have stored the data in
/// `from`, when all accounts could still reach this directory.
fn move_data(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() || fs::read_dir(from)?.next().is_none() {
        return Ok(());
    }
    fs::rename(from, to).with_context(|| {
        format!(
            "cannot move the data of a private server from {} to {}, where its account can reach it: move it yourself, or \
             run `saas dev --reset`",
            from.display(),
            to.display()
        )
    })
}

/// Returns the directory below /var/lib/saas-dev that replaces `dir` if the server's account cannot write to `dir`.
pub(super) fn fallback_dir(dir: &Path) -> PathBuf {
    let path = dir.to_string_lossy();
    let slug: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Path::new("/var/lib/saas-dev").join(slug.trim_matches('-'))
}

/// Removes a directory with all its content. A missing directory is not an error.
pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file that only `account` can read or, without an account, only this user.
pub(super) fn write_private_file(path: &Path, text: &str, account: Option<&Account>) -> anyhow::Result<()> {
    let mut file = open_private_file(path, File::options().truncate(true))
        .with_context(|| format!("cannot write {}", path.display()))?;
    if let Some(account) = account {
        fchown(&file, Some(account.uid), Some(account.gid))?;
    }
    Ok(file.write_all(text.as_bytes())?)
}

/// Creates a directory for the data of test servers. It is removed when the last server in it stops. A caller that starts no
/// server must remove it.
///
/// # Errors
/// If the directory cannot be created, or this process runs as root and no account for the servers exists.
pub fn test_dir() -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("saas-test-{}", uuid::Uuid::new_v4().simple()));
    create_for(&dir, Account::unprivileged()?.as_ref())
}
