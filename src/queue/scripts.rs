//! The transitions of the state machine, each one atomic script. What they promise is said in `docs/jobs.md`.

use std::sync::LazyLock;

use redis::Script;

/// Writes that take memory away or must happen for the queue to drain run even when Redis is full; a push does
/// not, and is refused whole.
const DRAINS: &str = "#!lua flags=allow-oom\n";
const WRITES: &str = "#!lua\n";
const READS: &str = "#!lua flags=no-writes\n";

/// What a push is refused with whose job shall wait for one that is not known.
pub(super) const NO_JOB: &str = "NOJOB";

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

pub(super) static PUSH: LazyLock<Script> = script!(WRITES, "push");
pub(super) static FETCH: LazyLock<Script> = script!(DRAINS, "fetch");
pub(super) static SETTLE: LazyLock<Script> = script!(DRAINS, "settle");
pub(super) static BEAT: LazyLock<Script> = script!(DRAINS, "beat");
pub(super) static RELEASE: LazyLock<Script> = script!(DRAINS, "release");
pub(super) static TICK: LazyLock<Script> = script!(DRAINS, "tick");
pub(super) static CRON: LazyLock<Script> = script!(WRITES, "cron");
pub(super) static CANCEL: LazyLock<Script> = script!(DRAINS, "cancel");
pub(super) static REQUEUE: LazyLock<Script> = script!(DRAINS, "requeue");
pub(super) static PURGE: LazyLock<Script> = script!(DRAINS, "purge");
pub(super) static CONTROL: LazyLock<Script> = script!(DRAINS, "control");
pub(super) static STATUS: LazyLock<Script> = script!(READS, "status");
pub(super) static INSPECT: LazyLock<Script> = script!(READS, "inspect");
