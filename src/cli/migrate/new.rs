use std::{fs, io::Write, path::Path};

use anyhow::{Context, bail};
use chrono::{NaiveDate, NaiveDateTime, TimeDelta, Utc};

use crate::db::migrations::Migrations;

/// Maximum number of characters of the name of a migration, without its version. The name of a directory has at most 255 bytes.
const MAX_NAME_CHARS: usize = 100;

/// Creates the folder of a migration that sorts after all others. Prints the paths of its files, and the next steps.
///
/// # Errors
/// If the description has no or too many letters and digits, `dir` is no directory or cannot be read, another migration has the
/// name, no version after the newest migration can be computed, or the files cannot be written.
pub(super) fn create(description: &str, dir: &Path) -> anyhow::Result<()> {
    let name = name_of(description)?;
    if !dir.is_dir() {
        bail!("there is no directory {}: run this in the project, or set --dir", dir.display());
    }
    let (here, embedded) = (Migrations::in_directory(dir)?, Migrations::embedded());
    if let Some(same) =
        here.names().find(|other| other.split_once('_').is_some_and(|(_, other)| other == name))
    {
        bail!("there is a migration with this name: {same}. Choose another description");
    }
    let newest = here.names().chain(embedded.names()).max_by_key(|name| version(name)).unwrap_or_default();
    let folder_version = version_after(&version(newest), Utc::now().naive_utc()).with_context(|| {
        format!("the name of the newest migration, {newest}, does not begin with a date: create the folder by hand")
    })?;
    let folder = dir.join(format!("{folder_version}_{name}"));
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Joins the lines of the description: a second line would be outside the SQL comment.
    let description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    for (file, text) in [
        ("up.sql", format!("-- {description}\n")),
        ("down.sql", "-- Undo up.sql, in reverse order.\n".to_owned()),
    ] {
        let path = folder.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(std::io::stdout(), "{}", path.display())?;
    }
    writeln!(
        std::io::stderr(),
        "Write both files; an empty migration is not applied. Then `./scripts/migrate schema` updates src/schema.rs, and \
         ./scripts/dev or `./scripts/migrate up` applies the migration."
    )?;
    Ok(())
}

fn name_of(description: &str) -> anyhow::Result<String> {
    let words: String = description
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' })
        .collect();
    let name = words.split_whitespace().collect::<Vec<_>>().join("_");
    match name.len() {
        0 => bail!(
            "the description {description:?} has no letters or digits; write, for example, \"add products\""
        ),
        1..=MAX_NAME_CHARS => Ok(name),
        _ => bail!(
            "the description is too long for the name of a folder; write a few words, and the rest into up.sql"
        ),
    }
}

/// Returns the version of a migration as the database records it: without dashes. Migrations are sorted by their versions.
fn version(name: &str) -> String {
    name.split('_').next().unwrap_or_default().replace('-', "")
}

/// Returns a version with dashes for `now`. If this version does not sort after `newest`, returns the version a second after
/// `newest`, or of the next day if `newest` is not a valid time; `None` if `newest` does not begin with a date, or no later
/// version exists.
fn version_after(newest: &str, now: NaiveDateTime) -> Option<String> {
    let sorted = |time: NaiveDateTime| {
        let candidate = time.format("%Y-%m-%d-%H%M%S").to_string();
        (version(&candidate).as_str() > newest).then_some(candidate)
    };
    let next_second =
        || Some(NaiveDateTime::parse_from_str(newest, "%Y%m%d%H%M%S").ok()? + TimeDelta::seconds(1));
    let next_day =
        || NaiveDate::parse_from_str(newest.get(..8)?, "%Y%m%d").ok()?.succ_opt()?.and_hms_opt(0, 0, 0);
    sorted(now).or_else(|| sorted(next_second()?)).or_else(|| sorted(next_day()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_sorts_after_the_newest_version() {
        let now = NaiveDate::from_ymd_opt(2026, 11, 25).unwrap().and_hms_opt(18, 7, 12).unwrap();
        for (newest, expected) in [
            ("", Some("2026-11-25-180712")),
            ("20251122000000", Some("2026-11-25-180712")),
            // Created in the same second, in the future, and at the end of a year.
            ("20261125180712", Some("2026-11-25-180713")),
            ("20990101000000", Some("2099-01-01-000001")),
            ("20261231235959", Some("2027-01-01-000000")),
            // A time that does not exist, and a version of another format.
            ("20261125300000", Some("2026-11-26-000000")),
            ("202611261", Some("2026-11-27-000000")),
            ("99991231235959", None),
            ("initial", None),
        ] {
            assert_eq!(version_after(newest, now).as_deref(), expected, "{newest}");
        }
    }
}
