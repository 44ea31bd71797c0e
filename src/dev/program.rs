use std::{fs, path::PathBuf};

use anyhow::bail;

/// Finds a program in `dirs`, then in `PATH`. `names` are alternatives: returns the first that is installed.
///
/// A `*` in `dirs` matches a version; the highest version comes first.
///
/// # Errors
/// If none of the programs is installed; the message names `package`, the package to install.
pub(super) fn find_program(names: &[&str], dirs: &[&str], package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = dirs.iter().flat_map(|dir| expand(dir)).collect();
    dirs.extend(std::env::split_paths(&path));
    for name in names {
        if let Some(found) = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()) {
            return Ok(found);
        }
    }
    bail!("{} is not installed: run ./scripts/ensure-servers, or install the package {package}", names[0])
}

/// Returns the directories that match a pattern with at most one `*`, the highest version first.
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
