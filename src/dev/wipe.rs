use std::{fs, path::Path};

use super::{
    data_dir::{fallback_dir, remove_dir},
    postgres::wait_for_previous_server,
};

/// The names of the servers' data directories.
const SERVER_DIRS: [&str; 2] = ["postgres", "redis"];

/// Deletes the data of `saas dev` in its state directory `dir`, and the data of its servers in the fallback directories. Keeps
/// the entries of `dir` that `except` names. First waits for the PostgreSQL server of an earlier run, as
/// `wait_for_previous_server` does.
///
/// # Errors
/// If `dir` cannot be read, or a file or directory cannot be removed.
pub async fn wipe(dir: &Path, except: &[&str]) -> anyhow::Result<()> {
    for name in SERVER_DIRS {
        let Ok(path) = dir.join("servers").join(name).canonicalize() else { continue };
        for data in [path.clone(), fallback_dir(&path)] {
            wait_for_previous_server(&data.join("data")).await;
            remove_dir(&data)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if except.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => remove_dir(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}
