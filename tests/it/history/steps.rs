//! The steps of a history: what clients, workers, schedulers and operators do, in any order.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use super::{
    model::{Accepted, Broken, Check, Model, holds},
    scripts::{Engine, QUEUES, Snapshot},
};

const LEASE: i64 = 40;
const CRASHES: u32 = 5;

/// What a worker believes that it holds.
struct Held {
    queue: &'static str,
    token: String,
    lease: String,
    /// With whether there may be more on record of it than its envelope.
    jobs: BTreeMap<String, bool>,
}

pub struct History {
    pub engine: Engine,
    pub model: Model,
    random: u64,
    named: u64,
    workers: BTreeMap<String, Vec<Held>>,
    /// Tokens of fetches whose answers were lost.
    lost: Vec<String>,
    paused: HashSet<&'static str>,
    limits: HashMap<&'static str, usize>,
    pub rejected: u64,
}

fn strings(args: &[&dyn ToString]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string()).collect()
}

impl History {
    pub fn new(mut engine: Engine, seed: u64) -> Self {
        let model = Model { before: engine.look(), ..Model::default() };
        Self {
            engine,
            model,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            named: 0,
            workers: BTreeMap::new(),
            lost: Vec::new(),
            paused: HashSet::new(),
            limits: HashMap::new(),
            rejected: 0,
        }
    }

    /// Below `n`; SplitMix64 (Steele, Lea, Flood 2014).
    fn below(&mut self, n: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}{}", self.named)
    }

    fn some_job(&mut self) -> Option<String> {
        let n = self.model.jobs.len().checked_sub(1)?;
        // Mostly of late.
        let window = if self.chance(80) { (n + 1).min(40) } else { n + 1 };
        let back = self.below(window);
        self.model.jobs.keys().rev().nth(back).cloned()
    }

    fn some_worker(&mut self) -> Option<String> {
        let n = self.workers.len();
        (n > 0).then(|| self.below(n)).and_then(|n| self.workers.keys().nth(n).cloned())
    }

    fn call<T: redis::FromRedisValue>(&mut self, name: &str, args: &[String]) -> Result<T, Broken> {
        self.engine.call(name, args).map_err(|error| format!("{name} raised {error}"))
    }

    /// One step, and everything that has to hold after it.
    pub fn step(&mut self) -> Check {
        match self.below(1000) {
            0..=269 => self.push()?,
            270..=489 => self.fetch()?,
            490..=759 => self.settle()?,
            760..=819 => self.beat()?,
            820..=849 => drop(self.some_worker().and_then(|worker| self.workers.remove(&worker))),
            850..=899 => self.tick(false)?,
            900..=904 => self.tick(true)?,
            905..=934 => self.cancel()?,
            935..=949 => self.requeue()?,
            950..=964 => self.purge()?,
            965..=979 => self.control()?,
            _ => self.release()?,
        }
        if self.chance(2) {
            // Time for leases to run out in; nothing is waited for.
            std::thread::sleep(Duration::from_millis(20));
        }
        self.check()
    }

    pub fn check(&mut self) -> Check {
        let now = self.engine.look();
        let engine = &mut self.engine;
        self.model.check(now, |ids| engine.outcomes(ids))
    }

    fn push(&mut self) -> Check {
        let queue = QUEUES[self.below(2)];
        let n = [1, 1, 1, 1, 5, 30][self.below(6)];
        let when = match self.below(10) {
            0 | 1 => format!("+{}", 5 + self.below(50)),
            2 => (self.model.before.now + self.below(60) as i64).to_string(),
            _ => "0".into(),
        };
        let group = self.chance(35).then(|| format!("tenant {}", self.below(3)));
        let key = (n == 1 && self.chance(20)).then(|| format!("key {}", self.below(4)));
        let keep_first = self.chance(50);
        let mut after = Vec::new();
        while n == 1 && after.len() < 3 && self.chance(20) {
            after.extend(self.some_job().filter(|id| !after.contains(id) && !self.model.purged.contains(id)));
        }
        let (after_failures, has_key) = (self.chance(30), key.is_some());
        let window = if self.chance(50) { 30 } else { 600_000 };
        let mut ids = Vec::new();
        for _ in 0..n {
            let again =
                if key.is_none() && after.is_empty() && self.chance(5) { self.some_job() } else { None };
            // A job that was thrown away is not known any more, and nobody pushes it again.
            let again = again.filter(|id| !self.model.purged.contains(id));
            ids.push(match again {
                Some(id) => id,
                None => format!("{:06}", {
                    self.named += 1;
                    self.named
                }),
            });
        }
        let envelope = |id: &String| format!(r#"{{"v":1,"task":"t","queue":"{queue}","payload":"{id}"}}"#);
        let mut args =
            strings(&[&queue, &n, &when, &u8::from(self.chance(20)), &group.clone().unwrap_or_default()]);
        args.extend(strings(&[
            &key.clone().unwrap_or_default(),
            &window,
            &if keep_first { "first" } else { "last" },
        ]));
        args.extend(strings(&[&after.len(), &if after_failures { "any" } else { "good" }]));
        args.extend(ids.iter().cloned().chain(ids.iter().map(envelope)).chain(after.iter().cloned()));
        let first = key.as_ref().and_then(|key| self.holder_of(key));
        let waits = first.as_ref().is_some_and(|(id, _)| {
            let before = &self.model.before;
            let failed = before.queues.values().any(|queue| queue.failed.contains(id));
            before.jobs.contains(id) && !before.run.contains_key(id) && !failed
        });
        if let Some((first, _)) = first.clone().filter(|_| waits && !keep_first) {
            self.model.may_end.insert(first, r#""by":"a newer one""#.into());
        }
        let answered: Vec<String> = self.call("push", &args)?;
        if let Some((first, open)) = first {
            if keep_first {
                holds!(
                    answered == [first] || !open,
                    "{ids:?} got in, was answered {answered:?}, and the key is another's"
                );
                if answered.first().is_some_and(|id| *id != ids[0]) {
                    return Ok(());
                }
            } else {
                let gone = self.engine.outcomes(std::slice::from_ref(&first))[0].contains("a newer one");
                holds!(gone || !waits || !open, "{first} waited, and was not replaced by {ids:?}");
            }
        }
        for id in ids {
            let known = self.model.jobs.contains_key(&id);
            holds!(
                known == answered.contains(&id),
                "push says {answered:?} of {id}, which it knows: {known}"
            );
            let job = Accepted {
                queue,
                group: group.clone(),
                after: after.clone(),
                after_failures,
                has_key,
                envelope: envelope(&id),
                ..Accepted::default()
            };
            if !known {
                self.model.live.insert(id.clone());
                self.model.jobs.insert(id, job);
            }
        }
        Ok(())
    }

    /// The job that has a key, and whether it will still have it in a minute.
    fn holder_of(&mut self, key: &str) -> Option<(String, bool)> {
        let key = format!("uniq:{key}");
        let open = self.engine.redis::<i64>("PTTL", &key, &[]) > 60_000;
        self.engine.redis::<Option<String>>("GET", &key, &[]).map(|id| (id, open))
    }

    fn fetch(&mut self) -> Check {
        let worker = match self.some_worker() {
            Some(worker) if self.chance(70) => worker,
            _ => self.name("w"),
        };
        let token = self.name("t");
        let max = [1, 3, 20][self.below(3)];
        let order = if self.chance(50) { ["a", "b"] } else { ["b", "a"] };
        self.take(&worker, &token, max, &order, LEASE)?;
        let lost = self.chance(8);
        if lost {
            // Its worker never learns of these.
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

    /// Fetches; answers how many came.
    pub fn take(
        &mut self,
        worker: &str,
        token: &str,
        max: usize,
        order: &[&str],
        lease: i64,
    ) -> Check<usize> {
        type Taken = (String, Vec<String>, Vec<String>, Vec<Option<u32>>, Vec<Option<u32>>);
        let args =
            [strings(&[&worker, &token, &lease, &max]), order.iter().map(|q| (*q).to_owned()).collect()]
                .concat();
        let (_, taken, _): (i64, Vec<Taken>, u64) = self.call("fetch", &args)?;
        let mut came = 0;
        for (index, (queue, ids, envelopes, failures, crashes)) in taken.into_iter().enumerate() {
            let queue = QUEUES[usize::from(queue == "b")];
            holds!(!self.paused.contains(queue), "{queue} is paused and {ids:?} were taken");
            came += ids.len();
            let before = &self.model.before.queues[queue];
            let ready: HashSet<&String> =
                before.list.iter().chain(before.groups.values().flatten()).collect();
            let running =
                self.model.before.stats.get(&format!("{queue}:running")).copied().unwrap_or(0) as usize;
            let limit = self.limits.get(queue).copied().unwrap_or(usize::MAX);
            holds!(running + ids.len() <= limit, "{queue}: {running} ran, {ids:?} were taken, {limit} may");
            // Those who have more left to take had turns alike.
            let turns =
                |group: &Option<String>| ids.iter().filter(|id| self.model.jobs[*id].group == *group).count();
            let waited = before.groups.iter().map(|(group, ids)| (Some(group.clone()), ids.len()));
            let left: Vec<_> = waited
                .filter_map(|(group, waited)| Some(turns(&group)).filter(|turns| *turns < waited))
                .collect();
            let spread = left.iter().max().zip(left.iter().min()).map_or(0, |(most, least)| most - least);
            holds!(spread <= 1, "{queue}: groups with jobs left had {left:?} turns");
            let mut jobs = BTreeMap::new();
            for (((id, envelope), failures), crashes) in ids.iter().zip(envelopes).zip(failures).zip(crashes)
            {
                holds!(ready.contains(id), "{id} was fetched and was not queued");
                let Some(job) = self.model.jobs.get_mut(id) else {
                    return Err(format!("I5: nobody pushed {id}"));
                };
                holds!(envelope == job.envelope, "{id} came with the envelope {envelope}");
                job.runs += 1;
                let extras = job.group.is_some() || job.has_key;
                jobs.insert(id.clone(), extras || failures.is_some() || crashes.is_some());
            }
            let token = format!("{token}.{index}");
            let lease = format!("{token}|{}", ids.join(","));
            self.workers.entry(worker.to_owned()).or_default().push(Held { queue, token, lease, jobs });
        }
        holds!(came <= max, "{came} jobs came, {max} were asked for");
        Ok(came)
    }

    fn settle(&mut self) -> Check {
        let Some(worker) = self.some_worker() else { return Ok(()) };
        for queue in QUEUES {
            let mut held = self.workers.remove(&worker).unwrap_or_default();
            let (mut over, mut entries) = (Vec::new(), Vec::new());
            for lease in held.iter_mut().filter(|held| held.queue == queue) {
                for (id, extras) in lease.jobs.clone() {
                    if self.chance(50) {
                        lease.jobs.remove(&id);
                        entries.push(self.verdict(id, &lease.token, extras));
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

    fn verdict(&mut self, id: String, token: &str, extras: bool) -> [String; 6] {
        let op = ["ok", "ok", "ok", "ok", "retry", "snooze", "dead", "release", "cancel"][self.below(9)];
        let arg = match op {
            "ok" | "cancel" => u64::from(extras),
            _ => 1 + self.below(30) as u64,
        };
        let text = match op {
            "ok" => format!(r#"{{"state":"finished","by":"{id} {token}"}}"#),
            "cancel" => format!(r#"{{"state":"canceled","as":"{id} {token}"}}"#),
            _ => format!(r#"{{"message":"{id} {token}"}}"#),
        };
        [op.into(), id, token.to_owned(), arg.to_string(), "600000".into(), text]
    }

    /// Settles, now and then twice in one call or in two, and looks at which entries count.
    pub fn deliver(&mut self, queue: &str, over: &[String], entries: Vec<[String; 6]>) -> Check {
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
            holds!(held == taken, "I7: {op} of {id} by {token}, which held it: {held}, was taken: {taken}");
            holds!(
                !twice || rejected.contains(&(index + 1 + entries.len())),
                "I7: {op} of {id} was taken twice"
            );
            self.rejected += u64::from(!taken);
        }
        if again {
            let rejected: Vec<usize> = self.call("settle", &args)?;
            let all = entries.len() * (1 + usize::from(twice));
            holds!(
                rejected.len() == all,
                "I7: of {all} that were told again {} were taken",
                all - rejected.len()
            );
        }
        Ok(())
    }

    fn beat(&mut self) -> Check {
        let Some(worker) = self.some_worker() else { return Ok(()) };
        let held = &self.workers[&worker];
        let mut args = strings(&[&LEASE, &worker, &"{}", &held.len()]);
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
                "{} is there: {there}, and was called lost or not",
                held.lease
            );
        }
        if let Some(held) = self.workers.get_mut(&worker) {
            held.retain(|held| !lost.contains(&held.lease));
        }
        Ok(())
    }

    /// After an outage nothing is taken back.
    fn tick(&mut self, after_outage: bool) -> Check {
        if after_outage {
            self.engine.redis::<()>("SET", "tick", &["1"]);
        }
        let grace = after_outage || self.engine.redis("EXISTS", "grace", &[]);
        let before = self.engine.look();
        let seed = self.below(1 << 30);
        let args = strings(&[&LEASE, &10_000, &CRASHES, &4, &seed, &100_000, &86_400_000]);
        // It says when it has left something for the next, which the scheduler then does at once.
        while self.call::<Vec<i64>>("tick", &args)?[3] == 1 {}
        let after = self.engine.look();
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
                "I8: {id} was taken back {} ms before its lease was over",
                end - after.now
            );
            holds!(
                !(after_outage || grace && in_grace) || kept,
                "I8: {id} was taken back right after an outage"
            );
            holds!(end >= before.now || grace || !kept, "I9: {id} is still held by a lease that was over");
        }
        for (name, queue) in &after.queues {
            let late = before.queues[name].scheduled.intersection(&queue.scheduled).count();
            let due = self.engine.redis::<usize>(
                "ZCOUNT",
                &format!("scheduled:{name}"),
                &["-inf", &before.now.to_string()],
            );
            holds!(due == 0 || late == 0, "{name}: {due} jobs that are due were left");
        }
        Ok(())
    }

    fn cancel(&mut self) -> Check {
        let Some(id) = self.some_job() else { return Ok(()) };
        let by = self.name("c");
        let words = format!(r#""by":"{by}""#);
        let running = self.model.before.run.contains_key(&id);
        let ended = self.model.outcomes.contains_key(&id)
            || self.model.before.queues.values().any(|queue| queue.failed.contains(&id));
        let expected = if self.model.purged.contains(&id) {
            "unknown"
        } else if ended {
            "ended"
        } else if running {
            "requested"
        } else {
            self.model.may_end.insert(id.clone(), words);
            "canceled"
        };
        for _ in 0..2 {
            // Told twice it says the same: the first answer may have been lost.
            let answer: String = self.call("cancel", &[id.clone(), by.clone()])?;
            holds!(answer == expected, "cancel of {id} says {answer}, not {expected}");
        }
        Ok(())
    }

    fn requeue(&mut self) -> Check {
        let queue = QUEUES[self.below(2)];
        let Some(id) = self.model.before.queues[queue].failed.iter().min().cloned() else { return Ok(()) };
        let args = if self.chance(70) {
            strings(&[&"", &self.name("r"), &id])
        } else {
            strings(&[&queue, &self.model.before.now, &10])
        };
        let n: usize = self.call("requeue", &args)?;
        holds!(n >= 1 || !args[0].is_empty(), "{id} had failed and was not put back");
        Ok(())
    }

    fn purge(&mut self) -> Check {
        let queue = QUEUES[self.below(2)];
        let state = ["failed", "failed", "queued", "scheduled", "deferred"][self.below(5)];
        let room = &self.model.before.queues[queue];
        let there: Vec<String> = match state {
            "failed" => room.failed.iter().cloned().collect(),
            "scheduled" => room.scheduled.iter().cloned().collect(),
            "deferred" => room.deferred.iter().cloned().collect(),
            _ => room.list.iter().chain(room.groups.values().flatten()).cloned().collect(),
        };
        self.model.may_vanish.extend(there.iter().cloned());
        let most = 1 + self.below(10);
        let n: usize = self.call("purge", &strings(&[&queue, &state, &most, &"+inf", &"g"]))?;
        holds!(n == there.len().min(most), "{n} of {} were thrown away, {most} were meant", there.len());
        Ok(())
    }

    fn control(&mut self) -> Check {
        let queue = QUEUES[self.below(2)];
        let (what, value) = match self.below(4) {
            0 if self.paused.len() < 2 => {
                self.paused.insert(queue);
                ("pause", String::new())
            }
            1 => {
                let limit = 1 + self.below(6);
                self.limits.insert(queue, limit);
                ("concurrency", limit.to_string())
            }
            2 => {
                self.limits.remove(queue);
                ("concurrency", String::new())
            }
            _ => {
                self.paused.remove(queue);
                ("resume", String::new())
            }
        };
        self.call::<()>("control", &strings(&[&queue, &what, &value]))
    }

    /// Gives back what a lost answer had, after which the fetch may arrive once more.
    fn release(&mut self) -> Check {
        let Some(token) = self.lost.pop() else { return Ok(()) };
        self.call::<u64>("release", &[token.clone(), "a".into(), "b".into()])?;
        let held = |snapshot: &Snapshot| {
            snapshot.run.values().filter(|holder| holder.starts_with(&format!("{token}."))).count()
        };
        let after = self.engine.look();
        holds!(held(&after) == 0, "{token} was released and still holds jobs");
        let came = self.take("late", &token, 5, &["a", "b"], LEASE)?;
        holds!(came == 0, "a fetch that was given up took {came} jobs");
        Ok(())
    }

    /// With one good worker, everything comes to its end.
    pub fn wind_up(&mut self) -> Check {
        for queue in QUEUES {
            for (what, value) in [("resume", ""), ("concurrency", "")] {
                self.call::<()>("control", &strings(&[&queue, &what, &value]))?;
            }
        }
        (self.paused, self.limits, self.workers) = Default::default();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            self.tick(false)?;
            self.check()?;
            let token = self.name("t");
            let came = self.take("last", &token, 50, &QUEUES, 60_000)?;
            self.check()?;
            for held in self.workers.remove("last").into_iter().flatten() {
                let end = |(id, extras)| {
                    let text = format!(r#"{{"state":"finished","by":"{id}"}}"#);
                    ["ok".into(), id, held.token.clone(), u8::from(extras).to_string(), "600000".into(), text]
                };
                let entries = held.jobs.into_iter().map(end).collect();
                self.deliver(held.queue, &[held.lease], entries)?;
                self.check()?;
            }
            let live = |snapshot: &Snapshot| {
                let failed: usize = snapshot.queues.values().map(|queue| queue.failed.len()).sum();
                snapshot.jobs.len() - failed
            };
            let left = live(&self.model.before);
            if left == 0 {
                break;
            }
            holds!(std::time::Instant::now() < deadline, "L1: {left} jobs come to no end");
            if came == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        for (id, outcome) in &self.model.outcomes {
            let ran = self.model.jobs[id].runs > 0;
            holds!(ran || !outcome.contains("finished"), "L2: {id} has finished and never ran");
        }
        Ok(())
    }
}
