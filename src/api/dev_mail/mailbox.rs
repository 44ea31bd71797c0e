//! The directory of captured mails.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// Maximum number of mails in the list.
const MAX_LISTED: usize = 200;

/// The directory of captured mails. The id of a mail is its file name without `.eml`.
#[derive(Clone)]
pub(super) struct Mailbox(Arc<Path>);

impl Mailbox {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self(dir.into())
    }

    /// Returns the ids of at most [`MAX_LISTED`] mails with the modification times of their files, the newest first.
    pub(super) async fn latest(&self) -> io::Result<Vec<(SystemTime, String)>> {
        let mut entries = match tokio::fs::read_dir(&self.0).await {
            // No mail has been captured yet.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".eml")).filter(|id| is_id(id));
            if let (Some(id), Ok(meta)) = (id, entry.metadata().await) {
                found.push((meta.modified()?, id.to_owned()));
            }
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.truncate(MAX_LISTED);
        Ok(found)
    }

    /// Returns the source of a mail; `None` if no mail has this id.
    pub(super) async fn read(&self, id: &str) -> io::Result<Option<Vec<u8>>> {
        // This check prevents path traversal out of the directory.
        if !is_id(id) {
            return Ok(None);
        }
        match tokio::fs::read(self.0.join(format!("{id}.eml"))).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            bytes => bytes.map(Some),
        }
    }
}

fn is_id(id: &str) -> bool {
    (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_not_a_path() {
        assert!(is_id("01a203c5_1357-763a") && is_id(&"a".repeat(100)));
        for id in ["", "..", "../x", "a/b", "a.b", "a\\b", "ä", "a\0", &"a".repeat(101)] {
            assert!(!is_id(id), "{id}");
        }
    }
}
