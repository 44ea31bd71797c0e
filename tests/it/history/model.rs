//! What has to hold after every step, whatever the step was.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::scripts::{QUEUES, Snapshot};

/// A rule that was broken, and how.
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

/// A job that was accepted.
#[derive(Clone, Default)]
pub struct Accepted {
    pub queue: &'static str,
    pub group: Option<String>,
    pub after: Vec<String>,
    pub after_failures: bool,
    pub has_key: bool,
    pub envelope: String,
    /// How it has ended, at some time; a failed job may be put back.
    pub finished: bool,
    pub ended: bool,
    pub fell_through: bool,
    pub runs: u32,
}

#[derive(Default)]
pub struct Model {
    pub jobs: BTreeMap<String, Accepted>,
    /// Those that have neither ended well nor been thrown away.
    pub live: BTreeSet<String>,
    pub outcomes: HashMap<String, String>,
    pub purged: HashSet<String>,
    pub before: Snapshot,
    /// Jobs that the step under way may end, and with what words in the outcome.
    pub may_end: HashMap<String, String>,
    pub may_vanish: HashSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Queued,
    Scheduled,
    Deferred,
    Running,
    Failed,
}

/// Where every job that has not ended is: in one place, and there once.
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
            return Err(format!("I4: {id} runs, and no lease has it: {}", now.run[id]));
        };
        if let Some(other) = all.insert(id.as_str(), (Place::Running, queue)) {
            return Err(format!("I1: {id} runs and is {other:?}"));
        }
    }
    Ok(all)
}

impl Model {
    /// Compares a snapshot with what may be; `outcomes` looks up how jobs have ended.
    pub fn check(&mut self, now: Snapshot, outcomes: impl FnOnce(&[String]) -> Vec<String>) -> Check {
        let places = places(&now)?;
        for (id, (place, queue)) in &places {
            let Some(job) = self.jobs.get(*id) else { return Err(format!("I5: nobody pushed {id}")) };
            holds!(job.queue == *queue, "I1: {id} is in {queue}, and belongs in {}", job.queue);
            holds!(now.jobs.contains(*id), "I3: {id} is {place:?} without an envelope");
            holds!(!self.outcomes.contains_key(*id), "I2: {id} has ended and is {place:?}");
            holds!(!self.purged.contains(*id), "I2: {id} was purged and is {place:?}");
        }
        holds!(now.jobs.len() == places.len(), "I3: {} envelopes of {} jobs", now.jobs.len(), places.len());
        for name in QUEUES {
            self.check_groups(name, &now)?;
            count(name, &now, &places)?;
        }
        for (key, ids) in &now.records {
            let stray = ids.iter().find(|id| !now.jobs.contains(*id));
            holds!(stray.is_none(), "{stray:?} is left over in {key}");
        }
        let stray = now.cancel.iter().chain(&now.waited_for).find(|id| !now.jobs.contains(*id));
        holds!(stray.is_none(), "{stray:?} is left over");
        self.check_waiting(&places, &now)?;

        let here: HashSet<&str> = places.keys().copied().collect();
        let gone: Vec<String> = self.live.iter().filter(|id| !here.contains(id.as_str())).cloned().collect();
        for (id, outcome) in gone.iter().zip(outcomes(&gone)) {
            if outcome.is_empty() {
                holds!(self.may_vanish.contains(id), "I1: {id} is nowhere");
                self.purged.insert(id.clone());
            } else {
                let asked = (r#""by":"a request""#).to_owned();
                let expected = self.may_end.get(id).or(self.before.cancel.contains(id).then_some(&asked));
                holds!(
                    expected.is_some_and(|words| outcome.contains(words.as_str())),
                    "I6: {id} has ended with {outcome}, and not {expected:?}"
                );
                self.outcomes.insert(id.clone(), outcome);
            }
            self.live.remove(id);
            if let Some(job) = self.jobs.get_mut(id) {
                job.ended = true;
                job.finished = self.outcomes.get(id).is_some_and(|text| text.contains("finished"));
                job.fell_through |= !job.finished;
            }
        }
        holds!(now.kept == self.outcomes.len(), "I6: {} outcomes kept of {}", now.kept, self.outcomes.len());
        self.before = now;
        self.may_end.clear();
        self.may_vanish.clear();
        Ok(())
    }

    fn check_groups(&self, name: &str, now: &Snapshot) -> Check {
        let queue = &now.queues[name];
        let lists = queue.groups.iter().flat_map(|(group, ids)| ids.iter().map(move |id| (id, Some(group))));
        for (id, group) in queue.list.iter().map(|id| (id, None)).chain(lists) {
            let own = self.jobs.get(id).and_then(|job| job.group.as_ref());
            holds!(own == group, "{id} of group {own:?} waits in {group:?}");
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

    /// Who waited for others waits until these have ended as it asked, and no longer.
    fn check_waiting(&mut self, places: &HashMap<&str, (Place, &'static str)>, now: &Snapshot) -> Check {
        let failed: Vec<_> = now.queues.values().flat_map(|queue| &queue.failed).cloned().collect();
        for id in failed {
            if let Some(job) = self.jobs.get_mut(&id) {
                (job.ended, job.fell_through) = (true, true);
            }
        }
        let waited = self.before.queues.values().flat_map(|queue| &queue.deferred);
        let new = now.jobs.iter().filter(|id| !self.before.jobs.contains(*id));
        for id in waited.chain(new) {
            let job = &self.jobs[id];
            let parents = || job.after.iter().map(|id| &self.jobs[id]);
            // What ended in this very step is seen below.
            let ended = |parent: &String| {
                // One that was asked to stop is cancelled when it comes back.
                let withdrawn = self.before.cancel.contains(parent) && !places.contains_key(parent.as_str());
                self.jobs[parent].ended
                    || withdrawn
                    || self.may_end.contains_key(parent)
                    || self.may_vanish.contains(parent)
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
                    holds!(done, "{id} goes on before those it waited for: {:?}", job.after);
                }
                Some((Place::Failed, _)) => {
                    let reason = parents().any(|parent| parent.fell_through)
                        || job.after.iter().any(|parent| ended(parent) && !good(parent));
                    holds!(
                        reason && !job.after_failures,
                        "{id} has failed though nothing that it waited for did"
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What came in is there or has ended.
fn count(name: &str, now: &Snapshot, places: &HashMap<&str, (Place, &'static str)>) -> Check {
    let stat = |what: &str| now.stats.get(&format!("{name}:{what}")).copied().unwrap_or(0);
    let here = |wanted: &[Place]| {
        places.values().filter(|(place, queue)| *queue == name && wanted.contains(place)).count() as i64
    };
    let live = here(&[Place::Queued, Place::Scheduled, Place::Deferred, Place::Running]);
    let (came, went) =
        (stat("enqueued") + stat("requeued"), stat("finished") + stat("failed") + stat("canceled"));
    holds!(came == went + live, "{name}: {came} came, {went} went and {live} are there");
    let running = here(&[Place::Running]);
    holds!(stat("running") == running, "{name}: {running} run and {} are counted", stat("running"));
    Ok(())
}
