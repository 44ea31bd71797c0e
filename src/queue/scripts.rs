//! The scripts of the engine. Redis runs each of them atomically, and each transition of the state machine is one script.
//! `docs/jobs.md` has the guarantees.

use std::sync::LazyLock;

use redis::Script;

/// First line of a script that Redis also runs when its memory is full, because the script adds no new job. Workers and
/// operators need most of these scripts to empty the queue.
const RUNS_WHEN_FULL: &str = "#!lua flags=allow-oom\n";
/// First line of a script that Redis refuses when its memory is full, with the error `OOM`. Except for [`NOTHING`], these
/// scripts add jobs.
const REFUSED_WHEN_FULL: &str = "#!lua\n";
/// First line of a script that writes nothing.
const READ_ONLY: &str = "#!lua flags=no-writes\n";

/// Error code when `after` names an unknown job.
pub(super) const UNKNOWN_JOB_CODE: &str = "NOJOB";
/// Error code when new jobs would exceed a limit of their owner.
pub(super) const OWNER_LIMIT_CODE: &str = "QUOTA";
/// Error code when a prepared job may have been pushed before and have ended, and its state may have been deleted.
pub(super) const FORGOTTEN_CODE: &str = "FORGOTTEN";

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
pub(super) static CHECK_OWNER: LazyLock<Script> = script!(RUNS_WHEN_FULL, "check_owner");
pub(super) static REQUEUE: LazyLock<Script> = script!(RUNS_WHEN_FULL, "requeue");
pub(super) static MOVE_OUT: LazyLock<Script> = script!(RUNS_WHEN_FULL, "move_out");
pub(super) static MOVE_IN: LazyLock<Script> = script!(REFUSED_WHEN_FULL, "move_in");
pub(super) static PURGE: LazyLock<Script> = script!(RUNS_WHEN_FULL, "purge");
pub(super) static PURGE_OWNER: LazyLock<Script> = script!(RUNS_WHEN_FULL, "purge_owner");
pub(super) static CONTROL: LazyLock<Script> = script!(RUNS_WHEN_FULL, "control");
/// Does nothing. Redis refuses this script if it refuses jobs, so a call shows whether Redis is full.
pub(super) static NOTHING: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[REFUSED_WHEN_FULL, "return 1"].concat()));
pub(super) static PROBE: LazyLock<Script> = script!(RUNS_WHEN_FULL, "probe");
pub(super) static STATUS: LazyLock<Script> = script!(READ_ONLY, "status");
pub(super) static INSPECT: LazyLock<Script> = script!(READ_ONLY, "inspect");
