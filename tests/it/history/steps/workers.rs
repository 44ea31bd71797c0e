//! Steps of workers and schedulers.

use std::collections::{BTreeMap, HashSet};

use super::{Held, History, LEASE_MS, MAX_CRASHES, strings};
use crate::history::{
    model::{Check, holds, may_be_held},
    scripts::{Account, QUEUES, Snapshot},
};

impl History {
    pub(super) fn fetch(&mut self) -> Check {
        let worker = match self.some_worker() {
            Some(worker) if self.chance(70) => worker,
            _ => self.name("w"),
        };
        let token = self.name("t");
        let max = [1, 3, 20][self.below(3)];
        let order = if self.chance(50) { ["a", "b"] } else { ["b", "a"] };
        let shared = self.chance(30).then(|| self.below(max + 1));
        let owner_max = [0, 2, 2, 5][self.below(4)];
        let ahead = [0, 0, 1, 5][self.below(4)];
        self.take(&worker, &token, (max, ahead), shared, owner_max, &order, LEASE_MS)?;
        let lost = self.chance(8);
        if lost {
            // The response is lost, so the worker does not know the leases of this fetch.
            let held = self.workers.get_mut(&worker).into_iter().flatten();
            let keep: Vec<_> = held
                .map(|held| held.token.clone())
                .filter(|one| !one.starts_with(&format!("{token}.")))
                .collect();
            if let Some(held) = self.workers.get_mut(&worker) {
                held.retain(|held| keep.contains(&held.token));
            }
            self.lost.push(token);
        }
        Ok(())
    }

    /// Fetches up to `max` jobs for free slots, and up to `ahead` jobs before a slot is free. Returns the number of
    /// fetched jobs.
    ///
    /// `order` are the queues, the highest priority first. With `shared`, the first queue is reserved: at most `shared` of the
    /// jobs for free slots may be from other queues. `owner_max` is the number of jobs of one owner that may run, 0 for no
    /// limit. `lease` is in milliseconds.
    pub(super) fn take(
        &mut self,
        worker: &str,
        token: &str,
        (max, ahead): (usize, usize),
        shared: Option<usize>,
        owner_max: usize,
        order: &[&str],
        lease: i64,
    ) -> Check<usize> {
        type Taken = (String, Vec<String>, Vec<String>, Vec<Option<u32>>, Vec<Option<u32>>, String);
        let reserved = if shared.is_some() { order[0] } else { "" };
        let (most_shared, others) = (shared.unwrap_or(max), &order[usize::from(shared.is_some())..]);
        let args = strings(&[&worker, &token, &lease, &max, &most_shared, &owner_max, &ahead, &reserved]);
        let args = [args, others.iter().map(|q| (*q).to_owned()).collect()].concat();
        let (_, taken, _): (i64, Vec<Taken>, u64) = self.call("fetch", &args)?;
        let (mut came, mut of_others, mut came_ahead, mut ahead_of) = (0, 0, 0, Vec::new());
        for (index, (queue, ids, envelopes, failures, crashes, mark)) in taken.into_iter().enumerate() {
            let queue = QUEUES[usize::from(queue == "b")];
            holds!(!self.paused.contains(queue), "{ids:?} were fetched from {queue}, which is paused");
            let is_ahead = mark == "+";
            if is_ahead {
                came_ahead += ids.len();
                ahead_of.push(queue);
                self.check_ahead(queue, &ids, queue == reserved)?;
            } else {
                came += ids.len();
                of_others += if queue == reserved { 0 } else { ids.len() };
            }
            let before = &self.model.before.queues[queue];
            let ready: HashSet<&String> =
                before.list.iter().chain(before.groups.values().flatten()).collect();
            let running =
                self.model.before.stats.get(&format!("{queue}:running")).copied().unwrap_or(0) as usize;
            let limit = self.limits.get(queue).copied().unwrap_or(usize::MAX);
            holds!(
                running + ids.len() <= limit,
                "{queue}: {ids:?} were fetched while {running} ran, with a limit of {limit}"
            );
            // The numbers of jobs that this fetch took from the groups that still have jobs differ by at most 1.
            let turns = |waited: &[String]| ids.iter().filter(|id| waited.contains(*id)).count();
            let left: Vec<_> = before
                .groups
                .iter()
                .filter(|(group, _)| owner_max == 0 || !may_be_held(group))
                .filter_map(|(_, waited)| Some(turns(waited)).filter(|turns| *turns < waited.len()))
                .collect();
            let spread = left.iter().max().zip(left.iter().min()).map_or(0, |(most, least)| most - least);
            holds!(spread <= 1, "{queue}: turns of groups with jobs left: {left:?}");
            let mut jobs = BTreeMap::new();
            for (((id, envelope), failures), crashes) in ids.iter().zip(envelopes).zip(failures).zip(crashes)
            {
                holds!(ready.contains(id), "{id} was fetched without being queued");
                let Some(job) = self.model.jobs.get_mut(id) else {
                    return Err(format!("I5: {id} was never pushed"));
                };
                holds!(envelope == job.envelope, "{id} has the envelope {envelope}");
                job.runs += 1;
                let extras = job.group.is_some() || job.has_key;
                jobs.insert(id.clone(), extras || failures.is_some() || crashes.is_some());
            }
            let token = format!("{token}.{index}{mark}");
            let lease = format!("{token}|{}", ids.join(","));
            self.workers.entry(worker.to_owned()).or_default().push(Held { queue, token, lease, jobs });
        }
        for (owner, account) in self.engine.snapshot().accounts {
            let running = |account: &Account| account.sizes.get("running").copied().unwrap_or(0);
            let (now, before) =
                (running(&account), self.model.before.accounts.get(&owner).map_or(0, running));
            let fits = owner_max == 0 || now <= before.max(owner_max as i64);
            holds!(fits, "{owner} runs {now} jobs, {owner_max} are allowed");
        }
        holds!(came <= max, "{came} jobs were fetched with a maximum of {max}");
        holds!(of_others <= most_shared, "{of_others} jobs took reserved slots");
        self.check_priority(order, shared.is_some(), owner_max, &ahead_of)?;
        holds!(came_ahead <= ahead, "{came_ahead} jobs were fetched ahead, with a maximum of {ahead}");
        Ok(came + came_ahead)
    }

    /// Checks that no job was fetched ahead from a queue while a queue of higher priority had jobs that wait for a free slot.
    fn check_priority(
        &mut self,
        order: &[&str],
        reserved: bool,
        owner_max: usize,
        ahead_of: &[&str],
    ) -> Check {
        let after = self.engine.snapshot();
        for (at, first) in order.iter().enumerate().skip(usize::from(reserved)) {
            let queue = &after.queues[first];
            let must_wait = self.limits.contains_key(first) || !queue.groups.is_empty();
            // Ignores groups of owners, because their jobs may wait for the limit of the owner instead of a slot.
            let mut waiting = queue.groups.keys().filter(|group| owner_max == 0 || !may_be_held(group));
            let is_ready = !queue.list.is_empty() || waiting.next().is_some();
            if must_wait && is_ready && !self.paused.contains(first) {
                let passed = order[at + 1..].iter().find(|queue| ahead_of.contains(queue));
                holds!(passed.is_none(), "{first} has jobs that wait, and {passed:?} was fetched ahead");
            }
        }
        Ok(())
    }

    /// Checks that the jobs that were fetched ahead have no group, are from a queue that has no limit and is not reserved, and
    /// have not run on a worker that crashed.
    fn check_ahead(&self, queue: &str, ids: &[String], reserved: bool) -> Check {
        let before = &self.model.before;
        holds!(!reserved, "{ids:?} were fetched ahead from the reserved queue");
        holds!(!self.limits.contains_key(queue), "{queue} has a limit, and {ids:?} were fetched ahead");
        for id in ids {
            holds!(self.model.jobs.get(id).is_some_and(|job| job.group.is_none()), "{id} has a group");
            let suspected = before.records.iter().any(|(key, ids)| key == ":crash" && ids.contains(id));
            holds!(!suspected, "{id} may have crashed a worker, and was fetched ahead");
        }
        Ok(())
    }

    pub(super) fn settle(&mut self) -> Check {
        let Some(worker) = self.some_worker() else { return Ok(()) };
        for queue in QUEUES {
            let mut held = self.workers.remove(&worker).unwrap_or_default();
            let (mut over, mut entries) = (Vec::new(), Vec::new());
            for lease in held.iter_mut().filter(|held| held.queue == queue) {
                for (id, extras) in lease.jobs.clone() {
                    if self.chance(4) {
                        // Settles the job with a token that holds no job, like a worker that has lost its lease.
                        entries.push(self.disposition(id, "t0.0", extras));
                    } else if self.chance(50) {
                        lease.jobs.remove(&id);
                        entries.push(self.disposition(id, &lease.token, extras));
                    }
                }
                if lease.jobs.is_empty() {
                    over.push(lease.lease.clone());
                }
            }
            held.retain(|held| !held.jobs.is_empty());
            self.workers.insert(worker.clone(), held);
            if !entries.is_empty() {
                self.deliver(queue, &over, entries)?;
                self.check()?;
            }
        }
        Ok(())
    }

    /// Returns a random settlement of a job, as the script `settle` takes it.
    pub(super) fn disposition(&mut self, id: String, token: &str, extras: bool) -> [String; 6] {
        let op = ["ok", "ok", "ok", "ok", "retry", "snooze", "dead", "release", "cancel"][self.below(9)];
        let arg = match op {
            "ok" | "cancel" => u64::from(extras),
            _ => 1 + self.below(30) as u64,
        };
        let text = match op {
            "ok" => format!(r#"{{"t":"finished by {id} {token}"}}"#),
            "cancel" => format!(r#"{{"t":"canceled by {id} {token}"}}"#),
            _ => format!(r#"{{"message":"{id} {token}"}}"#),
        };
        [op.into(), id, token.to_owned(), arg.to_string(), "600000".into(), text]
    }

    /// Settles jobs, sometimes twice in one call or in two calls. Checks that a settlement is applied once, and only if its
    /// token holds the job. `over` are the leases that end.
    pub(super) fn deliver(&mut self, queue: &str, over: &[String], entries: Vec<[String; 6]>) -> Check {
        let twice = self.chance(15);
        let again = self.chance(15);
        let mut args = strings(&[&queue, &over.len()]);
        args.extend(over.iter().cloned());
        for _ in 0..=usize::from(twice) {
            args.extend(entries.iter().flatten().cloned());
        }
        for [op, id, token, _, _, text] in &entries {
            if matches!(op.as_str(), "ok" | "cancel") && self.model.before.holder(id) == Some(token) {
                self.model.may_end.insert(id.clone(), text.clone());
            }
        }
        let rejected: HashSet<usize> = self.call("settle", &args)?;
        for (index, [op, id, token, ..]) in entries.iter().enumerate() {
            let held = self.model.before.holder(id) == Some(token);
            let taken = !rejected.contains(&(index + 1));
            holds!(held == taken, "I7: {op} of {id} by {token}: the token held it: {held}, applied: {taken}");
            holds!(
                !twice || rejected.contains(&(index + 1 + entries.len())),
                "I7: {op} of {id} was applied twice"
            );
            self.rejected += u64::from(!taken);
        }
        if again {
            let rejected: Vec<usize> = self.call("settle", &args)?;
            let all = entries.len() * (1 + usize::from(twice));
            holds!(
                rejected.len() == all,
                "I7: {} of {all} repeated entries were applied",
                all - rejected.len()
            );
        }
        Ok(())
    }

    pub(super) fn beat(&mut self) -> Check {
        let Some(worker) = self.some_worker() else { return Ok(()) };
        let held = &self.workers[&worker];
        let mut args = strings(&[&LEASE_MS, &worker, &"{}", &held.len()]);
        args.extend(held.iter().flat_map(|held| [held.queue.to_owned(), held.lease.clone()]));
        let report = self.chance(30);
        for held in self.workers.get_mut(&worker).into_iter().flatten().filter(|_| report) {
            for (id, extras) in &mut held.jobs {
                *extras = true;
                args.extend([id.clone(), held.token.clone(), r#"{"percent":1}"#.into()]);
            }
        }
        let (lost, _): (HashSet<String>, Vec<String>) = self.call("beat", &args)?;
        let leases = |queue: &str| &self.model.before.queues[queue].leases;
        for held in &self.workers[&worker] {
            let there = leases(held.queue).contains_key(&held.lease);
            holds!(
                there != lost.contains(&held.lease),
                "{} exists: {there}, which contradicts the answer",
                held.lease
            );
        }
        if let Some(held) = self.workers.get_mut(&worker) {
            held.retain(|held| !lost.contains(&held.lease));
        }
        Ok(())
    }

    /// Runs a tick of the scheduler. With `after_outage`, the last tick seems to be long ago, as after an outage of Redis: the
    /// new tick must not recover a job.
    pub(super) fn tick(&mut self, after_outage: bool) -> Check {
        if after_outage {
            // Sets the time of the last tick to 1970.
            self.engine.redis::<()>("SET", "tick", &["1"]);
        }
        let grace = after_outage || self.engine.redis("EXISTS", "grace", &[]);
        let before = self.engine.snapshot();
        let seed = self.below(1 << 30);
        let args = strings(&[
            &LEASE_MS,
            &10_000,
            &MAX_CRASHES,
            &4,
            &seed,
            &100_000,
            &86_400_000,
            &0,
            &100_000,
            &100_000_000,
            &100_000,
        ]);
        // The fourth number that the script returns is 1 if work remains. The scheduler then runs the next tick at once.
        while self.call::<Vec<i64>>("tick", &args)?[3] == 1 {}
        let after = self.engine.snapshot();
        let in_grace: bool = self.engine.redis("EXISTS", "grace", &[]);
        for (id, holder) in &before.run {
            let token = before.holder(id).unwrap_or_default();
            let lease = |at: &Snapshot| {
                let leases = at.queues.values().flat_map(|queue| &queue.leases);
                leases
                    .filter(|(lease, _)| lease.starts_with(&format!("{token}|")))
                    .map(|(_, end)| *end)
                    .next()
            };
            let Some(end) = lease(&before) else { continue };
            let kept = after.run.get(id) == Some(holder);
            holds!(
                end <= after.now || kept,
                "I8: {id} was recovered {} ms before its lease expired",
                end - after.now
            );
            holds!(
                !(after_outage || grace && in_grace) || kept,
                "I8: {id} was recovered right after an outage"
            );
            holds!(end >= before.now || grace || !kept, "I9: {id} is held by an expired lease");
            if !kept && token.ends_with('+') && after.jobs.contains(id) {
                let crashes: Option<String> = self.engine.redis("HGET", "crash", &[id]);
                holds!(
                    crashes.as_deref() == Some("0"),
                    "{id} was fetched ahead, and has {crashes:?} crashes"
                );
            }
        }
        for (name, queue) in &after.queues {
            let late = before.queues[name].scheduled.intersection(&queue.scheduled).count();
            let due = self.engine.redis::<usize>(
                "ZCOUNT",
                &format!("scheduled:{name}"),
                &["-inf", &before.now.to_string()],
            );
            holds!(due == 0 || late == 0, "{name}: {due} due jobs were not promoted");
        }
        Ok(())
    }

    /// Releases the jobs of a fetch whose response was lost. The fetch then arrives again, and must return no jobs.
    pub(super) fn release(&mut self) -> Check {
        let Some(token) = self.lost.pop() else { return Ok(()) };
        self.call::<u64>("release", &[token.clone(), "a".into(), "b".into()])?;
        let held = |snapshot: &Snapshot| {
            snapshot.run.values().filter(|holder| holder.starts_with(&format!("{token}."))).count()
        };
        let after = self.engine.snapshot();
        holds!(held(&after) == 0, "{token} was released and holds jobs");
        let came = self.take("late", &token, (5, 5), None, 0, &["a", "b"], LEASE_MS)?;
        holds!(came == 0, "a released fetch took {came} jobs");
        Ok(())
    }
}
