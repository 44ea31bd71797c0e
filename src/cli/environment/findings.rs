//! The problems and warnings about the settings of a command.

use std::{fmt, path::PathBuf};

/// The problems and warnings that were found while the settings were read.
#[derive(Default)]
pub(in crate::cli) struct Findings {
    /// Messages about values that cannot be read or are invalid, each with the place of the value.
    pub(in crate::cli) problems: Vec<String>,
    pub(in crate::cli) warnings: Vec<String>,
    /// Names of the settings whose value comes neither from a flag nor from the environment variable of the same name, each with
    /// the place of the value.
    pub(super) places: Vec<(String, String)>,
    /// The names of the flags whose values are secrets and were given on the command line.
    pub(super) exposed: Vec<String>,
}

/// Where a value comes from.
pub(super) enum Place {
    /// The environment variable with this name.
    Variable(String),
    /// A line of `.env`.
    Line { name: String, line: usize },
    /// The file of a secret, and the variable that contains its path.
    File { variable: String, path: PathBuf },
}

impl Place {
    /// Describes the place. `None` if it is the environment variable with the name of the setting.
    pub(super) fn describe_unusual(&self, setting: &str) -> Option<String> {
        match self {
            Self::Variable(name) if name == setting => None,
            Self::Variable(name) => Some(format!("the variable {name}")),
            Self::Line { name, line } if name == setting => Some(format!("line {line} of .env")),
            Self::Line { name, line } => Some(format!("{name} in line {line} of .env")),
            Self::File { variable, path } => Some(format!("the file {} ({variable})", path.display())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Line { name, line } => write!(f, "{name} in line {line} of .env"),
            Self::File { variable, path } => write!(f, "the content of {} ({variable})", path.display()),
        }
    }
}

impl Findings {
    /// Returns whether `problem` begins with the name of a setting that one of `self.problems` contains. Then `problem` is a
    /// consequence: a setting whose value cannot be read counts as not set.
    pub(in crate::cli) fn explains(&self, problem: &str) -> bool {
        let name = problem.split(' ').next().unwrap_or_default();
        let in_setting = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        !name.is_empty()
            && name.chars().all(in_setting)
            && self.problems.iter().any(|cause| mentions(cause, name))
    }

    /// Returns a warning about secrets on the command line, if there are any.
    pub(in crate::cli) fn exposed_secrets(&self) -> Option<String> {
        (!self.exposed.is_empty()).then(|| {
            format!(
                "every user of this machine can read the arguments of a process: use the environment or .env instead of {}",
                self.exposed.join(", ")
            )
        })
    }

    /// Returns the place of each setting that a message names, such as `DATABASE_URL is from line 3 of .env`. Leaves out
    /// settings from flags and from the environment variable of the same name.
    pub(in crate::cli) fn places_of(&self, message: &str) -> Vec<String> {
        let named = self.places.iter().filter(|(name, _)| mentions(message, name));
        named.map(|(name, place)| format!("{name} is from {place}")).collect()
    }
}

/// Returns whether a text contains `name` as a whole word, not as a part of a longer name.
fn mentions(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + name.len()..].starts_with(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_explained_only_by_a_problem_of_the_same_setting() {
        let findings =
            Findings { problems: vec!["SECRET_KEY has no closing quote".into()], ..Default::default() };
        assert!(findings.explains("SECRET_KEY is not set"));
        assert!(!findings.explains("no database is configured") && !findings.explains("KEY is short"));
    }

    #[test]
    fn whole_names_are_found_in_messages() {
        assert!(mentions("SECRET_KEY is short", "SECRET_KEY") && mentions("set PORT.", "PORT"));
        assert!(!mentions("SECRET_KEY_PREVIOUS is short", "SECRET_KEY") && !mentions("REDIS_PORT", "PORT"));
    }
}
