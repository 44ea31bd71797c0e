//! Ids of committed rows that a background task of this process handles.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// Maximum number of ids that wait for the task.
const MAX_IDS: usize = 10_000;

/// Ids of committed rows that wait for a background task; clones share them. At most one task takes ids at a time, so that
/// it handles the rows of many transactions together.
#[derive(Clone, Default)]
pub struct CommittedIds(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    ids: Vec<Uuid>,
    has_task: bool,
}

/// The right of a task to take ids. Until the turn is over or dropped, no other task is started.
pub struct Turn {
    waiting: CommittedIds,
    is_over: bool,
}

impl CommittedIds {
    /// Adds ids. Returns a turn if there is no task: the caller then starts one. Ids beyond 10,000 waiting ids are dropped, so a
    /// scheduled job must look for rows that were left over.
    pub fn add(&self, ids: Vec<Uuid>) -> Option<Turn> {
        let mut waiting = self.lock();
        let room = MAX_IDS.saturating_sub(waiting.ids.len());
        waiting.ids.extend(ids.into_iter().take(room));
        let is_first = !std::mem::replace(&mut waiting.has_task, true);
        is_first.then(|| Turn { waiting: self.clone(), is_over: false })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Takes up to `max` ids, the oldest first. If there are no ids, the turn is over, and the task must end.
    pub fn take(&mut self, max: usize) -> Vec<Uuid> {
        let mut waiting = self.waiting.lock();
        let count = waiting.ids.len().min(max);
        if count == 0 {
            // The flag is reset under the lock, so that no id is added after the check and then has no task.
            waiting.has_task = false;
            self.is_over = true;
        }
        waiting.ids.drain(..count).collect()
    }
}

impl Drop for Turn {
    /// Lets another task start if this one has panicked, or its runtime shuts down.
    fn drop(&mut self) {
        if !self.is_over {
            self.waiting.lock().has_task = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_at_a_time_takes_the_ids() {
        let (waiting, [a, b, c]) = (CommittedIds::default(), [1, 2, 3].map(Uuid::from_u128));
        let mut turn = waiting.add(vec![a, b]).unwrap();
        assert!(waiting.add(vec![c]).is_none(), "the task takes it");
        assert_eq!((turn.take(2), turn.take(2)), (vec![a, b], vec![c]));
        assert!(waiting.add(vec![a]).is_none());
        assert_eq!((turn.take(2), turn.take(2)), (vec![a], vec![]));
        let next = waiting.add(vec![b]).expect("the turn is over");
        drop(turn);
        assert!(waiting.add(vec![c]).is_none(), "a turn that is over ends no other");
        drop(next);
        let mut next = waiting.add(vec![]).expect("the task was dropped");
        assert_eq!(next.take(9), [b, c], "nothing is lost");
    }

    #[test]
    fn the_number_of_ids_is_limited() {
        let waiting = CommittedIds::default();
        let mut turn = waiting.add(vec![Uuid::nil(); MAX_IDS - 1]).unwrap();
        assert!(waiting.add(vec![Uuid::max(); 3]).is_none());
        assert_eq!(turn.take(usize::MAX).len(), MAX_IDS);
    }
}
