//! Files and directories that only this user can access. They get the restricted mode when they are created: if the mode were
//! set after the creation, other users could open them in between.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::OFlags;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Creates a directory and its missing parents. If the directory exists, removes the permissions of other users.
///
/// # Errors
/// If the directory cannot be created, or belongs to another user and this process does not run as root.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))
}

/// Opens a file for writing, with further options such as `truncate`. Creates the file if it is missing. If the file exists,
/// removes the permissions of other users.
///
/// # Errors
/// If the file cannot be opened, belongs to another user and this process does not run as root, or is a symbolic link. A link is
/// refused because the directory may belong to another account: root would change the file that the link leads to.
pub fn open_private_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let no_links = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
    let file = options.write(true).create(true).mode(FILE_MODE).custom_flags(no_links).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Removes the permissions of other users from the files in a directory that have the extension. An earlier release may have
/// created files that all users can read.
///
/// # Errors
/// If the directory cannot be read, or a file belongs to another user and this process does not run as root.
pub fn make_files_private(dir: &Path, extension: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        // Skips symbolic links, which may lead to a file outside the directory.
        if kind.is_file() && path.extension().is_some_and(|end| end == extension) {
            fs::set_permissions(path, Permissions::from_mode(FILE_MODE))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = std::env::temp_dir().join(format!("saas-private-{}", uuid::Uuid::new_v4()));
        create_private_dir(&dir).unwrap();
        let (target, link) = (dir.join("target"), dir.join("link"));
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(open_private_file(&link, OpenOptions::new().truncate(true)).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        fs::remove_dir_all(&dir).unwrap();
    }
}
