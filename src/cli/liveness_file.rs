//! The files by which workers show that they are running, and the check of these files.
//!
//! A worker locks its file, and updates the modification time of the file while it makes progress. A process that has ended
//! has no lock, while a process that hangs keeps its lock. The check needs no port and no Redis, so it does not fail during
//! an outage of Redis: a worker that waits for Redis is healthy.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use tokio_util::task::AbortOnDropHandle;

use crate::{config::WorkerHealth, queue::Liveness};

const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const FILE_PREFIX: &str = "worker-";
const FILE_SUFFIX: &str = ".alive";

/// Updates the file of a worker each second in which the count of `liveness` has grown, until the handle is dropped.
///
/// A task of the async runtime writes the file, not a thread: if jobs block all threads of the runtime, the updates end.
pub(super) fn report_regularly(
    settings: WorkerHealth,
    worker: &str,
    liveness: Liveness,
) -> AbortOnDropHandle<()> {
    let mut reporter =
        Reporter { settings, worker: worker.to_owned(), file: None, reported_count: None, has_failed: false };
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            reporter.report(liveness.count());
            tokio::time::sleep(REPORT_INTERVAL).await;
        }
    }))
}

/// Checks that at least one running worker has a file in the directory of the settings, and that each of these workers has
/// made progress in the last `max_age`.
///
/// # Errors
/// If no worker runs, a worker makes no progress, or the files cannot be read. The message names the workers without
/// progress.
pub(super) fn check(settings: &WorkerHealth, max_age: Duration) -> anyhow::Result<()> {
    let dir = directory(settings);
    let unreadable = || format!("cannot read the files of the workers in {}", dir.display());
    if settings.worker_health_dir.is_none() && dir.exists() {
        refuse_directory_of_others(&dir).with_context(unreadable)?;
    }
    let mut workers = list(&dir).with_context(unreadable)?;
    workers.retain(|worker| worker.is_running);
    if workers.is_empty() {
        bail!(
            "no worker reports in {}: check that it runs on this machine as the same user, and that both have the same \
             WORKER_HEALTH_DIR",
            dir.display()
        );
    }
    let silent: Vec<_> = workers
        .iter()
        .filter(|worker| worker.age > max_age)
        .map(|worker| format!("worker {} has made no progress for {} s", worker.id, worker.age.as_secs()))
        .collect();
    if !silent.is_empty() {
        bail!("{}", silent.join("; "));
    }
    Ok(())
}

/// Returns the directory of the files: `WORKER_HEALTH_DIR`, or else `saas-<user id>` in the directory for temporary files.
fn directory(settings: &WorkerHealth) -> PathBuf {
    let default = || std::env::temp_dir().join(format!("saas-{}", rustix::process::geteuid().as_raw()));
    settings.worker_health_dir.clone().unwrap_or_else(default)
}

/// Creates the directory of the files. All users can create files in the parent of the default directory (`/tmp`). So the
/// default directory must belong to this user: in a directory of another user, that user could hide that a worker hangs.
fn create_directory(settings: &WorkerHealth) -> io::Result<PathBuf> {
    let dir = directory(settings);
    if settings.worker_health_dir.is_some() {
        fs::create_dir_all(&dir)?;
        return Ok(dir);
    }
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => refuse_directory_of_others(&dir)?,
    }
    Ok(dir)
}

fn refuse_directory_of_others(dir: &Path) -> io::Result<()> {
    // Does not follow a symbolic link: another user could link to a directory of this user, and change the link later.
    let found = fs::symlink_metadata(dir)?;
    match found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a directory of this user")),
    }
}

/// The file of a worker, as the check finds it.
struct FoundFile {
    path: PathBuf,
    /// The id of the worker.
    id: String,
    is_running: bool,
    /// The time since the last modification of the file: since the worker last reported progress.
    age: Duration,
}

/// Returns the files of workers in a directory. Returns none if the directory does not exist. Skips files that another
/// process removes meanwhile.
fn list(dir: &Path) -> io::Result<Vec<FoundFile>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX));
        let Some(id) = id.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) else { continue };
        match inspect(entry.path(), id.replacen('-', ":", 1)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => found.push(file?),
        }
    }
    Ok(found)
}

fn inspect(path: PathBuf, id: String) -> io::Result<FoundFile> {
    let file = File::open(&path)?;
    // The check takes a shared lock, so that concurrent checks do not mistake each other's lock for that of the worker.
    let is_running = match file.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => return Err(error),
    };
    let modified = file.metadata()?.modified()?;
    // A time in the future means that the clock was set back. The difference counts as the age. A worker that makes progress
    // writes the present time with its next report.
    let age = SystemTime::now().duration_since(modified).unwrap_or_else(|early| early.duration());
    Ok(FoundFile { path, id, is_running, age })
}

/// The file of this process, removed when this value is dropped.
struct LivenessFile {
    path: PathBuf,
    file: File,
}

impl LivenessFile {
    /// Creates the file. Removes the files that killed workers have left in the directory.
    fn create(dir: &Path, worker: &str) -> io::Result<Self> {
        for dead in list(dir)?.iter().filter(|file| !file.is_running) {
            let _ = fs::remove_file(&dead.path);
        }
        let path = dir.join(format!("{FILE_PREFIX}{}{FILE_SUFFIX}", worker.replacen(':', "-", 1)));
        // The file gets its final name after it is locked, because a file without a lock counts as that of a dead worker.
        let temporary = path.with_extension("new");
        let file = File::options().write(true).create_new(true).open(&temporary)?;
        let mut created = Self { path: temporary, file };
        created.file.lock()?;
        fs::rename(&created.path, &path)?;
        created.path = path;
        Ok(created)
    }

    /// Returns whether another program has deleted the file, such as one that cleans `/tmp`.
    fn is_deleted(&self) -> bool {
        self.file.metadata().is_ok_and(|found| found.nlink() == 0)
    }
}

impl Drop for LivenessFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

struct Reporter {
    settings: WorkerHealth,
    worker: String,
    /// `None` before the first report, and after a failure to create the file.
    file: Option<LivenessFile>,
    reported_count: Option<u64>,
    /// Whether the last attempt to write the file has failed.
    has_failed: bool,
}

impl Reporter {
    /// If the count has changed, updates the modification time of the file, or creates the file if it is missing. Logs the
    /// first of consecutive failures.
    fn report(&mut self, count: u64) {
        if self.reported_count.replace(count) == Some(count) {
            return;
        }
        let failure = self.write().err();
        if let Some(error) = failure.as_ref().filter(|_| !self.has_failed) {
            let dir = directory(&self.settings);
            tracing::warn!(
                %error,
                dir = %dir.display(),
                "cannot write the file for `saas healthcheck --worker`, which fails now: set WORKER_HEALTH_DIR to a \
                 directory that this user can write to"
            );
        }
        self.has_failed = failure.is_some();
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.take_if(|file| file.is_deleted());
        match &self.file {
            Some(file) => file.file.set_modified(SystemTime::now()),
            None => {
                self.file = Some(LivenessFile::create(&create_directory(&self.settings)?, &self.worker)?);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::test_dir;

    const MAX_AGE: Duration = Duration::from_secs(30);

    fn reporter(dir: &Path, worker: &str) -> Reporter {
        let settings = WorkerHealth { worker_health_dir: Some(dir.to_owned()) };
        Reporter { settings, worker: worker.into(), file: None, reported_count: None, has_failed: false }
    }

    /// Sets the modification time of the file, which is the time of the last report.
    fn set_time(reporter: &Reporter, time: SystemTime) {
        reporter.file.as_ref().unwrap().file.set_modified(time).unwrap();
    }

    fn error_of(reporter: &Reporter) -> String {
        check(&reporter.settings, MAX_AGE).unwrap_err().to_string()
    }

    #[test]
    fn a_worker_without_progress_is_unhealthy() {
        let dir = test_dir().unwrap();
        let mut worker = reporter(&dir, "7:abc");
        assert!(error_of(&worker).contains("no worker reports in"));
        worker.report(1);
        check(&worker.settings, MAX_AGE).unwrap();
        // A time far in the future counts as a missing report too: the clock was set back.
        for time in [SystemTime::now() - 2 * MAX_AGE, SystemTime::now() + 2 * MAX_AGE] {
            set_time(&worker, time);
            worker.report(1);
            assert!(error_of(&worker).contains("worker 7:abc has made no progress for "));
        }
        worker.report(2);
        check(&worker.settings, MAX_AGE).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn files_of_dead_workers_are_ignored_and_deleted_files_are_recreated() {
        let dir = test_dir().unwrap();
        let (mut worker, mut other) = (reporter(&dir, "7:abc"), reporter(&dir, "8:def"));
        worker.report(1);
        fs::write(dir.join("worker-9-killed.alive"), "").unwrap();
        check(&worker.settings, MAX_AGE).unwrap();
        other.report(1);
        assert!(!dir.join("worker-9-killed.alive").exists());
        set_time(&other, SystemTime::now() - 2 * MAX_AGE);
        assert!(error_of(&worker).starts_with("worker 8:def "));
        drop(other);
        fs::remove_file(dir.join("worker-7-abc.alive")).unwrap();
        assert!(error_of(&worker).contains("no worker reports in"));
        worker.report(2);
        check(&worker.settings, MAX_AGE).unwrap();
        drop(worker);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir_all(&dir).unwrap();
    }
}
