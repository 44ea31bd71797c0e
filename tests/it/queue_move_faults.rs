//! `saas queue move` is interrupted, or runs twice at the same time.

use std::{collections::BTreeMap, mem, path::Path};

use saas::queue::{EnqueueOptions, Origin};
use tokio::{runtime::Handle, task::block_in_place};
use tokio_util::sync::CancellationToken;

use crate::support::{
    eventually,
    process::Running,
    queue::{Behavior, Task, TestQueue, connect, steady},
    servers::servers,
};

/// The result of the script `move_out`: the id of the move, the number of the batch, its records, and the argument of the
/// next call.
type Batch = (String, String, Vec<Vec<u8>>, String);

/// Takes the first batch out of a queue, like a move that has just begun.
async fn take(old: &TestQueue) -> Batch {
    old.script("move_out", &["jobs", "m", "", "30000", ""]).await
}

/// Adds a batch to a queue. Returns the number of jobs and the number of ended jobs that this call, or an earlier call with
/// the same batch, has added.
async fn add(new: &TestQueue, (id, number, records, _): &Batch) -> (u64, u64) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/queue/scripts");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let script = redis::Script::new(&(read("lib.lua") + &read("move_in.lua")));
    let mut call = script.key(&new.prefix);
    call.arg(id).arg(number);
    for record in records {
        call.arg(record.as_slice());
    }
    let mut conn = connect(&servers().await.redis_url()).await.unwrap();
    call.invoke_async(&mut conn).await.unwrap()
}

/// Returns the expected counts if each of these jobs has run once.
fn once<const N: usize>(names: [&str; N]) -> BTreeMap<String, usize> {
    BTreeMap::from(names.map(|name| (name.to_owned(), 1)))
}

/// The point at which a move is interrupted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Interruption {
    /// The jobs were taken out of the old queue, and not added to the new one.
    Taken,
    /// The jobs were added to the new queue, and the old queue does not know it.
    Added,
    /// The jobs have run at the destination, and their records have expired.
    AddedAndRun,
}

#[tokio::test]
async fn an_interrupted_move_is_continued() {
    for interruption in [Interruption::Taken, Interruption::Added, Interruption::AddedAndRun] {
        let (old, new) = (TestQueue::new().await, TestQueue::new().await);
        for name in ["a", "b", "c"] {
            old.push(name, Behavior::Succeed).await;
        }
        let batch = take(&old).await;
        assert_eq!(batch.2.len(), 3);
        assert!(!old.redis::<bool>(&["EXISTS", "{}:queue:default"]).await, "no worker finds them");
        if interruption != Interruption::Taken {
            for _ in 0..2 {
                assert_eq!(add(&new, &batch).await, (3, 0));
            }
        }
        if interruption == Interruption::AddedAndRun {
            assert_eq!(new.drain().await.finished, 3);
            new.redis::<u32>(&["DEL", "{}:ended", "{}:done"]).await;
        }
        // This job was enqueued after the interruption.
        old.push("d", Behavior::Succeed).await;
        new.stdout_of(&["move", "--from", &old.prefix]).await;
        assert_eq!(new.run_counts().await, once(["a", "b", "c", "d"]), "{interruption:?}");
        assert_eq!(old.keys().await, [""; 0], "{interruption:?}");
    }
}

#[tokio::test]
async fn a_move_that_is_killed_loses_and_repeats_no_job() {
    const JOBS: usize = 5_000;
    let (old, new) = (TestQueue::new().await, TestQueue::new().await);
    let task = |n: usize| Task { name: n.to_string(), behavior: Behavior::Succeed };
    let tasks: Vec<_> = (0..JOBS).map(task).collect();
    old.queue.enqueue_all(&tasks, Origin::default(), EnqueueOptions::default()).await.unwrap();
    let stop = CancellationToken::new();
    let work = tokio::spawn(new.worker(steady(20)).run(stop.clone(), CancellationToken::new()));
    let mut kills = 0;
    for round in 0..5 {
        let ran = new.log.ran().len();
        let mut moving = Running::start(new.command(&["move", "--from", &old.prefix]).await);
        eventually("the move has begun or ended", || async {
            (new.log.ran().len() > ran + 100 * round || ran + 100 * round >= JOBS).then_some(())
        })
        .await;
        if !moving.has_ended() {
            moving.signal("KILL");
            kills += 1;
        }
        moving.end().await;
    }
    println!("killed {kills} times");
    new.stdout_of(&["move", "--from", &old.prefix]).await;
    eventually("all jobs have run", || async { (new.log.ran().len() >= JOBS).then_some(()) }).await;
    stop.cancel();
    work.await.unwrap().unwrap();
    let runs = new.run_counts().await;
    assert_eq!(runs.len(), JOBS);
    assert!(runs.values().all(|count| *count == 1));
    assert_eq!(old.keys().await, [""; 0]);
}

/// A slow second move tries to add a batch that the first move has already added. The first move has ended.
#[tokio::test]
async fn a_batch_that_arrives_after_the_end_of_its_move_is_not_added_again() {
    let (old, new) = (TestQueue::new().await, TestQueue::new().await);
    old.push("a", Behavior::Succeed).await;
    let batch = take(&old).await;
    new.stdout_of(&["move", "--from", &old.prefix]).await;
    assert_eq!(new.run_counts().await, once(["a"]));
    // Simulates that the record of the ended job has expired.
    new.redis::<u32>(&["DEL", "{}:ended", "{}:done"]).await;
    add(&new, &batch).await;
    assert_eq!(new.run_counts().await, once(["a"]));
    let left: i64 = new.redis(&["TTL", "{}:moved"]).await;
    assert!(left > 0, "what was moved is not remembered for ever: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_continues_after_the_end_of_another_one_loses_no_job() {
    let (old, new) = (TestQueue::new().await, TestQueue::new().await);
    old.push("a", Behavior::Succeed).await;
    let mut is_first_batch = true;
    let report = |_| {
        if mem::take(&mut is_first_batch) {
            block_in_place(|| {
                Handle::current().block_on(async {
                    new.stdout_of(&["move", "--from", &old.prefix]).await;
                    old.push("late", Behavior::Succeed).await;
                })
            });
        }
    };
    new.queue.move_from(&old.queue, report).await.unwrap();
    assert_eq!(new.run_counts().await, once(["a", "late"]));
    assert_eq!(old.keys().await, [""; 0]);
}
