//! Workers as separate processes, which are killed, suspended and replaced.
//!
//! The worker processes run this test binary with the single test `worker_process`.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use saas::queue::{Context, EnqueueOptions, Failure, Job, JobState, JobType, Options, Origin, State, Worker};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    process::{Running, TempDir},
    queue::{TestQueue, client},
    servers::servers,
};

/// A job that appends its name to a file that all workers share, then sleeps or aborts its process.
#[derive(Serialize, Deserialize)]
struct Note {
    name: String,
    sleep_ms: u64,
    abort: bool,
}

/// The file in which each job notes that it has started.
#[derive(Clone)]
struct Notes(PathBuf);

impl JobState for Notes {}

impl Job for Note {
    type State = Notes;
    type Output = ();
    const NAME: &'static str = "note";

    async fn run(self, ctx: Context<Notes>) -> Result<(), Failure> {
        let mut file = std::fs::File::options().append(true).create(true).open(&ctx.state.0)?;
        // A single write, so that the lines of several processes do not mix.
        file.write_all(format!("{}\n", self.name).as_bytes())?;
        if self.abort {
            std::process::abort();
        }
        tokio::time::sleep(Duration::from_millis(self.sleep_ms)).await;
        Ok(())
    }
}

const JOBS: &[JobType<Notes>] = &[JobType::of::<Note>()];

/// Not a test: the worker process that the tests start.
#[test]
#[ignore = "run by the tests of this file"]
fn worker_process() {
    let Ok(url) = std::env::var("AS_A_WORKER") else { return };
    let var = |name: &str| std::env::var(name).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let queue = client(&url, &var("PREFIX"));
        let options = Options {
            concurrency: var("CONCURRENCY").parse().unwrap(),
            lease: Duration::from_secs(1),
            burst: false,
            ..options(&["default"])
        };
        let stop = CancellationToken::new();
        let mut term = signal(SignalKind::terminate()).unwrap();
        let worker = Worker::new(&queue, JOBS, Notes(PathBuf::from(var("NOTES"))), options).unwrap();
        let asked = stop.clone();
        tokio::spawn(async move {
            term.recv().await;
            asked.cancel();
        });
        // Exits if the test run that started this process is killed.
        let parent = std::os::unix::process::parent_id();
        tokio::spawn(async move {
            while std::os::unix::process::parent_id() == parent {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            std::process::exit(1);
        });
        worker.run(stop, CancellationToken::new()).await.unwrap();
    });
}

/// Worker processes that share a queue.
struct Fleet {
    queue: TestQueue,
    dir: TempDir,
    url: String,
    workers: Vec<Running>,
}

impl Fleet {
    async fn new(workers: usize, concurrency: usize) -> Self {
        let mut fleet = Self {
            queue: TestQueue::new().await,
            dir: TempDir::new(),
            url: servers().await.redis_url(),
            workers: Vec::new(),
        };
        for _ in 0..workers {
            let worker = fleet.start(concurrency);
            fleet.workers.push(worker);
        }
        fleet
    }

    fn start(&self, concurrency: usize) -> Running {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["queue_processes::worker_process", "--exact", "--ignored", "--nocapture"])
            .env("AS_A_WORKER", &self.url)
            .env("PREFIX", &self.queue.prefix)
            .env("NOTES", self.notes())
            .env("CONCURRENCY", concurrency.to_string());
        Running::start(command)
    }

    fn notes(&self) -> PathBuf {
        Path::join(self.dir.path(), "notes")
    }

    /// Returns how many times each job has started.
    fn ran(&self) -> HashMap<String, u32> {
        let mut all = HashMap::new();
        for name in std::fs::read_to_string(self.notes()).unwrap_or_default().lines() {
            *all.entry(name.to_owned()).or_insert(0) += 1;
        }
        all
    }

    async fn enqueue(&self, names: std::ops::Range<usize>, sleep_ms: u64) -> Vec<String> {
        let notes: Vec<_> = names.map(|n| Note { name: n.to_string(), sleep_ms, abort: false }).collect();
        self.queue.queue.enqueue_all(&notes, Origin::default(), EnqueueOptions::default()).await.unwrap()
    }

    async fn until_finished(&self, jobs: u64) {
        eventually("all jobs have finished", || async {
            let info = self.queue.queue.queue("default").await.unwrap().unwrap();
            // A job whose worker was killed three times has failed. The test requeues it, as an operator would.
            if info.failed > 0 && info.queued + info.scheduled + info.started == 0 {
                self.queue.queue.requeue_failed(&info).await.unwrap();
            }
            (info.totals.finished == jobs).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn no_job_is_lost_when_workers_are_killed() {
    let full = std::env::var_os("TEST_FULL").is_some();
    let (jobs, kills) = if full { (10_000, 100) } else { (1_000, 10) };
    let mut fleet = Fleet::new(3, 100).await;
    let ids = fleet.enqueue(0..jobs, 20).await;
    for kill in 0..kills {
        // Spreads the kills over the whole run.
        let begun = kill * jobs / (kills + 1);
        eventually("some jobs have started", || async { (fleet.ran().len() >= begun).then_some(()) }).await;
        let victim = kill % fleet.workers.len();
        fleet.workers[victim].signal("KILL");
        fleet.workers[victim] = fleet.start(100);
    }
    fleet.until_finished(jobs as u64).await;
    let ran = fleet.ran();
    assert_eq!(ran.len(), jobs, "every job has run");
    for id in &ids {
        assert_eq!(fleet.queue.status(id).await.state, State::Finished);
    }
    let again = ran.values().filter(|times| **times > 1).count();
    println!("{kills} kills over {jobs} jobs: none lost, {again} run more than once");
    fleet.queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_job_that_aborts_its_process_fails_and_others_do_not() {
    let mut fleet = Fleet::new(1, 10).await;
    fleet.enqueue(0..5, 50).await;
    let poison = Note { name: "poison".into(), sleep_ms: 0, abort: true };
    let poison = fleet.queue.queue.enqueue(&poison, Origin::default()).await.unwrap();
    for run in 1..=3 {
        eventually("the job is running", || async {
            (fleet.ran().get("poison") == Some(&run)).then_some(())
        })
        .await;
        fleet.workers[0].end().await;
        // Restarts the worker, as an orchestrator does.
        fleet.workers[0] = fleet.start(10);
    }
    fleet.queue.until(&poison, State::Failed).await;
    assert_eq!(fleet.ran()["poison"], 3);
    let status = fleet.queue.status(&poison).await;
    assert_eq!(status.error.as_deref(), Some("The worker that ran this job died"));
    eventually("the other jobs have finished", || async {
        let info = fleet.queue.queue.queue("default").await.unwrap().unwrap();
        (info.totals.finished == 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_job_runs_once_during_a_rolling_restart() {
    let mut fleet = Fleet::new(3, 10).await;
    let mut jobs = 0;
    for round in 0..6 {
        fleet.enqueue(jobs..jobs + 150, 5).await;
        jobs += 150;
        let half = jobs - 75;
        eventually("half of the jobs have started", || async { (fleet.ran().len() >= half).then_some(()) })
            .await;
        let leaving = round % fleet.workers.len();
        let successor = fleet.start(10);
        let mut leaving = std::mem::replace(&mut fleet.workers[leaving], successor);
        leaving.signal("TERM");
        assert!(leaving.end().await.success());
    }
    fleet.until_finished(jobs as u64).await;
    let ran = fleet.ran();
    assert!(ran.len() == jobs && ran.values().all(|times| *times == 1), "each job runs once");
    fleet.queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_worker_that_was_suspended_loses_its_jobs() {
    let mut fleet = Fleet::new(1, 1).await;
    let ids = fleet.enqueue(0..1, 1_500).await;
    eventually("the job has started", || async { (fleet.ran().len() == 1).then_some(()) }).await;
    fleet.workers[0].signal("STOP");
    let other = fleet.start(1);
    fleet.workers.push(other);
    eventually("another worker has started the job", || async { (fleet.ran()["0"] == 2).then_some(()) })
        .await;
    fleet.workers[0].signal("CONT");
    fleet.until_finished(1).await;
    fleet.enqueue(1..20, 5).await;
    fleet.until_finished(20).await;
    let status = fleet.queue.status(&ids[0]).await;
    assert_eq!((status.state, status.attempts), (State::Finished, 2));
    assert_eq!(fleet.ran()["0"], 2);
    let totals = fleet.queue.queue.queue("default").await.unwrap().unwrap().totals;
    assert_eq!((totals.enqueued, totals.finished), (20, 20), "the late outcome was rejected");
    fleet.queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_suspended_scheduler_does_not_run_jobs_twice() {
    let mut fleet = Fleet::new(2, 10).await;
    eventually("both workers are running", || async {
        (fleet.queue.queue.workers().await.unwrap().len() == 2).then_some(())
    })
    .await;
    fleet.workers[0].signal("STOP");
    let soon = EnqueueOptions {
        when: saas::queue::When::In(Duration::from_millis(200)),
        ..EnqueueOptions::default()
    };
    let notes: Vec<_> = (0..200).map(|n| Note { name: n.to_string(), sleep_ms: 0, abort: false }).collect();
    fleet.queue.queue.enqueue_all(&notes, Origin::default(), soon).await.unwrap();
    eventually("some jobs have started", || async { (fleet.ran().len() >= 50).then_some(()) }).await;
    fleet.workers[0].signal("CONT");
    fleet.until_finished(200).await;
    assert!(fleet.ran().values().all(|times| *times == 1), "each job runs once");
    let worker = fleet.workers.remove(0);
    drop(worker);
    fleet.queue.assert_no_running_records().await;
}
