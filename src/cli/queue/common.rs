//! Argument parsers, look-ups and output that the queue commands share.

use std::io::Write;

use anyhow::bail;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use crate::{
    app,
    config::Redis,
    queue::{Error, Queue, QueueInfo, Queues, State},
    redis_pool::RedisPool,
};

/// Adds the setting and the server to check, if the error is that Redis is unavailable.
pub(super) fn explain(error: anyhow::Error, settings: &Redis) -> anyhow::Error {
    let is_unavailable = matches!(error.downcast_ref::<Error>(), Some(Error::Unavailable(_)));
    match is_unavailable {
        true => error.context(format!(
            "cannot use Redis: check {} and that a server is running at {}",
            settings.setting_name(),
            settings.location()
        )),
        false => error,
    }
}

/// Returns the job queue in the configured Redis.
pub(super) fn open(settings: &Redis) -> anyhow::Result<Queue> {
    Ok(app::queue(&RedisPool::new(settings)?, settings))
}

/// Returns the state of a queue.
///
/// # Errors
/// If there is no such queue; the message lists the existing queues. Also the errors of [`Queue::queue`] and
/// [`Queue::queues`].
pub(super) async fn existing_queue(queue: &Queue, name: &str) -> anyhow::Result<QueueInfo> {
    if let Some(info) = queue.queue(name).await? {
        return Ok(info);
    }
    let all = queue.queues().await?;
    if all.is_empty() {
        bail!("there is no queue {name:?}: no job was enqueued yet");
    }
    let names: Vec<_> = all.iter().map(|info| info.name.as_str()).collect();
    bail!("there is no queue {name:?}. Queues: {}", names.join(", "))
}

/// Parses the name of a queue.
pub(super) fn parse_queue_name(text: &str) -> Result<String, &'static str> {
    Queues::check_name(text).map(|()| text.to_owned())
}

/// Returns a parser that accepts the names of these states.
pub(super) fn state_parser(states: &'static [State]) -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(states.iter().map(|state| state.as_str()))
        .try_map(|name| State::parse(&name).ok_or("there is no such state"))
}

/// Returns a count with its noun: `1 job`, `2 jobs`.
pub(super) fn counted(n: u64, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// Prints a value as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        redis: Redis,
    }

    #[test]
    fn invalid_queue_names_are_refused() {
        for good in ["default", "a", "mails-2.low_3"] {
            assert_eq!(parse_queue_name(good), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a,b", "a:1", "é"] {
            assert!(parse_queue_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn counts_have_a_singular_and_a_plural() {
        assert_eq!(counted(1, "failed job"), "1 failed job");
        assert_eq!((counted(0, "job"), counted(2, "job")), ("0 jobs".into(), "2 jobs".into()));
    }

    #[test]
    fn an_error_of_unavailable_redis_names_the_setting_and_the_server() {
        let flags = ["test", "--redis-url=redis://:hunter2@h:7/0"];
        let Settings { redis } = Settings::parse_from(flags);
        let unavailable = explain(Error::Unavailable("Connection refused".into()).into(), &redis);
        let text = format!("{unavailable:#}");
        assert!(text.contains("check REDIS_URL") && text.contains("at h:7: "), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let other = explain(Error::UnknownJob("1".into()).into(), &redis);
        assert_eq!(format!("{other:#}"), "there is no job 1; it may have expired");
    }
}
