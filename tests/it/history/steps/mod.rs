//! The steps of a history: actions of clients, workers, schedulers and operators, in random order.

mod clients;
mod workers;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use super::{
    model::{Broken, Check, Model, holds},
    scripts::{Engine, QUEUES, Snapshot},
};

const LEASE: i64 = 40;
const CRASHES: u32 = 5;

/// What a worker believes to hold.
struct Held {
    queue: &'static str,
    token: String,
    lease: String,
    /// Jobs, and whether Redis may have more about them than their envelopes.
    jobs: BTreeMap<String, bool>,
}

pub struct History {
    pub engine: Engine,
    pub model: Model,
    random: u64,
    named: u64,
    workers: BTreeMap<String, Vec<Held>>,
    /// The tokens of fetches whose answers were lost.
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
        let model = Model { before: engine.snapshot(), ..Model::default() };
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

    /// A random number below `n`; SplitMix64 (Steele, Lea, Flood 2014).
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
        // Mostly a recent one.
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

    /// Runs one random step, and checks all invariants.
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
            950..=959 => self.purge()?,
            960..=964 => self.purge_owner()?,
            965..=979 => self.control()?,
            _ => self.release()?,
        }
        if self.chance(2) {
            // Gives leases time to expire.
            std::thread::sleep(Duration::from_millis(20));
        }
        self.check()
    }

    pub fn check(&mut self) -> Check {
        let now = self.engine.snapshot();
        let engine = &mut self.engine;
        self.model.check(now, |ids| engine.outcomes(ids))
    }

    /// Runs one correct worker, with which every job must end.
    pub fn finish(&mut self) -> Check {
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
            let came = self.take("last", &token, (50, 0), None, 3, &QUEUES, 60_000)?;
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
            holds!(std::time::Instant::now() < deadline, "L1: {left} jobs do not end");
            if came == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        for (id, outcome) in &self.model.outcomes {
            let ran = self.model.jobs[id].runs > 0;
            holds!(ran || !outcome.contains("finished"), "L2: {id} has finished without having run");
        }
        Ok(())
    }
}
