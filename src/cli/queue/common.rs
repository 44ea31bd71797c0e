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

/// Adds what to look at where Redis is at fault.
pub(super) fn explain(error: anyhow::Error) -> anyhow::Error {
    let away = matches!(error.downcast_ref::<Error>(), Some(Error::Unavailable(_)));
    match away {
        true => error.context("Redis cannot be used: check REDIS_URL and that the server is up"),
        false => error,
    }
}

/// The queue that the settings name.
pub(super) fn open(settings: &Redis) -> anyhow::Result<Queue> {
    Ok(app::queue(&RedisPool::new(settings)?, settings))
}

/// A queue that was used before.
pub(super) async fn known(queue: &Queue, name: &str) -> anyhow::Result<QueueInfo> {
    if let Some(info) = queue.queue(name).await? {
        return Ok(info);
    }
    let all = queue.queues().await?;
    if all.is_empty() {
        bail!("there is no queue {name:?}, nor any other yet");
    }
    let names: Vec<_> = all.iter().map(|info| info.name.as_str()).collect();
    bail!("there is no queue {name:?}; known: {}", names.join(", "))
}

/// Reads a name that a queue may have.
pub(super) fn queue_name(text: &str) -> Result<String, &'static str> {
    Queues::check_name(text).map(|()| text.to_owned())
}

/// Reads one of these states.
pub(super) fn one_of(states: &'static [State]) -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(states.iter().map(|state| state.as_str()))
        .try_map(|name| State::parse(&name).ok_or("there is no such state"))
}

/// `1 job`, `2 jobs`.
pub(super) fn counted(n: u64, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_queues() {
        for good in ["default", "a", "mails-2.low_3"] {
            assert_eq!(queue_name(good), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a,b", "a:1", "é"] {
            assert!(queue_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_and_many() {
        assert_eq!(counted(1, "failed job"), "1 failed job");
        assert_eq!((counted(0, "job"), counted(2, "job")), ("0 jobs".into(), "2 jobs".into()));
    }

    #[test]
    fn only_a_dependency_that_is_away_is_explained() {
        let away = explain(Error::Unavailable("Connection refused".into()).into());
        assert!(format!("{away:#}").contains("check REDIS_URL"), "{away:#}");
        let other = explain(Error::UnknownJob("1".into()).into());
        assert_eq!(format!("{other:#}"), "there is no job 1 (any more)");
    }
}
