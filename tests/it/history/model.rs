//! A model of the queues, and the invariants that hold after every step of a history. A live job has no outcome and was not
//! purged. Most messages begin with the number of the violated invariant:
//!
//! | | invariant |
//! |---|---|
//! | I1 | a live job is in exactly one place, in its own queue |
//! | I2 | a job that has an outcome or was purged is in no place |
//! | I3 | exactly the live jobs have an envelope |
//! | I4 | a running job has a lease |
//! | I5 | every job was pushed |
//! | I6 | a job ends only by a step that may end it, and its state and its outcome are stored |
//! | I7 | a settlement is applied once, and only if its token holds the job |
//! | I8 | no job is recovered before its lease expires, or right after an outage |
//! | I9 | a tick recovers the jobs of expired leases |
//! | L1 | at the end of a history, a single worker ends every live job, unless the job fails |
//! | L2 | a finished job has run |

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::scripts::{QUEUES, Snapshot};

/// The description of a violated invariant.
pub type Broken = String;
pub type Check<T = ()> = Result<T, Broken>;

macro_rules! holds {
    ($rule:expr, $($words:tt)+) => {
        if !$rule {
            return Err(format!($($words)+));
        }
    };
}
pub(super) use holds;

/// A job that `push` has accepted.
#[derive(Clone, Default)]
pub struct Accepted {
    pub queue: &'static str,
    pub group: Option<String>,
    pub after: Vec<String>,
    pub after_failures: bool,
    pub has_key: bool,
    pub envelope: String,
    /// Whether the last run succeeded.
    pub finished: bool,
    /// Whether the job has ever finished, failed, been canceled or been purged. A requeue does not reset this field.
    pub ended: bool,
    /// Whether the job has ever failed, been canceled or been purged. A requeue does not reset this field.
    pub has_failed: bool,
    pub runs: u32,
}

#[derive(Default)]
pub struct Model {
    pub jobs: BTreeMap<String, Accepted>,
    /// The ids of the jobs that have no outcome and were not purged.
    pub live: BTreeSet<String>,
    /// The outcome of each ended job: `finished` or `canceled`, and the stored text.
    pub outcomes: HashMap<String, String>,
    pub purged: HashSet<String>,
    /// The state after the previous step.
    pub before: Snapshot,
    /// The jobs that the current step may end. The value is a text that the outcome of the job then contains.
    pub may_end: HashMap<String, String>,
    /// The jobs that the current step may delete without an outcome.
    pub may_be_deleted: HashSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Queued,
    Scheduled,
    Deferred,
    Running,
    Failed,
}

/// Returns the owner of the jobs of a group, in the form `owner:ID` as in the key of the account, or `None` if they have no
/// owner.
pub fn owner_of(group: &str) -> Option<&str> {
    group.rsplit('|').next().filter(|owner| owner.starts_with("owner:"))
}

/// Returns `true` if the limit of an owner may delay jobs of a group, and for every group that begins with a scope.
pub fn may_be_held(group: &str) -> bool {
    group.starts_with("owner:") || group.starts_with("scope:")
}

/// Returns the place and the queue of each live job. Fails if a job is in two places, or runs without a lease.
pub fn places(now: &Snapshot) -> Check<HashMap<&str, (Place, &'static str)>> {
    let mut all = HashMap::new();
    for name in QUEUES {
        let queue = &now.queues[name];
        let lists = queue.list.iter().chain(queue.groups.values().flatten());
        let places = lists
            .map(|id| (id, Place::Queued))
            .chain(queue.scheduled.iter().map(|id| (id, Place::Scheduled)))
            .chain(queue.deferred.iter().map(|id| (id, Place::Deferred)))
            .chain(queue.failed.iter().map(|id| (id, Place::Failed)));
        for (id, place) in places {
            if let Some(other) = all.insert(id.as_str(), (place, name)) {
                return Err(format!("I1: {id} is {place:?} in {name} and {other:?}"));
            }
        }
    }
    let mut leased = HashMap::new();
    for name in QUEUES {
        for lease in now.queues[name].leases.keys() {
            let (token, ids) = lease.split_once('|').unwrap_or_default();
            leased.extend(ids.split(',').map(|id| ((token, id), name)));
        }
    }
    for id in now.run.keys() {
        let queue = leased.get(&(now.holder(id).unwrap_or_default(), id.as_str())).copied();
        let Some(queue) = queue else {
            return Err(format!("I4: {id} is running without a lease: {}", now.run[id]));
        };
        if let Some(other) = all.insert(id.as_str(), (Place::Running, queue)) {
            return Err(format!("I1: {id} is running and {other:?}"));
        }
    }
    Ok(all)
}

impl Model {
    /// Checks the state after a step against the model, and updates the model. `outcomes` reads the outcomes of jobs.
    pub fn check(&mut self, now: Snapshot, outcomes: impl FnOnce(&[String]) -> Vec<String>) -> Check {
        let places = places(&now)?;
        for (id, (place, queue)) in &places {
            let Some(job) = self.jobs.get(*id) else { return Err(format!("I5: {id} was never pushed")) };
            holds!(job.queue == *queue, "I1: {id} is in {queue} instead of {}", job.queue);
            holds!(now.jobs.contains(*id), "I3: {id} is {place:?} without an envelope");
            holds!(!self.outcomes.contains_key(*id), "I2: {id} has ended and is {place:?}");
            holds!(!self.purged.contains(*id), "I2: {id} was purged and is {place:?}");
        }
        holds!(now.jobs.len() == places.len(), "I3: {} envelopes of {} jobs", now.jobs.len(), places.len());
        for name in QUEUES {
            self.check_groups(name, &now)?;
            check_totals(name, &now, &places)?;
        }
        for (key, ids) in &now.records {
            let stray = ids.iter().find(|id| !now.jobs.contains(*id));
            holds!(stray.is_none(), "{key} still has {stray:?}");
        }
        self.check_accounts(&places, &now)?;
        let stray = now.cancel.iter().chain(&now.waited_for).find(|id| !now.jobs.contains(*id));
        holds!(stray.is_none(), "{stray:?} remains");
        self.check_dependencies(&places, &now)?;

        let here: HashSet<&str> = places.keys().copied().collect();
        let gone: Vec<String> = self.live.iter().filter(|id| !here.contains(id.as_str())).cloned().collect();
        for (id, outcome) in gone.iter().zip(outcomes(&gone)) {
            if outcome.is_empty() {
                holds!(self.may_be_deleted.contains(id), "I1: {id} is lost");
                self.purged.insert(id.clone());
            } else {
                let asked = (r#""by":"a request""#).to_owned();
                let expected = self.may_end.get(id).or(self.before.cancel.contains(id).then_some(&asked));
                holds!(
                    expected.is_some_and(|words| outcome.contains(words.as_str())),
                    "I6: {id} has ended with {outcome} instead of {expected:?}"
                );
                let finished = expected.is_some_and(|words| words.contains("finished"));
                holds!(
                    outcome.starts_with("finished") == finished,
                    "I6: the state of {id} is that of {outcome}"
                );
                self.outcomes.insert(id.clone(), outcome);
            }
            self.live.remove(id);
            if let Some(job) = self.jobs.get_mut(id) {
                job.ended = true;
                job.finished = self.outcomes.get(id).is_some_and(|text| text.starts_with("finished"));
                job.has_failed |= !job.finished;
            }
        }
        holds!(
            now.kept == [self.outcomes.len(); 2],
            "I6: {:?} states and outcomes of {} are stored",
            now.kept,
            self.outcomes.len()
        );
        self.before = now;
        self.may_end.clear();
        self.may_be_deleted.clear();
        Ok(())
    }

    /// Checks that each account lists the waiting and running jobs of its owner with correct sums, and the failed jobs of its
    /// owner, which are at most 100.
    fn check_accounts(&mut self, places: &HashMap<&str, (Place, &'static str)>, now: &Snapshot) -> Check {
        for (owner, account) in &now.accounts {
            let is_owned =
                |id: &&str| self.jobs[*id].group.as_deref().and_then(owner_of) == Some(owner.as_str());
            let of_owner: Vec<_> = places.iter().filter(|(id, _)| is_owned(id)).collect();
            let in_place = |wanted: &dyn Fn(Place) -> bool| -> BTreeSet<&str> {
                of_owner.iter().filter(|(_, (place, _))| wanted(*place)).map(|(id, _)| **id).collect()
            };
            let live = in_place(&|place| place != Place::Failed);
            let sums = ["jobs", "bytes", "running", "counted"];
            let charged: BTreeSet<_> =
                account.sizes.keys().map(String::as_str).filter(|id| !sums.contains(id)).collect();
            holds!(charged == live, "{owner} is charged for {charged:?}, and has {live:?}");
            let bytes: usize = live.iter().map(|id| self.jobs[*id].envelope.len()).sum();
            let sum = |name: &str| account.sizes.get(name).copied().unwrap_or(0) as usize;
            let running = in_place(&|place| place == Place::Running).len();
            holds!(
                (sum("jobs"), sum("bytes"), sum("running")) == (live.len(), bytes, running),
                "{owner} has {} jobs of {bytes} bytes, {running} running, and is charged {:?}",
                live.len(),
                account.sizes
            );
            let failed: BTreeSet<_> = account.failed.iter().map(String::as_str).collect();
            holds!(failed == in_place(&|place| place == Place::Failed), "{owner}: {failed:?} have failed");
            holds!(failed.len() <= 100, "{owner}: {} failed jobs are kept", failed.len());
            if account.failed.len() >= 90 {
                self.may_be_deleted
                    .extend(self.before.accounts.get(owner).into_iter().flat_map(|old| old.failed.clone()));
            }
        }
        Ok(())
    }

    /// Checks that each queued job waits in the list of its group or scope, and that exactly the groups with queued jobs have a
    /// turn.
    fn check_groups(&self, name: &str, now: &Snapshot) -> Check {
        let queue = &now.queues[name];
        let lists = queue.groups.iter().flat_map(|(group, ids)| ids.iter().map(move |id| (id, Some(group))));
        for (id, group) in queue.list.iter().map(|id| (id, None)).chain(lists) {
            let own = self.jobs.get(id).and_then(|job| job.group.as_deref());
            // A job of a scope waits in the list of the scope. While its owner is at the limit of running jobs, the job may be
            // set aside in the list of its full group.
            let shared = own.and_then(|own| own.split_once('|')).map(|(scope, _)| scope);
            let list = group.map(String::as_str);
            holds!(
                own == list || shared.is_some() && shared == list,
                "{id} of group {own:?} waits in {list:?}"
            );
        }
        let mut turns: Vec<_> = queue.turns.iter().filter(|group| !group.is_empty()).collect();
        turns.sort();
        holds!(
            turns.iter().copied().eq(queue.groups.keys()),
            "{name}: turns of {turns:?}, jobs of {:?}",
            queue.groups.keys()
        );
        let others = queue.turns.iter().filter(|group| group.is_empty()).count();
        holds!(
            others == 1 || others == 0 && turns.is_empty(),
            "{name}: {others} turns of jobs without a group"
        );
        Ok(())
    }

    /// Checks that no job leaves the state `deferred` before all its dependencies have ended in the required state, and that
    /// it fails for its dependencies only if one of them has not finished.
    fn check_dependencies(&mut self, places: &HashMap<&str, (Place, &'static str)>, now: &Snapshot) -> Check {
        let failed: Vec<_> = now.queues.values().flat_map(|queue| &queue.failed).cloned().collect();
        for id in failed {
            if let Some(job) = self.jobs.get_mut(&id) {
                (job.ended, job.has_failed) = (true, true);
            }
        }
        let waited = self.before.queues.values().flat_map(|queue| &queue.deferred);
        let new = now.jobs.iter().filter(|id| !self.before.jobs.contains(*id));
        for id in waited.chain(new) {
            let job = &self.jobs[id];
            let parents = || job.after.iter().map(|id| &self.jobs[id]);
            // `ended` and `good` are also true of dependencies that may have ended in the current step.
            let ended = |parent: &String| {
                // A job that was signaled to stop may have been canceled if it no longer runs.
                let canceled = self.before.cancel.contains(parent) && !places.contains_key(parent.as_str());
                self.jobs[parent].ended
                    || canceled
                    || self.may_end.contains_key(parent)
                    || self.may_be_deleted.contains(parent)
            };
            let good = |parent: &String| {
                self.jobs[parent].finished
                    || self.may_end.get(parent).is_some_and(|words| words.contains("finished"))
            };
            match places.get(id.as_str()) {
                Some((Place::Queued | Place::Scheduled | Place::Running, _)) => {
                    let done = job
                        .after
                        .iter()
                        .all(|parent| if job.after_failures { ended(parent) } else { good(parent) });
                    holds!(done, "{id} runs before its dependencies: {:?}", job.after);
                }
                Some((Place::Failed, _)) => {
                    let reason = parents().any(|parent| parent.has_failed)
                        || job.after.iter().any(|parent| ended(parent) && !good(parent));
                    holds!(reason && !job.after_failures, "{id} has failed although no dependency did");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Checks the totals of a queue: each enqueued or requeued job is still in the queue or has ended. Also checks the count of
/// running jobs.
fn check_totals(name: &str, now: &Snapshot, places: &HashMap<&str, (Place, &'static str)>) -> Check {
    let stat = |what: &str| now.stats.get(&format!("{name}:{what}")).copied().unwrap_or(0);
    let here = |wanted: &[Place]| {
        places.values().filter(|(place, queue)| *queue == name && wanted.contains(place)).count() as i64
    };
    let live = here(&[Place::Queued, Place::Scheduled, Place::Deferred, Place::Running]);
    let (came, went) =
        (stat("enqueued") + stat("requeued"), stat("finished") + stat("failed") + stat("canceled"));
    holds!(came == went + live, "{name}: {came} came in, {went} have ended and {live} exist");
    let running = here(&[Place::Running]);
    holds!(stat("running") == running, "{name}: {running} are running and {} are counted", stat("running"));
    Ok(())
}
