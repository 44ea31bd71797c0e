//! Embeds the migrations: writes a list of them to `$OUT_DIR/migrations.rs`, which includes their files.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// The files of a migration, in the order of `EMBEDDED` in `src/db/migrations/source.rs`.
const FILES: [&str; 3] = ["up.sql", "down.sql", "metadata.toml"];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=migrations");
    let dir = |variable: &str| PathBuf::from(env::var_os(variable).unwrap_or_default());
    fs::write(dir("OUT_DIR").join("migrations.rs"), list(&dir("CARGO_MANIFEST_DIR").join("migrations"))?)
}

/// Returns the source text of a slice with one array for each migration: the name of the migration, and the contents of its
/// files. A missing file counts as empty.
fn list(migrations: &Path) -> io::Result<String> {
    let mut text = String::from("&[\n");
    for entry in fs::read_dir(migrations)? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let has = |file: &str| folder.join(file).is_file();
        // Skips a folder without a migration. Git leaves such a folder behind on a change of branches if the folder has an
        // ignored file.
        if name.starts_with('.') || !FILES.iter().any(|file| has(file)) {
            continue;
        }
        let contents = FILES.map(|file| match has(file) {
            true => format!("include_str!({:?})", folder.join(file)),
            false => "\"\"".into(),
        });
        text += &format!("    [{name:?}, {}],\n", contents.join(", "));
    }
    Ok(text + "]")
}
