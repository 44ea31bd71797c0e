//! Measurements of failovers of Redis under load, for the table in docs/scaling.md. The test prints a row for each kind of
//! failover.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use saas::queue::{Origin, Queue, State};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{
    eventually,
    queue::{Behavior, Task, TestQueue, steady},
    redis_topology::{CLUSTER_PREFIX, Cluster, MASTER_NAME, Node, SentinelGroup},
};

/// Time between two enqueues.
const ENQUEUE_INTERVAL: Duration = Duration::from_millis(10);
/// The minimum number of jobs that are accepted before the failover begins.
const JOBS_BEFORE: usize = 200;
/// The minimum number of jobs that are accepted after another server is the primary.
const JOBS_AFTER: usize = 1_500;

/// Jobs that are enqueued at a steady rate.
#[derive(Default)]
struct Load {
    /// Id, name and time of each accepted job.
    accepted: Mutex<Vec<(String, String, Instant)>>,
    refused: AtomicU64,
    is_over: AtomicBool,
}

impl Load {
    async fn run(self: Arc<Self>, queue: Queue) {
        let (mut ticks, calls) = (tokio::time::interval(ENQUEUE_INTERVAL), TaskTracker::new());
        for number in 0_u64.. {
            ticks.tick().await;
            if self.is_over.load(Ordering::SeqCst) {
                break;
            }
            let (load, queue) = (self.clone(), queue.clone());
            calls.spawn(async move {
                let task = Task { name: number.to_string(), behavior: Behavior::Succeed };
                match queue.enqueue(&task, Origin::default()).await {
                    Ok(id) => load.accepted.lock().unwrap().push((id, task.name, Instant::now())),
                    Err(_) => {
                        load.refused.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        calls.close();
        calls.wait().await;
    }

    fn accepted(&self) -> Vec<(String, String, Instant)> {
        self.accepted.lock().unwrap().clone()
    }

    async fn until_accepted(&self, jobs: usize) {
        eventually("jobs are accepted", || async { (self.accepted().len() >= jobs).then_some(()) }).await;
    }

    /// Returns the longest time without an accepted job.
    fn outage(&self) -> Duration {
        let mut times: Vec<_> = self.accepted().into_iter().map(|(_, _, at)| at).collect();
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Runs a worker and enqueues jobs during `failover`, in which `promoted` replaces `old` as the primary. Asserts that the
/// jobs that were replicated before the failover have run, and also the last [`JOBS_BEFORE`] accepted jobs.
async fn measure(
    name: &str,
    queue: &TestQueue,
    old: &Node,
    promoted: &Node,
    failover: impl Future<Output = ()>,
) {
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(4)).run(stop.clone(), CancellationToken::new()));
    let load = Arc::new(Load::default());
    let running = tokio::spawn(load.clone().run(queue.queue.clone()));
    load.until_accepted(JOBS_BEFORE).await;
    let replicated = load.accepted();
    old.replicate().await;

    failover.await;
    eventually("another server is the primary", || async { promoted.is_primary().await.then_some(()) }).await;
    let elected = Instant::now();
    load.until_accepted(load.accepted().len() + JOBS_AFTER).await;
    load.is_over.store(true, Ordering::SeqCst);
    running.await.unwrap();

    let accepted = load.accepted();
    let (mut open, mut unknown): (Vec<_>, HashSet<_>) = (accepted.iter().collect(), HashSet::new());
    while let Some((id, name, _)) = open.pop() {
        let status = eventually("the job has ended", || async {
            match queue.queue.status(id).await.ok()? {
                Some(status) if status.state != State::Finished => None,
                status => Some(status),
            }
        })
        .await;
        if status.is_none() {
            unknown.insert(name.clone());
        }
    }
    stop.cancel();
    work.await.unwrap().unwrap();

    let mut runs: HashMap<String, u32> = HashMap::new();
    for name in queue.log.ran() {
        *runs.entry(name).or_default() += 1;
    }
    let lost = accepted.iter().filter(|(_, name, _)| !runs.contains_key(name)).count();
    let twice = runs.values().filter(|count| **count > 1).count();
    let back = accepted.iter().map(|(_, _, at)| at.saturating_duration_since(elected));
    let back = back.filter(|after| !after.is_zero()).min().unwrap_or_default();
    println!(
        "| {name} | {:.1} s | {:.1} s | {} of {} | {} | {lost} | {twice} |",
        load.outage().as_secs_f64(),
        back.as_secs_f64(),
        load.refused.load(Ordering::SeqCst),
        accepted.len(),
        unknown.len(),
    );
    let last = accepted.iter().rev().take(JOBS_BEFORE);
    for (_, name, _) in replicated.iter().chain(last) {
        assert!(!unknown.contains(name) && runs.contains_key(name), "job {name} is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: ./scripts/test --full failover"]
async fn failovers_under_load_lose_nothing_that_was_replicated() {
    println!(
        "| failover | outage | back after the election | refused | unknown afterwards | never ran | ran twice |"
    );
    println!("|---|---|---|---|---|---|---|");
    for kill in [true, false] {
        let group = SentinelGroup::start(2, 3).await;
        let queue = TestQueue::on(&group.url(), "rq");
        // The Sentinels may choose any replica to promote. Priority 0 excludes the other replica.
        let [old, promoted, other] = &group.servers[..] else { unreachable!() };
        other.command::<()>(&["CONFIG", "SET", "replica-priority", "0"]).await.unwrap();
        eventually("the Sentinels know the priority", || async {
            for sentinel in &group.sentinels {
                let replicas = group.replicas_of(sentinel).await?;
                replicas.iter().any(|fields| fields["slave-priority"] == "0").then_some(())?;
            }
            Some(())
        })
        .await;
        let failover = async {
            match kill {
                true => {
                    old.process.signal("KILL");
                    group.fail_over_soon().await;
                }
                false => {
                    let words = ["SENTINEL", "FAILOVER", MASTER_NAME];
                    group.sentinels[0].command::<()>(&words).await.unwrap();
                }
            }
        };
        let name = if kill { "Sentinel, primary killed" } else { "Sentinel, `SENTINEL FAILOVER`" };
        measure(name, &queue, old, promoted, failover).await;
    }
    for kill in [true, false] {
        let cluster = Cluster::start().await;
        let queue = TestQueue::on(&cluster.url(), CLUSTER_PREFIX);
        let failover = async {
            match kill {
                true => {
                    cluster.owner().process.signal("KILL");
                    cluster.fail_over_soon().await;
                }
                false => cluster.replica().command::<()>(&["CLUSTER", "FAILOVER"]).await.unwrap(),
            }
        };
        let name = if kill { "Cluster, primary killed" } else { "Cluster, `CLUSTER FAILOVER`" };
        measure(name, &queue, cluster.owner(), cluster.replica(), failover).await;
    }
}
