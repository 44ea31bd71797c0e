//! The transitions of the state machine, each one atomic script. What they promise is said in `docs/jobs.md`.

use std::sync::LazyLock;

use redis::Script;

/// Writes that take memory away or must happen for the queue to drain run even when Redis is full; a push does
/// not, and is refused whole.
const RUNS_WHEN_FULL: &str = "#!lua flags=allow-oom\n";
const REFUSED_WHEN_FULL: &str = "#!lua\n";
const READ_ONLY: &str = "#!lua flags=no-writes\n";

/// What a push is refused with whose job shall wait for one that is not known.
pub(super) const UNKNOWN_JOB_CODE: &str = "NOJOB";

macro_rules! script {
    ($kind:expr, $file:literal) => {
        LazyLock::new(|| {
            Script::new(
                &[$kind, include_str!("scripts/lib.lua"), include_str!(concat!("scripts/", $file, ".lua"))]
                    .concat(),
            )
        })
    };
}

pub(super) static PUSH: LazyLock<Script> = script!(REFUSED_WHEN_FULL, "push");
pub(super) static FETCH: LazyLock<Script> = script!(RUNS_WHEN_FULL, "fetch");
pub(super) static SETTLE: LazyLock<Script> = script!(RUNS_WHEN_FULL, "settle");
pub(super) static BEAT: LazyLock<Script> = script!(RUNS_WHEN_FULL, "beat");
pub(super) static RELEASE: LazyLock<Script> = script!(RUNS_WHEN_FULL, "release");
pub(super) static TICK: LazyLock<Script> = script!(RUNS_WHEN_FULL, "tick");
pub(super) static CRON: LazyLock<Script> = script!(REFUSED_WHEN_FULL, "cron");
pub(super) static CANCEL: LazyLock<Script> = script!(RUNS_WHEN_FULL, "cancel");
pub(super) static REQUEUE: LazyLock<Script> = script!(RUNS_WHEN_FULL, "requeue");
pub(super) static PURGE: LazyLock<Script> = script!(RUNS_WHEN_FULL, "purge");
pub(super) static CONTROL: LazyLock<Script> = script!(RUNS_WHEN_FULL, "control");
pub(super) static STATUS: LazyLock<Script> = script!(READ_ONLY, "status");
pub(super) static INSPECT: LazyLock<Script> = script!(READ_ONLY, "inspect");
