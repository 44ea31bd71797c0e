use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::guard::Account;

/// Creates the directory of one server, accessible to the account that the server runs under.
///
/// For root, servers run under another account, which cannot reach a project below /root. The data then goes to
/// [`fallback_dir`].
pub(super) fn server_dir(dir: &Path, name: &str, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    let create = |path: &Path| -> anyhow::Result<PathBuf> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot create the directory {}", path.display()))?;
        let path = path.canonicalize()?;
        make_private(&path, account)?;
        Ok(path)
    };
    let preferred = create(&dir.join(name))?;
    let Some(account) = account else { return Ok(preferred) };
    if account.can_write_to(&preferred) {
        return Ok(preferred);
    }
    let fallback = create(&fallback_dir(&preferred))?;
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

/// Returns the directory below /var/lib that replaces `dir` if the server's account cannot reach `dir`.
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

/// Makes `account` the owner of a path and removes the permissions of all others.
pub(super) fn make_private(path: &Path, account: Option<&Account>) -> anyhow::Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if let Some(account) = account {
        chown(path, Some(account.uid), Some(account.gid))?;
    }
    Ok(())
}

/// Creates a directory for the data of test servers. Their guards remove it.
///
/// # Errors
/// If the directory cannot be created.
pub fn test_dir() -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("saas-test-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir_all(&dir)?;
    make_private(&dir, Account::unprivileged()?.as_ref())?;
    Ok(dir)
}
