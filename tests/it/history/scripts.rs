//! Calls the scripts of the engine, and reads the state of the queues.

use std::collections::{BTreeMap, HashMap, HashSet};

use redis::{Connection, FromRedisValue, RedisResult};

pub const QUEUES: [&str; 2] = ["a", "b"];
pub const GROUPS: [&str; 6] =
    ["tenant 0", "owner:1", "owner:2", "scope:x|owner:1", "scope:x|owner:2", "scope:y"];

/// A change that breaks a script: the file, the text to replace, and the replacement.
pub type Mutation = (&'static str, &'static str, &'static str);

pub struct Engine {
    conn: Connection,
    pub prefix: String,
    scripts: HashMap<&'static str, redis::Script>,
    snapshot_script: redis::Script,
    outcomes_script: redis::Script,
}

const SCRIPT_NAMES: [&str; 13] = [
    "push",
    "fetch",
    "settle",
    "beat",
    "release",
    "tick",
    "cancel",
    "requeue",
    "purge",
    "purge_owner",
    "control",
    "cron",
    "status",
];

/// Lua script that reads the state that the model checks, except the outcomes: [`OUTCOMES`] reads those.
const SNAPSHOT: &str = "
local out = {}
for i, q in ipairs(ARGV) do
  local groups = {}
  for _, group in ipairs({ 'tenant 0', 'owner:1', 'owner:2', 'scope:x', 'scope:x|owner:1', 'scope:x|owner:2', 'scope:y' }) do
    local ids = rc('LRANGE', group_list(q, group), 0, -1)
    if #ids > 0 then groups[#groups + 1] = { group, ids } end
  end
  out[i] = { rc('LRANGE', P .. ':queue:' .. q, 0, -1), groups, rc('LRANGE', P .. ':turns:' .. q, 0, -1),
    rc('ZRANGE', P .. ':scheduled:' .. q, 0, -1), rc('ZRANGE', P .. ':deferred:' .. q, 0, -1),
    rc('ZRANGE', P .. ':failed:' .. q, 0, -1), rc('ZRANGE', P .. ':wip:' .. q, 0, -1, 'WITHSCORES') }
end
local kept = { 0, 0 }
for i, kind in ipairs({ STATE, OUTCOME }) do
  for _, key in ipairs(rc('ZRANGE', P .. kind, 0, -1)) do kept[i] = kept[i] + rc('HLEN', key) end
end
local records = {}
for _, key in ipairs(RECORD_KEYS) do records[#records + 1] = { key, rc('HKEYS', P .. key) } end
local accounts = {}
for i, owner in ipairs({ 'owner:1', 'owner:2' }) do
  accounts[i] = { owner, rc('HGETALL', P .. ':' .. owner), rc('LRANGE', P .. ':' .. owner .. ':failed', 0, -1) }
end
return { now(), out, rc('HKEYS', P .. ':jobs'), rc('HGETALL', P .. ':run'), rc('HGETALL', P .. ':stats'),
  records, rc('SMEMBERS', P .. ':cancel'), rc('HKEYS', P .. ':then'), kept, accounts }
";
/// Lua script that returns the outcome of each id: `finished` or `canceled`, a space and the stored text. The outcome is empty
/// if the job has not ended, has failed or was purged.
const OUTCOMES: &str = "
local out = {}
for i, id in ipairs(ARGV) do
  local state = find_record(STATE, id)
  local word = state and ({ f = 'finished', c = 'canceled' })[string.sub(state, 1, 1)]
  out[i] = word and word .. ' ' .. find_record(OUTCOME, id) or ''
end
return out
";

/// A [`Queue`] as [`SNAPSHOT`] returns it, with its fields in the same order.
type QueueRow = (
    Vec<String>,
    Vec<(String, Vec<String>)>,
    Vec<String>,
    Vec<String>,
    Vec<String>,
    Vec<String>,
    Vec<(String, f64)>,
);

/// The state of a queue.
#[derive(Clone, Default)]
pub struct Queue {
    pub list: Vec<String>,
    pub groups: BTreeMap<String, Vec<String>>,
    pub turns: Vec<String>,
    pub scheduled: HashSet<String>,
    pub deferred: HashSet<String>,
    pub failed: HashSet<String>,
    /// The time at which each lease expires, in milliseconds of the clock of Redis. A key is the token of the lease, `|` and
    /// the ids of its jobs, separated by commas.
    pub leases: HashMap<String, i64>,
}

#[derive(Clone, Default)]
pub struct Snapshot {
    /// The time of Redis in milliseconds.
    pub now: i64,
    pub queues: HashMap<&'static str, Queue>,
    /// The ids of the jobs that have an envelope.
    pub jobs: HashSet<String>,
    /// The running jobs. A value begins with the token of the lease and `|`.
    pub run: HashMap<String, String>,
    /// The totals, by queue and name: `a:finished`.
    pub stats: HashMap<String, i64>,
    /// The ids that each hash of records besides the envelopes contains, such as attempts and progress.
    pub records: Vec<(String, Vec<String>)>,
    /// The running jobs that were signaled to stop.
    pub cancel: HashSet<String>,
    /// The jobs on which other jobs depend.
    pub waited_for: HashSet<String>,
    /// The number of stored states, and of stored outcomes.
    pub kept: [usize; 2],
    pub accounts: HashMap<String, Account>,
}

/// The account of an owner, which counts the jobs of the owner.
#[derive(Clone, Default)]
pub struct Account {
    /// The size of the envelope of each waiting or running job in bytes, the sums `jobs`, `bytes` and `running`, and the time
    /// `counted` of the last correction of the sums.
    pub sizes: BTreeMap<String, i64>,
    pub failed: Vec<String>,
}

impl Snapshot {
    /// Returns the token of the lease that holds a job.
    pub fn holder(&self, id: &str) -> Option<&str> {
        self.run.get(id)?.split('|').next()
    }
}

impl Engine {
    /// Loads the scripts, with `mutation` applied to one of them.
    ///
    /// # Panics
    /// If the text to replace is not in the script exactly once, because the mutation would then test nothing.
    pub fn new(url: &str, prefix: String, mutation: Option<Mutation>) -> Self {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/queue/scripts");
        let mut mutated = false;
        let mut read = |name: &str| {
            let text = std::fs::read_to_string(dir.join(format!("{name}.lua"))).unwrap();
            match mutation {
                Some((file, from, to)) if file == name => {
                    assert_eq!(text.matches(from).count(), 1, "{name}.lua has {from:?}");
                    mutated = true;
                    text.replace(from, to)
                }
                _ => text,
            }
        };
        let lib = read("lib");
        let scripts =
            SCRIPT_NAMES.map(|name| (name, redis::Script::new(&(lib.clone() + &read(name))))).into();
        assert_eq!(mutated, mutation.is_some());
        Self {
            conn: redis::Client::open(url).unwrap().get_connection().unwrap(),
            prefix,
            scripts,
            snapshot_script: redis::Script::new(&(lib.clone() + SNAPSHOT)),
            outcomes_script: redis::Script::new(&(lib + OUTCOMES)),
        }
    }

    pub fn call<T: FromRedisValue>(&mut self, name: &str, args: &[String]) -> RedisResult<T> {
        self.scripts[name].key(&self.prefix).arg(args).invoke(&mut self.conn)
    }

    /// Runs a Redis command on one of the engine's keys.
    pub fn redis<T: FromRedisValue>(&mut self, command: &str, key: &str, args: &[&str]) -> T {
        redis::cmd(command).arg(format!("{}:{key}", self.prefix)).arg(args).query(&mut self.conn).unwrap()
    }

    pub fn snapshot(&mut self) -> Snapshot {
        type All = (
            i64,
            Vec<QueueRow>,
            HashSet<String>,
            HashMap<String, String>,
            HashMap<String, i64>,
            Vec<(String, Vec<String>)>,
            HashSet<String>,
            HashSet<String>,
            [usize; 2],
            Vec<(String, BTreeMap<String, i64>, Vec<String>)>,
        );
        let (now, rows, jobs, run, stats, records, cancel, waited_for, kept, accounts): All =
            self.snapshot_script.key(&self.prefix).arg(&QUEUES).invoke(&mut self.conn).unwrap();
        let queue = |(list, groups, turns, scheduled, deferred, failed, leases): QueueRow| Queue {
            list,
            groups: groups.into_iter().collect(),
            turns,
            scheduled: scheduled.into_iter().collect(),
            deferred: deferred.into_iter().collect(),
            failed: failed.into_iter().collect(),
            leases: leases.into_iter().map(|(lease, end)| (lease, end as i64)).collect(),
        };
        let queues = QUEUES.into_iter().zip(rows.into_iter().map(queue)).collect();
        let account = |(owner, sizes, failed): (String, _, _)| (owner, Account { sizes, failed });
        let accounts = accounts.into_iter().map(account).collect();
        Snapshot { now, queues, jobs, run, stats, records, cancel, waited_for, kept, accounts }
    }

    /// Returns the outcomes of jobs, in the format of [`OUTCOMES`].
    pub fn outcomes(&mut self, ids: &[String]) -> Vec<String> {
        self.outcomes_script.key(&self.prefix).arg(ids).invoke(&mut self.conn).unwrap()
    }

    pub fn clean(&mut self) {
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("{}:*", self.prefix)).query(&mut self.conn).unwrap();
        if !keys.is_empty() {
            redis::cmd("UNLINK").arg(keys).query::<()>(&mut self.conn).unwrap();
        }
    }
}
