//! Random histories of everything that clients, workers, schedulers and operators do, with every rule checked after
//! every step; and broken scripts, each of which the check has to find out.
//!
//! `./scripts/test --full` runs more and longer ones. A failure names its seed: `HISTORY_SEED=7 ./scripts/test
//! random_histories` runs that one.

mod model;
mod scripts;
mod steps;

use model::Check;
use scripts::{Engine, Mutation};
use steps::History;

use crate::support::servers::{servers, unique};

fn full() -> bool {
    std::env::var_os("TEST_FULL").is_some()
}

fn url() -> String {
    tokio::runtime::Runtime::new().unwrap().block_on(async { servers().await.redis_url() })
}

fn run(url: &str, seed: u64, steps: usize, mutation: Option<Mutation>) -> Check<u64> {
    let mut history = History::new(Engine::new(url, format!("h{}", unique()), mutation), seed);
    let result = (0..steps)
        .try_for_each(|step| history.step().map_err(|broken| format!("step {step}: {broken}")))
        .and_then(|()| history.wind_up());
    history.engine.clean();
    result.map(|()| history.rejected)
}

fn histories(seeds: std::ops::Range<u64>) {
    let url = url();
    let steps = if full() { 2_000 } else { 300 };
    let mut rejected = 0;
    for seed in seeds {
        match run(&url, seed, steps, None) {
            Ok(stale) => rejected += stale,
            Err(broken) => panic!("HISTORY_SEED={seed} with {steps} steps: {broken}"),
        }
    }
    assert!(rejected > 0, "no worker was ever too late: the histories are too tame");
}

#[test]
fn random_histories_keep_every_rule() {
    match std::env::var("HISTORY_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            histories(seed..seed + 1);
        }
        Err(_) => histories(if full() { 0..25 } else { 0..3 }),
    }
}

#[test]
fn random_histories_keep_every_rule_whatever_the_seed() {
    let seed = u64::from(std::process::id()) * 1_000;
    histories(seed..seed + if full() { 25 } else { 2 });
}

/// Breaks a script, and fails unless that is found out.
fn is_found(mutation: Mutation) {
    let url = url();
    let found = (0..40).find_map(|seed| Some((seed, run(&url, seed, 500, Some(mutation)).err()?)));
    let (seed, broken) = found.unwrap_or_else(|| panic!("nobody finds out that {mutation:?}"));
    println!("found with seed {seed}: {broken}");
}

macro_rules! bugs {
    ($($name:ident: $file:literal, $from:literal => $to:literal;)+) => {
        mod bugs {
            $(#[test] fn $name() { super::is_found(($file, $from, $to)); })+
        }
    };
}

bugs! {
    whoever_says_so_settles: "settle", "or string.sub(run[i], 1, #token + 1) ~= token .. '|'" => "";
    an_entry_told_twice_counts_twice: "settle", "not run[i] or seen[id] or" => "not run[i] or";
    what_was_settled_still_runs: "settle", "rc('HDEL', P .. ':run', unpack(gone))" => "";
    nobody_is_told_of_the_end: "settle", "notify_dependents(finished, true)" => "";
    what_is_on_record_stays: "settle", "rc('HDEL', P .. key, unpack(clear))" => "";
    what_was_promoted_stays_scheduled: "tick", "rc('ZREM', scheduled, unpack(due))" => "";
    only_the_lease_is_looked_at: "lib", "if holder and string.sub(holder, 1, bar) == token then" => "if holder then";
    leases_end_early: "tick", "rc('ZRANGEBYSCORE', wip, '-inf', t, 'LIMIT', 0, 50)" => "rc('ZRANGEBYSCORE', wip, '-inf', t + 30, 'LIMIT', 0, 50)";
    leases_never_end: "tick", "for _, m in ipairs(expired) do" => "for _, m in ipairs({}) do";
    there_is_no_grace: "tick", "local grace = rc('EXISTS', P .. ':grace') == 1" => "local grace = false";
    what_has_ended_is_pushed_again: "push", "have[i] = have[i] or ended[i]" => "have[i] = have[i]";
    what_is_there_is_pushed_again: "push", "if have[i] or seen[id] then" => "if seen[id] then";
    the_last_does_not_replace: "push", "cancel(first, envelope, t, 'a newer one')" => "";
    it_starts_before_the_others: "push", "local defer = #missing > 0 or" => "local defer =";
    a_pause_is_not_heeded: "fetch", "paused[q] = true" => "";
    a_limit_is_passed_by_one: "fetch", "math.min(free, concurrency - " => "math.min(free, concurrency + 1 - ";
    a_given_up_fetch_takes_jobs: "fetch", "if rc('EXISTS', P .. ':void:' .. token) == 1 then" => "if false then";
    a_lost_lease_comes_back: "beat", "if rc('ZSCORE', key, ARGV[i + 1]) then rc('ZADD', key, 'XX'," => "if true then rc('ZADD', key,";
    released_jobs_stay_counted: "release", "count(q, 'running', -#front)" => "";
    a_group_loses_its_turn: "lib", "rc('RPUSH', turns, group) end\n  end\n  if #ids" => "end\n  end\n  if #ids";
    one_group_has_all_turns: "lib", "then rc('RPUSH', turns, group) end\n  end\n  if #ids" => "then rc(group == '' and 'RPUSH' or 'LPUSH', turns, group) end\n  end\n  if #ids";
    a_cancelled_job_stays_scheduled: "lib", "rc('ZREM', P .. ':scheduled:' .. q, id) == 0 and rc('ZREM', P .. ':deferred:' .. q, id) == 0" => "rc('ZREM', P .. ':deferred:' .. q, id) == 0";
    a_failure_is_heard_as_success: "lib", "if not good and policy ~= 'any' then" => "if false then";
    a_requeued_job_stays_failed: "requeue", "rc('ZREM', P .. ':failed:' .. q, unpack(ids))" => "";
    a_purge_forgets_the_children: "purge", "notify_dependents(ids, false)" => "";
}
