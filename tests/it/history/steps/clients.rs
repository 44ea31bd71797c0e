//! Random steps of a history: clients enqueue jobs, and operators cancel, requeue and purge jobs, and pause and limit queues.

use std::collections::BTreeSet;

use super::{History, strings};
use crate::history::{
    model::{Accepted, Check, holds, owner_of},
    scripts::{GROUPS, QUEUES},
};

impl History {
    pub(super) fn push(&mut self) -> Check {
        let queue = QUEUES[self.below(2)];
        let n = [1, 1, 1, 1, 5, 30][self.below(6)];
        let when = match self.below(10) {
            0 | 1 => format!("+{}", 5 + self.below(50)),
            2 => (self.model.before.now + self.below(60) as i64).to_string(),
            _ => "0".into(),
        };
        let group = self.chance(35).then(|| GROUPS[self.below(GROUPS.len())].to_owned());
        let key = (n == 1 && self.chance(20)).then(|| format!("key {}", self.below(4)));
        let keep_first = self.chance(50);
        let mut after = Vec::new();
        while n == 1 && after.len() < 3 && self.chance(35) {
            after.extend(self.some_job().filter(|id| !after.contains(id) && !self.model.purged.contains(id)));
        }
        let (after_failures, has_key) = (self.chance(30), key.is_some());
        let window = if self.chance(50) { 30 } else { 600_000 };
        let mut ids = Vec::new();
        for _ in 0..n {
            let again =
                if key.is_none() && after.is_empty() && self.chance(5) { self.some_job() } else { None };
            // Clients do not push a purged job again: the engine no longer knows its id.
            let again = again.filter(|id| !self.model.purged.contains(id));
            ids.push(match again {
                Some(id) => id,
                None => format!("{:06}", {
                    self.named += 1;
                    self.named
                }),
            });
        }
        let (max_jobs, max_bytes) = (10 + self.below(40), 1_000 + self.below(4_000));
        let envelope = |id: &String| format!(r#"{{"v":1,"task":"t","queue":"{queue}","payload":"{id}"}}"#);
        let mut args =
            strings(&[&queue, &n, &when, &u8::from(self.chance(20)), &group.clone().unwrap_or_default()]);
        args.extend(strings(&[
            &key.clone().unwrap_or_default(),
            &window,
            &if keep_first { "first" } else { "last" },
        ]));
        args.extend(strings(&[&after.len(), &if after_failures { "any" } else { "good" }]));
        args.extend(strings(&[&max_jobs, &max_bytes, &"", &""]));
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
        let answered = match self.engine.call::<Vec<String>>("push", &args) {
            Ok(answered) => answered,
            Err(error) if error.code() == Some("QUOTA") => {
                self.model.may_end.clear();
                return self.expect_over_limit(group.as_deref(), &ids, max_jobs, max_bytes);
            }
            Err(error) => return Err(format!("push raised {error}")),
        };
        let within = self.expect_over_limit(group.as_deref(), &ids, max_jobs, max_bytes).is_err();
        if let Some((first, open)) = first {
            if keep_first {
                holds!(
                    answered == [first] || !open,
                    "{ids:?} was enqueued with the answer {answered:?}, but another job has the key"
                );
                if answered.first().is_some_and(|id| *id != ids[0]) {
                    return Ok(());
                }
            } else {
                let gone = self.engine.outcomes(std::slice::from_ref(&first))[0].contains("a newer one");
                holds!(gone || !waits || !open, "{first} was waiting and not replaced by {ids:?}");
            }
        }
        holds!(
            within || ids.iter().all(|id| self.model.jobs.contains_key(id)),
            "{ids:?} are more than {group:?} may have"
        );
        for id in ids {
            let known = self.model.jobs.contains_key(&id);
            holds!(
                known == answered.contains(&id),
                "push of {id} returns {answered:?}; the job exists: {known}"
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

    /// Returns an error unless the jobs in `ids` that are new would exceed the limit of jobs or of bytes of their owner.
    fn expect_over_limit(
        &self,
        group: Option<&str>,
        ids: &[String],
        max_jobs: usize,
        max_bytes: usize,
    ) -> Check {
        let Some(account) = group.and_then(owner_of).and_then(|owner| self.model.before.accounts.get(owner))
        else {
            return Err("without an owner there is no limit".into());
        };
        let new: BTreeSet<_> = ids.iter().filter(|id| !self.model.jobs.contains_key(*id)).collect();
        let envelope = r#"{"v":1,"task":"t","queue":"a","payload":"000000"}"#.len();
        let sum = |name: &str| account.sizes.get(name).copied().unwrap_or(0) as usize;
        let (jobs, bytes) = (sum("jobs") + new.len(), sum("bytes") + new.len() * envelope);
        let is_over = !new.is_empty() && (jobs > max_jobs || bytes > max_bytes);
        holds!(
            is_over,
            "{group:?} has {jobs} jobs and {bytes} bytes, {max_jobs} and {max_bytes} are allowed"
        );
        Ok(())
    }

    /// Deletes the jobs of an owner that do not run, also failed jobs, and signals the running jobs of the owner to stop. Jobs
    /// of other owners stay.
    pub(super) fn purge_owner(&mut self) -> Check {
        let owner = 1 + self.below(2);
        let group = format!("owner:{owner}");
        let owned = self
            .model
            .jobs
            .iter()
            .filter(|(_, job)| job.group.as_deref().and_then(owner_of) == Some(group.as_str()));
        let owned: BTreeSet<String> = owned.map(|(id, _)| id.clone()).collect();
        let before = &self.model.before;
        let waits = |id: &&String| owned.contains(*id) && !before.run.contains_key(*id);
        let gone: Vec<_> = before.jobs.iter().filter(waits).cloned().collect();
        // The script does not count a job that was already signaled to stop.
        let stops = |id: &&String| owned.contains(*id) && !before.cancel.contains(*id);
        let running: Vec<_> = before.run.keys().filter(stops).cloned().collect();
        self.model.may_be_deleted.extend(gone.iter().cloned());
        let most = 1 + self.below(10);
        let (mut deleted, mut stopping, mut rest) = (0, 0, "lists".to_owned());
        while !rest.is_empty() {
            let (d, s, left) =
                self.call::<(usize, usize, String)>("purge_owner", &strings(&[&owner, &most, &rest]))?;
            (deleted, stopping, rest) = (deleted + d, stopping + s, left);
        }
        holds!(deleted == gone.len(), "{deleted} of {} were deleted", gone.len());
        holds!(stopping >= running.len(), "{stopping} of {} were told to stop", running.len());
        let after = self.engine.snapshot();
        let left = after.jobs.iter().find(|id| owned.contains(*id) && !after.run.contains_key(*id));
        holds!(left.is_none(), "{left:?} of {group} is left");
        let goes_on = running.iter().find(|id| !after.cancel.contains(*id));
        holds!(goes_on.is_none(), "{goes_on:?} was not told to stop");
        Ok(())
    }

    /// Returns the job that holds a unique key, and whether the key holds for more than another minute.
    pub(super) fn holder_of(&mut self, key: &str) -> Option<(String, bool)> {
        let key = format!("uniq:{key}");
        let open = self.engine.redis::<i64>("PTTL", &key, &[]) > 60_000;
        self.engine.redis::<Option<String>>("GET", &key, &[]).map(|id| (id, open))
    }

    pub(super) fn cancel(&mut self) -> Check {
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
            // A repeated call must return the same result, because the response to the first call may have been lost.
            let answer: String = self.call("cancel", &[id.clone(), by.clone()])?;
            holds!(answer == expected, "cancel of {id} returns {answer} instead of {expected}");
        }
        Ok(())
    }

    pub(super) fn requeue(&mut self) -> Check {
        let queue = QUEUES[self.below(2)];
        let Some(id) = self.model.before.queues[queue].failed.iter().min().cloned() else { return Ok(()) };
        let args = if self.chance(70) {
            strings(&[&"", &self.name("r"), &id])
        } else {
            strings(&[&queue, &self.model.before.now, &10])
        };
        let n: usize = self.call("requeue", &args)?;
        holds!(n >= 1 || !args[0].is_empty(), "{id} had failed and was not requeued");
        Ok(())
    }

    pub(super) fn purge(&mut self) -> Check {
        let queue = QUEUES[self.below(2)];
        let state = ["failed", "queued", "queued", "scheduled", "deferred"][self.below(5)];
        let room = &self.model.before.queues[queue];
        let there: Vec<String> = match state {
            "failed" => room.failed.iter().cloned().collect(),
            "scheduled" => room.scheduled.iter().cloned().collect(),
            "deferred" => room.deferred.iter().cloned().collect(),
            _ => room.list.iter().chain(room.groups.values().flatten()).cloned().collect(),
        };
        self.model.may_be_deleted.extend(there.iter().cloned());
        let most = 1 + self.below(10);
        let (mut gone, mut left) = (0, Vec::new());
        loop {
            let args = [strings(&[&queue, &state, &most, &"+inf", &"g"]), left].concat();
            let (n, rest): (usize, Vec<String>) = self.call("purge", &args)?;
            // ZSCAN returns all entries of a small set in one call, so the limit does not apply to `scheduled` and `deferred`.
            let at_once = ["scheduled", "deferred"].contains(&state);
            holds!(n <= most || at_once, "{n} were purged in one call with a limit of {most}");
            gone += n;
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        holds!(gone == there.len(), "{gone} of {} were purged", there.len());
        Ok(())
    }

    pub(super) fn control_queue(&mut self) -> Check {
        let queue = QUEUES[self.below(2)];
        let (what, value) = match self.below(4) {
            0 if self.paused.len() < 2 => {
                self.paused.insert(queue);
                ("paused", "1".to_owned())
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
                ("paused", String::new())
            }
        };
        let changed: u8 = self.call("control", &strings(&[&queue, &"", &what, &value]))?;
        holds!(changed == 1, "{what} of {queue} was not changed");
        Ok(())
    }
}
