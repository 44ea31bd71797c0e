//! The move of all jobs of one prefix or server to another, and the search for jobs that a change of the prefix has left
//! behind.
//!
//! The old and the new place are each a prefix on a server. A script takes a batch of jobs out of the queues of the old place
//! and stores it there in a separate list. Another script adds the batch to the new place. The next call at the old place
//! confirms that the batch has arrived, and deletes the list.
//!
//! The new place stores the number of the last batch, so a batch that is sent twice is added once. If a move is interrupted,
//! no job is lost or duplicated: a move that begins within 30 days of the last batch continues with the same batch.

use std::collections::BTreeSet;

use redis::Cmd;
use uuid::Uuid;

use super::{
    client::Queue,
    error::{Error, Result},
    scripts,
    worker_record::LISTED_FOR,
};

/// Steps of a move, as the script `move_out` names them. Settings come first, so that no job of a paused queue starts. They come
/// last again, because the totals move with them, and the other steps may have added to the totals of the old place.
const STEPS: [&str; 5] = ["settings", "jobs", "ended", "keys", "settings"];
/// The last step. Deletes the settings of the old place and other keys of the engine there, unless jobs, states or outcomes are
/// left there.
const LAST_STEP: &str = "finish";

/// Maximum number of calls of `SCAN` that look for other prefixes, and about how many keys each call examines.
const MAX_SCANS: usize = 1_000;
const KEYS_PER_SCAN: usize = 1_000;
/// Number of prefixes after which the search for other prefixes ends.
const MAX_PREFIXES: usize = 100;
/// TTL of the key that shows whether two places are the same, in milliseconds.
const MARK_TTL_MS: u64 = 10_000;

/// How much a move has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    pub jobs: u64,
    /// States of ended jobs. Their outcomes are moved too, and not counted.
    pub ended: u64,
}

/// Why a move was refused or has stopped. The next call of [`Queue::move_from`] continues a move that has begun.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The old and the new place are the same.
    #[error("the jobs are there already")]
    SamePlace,
    /// A worker of the old place has sent a heartbeat in the last 30 seconds.
    #[error("workers of the old prefix are running")]
    Workers,
    /// This number of jobs are left in the old place, and the last round has moved none. Probably their envelopes are in the hash
    /// `jobs`, but no list, sorted set or lease of a queue has their ids.
    #[error("{0} jobs are probably not listed in any queue")]
    Left(u64),
    #[error("the old place cannot be used")]
    Source(#[source] Error),
    #[error("the new place cannot be used")]
    Target(#[source] Error),
}

/// Another prefix of the same server, with jobs that no worker serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherPrefix {
    pub prefix: String,
    /// Number of jobs that wait or have failed.
    pub jobs: u64,
}

struct Move<'a> {
    source: &'a Queue,
    target: &'a Queue,
    /// The last batch that has arrived, as `id of the move:number of the batch`. Empty at first.
    arrived: String,
    moved: Moved,
}

impl Queue {
    /// Moves jobs, states, outcomes, schedules, limits with their token buckets, pauses, totals and unique keys from `source`
    /// to this queue. Limits, schedules and unique keys that this queue already has stay.
    ///
    /// `source` must have another prefix or server. Jobs that were running are moved as jobs of a crashed worker. `report` is
    /// called after each batch, with the numbers of all batches so far.
    ///
    /// # Errors
    /// [`MoveError`]. The batches that were moved before the error stay in this queue.
    pub async fn move_from(&self, source: &Self, mut report: impl FnMut(Moved)) -> Result<Moved, MoveError> {
        if self.is_same_place(source).await? {
            return Err(MoveError::SamePlace);
        }
        // Checks the permission to run SCAN, which the step `keys` needs: a refusal after the jobs have moved is too late.
        let mut scan = redis::cmd("SCAN");
        scan.arg(0);
        source.scripts().command::<redis::Value>(&scan).await.map_err(MoveError::Source)?;
        let mut moving = Move { source, target: self, arrived: String::new(), moved: Moved::default() };
        loop {
            let before = moving.moved.jobs;
            for step in STEPS {
                moving.run(step, &mut report).await?;
            }
            let left = moving.run(LAST_STEP, &mut report).await?;
            if left == 0 {
                break;
            }
            // The next round moves jobs that were enqueued in the old place meanwhile.
            if moving.moved.jobs == before {
                return Err(MoveError::Left(left));
            }
        }
        Ok(moving.moved)
    }

    /// Returns whether both clients use the same keys of the same server.
    async fn is_same_place(&self, other: &Self) -> Result<bool, MoveError> {
        if self.prefix() != other.prefix() {
            return Ok(false);
        }
        let (key, mark) = (format!("{}:moving:mark", self.prefix()), Uuid::new_v4().simple().to_string());
        let written = other.scripts().command::<()>(&Cmd::pset_ex(&key, &mark, MARK_TTL_MS)).await;
        written.map_err(MoveError::Source)?;
        let found: Option<String> =
            self.scripts().command(&Cmd::get(&key)).await.map_err(MoveError::Target)?;
        Ok(found == Some(mark))
    }

    /// Returns the other prefixes of this server whose jobs no worker serves, as after a change of the prefix. Looks at a
    /// limited number of keys, and leaves out prefixes that cannot be read, for example because the Redis user may not read
    /// their keys.
    pub async fn other_prefixes(&self) -> Vec<OtherPrefix> {
        let mut others = Vec::new();
        for prefix in self.possible_prefixes().await {
            let other = self.with_prefix(&prefix);
            let Ok(queues) = other.queues().await else { continue };
            let in_queue =
                queues.iter().map(|queue| queue.queued + queue.scheduled + queue.deferred + queue.failed);
            let jobs: u64 = in_queue.sum();
            if jobs > 0 && other.workers().await.is_ok_and(|workers| workers.is_empty()) {
                others.push(OtherPrefix { prefix, jobs });
            }
        }
        others
    }

    /// Returns other prefixes that have a key `<prefix>:jobs`, the hash of all jobs. These may include prefixes whose keys the
    /// Redis user may not read, because `SCAN` needs no permission for keys.
    async fn possible_prefixes(&self) -> BTreeSet<String> {
        let mut prefixes = BTreeSet::new();
        let mut cursor = "0".to_owned();
        for _ in 0..MAX_SCANS {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor)
                .arg("MATCH")
                .arg("*:jobs")
                .arg("COUNT")
                .arg(KEYS_PER_SCAN)
                .arg("TYPE")
                .arg("hash");
            let Ok((next, keys)) = self.scripts().command::<(String, Vec<Vec<u8>>)>(&scan).await else {
                break;
            };
            let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
            prefixes.extend(keys.filter_map(|key| Some(key.strip_suffix(":jobs")?.to_owned())));
            cursor = next;
            if cursor == "0" || prefixes.len() >= MAX_PREFIXES {
                break;
            }
        }
        prefixes.remove(self.prefix());
        prefixes
    }
}

impl Move<'_> {
    /// Runs a step to its end. Returns how many jobs are left in the old place after the last step, and 0 after other steps.
    async fn run(&mut self, step: &str, report: &mut impl FnMut(Moved)) -> Result<u64, MoveError> {
        let mut argument = String::new();
        loop {
            let mut take = self.source.prepare_call(&scripts::MOVE_OUT);
            let new_id = Uuid::new_v4().simple().to_string();
            take.arg(step).arg(new_id).arg(&self.arrived).arg(LISTED_FOR.as_millis() as u64).arg(&argument);
            let (id, batch, records, next): (String, u64, Vec<Vec<u8>>, String) =
                self.source.run(&take).await.map_err(MoveError::Source)?;
            if !records.is_empty() {
                self.add(&id, batch, &records).await.map_err(MoveError::Target)?;
                report(self.moved);
            }
            argument = match next.as_str() {
                "end" => return Ok(0),
                "workers" => return Err(MoveError::Workers),
                left if step == LAST_STEP && records.is_empty() => {
                    return left.parse::<u64>().map_err(|error| MoveError::Source(Error::internal(error)));
                }
                _ => next,
            };
        }
    }

    async fn add(&mut self, id: &str, batch: u64, records: &[Vec<u8>]) -> Result<()> {
        let mut add = self.target.prepare_call(&scripts::MOVE_IN);
        add.arg(id).arg(batch);
        for record in records {
            add.arg(record.as_slice());
        }
        let (jobs, ended): (u64, u64) = self.target.run(&add).await?;
        self.arrived = format!("{id}:{batch}");
        self.moved.jobs += jobs;
        self.moved.ended += ended;
        Ok(())
    }
}
