//! Settings of the log.

use clap::{ArgAction, Args, ValueEnum, builder::BoolishValueParser};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::value::{Setting, setting};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Readable lines.
    Human,
}

/// The level, the format and the content of log lines.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "General settings")]
pub struct Logs {
    /// Log level: error, warn, info, debug or trace. Or a level with levels of modules, such as info,saas::queue=debug.
    #[arg(long, env, default_value = "info", value_name = "LEVEL", value_parser = setting("LOG_LEVEL", filter))]
    pub log_level: Setting<String>,
    /// Format of log lines. The default is human with DEBUG on, and json otherwise.
    #[arg(long, env, value_enum)]
    pub log_format: Option<LogFormat>,
    /// Whether log lines have the IP addresses of clients. If not, security events have a keyed hash of the address instead.
    #[arg(long, env, default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub log_client_address: bool,
}

impl Logs {
    /// Returns the format of log lines: `LOG_FORMAT`, or the default for the mode.
    pub fn format(&self, debug: bool) -> LogFormat {
        self.log_format.unwrap_or(match debug {
            true => LogFormat::Human,
            false => LogFormat::Json,
        })
    }

    /// Returns the problem of these settings, with its fix; `None` if they are valid.
    pub fn problem(&self) -> Option<String> {
        self.log_level.problem()
    }
}

/// Checks a filter of log lines, and removes the space around its parts.
///
/// A misspelled level is refused: `EnvFilter` would take it for the name of a module, and log all lines of this module. So a
/// name without `::` needs a level, as in `hyper=debug`.
fn filter(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "write error, warn, info, debug or trace, or module=level";
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    for part in parts.iter().filter(|part| !part.contains(['=', '['])) {
        if part.parse::<LevelFilter>().is_err() && !part.contains("::") {
            return Err(format!("has {part:?}; {EXAMPLE}"));
        }
    }
    let text = parts.join(",");
    match EnvFilter::try_new(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(format!("{text:?} is not a list of filters; {EXAMPLE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_filters_are_refused() {
        for good in ["info", "WARN", "info,saas::queue=debug", "saas=trace", "off", "info, saas::api"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "verbose", "info,loud", "info,saas=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
