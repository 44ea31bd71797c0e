//! The sources of settings beside the command line: the environment, files with secrets, `.env`, and a running `saas dev`.
//!
//! The settings of the selected command become flags of its command line. So a command parses only the settings that it uses.
//! Settings from `.env` and from files are not added to the environment of the process, which its children inherit.
//!
//! | file | concern |
//! |---|---|
//! | `dotenv` | the format of `.env` |
//! | `names` | the names of all variables |
//! | `value` | the values of variables, and files with secrets |
//! | `findings` | the problems and warnings, and the places of values |

mod dotenv;
mod findings;
mod names;
mod value;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, parser::ValueSource};
use secrecy::ExposeSecret;

pub(super) use findings::Findings;

use crate::{
    config::RENAMED_VARIABLES,
    dev::{DEFAULT_STATE_DIR, RunningServers},
};
use dotenv::Dotenv;
use findings::Place;
use names::{Names, file_variable};
use value::{check_flag, double_quoted, normal_form, read_secret, trimmed};

const DOTENV_FILE: &str = ".env";

/// The variables of `.env`, and the names of the settings. [`Self::settings`] also reads the environment of the process.
pub(super) struct Environment {
    names: Names,
    dotenv: Dotenv,
}

/// The settings of one command.
#[derive(Default)]
pub(super) struct Settings {
    /// A flag for each setting that has a valid value and is not on the command line.
    pub(super) flags: Vec<OsString>,
    pub(super) findings: Findings,
    /// Whether the servers of a running `saas dev` are used.
    pub(super) uses_dev_servers: bool,
    /// Whether the database is that of a running `saas dev`.
    uses_dev_database: bool,
}

/// A value, and the place that it comes from.
struct Found {
    value: OsString,
    place: Place,
}

/// Returns the command with arguments that clap does not read from the environment.
pub(super) fn without_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.env(None::<&'static str>)).mut_subcommands(without_variables)
}

/// Chooses the variable that the help of each argument shows: the present name or, if only the name of an earlier release is
/// set, that name. If the variable is blank, the help shows no variable, since clap may refuse a blank value.
pub(super) fn with_variables(command: clap::Command) -> clap::Command {
    command.mut_args(choose_variable).mut_subcommands(with_variables)
}

fn choose_variable(arg: Arg) -> Arg {
    let Some(name) = arg.get_env().map(ToOwned::to_owned) else { return arg };
    let has_value = |variable: &OsStr| std::env::var_os(variable).is_some_and(|value| !is_blank(&value));
    if has_value(&name) {
        return arg;
    }
    match name.to_str().and_then(|name| old_names(name).find(|old| has_value(old.as_ref()))) {
        Some(old) => arg.env(old),
        None if std::env::var_os(&name).is_some() => arg.env(None::<&'static str>),
        None => arg,
    }
}

fn old_names(name: &str) -> impl Iterator<Item = &'static str> {
    RENAMED_VARIABLES.iter().filter(move |(_, new)| *new == name).map(|(old, _)| *old)
}

fn is_blank(value: &OsStr) -> bool {
    value.to_string_lossy().trim().is_empty()
}

impl Environment {
    /// Reads `.env` from the working directory. `command` is the root command, whose subcommands define the settings.
    pub(super) fn read(command: &clap::Command) -> Self {
        let names = Names::of(command);
        let dotenv = dotenv::read(Path::new(DOTENV_FILE), &|name| names.is_secret(name));
        Self { names, dotenv }
    }

    /// Copies the variables of `.env` that are not settings to the environment, where libraries find them. A
    /// variable that is already set keeps its value.
    pub(super) fn export_other_variables(&self) {
        let others = self.dotenv.variables.iter().filter(|variable| !self.names.has(&variable.name));
        let lines = others.map(|variable| format!("{}={}\n", variable.name, double_quoted(&variable.value)));
        // Cannot fail: the input is generated above.
        let _ = dotenvy::from_read(lines.collect::<String>().as_bytes());
    }

    /// Returns the settings of a command. `given` has the arguments of the command line, which take precedence.
    pub(super) fn settings(&self, path: &[&str], command: &clap::Command, given: &ArgMatches) -> Settings {
        let mut settings = Settings::default();
        let mut unset = Vec::new();
        let mut reads_settings = false;
        for arg in command.get_arguments() {
            let Some(name) = arg.get_env().and_then(OsStr::to_str) else { continue };
            reads_settings = true;
            if given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
                if let Some(long) = arg.get_long().filter(|_| arg.is_hide_env_values_set()) {
                    settings.findings.exposed.push(format!("--{long}"));
                }
                continue;
            }
            match self.find(name, arg.is_hide_env_values_set()) {
                Ok(Some(found)) => settings.add(name, arg, &found),
                Ok(None) => unset.push(name),
                Err(problem) => settings.findings.problems.push(problem),
            }
        }
        if reads_settings {
            self.report_lines(&mut settings.findings);
        }
        // `saas dev` starts its own servers. With DEBUG=false, the settings are those of production.
        if path != ["dev"] && !self.is_debug_off(given) {
            let has_database =
                command.get_arguments().any(|arg| arg.get_env() == Some(OsStr::new("DATABASE_URL")));
            settings.add_dev_servers(&unset, has_database);
        }
        // With the private database of `saas dev`, `saas doctor` omits the checks for production.
        if path == ["doctor"] && settings.uses_dev_database && unset.contains(&"DEBUG") {
            settings.flags.push("--debug=true".into());
        }
        settings
    }

    /// Returns the value of a setting: from the variable with its name or a name of an earlier release or, for a secret, from
    /// the file that `<NAME>_FILE` names. `None` if none of these is set.
    ///
    /// # Errors
    /// A message if both a variable and a file are set, or [`read_secret`] fails.
    fn find(&self, name: &str, is_secret: bool) -> Result<Option<Found>, String> {
        let direct =
            self.variable(name).or_else(|| old_names(name).find_map(|old_name| self.variable(old_name)));
        let file = is_secret.then(|| self.variable(&file_variable(name))).flatten();
        match (direct, file) {
            (direct, None) => Ok(direct),
            (Some(direct), Some(file)) => {
                Err(format!("{} and {} are both set: remove one of them", direct.place, file.place))
            }
            (None, Some(file)) => {
                let path = PathBuf::from(trimmed(&file.value));
                let value = read_secret(&path)
                    .map_err(|why| format!("{} names {}, {why}", file.place, path.display()))?;
                Ok(Some(Found { value, place: Place::File { variable: file_variable(name), path } }))
            }
        }
    }

    /// Returns the value of a variable, from the environment or else from `.env`. A variable that is blank in the environment
    /// counts as not set, even if `.env` has a value for it.
    fn variable(&self, name: &str) -> Option<Found> {
        let found = match (std::env::var_os(name), self.dotenv.get(name)) {
            (Some(value), _) => Found { value, place: Place::Variable(name.to_owned()) },
            (None, Some(variable)) => Found {
                value: variable.value.clone().into(),
                place: Place::Line { name: name.to_owned(), line: variable.line },
            },
            (None, None) => return None,
        };
        Some(found).filter(|found| !is_blank(&found.value))
    }

    /// Reports the lines of `.env` that cannot be read, and misspelled names. A problem with a variable that no
    /// command reads is only a warning.
    fn report_lines(&self, findings: &mut Findings) {
        for problem in &self.dotenv.problems {
            let is_setting = problem.name.as_ref().is_none_or(|name| self.names.has(name));
            let list = if is_setting { &mut findings.problems } else { &mut findings.warnings };
            list.push(problem.text.clone());
        }
        for variable in self.dotenv.variables.iter().filter(|variable| !self.names.has(&variable.name)) {
            if let Some(meant) = self.names.similar(&variable.name) {
                findings.warnings.push(format!(
                    "line {} of .env sets {}, which is not a setting: write {meant} if you mean that",
                    variable.line, variable.name
                ));
            }
        }
    }

    /// Returns whether the command line, the environment or `.env` sets `DEBUG` to false. Without a value, `DEBUG` is off too,
    /// but this returns `false`.
    fn is_debug_off(&self, given: &ArgMatches) -> bool {
        if let Ok(Some(debug)) = given.try_get_one::<bool>("debug")
            && given.value_source("debug") == Some(ValueSource::CommandLine)
        {
            return !debug;
        }
        let text =
            self.variable("DEBUG").map(|found| found.value.to_string_lossy().trim().to_ascii_lowercase());
        text.is_some_and(|text| ["false", "f", "no", "n", "off", "0"].contains(&&*text))
    }
}

impl Settings {
    /// Adds the flag for a setting, or the problem if its value is invalid.
    fn add(&mut self, name: &str, arg: &Arg, found: &Found) {
        let Some(long) = arg.get_long() else { return };
        if let Some(place) = found.place.describe_unusual(name) {
            self.findings.places.push((name.to_owned(), place));
        }
        let mut flag = OsString::from(format!("--{long}="));
        flag.push(normal_form(arg, &found.value));
        match check_flag(arg, &flag) {
            Ok(()) => self.flags.push(flag),
            Err(why) => self.findings.problems.push(format!("{} is refused: {why}", found.place)),
        }
    }

    /// Adds the URLs of the private servers of a `saas dev` that runs in this directory, for the servers that are not configured.
    /// `unset` has the names of the settings without a value. `has_database` tells whether the command uses PostgreSQL.
    fn add_dev_servers(&mut self, unset: &[&str], has_database: bool) {
        let is_unset = |names: &[&str]| names.iter().all(|name| unset.contains(name));
        // With DATABASE_DIRECT_URL, which belongs to another database, migrations would change that database.
        let database = is_unset(&["DATABASE_URL", "POSTGRES_SERVER", "DATABASE_DIRECT_URL"]);
        let redis = is_unset(&["REDIS_URL", "REDIS_HOST"]);
        if !database && !redis {
            return;
        }
        let Some(servers) = RunningServers::find(Path::new(DEFAULT_STATE_DIR)) else { return };
        // The jobs in the Redis of `saas dev` refer to the database of `saas dev`. So a command with another database does not
        // use this Redis.
        if has_database && !database && servers.database_url.is_some() {
            return;
        }
        let urls = [
            ("DATABASE_URL", "--database-url", servers.database_url.filter(|_| database)),
            ("REDIS_URL", "--redis-url", servers.redis_url.filter(|_| redis)),
        ];
        for (name, flag, url) in urls {
            let Some(url) = url else { continue };
            self.flags.push(format!("{flag}={}", url.expose_secret()).into());
            self.findings.places.push((name.to_owned(), "a running `saas dev`".into()));
            self.uses_dev_servers = true;
            self.uses_dev_database |= name == "DATABASE_URL";
        }
    }
}
