use std::ffi::OsStr;

use crate::config::RENAMED_VARIABLES;

/// The names of the variables that the commands read.
pub(super) struct Names {
    /// All names, including names of earlier releases and the names that [`file_variable`] returns.
    settings: Vec<String>,
    /// The names of the settings that are secrets.
    secrets: Vec<String>,
}

impl Names {
    /// Collects the names from a command and its subcommands.
    pub(super) fn of(command: &clap::Command) -> Self {
        let mut names = Self { settings: Vec::new(), secrets: Vec::new() };
        names.add(command);
        names.settings.extend(RENAMED_VARIABLES.iter().map(|(old, _)| (*old).to_owned()));
        let files: Vec<_> = names.secrets.iter().map(|name| file_variable(name)).collect();
        names.settings.extend(files);
        names
    }

    fn add(&mut self, command: &clap::Command) {
        for arg in command.get_arguments() {
            let Some(name) = arg.get_env().and_then(OsStr::to_str) else { continue };
            self.settings.push(name.to_owned());
            if arg.is_hide_env_values_set() {
                self.secrets.push(name.to_owned());
            }
        }
        command.get_subcommands().for_each(|subcommand| self.add(subcommand));
    }

    /// Returns whether a command reads this variable.
    pub(super) fn has(&self, name: &str) -> bool {
        self.settings.iter().any(|setting| setting == name)
    }

    /// Returns whether the variable is a secret.
    pub(super) fn is_secret(&self, name: &str) -> bool {
        self.secrets.iter().any(|secret| secret == name)
    }

    /// Returns the setting that `name` probably misspells. Case is ignored.
    pub(super) fn similar(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_uppercase();
        // A short name with two edits is often an unrelated name.
        let max_distance = if name.len() < 6 { 1 } else { 2 };
        let distances = self.settings.iter().map(|setting| (distance(&name, setting), setting));
        let (_, nearest) = distances
            .filter(|(distance, _)| *distance <= max_distance)
            .min_by_key(|(distance, _)| *distance)?;
        Some(nearest)
    }
}

/// Returns the name of the variable with the path of a file that contains the secret `name`.
pub(super) fn file_variable(name: &str) -> String {
    format!("{name}_FILE")
}

/// Returns the Levenshtein distance: the minimum number of bytes that have to be added, removed or replaced.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_names_are_found() {
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("kitten", "sitting")), (3, 0, 3));
        let settings =
            ["SECRET_KEY", "SECRET_KEY_FILE", "PORT", "HOST", "SMTP_URL"].map(str::to_owned).into();
        let names = Names { settings, secrets: Vec::new() };
        for (name, wanted) in [
            ("SECRET_KYE", Some("SECRET_KEY")),
            ("SECRETKEY", Some("SECRET_KEY")),
            ("secret_key", Some("SECRET_KEY")),
            ("SECRET_KEY_FIEL", Some("SECRET_KEY_FILE")),
            ("PROT", None),
            ("PORTS", Some("PORT")),
            ("STRIPE_KEY", None),
            ("TZ", None),
        ] {
            assert_eq!(names.similar(name), wanted, "{name}");
        }
    }
}
