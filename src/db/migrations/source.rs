//! The migrations of this build, or those in a directory.

use std::{borrow::Cow, fmt, fs, io, path::Path};

use anyhow::{Context, bail};
use diesel::migration::{MigrationMetadata, MigrationName, MigrationVersion};

/// The migrations of this build: the name, `up.sql`, `down.sql` and `metadata.toml` of each. A missing file is empty.
/// `src/build.rs` writes this list.
const EMBEDDED: &[[&str; 4]] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// A list of migrations, oldest first.
pub struct Migrations(pub(super) Vec<Migration>);

/// A change of the database schema: a folder with SQL scripts.
///
/// The format of the folder and the record in the database are those of diesel, so its command line works too. The types
/// of diesel that read such folders are not used, because they give no access to the text of the scripts.
#[derive(Clone)]
pub(super) struct Migration {
    /// The name of the folder.
    pub name: Cow<'static, str>,
    pub up: Cow<'static, str>,
    pub down: Cow<'static, str>,
    /// Whether each script runs in a transaction. `metadata.toml` can turn it off, for statements such as `CREATE INDEX
    /// CONCURRENTLY`.
    pub in_transaction: bool,
}

impl Migrations {
    /// Returns the migrations of this build.
    pub fn embedded() -> Self {
        Self::sorted(EMBEDDED.iter().map(|texts| Migration::new(texts.map(Cow::Borrowed))).collect())
    }

    /// Reads the migrations in a directory.
    ///
    /// # Errors
    /// If the directory or a file cannot be read.
    pub fn in_directory(dir: &Path) -> anyhow::Result<Self> {
        let entries =
            fs::read_dir(dir).with_context(|| format!("cannot read the migrations in {}", dir.display()))?;
        let mut list = Vec::new();
        for entry in entries {
            list.extend(Migration::read(&entry?.path())?);
        }
        Ok(Self::sorted(list))
    }

    fn sorted(mut list: Vec<Migration>) -> Self {
        list.sort_by_key(Migration::version);
        Self(list)
    }

    /// Returns the names of the folders, oldest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|migration| &*migration.name)
    }

    /// Checks the migrations that are about to be applied.
    ///
    /// # Errors
    /// If two migrations of the list have the same version, or one of `pending` has no statement.
    pub(super) fn check(&self, pending: &[&Migration]) -> anyhow::Result<()> {
        for pair in self.0.windows(2) {
            if pair[0].version() == pair[1].version() {
                bail!(
                    "the migrations {} and {} have the same version, so only one of them would be applied: rename the \
                     folder of the newer one",
                    pair[0].name,
                    pair[1].name
                );
            }
        }
        if let Some(empty) = pending.iter().find(|migration| migration.is_empty()) {
            bail!(
                "the migration {} is empty, so nothing was applied: write the SQL into its up.sql, or delete its folder",
                empty.name
            );
        }
        Ok(())
    }
}

impl Migration {
    fn new([name, up, down, metadata]: [Cow<'static, str>; 4]) -> Self {
        let has_no_transaction = |line: &str| {
            let setting = line.split('#').next().unwrap_or_default();
            setting.split_whitespace().collect::<String>() == "run_in_transaction=false"
        };
        Self { in_transaction: !metadata.lines().any(has_no_transaction), name, up, down }
    }

    /// Reads the folder of a migration. Returns `None` if the path is not such a folder, or its name begins with a dot.
    fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = ["up.sql", "down.sql", "metadata.toml"].map(|file| folder.join(file));
        if name.starts_with('.') || !files.iter().any(|file| file.is_file()) {
            return Ok(None);
        }
        let [up, down, metadata] = files.map(|file| match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Cow::Borrowed("")),
            result => result.map(Cow::Owned).with_context(|| format!("cannot read {}", file.display())),
        });
        Ok(Some(Self::new([name.into(), up?, down?, metadata?])))
    }

    /// Returns the version in the form that the database records: the name up to `_`, without dashes.
    pub fn version(&self) -> String {
        self.name.split('_').next().unwrap_or_default().replace('-', "")
    }

    /// Returns whether `up.sql` has no statement.
    pub fn is_empty(&self) -> bool {
        !has_statement(&self.up)
    }

    /// Returns whether `down.sql` has a statement.
    pub fn is_revertible(&self) -> bool {
        has_statement(&self.down)
    }
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl MigrationName for Migration {
    fn version(&self) -> MigrationVersion<'_> {
        self.version().into()
    }
}

impl MigrationMetadata for Migration {
    fn run_in_transaction(&self) -> bool {
        self.in_transaction
    }
}

/// Returns whether a script has anything other than blanks, comments and semicolons.
fn has_statement(sql: &str) -> bool {
    without_comments(sql).chars().any(|c| !c.is_whitespace() && c != ';')
}

/// Removes the comments of a script. Takes `--` and `/*` in a quoted text for comments, too. So the result must only be
/// searched, never executed.
pub(super) fn without_comments(sql: &str) -> String {
    let (mut text, mut rest) = (String::with_capacity(sql.len()), sql);
    while let Some(at) = [rest.find("--"), rest.find("/*")].into_iter().flatten().min() {
        text.push_str(&rest[..at]);
        text.push(' ');
        let comment = &rest[at..];
        rest = match comment.starts_with("--") {
            true => comment.find('\n').map_or("", |end| &comment[end..]),
            false => &comment[block_comment_length(comment)..],
        };
    }
    text + rest
}

/// Returns the number of bytes of the block comment at the beginning of a text. Block comments nest.
pub(super) fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(found) = text.as_bytes().get(at..at + 2) {
        at += match found {
            b"/*" => {
                depth += 1;
                2
            }
            b"*/" => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blanks_are_no_statement() {
        for sql in [
            "",
            " \r\n\t",
            "-- add products",
            "-- add products\n",
            "-- a\r\n-- b\n;\n;",
            "/* a */",
            "/* -- a */ ;",
            "/* a /* b */\nCREATE TABLE x (); */ -- c",
            "/* not closed",
            "-- /*\n-- */",
        ] {
            assert!(!has_statement(sql), "{sql:?}");
        }
        for sql in
            ["SELECT 1", "-- a\nSELECT 1;", "/* a */SELECT 1", "-- /*\nSELECT 1", "/* -- */ SELECT 1", "'--'"]
        {
            assert!(has_statement(sql), "{sql:?}");
        }
    }

    #[test]
    fn metadata_can_turn_off_the_transaction() {
        let in_transaction = |metadata: &'static str| {
            Migration::new(["1_x", "", "", metadata].map(Cow::Borrowed)).in_transaction
        };
        assert!(!in_transaction("run_in_transaction = false"));
        assert!(!in_transaction("# why\nrun_in_transaction=false # CONCURRENTLY\n"));
        for metadata in ["", "run_in_transaction = true", "# run_in_transaction = false"] {
            assert!(in_transaction(metadata), "{metadata:?}");
        }
    }
}
