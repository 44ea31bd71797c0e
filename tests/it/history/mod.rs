//! Random histories of steps by clients, workers, schedulers and operators. The test checks the invariants
//! of `model` after every step. Other tests break a script on purpose, and require that the checks detect the bug.
//!
//! `./scripts/test --full` runs more and longer histories. A failure reports its seed: `HISTORY_SEED=7
//! ./scripts/test random_histories` runs the history of this seed again. A failure with `--full` also needs `--full`.

mod model;
mod scripts;
mod steps;

use model::Check;
use scripts::{Engine, Mutation};
use steps::History;

use crate::support::servers::{servers, unique};

fn is_full_run() -> bool {
    std::env::var_os("TEST_FULL").is_some()
}

fn redis_url() -> String {
    tokio::runtime::Runtime::new().unwrap().block_on(async { servers().await.redis_url() })
}

/// Runs a history of random steps. Returns the number of rejected settlements, or the violated invariant.
fn run(url: &str, seed: u64, steps: usize, mutation: Option<Mutation>) -> Check<u64> {
    let mut history = History::new(Engine::new(url, format!("h{}", unique()), mutation), seed);
    let result = (0..steps)
        .try_for_each(|step| history.step().map_err(|broken| format!("step {step}: {broken}")))
        .and_then(|()| history.finish());
    history.engine.clean();
    result.map(|()| history.rejected)
}

/// Runs a history for each seed. Panics if an invariant is violated, or if no settlement was rejected.
fn run_histories(seeds: std::ops::Range<u64>) {
    let url = redis_url();
    let steps = if is_full_run() { 2_000 } else { 300 };
    let mut rejected = 0;
    for seed in seeds {
        match run(&url, seed, steps, None) {
            Ok(stale) => rejected += stale,
            Err(broken) => panic!("HISTORY_SEED={seed} with {steps} steps: {broken}"),
        }
    }
    assert!(rejected > 0, "no settlement was rejected: the histories do not cover lost leases");
}

#[test]
fn random_histories_keep_all_invariants() {
    match std::env::var("HISTORY_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            run_histories(seed..seed + 1);
        }
        Err(_) => run_histories(if is_full_run() { 0..25 } else { 0..3 }),
    }
}

#[test]
fn random_histories_keep_all_invariants_with_a_new_seed() {
    let seed = u64::from(std::process::id()) * 1_000;
    run_histories(seed..seed + if is_full_run() { 25 } else { 2 });
}

/// Runs histories with a mutated script, and panics unless the checks detect the mutation.
fn assert_detected(mutation: Mutation) {
    let url = redis_url();
    let found = (0..40).find_map(|seed| Some((seed, run(&url, seed, 500, Some(mutation)).err()?)));
    let (seed, broken) = found.unwrap_or_else(|| panic!("undetected: {mutation:?}"));
    println!("detected with seed {seed}: {broken}");
}

/// Defines a test for each bug: its name, the script, the text to replace, and the replacement, which is the bug.
macro_rules! bugs {
    ($($name:ident: $file:literal, $from:literal => $to:literal;)+) => {
        mod bugs {
            $(#[test] fn $name() { super::assert_detected(($file, $from, $to)); })+
        }
    };
}

bugs! {
    settle_does_not_check_the_token: "settle", "or string.sub(run[i], 1, #token + 1) ~= token .. '|'" => "";
    settle_applies_a_repeated_entry_twice: "settle", "not run[i] or seen[id] or" => "not run[i] or";
    settled_jobs_stay_running: "settle", "rc('HDEL', P .. ':run', unpack(settled))" => "";
    dependents_are_not_notified: "settle", "notify_dependents(finished, true)" => "";
    records_of_ended_jobs_remain: "settle", "rc('HDEL', P .. key, unpack(with_records))" => "";
    promoted_jobs_stay_scheduled: "tick", "rc('ZREM', scheduled, unpack(due))" => "";
    the_token_of_a_lease_is_ignored: "lib", "if holder and string.sub(holder, 1, bar) == token then" => "if holder then";
    leases_expire_early: "tick", "rc('ZRANGEBYSCORE', wip, '-inf', t, 'LIMIT', 0, 50)" => "rc('ZRANGEBYSCORE', wip, '-inf', t + 30, 'LIMIT', 0, 50)";
    leases_never_expire: "tick", "for _, m in ipairs(expired) do" => "for _, m in ipairs({}) do";
    there_is_no_grace_after_an_outage: "tick", "local grace = rc('EXISTS', P .. ':grace') == 1" => "local grace = false";
    ended_jobs_are_pushed_again: "push", "have[i] = have[i] or ended[i]" => "have[i] = have[i]";
    existing_jobs_are_pushed_again: "push", "if have[i] or seen[id] then" => "if seen[id] then";
    a_duplicate_does_not_replace_the_first_job: "push", "cancel(first, envelope, t, 'a newer one')" => "";
    dependencies_are_ignored: "push", "local defer = #missing > 0 or" => "local defer =";
    a_pause_is_ignored: "fetch", "paused[q] = true" => "";
    a_limit_is_exceeded_by_one: "fetch", "math.min(free, concurrency - " => "math.min(free, concurrency + 1 - ";
    reserved_slots_are_taken: "fetch", "a == RESERVED and max or math.min(max, others)" => "max";
    a_job_of_a_queue_with_a_limit_is_fetched_ahead: "fetch", "if has_limit or rc('EXISTS', P .. ':turns:' .. q) == 1 then" => "if rc('EXISTS', P .. ':turns:' .. q) == 1 then";
    a_job_with_a_group_is_fetched_ahead: "fetch", "if has_limit or rc('EXISTS', P .. ':turns:' .. q) == 1 then" => "if has_limit then";
    a_queue_of_lower_priority_fills_the_slots: "fetch", "if has_ready(q) then ahead = 0 end" => "";
    a_job_that_has_crashed_a_worker_is_fetched_ahead: "fetch", "if crashes[i] then" => "if false then";
    a_job_that_was_fetched_ahead_counts_a_crash: "tick", "if ahead then rc('HSETNX'" => "if false then rc('HSETNX'";
    a_released_fetch_takes_jobs: "fetch", "if rc('EXISTS', P .. ':void:' .. token) == 1 then" => "if false then";
    a_lost_lease_is_renewed: "beat", "if rc('ZSCORE', key, ARGV[i + 1]) then rc('ZADD', key, 'XX'," => "if true then rc('ZADD', key,";
    released_jobs_stay_counted: "release", "count_running(q, front, -1)" => "";
    a_group_loses_its_turn: "lib", "rc('RPUSH', turns, group) end\n    if passed" => "end\n    if passed";
    one_group_gets_all_turns: "lib", "then rc('RPUSH', turns, group) end\n    if passed" => "then rc(group == '' and 'RPUSH' or 'LPUSH', turns, group) end\n    if passed";
    a_canceled_job_stays_scheduled: "lib", "rc('ZREM', P .. ':scheduled:' .. q, id) == 0 and rc('ZREM', P .. ':deferred:' .. q, id) == 0" => "rc('ZREM', P .. ':deferred:' .. q, id) == 0";
    a_failed_dependency_counts_as_finished: "lib", "if not good and policy ~= 'any' then" => "if false then";
    a_requeued_job_stays_failed: "requeue", "rc('ZREM', P .. ':failed:' .. q, unpack(ids))" => "";
    a_finished_job_stays_in_the_account: "settle", "discharge(ended)" => "";
    a_failed_job_stays_in_the_account: "lib", "discharge(ids)\n  each_owned(ids, function(account, id)\n    local list" => "each_owned(ids, function(account, id)\n    local list";
    a_deleted_job_stays_in_the_account: "lib", "  discharge(ids)\n  each_owned(ids, function(account, id) rc('LREM'" => "  each_owned(ids, function(account, id) rc('LREM'";
    a_requeued_job_is_not_in_the_account: "requeue", "charge(account, { id, rc('HSTRLEN', P .. ':jobs', id) })" => "";
    a_repeated_push_is_charged_twice: "push", "if account then charge(account, sizes) end" => "if account then for i = 1, n do charge(account, { ARGV[IDS + i], #ARGV[TEXTS + i] }) end end";
    an_owner_has_one_job_too_many: "lib", "if (have or 0) + jobs > max_jobs" => "if (have or 0) + jobs > max_jobs + 1";
    an_owner_runs_one_job_too_many: "lib", "return owner_max - (rc" => "return owner_max + 1 - (rc";
    a_purge_of_an_owner_leaves_scheduled_jobs: "purge_owner", "rc('ZREM', P .. ':scheduled:' .. q, id)" => "";
    a_job_that_is_set_aside_is_lost: "lib", "enqueue_in_group(q, group, id)\n      moves" => "moves";
    a_purge_of_an_owner_leaves_ids_in_the_list_of_a_scope: "purge_owner", "if whole and whole ~= group then remove_ready(q, whole, id, SCOPE_DEPTH) end" => "";
    a_job_of_a_scope_is_not_in_the_account: "lib", "or string.match(group, '^scope:[^|]*|(owner:%-?%d+)$')" => "";
    a_purge_does_not_notify_dependents: "purge", "notify_dependents(ids, false)" => "";
}
