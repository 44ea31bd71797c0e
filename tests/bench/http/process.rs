//! Starts and stops the processes of a benchmark. No process outlives the benchmark. Also measures memory and wake-ups
//! of processes.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

/// Shell script that kills a process when the other end of its standard input closes.
const KILL_ON_EOF: &str = "read -r _; kill -s KILL \"$0\"";
/// Time limit of steps that usually take a few seconds at most.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `work` until it ends, or until Ctrl-C or SIGTERM. Then `work` is dropped, which stops the processes
/// that it has started.
pub fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate())?;
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
            _ = stop.recv() => Err(anyhow!("terminated")),
        }
    });
    runtime.shutdown_background();
    result
}

/// Creates a command whose process is killed when its handle is dropped. Ctrl-C does not reach its process
/// group, so that this process can stop everything in order. The working directory is `/`, which has no
/// `.env`.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir("/").process_group(0).kill_on_drop(true);
    command
}

fn start(command: &mut Command) -> Result<Child> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.spawn().with_context(|| format!("cannot start {program}; run ./scripts/bench, which installs it"))
}

/// Starts a shell that kills `process` when this process ends for any reason.
fn start_watcher(process: &Child) -> Result<Child> {
    let pid = process.id().context("the process has ended")?.to_string();
    let mut watcher = command("/bin/sh");
    watcher.args(["-c", KILL_ON_EOF, &pid]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    start(&mut watcher)
}

/// Runs a program, for at most [`STEP_TIMEOUT`] plus `seconds`. Returns its output.
pub async fn run_for(mut command: Command, seconds: u64) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let child = start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let _watcher = start_watcher(&child)?;
    let limit = STEP_TIMEOUT + Duration::from_secs(seconds);
    let ended = timeout(limit, child.wait_with_output()).await;
    let output = ended.with_context(|| format!("{name} has not ended in {limit:?}"))??;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{name} failed with {}:\n{text}{errors}", output.status);
    Ok(text.into_owned())
}

/// Runs a program that takes less than [`STEP_TIMEOUT`]. Returns its output.
pub async fn run(command: Command) -> Result<String> {
    run_for(command, 0).await
}

/// A process that is killed when this value is dropped.
pub struct Running {
    // Dropped before `child`. After the process has ended, its id may belong to another process, which the watcher
    // would kill.
    _watcher: Child,
    child: Child,
    log: PathBuf,
    pub pid: u32,
    begun: Instant,
}

impl Running {
    /// Starts a process with its output in a file.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let begun = Instant::now();
        let child = start(&mut command)?;
        let pid = child.id().context("the process has ended")?;
        Ok(Self { _watcher: start_watcher(&child)?, child, log: log.to_owned(), pid, begun })
    }

    /// Kills the process and waits for its exit.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends SIGTERM and waits for the exit. Returns the duration of the shutdown in milliseconds.
    ///
    /// # Errors
    /// If the exit code is not 0, or the process does not exit within a minute.
    pub async fn terminate(mut self) -> Result<f64> {
        let begun = Instant::now();
        let mut kill = command("/bin/sh");
        run({
            kill.args(["-c", "kill -s TERM \"$0\"", &self.pid.to_string()]);
            kill
        })
        .await?;
        let status =
            timeout(STEP_TIMEOUT, self.child.wait()).await.context("the process does not exit")??;
        ensure!(status.success(), "the process exited with {status}:\n{}", self.log());
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }

    /// Fails if the process has exited.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the process exited with {status}:\n{}", self.log());
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until a GET of `path` is answered with 200. Returns the milliseconds since the start of the process.
    pub async fn wait_for_first_response(&mut self, port: u16, path: &str) -> Result<f64> {
        loop {
            // The connection is refused until the server listens.
            if let Ok(Ok(true)) = timeout(Duration::from_secs(1), answers_200(port, path)).await {
                return Ok(self.begun.elapsed().as_secs_f64() * 1e3);
            }
            self.check()?;
            ensure!(self.begun.elapsed() < STEP_TIMEOUT, "the process does not respond:\n{}", self.log());
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns the resident memory in megabytes, or `None` if the system does not report it.
    pub fn memory(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        Some(proc_field(&status, "VmRSS")? * 1_024.0 / 1e6)
    }

    /// Measures the wake-ups per second of all threads: their voluntary context switches. Returns `None` if the system does
    /// not report them.
    pub async fn wake_ups(&self, period: Duration) -> Option<f64> {
        let before = self.context_switches()?;
        sleep(period).await;
        let after = self.context_switches()?;
        let since = |(thread, count): (&String, &f64)| count - before.get(thread).unwrap_or(&0.0);
        Some(after.iter().map(since).sum::<f64>() / period.as_secs_f64())
    }

    /// Returns the number of voluntary context switches of each thread.
    fn context_switches(&self) -> Option<BTreeMap<String, f64>> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?.flatten();
        let of = |thread: fs::DirEntry| {
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            let name = thread.file_name().to_string_lossy().into_owned();
            Some((name, proc_field(&status, "voluntary_ctxt_switches")?))
        };
        Some(threads.filter_map(of).collect())
    }
}

/// Returns the number in the line `name:` of a file below `/proc`.
fn proc_field(status: &str, name: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Returns whether a GET of a path is answered with 200. Uses a plain socket, because creating an HTTP client
/// takes time.
async fn answers_200(port: u16, path: &str) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(&head == b"HTTP/1.1 200")
}
