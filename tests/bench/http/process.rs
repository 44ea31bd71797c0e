//! The processes that a measurement starts, none of which outlives it, and what the system says of them.

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

/// Ends a process when whoever holds the other end of the pipe is gone, however that came about.
const WATCH: &str = "read -r _; kill -s KILL \"$0\"";
/// For what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does the work to its end, or until Ctrl-C or SIGTERM. Then it is dropped, and with it whatever it has started.
pub fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate())?;
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
            _ = stop.recv() => Err(anyhow!("told to stop")),
        }
    });
    runtime.shutdown_background();
    result
}

/// A program that ends with its handle. It has a process group of its own, so that Ctrl-C in the terminal reaches
/// this process alone, which then stops things in order; and no `.env` in its working folder.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir("/").process_group(0).kill_on_drop(true);
    command
}

fn start(command: &mut Command) -> Result<Child> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.spawn().with_context(|| format!("cannot start {program}; run ./scripts/bench, which sees to it"))
}

fn watch(process: &Child) -> Result<Child> {
    let pid = process.id().context("the process has ended")?.to_string();
    let mut watcher = command("/bin/sh");
    watcher.args(["-c", WATCH, &pid]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    start(&mut watcher)
}

/// Runs a program to its end, for a load of so many seconds, and returns what it has printed.
pub async fn run_for(mut command: Command, seconds: u64) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let child = start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let _watcher = watch(&child)?;
    let patience = PATIENCE + Duration::from_secs(seconds);
    let ended = timeout(patience, child.wait_with_output()).await;
    let output = ended.with_context(|| format!("{name} does not end"))??;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{name} failed with {}:\n{text}{errors}", output.status);
    Ok(text.into_owned())
}

/// As [`run_for`], for what takes a moment.
pub async fn run(command: Command) -> Result<String> {
    run_for(command, 0).await
}

/// A process that goes on until this is dropped.
pub struct Running {
    // The first to be dropped: it must not kill a number that by then is somebody else's.
    _watcher: Child,
    child: Child,
    log: PathBuf,
    pub pid: u32,
    begun: Instant,
}

impl Running {
    /// Starts it; what it says goes to a file.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let begun = Instant::now();
        let child = start(&mut command)?;
        let pid = child.id().context("the process has ended")?;
        Ok(Self { _watcher: watch(&child)?, child, log: log.to_owned(), pid, begun })
    }

    /// Kills it and waits for it.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Tells it to stop, waits until it has, and fails unless it says that it has done so in order; milliseconds.
    pub async fn terminate(mut self) -> Result<f64> {
        let begun = Instant::now();
        let mut kill = command("/bin/sh");
        run({
            kill.args(["-c", "kill -s TERM \"$0\"", &self.pid.to_string()]);
            kill
        })
        .await?;
        let status = timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        ensure!(status.success(), "it has ended with {status}:\n{}", self.log());
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }

    /// Fails if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it has ended with {status}:\n{}", self.log());
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Milliseconds from its start to the first 200 for a path.
    pub async fn first_answer(&mut self, port: u16, path: &str) -> Result<f64> {
        loop {
            // Until it listens, the connection is refused.
            if let Ok(Ok(true)) = timeout(Duration::from_secs(1), answers(port, path)).await {
                return Ok(self.begun.elapsed().as_secs_f64() * 1e3);
            }
            self.check()?;
            ensure!(self.begun.elapsed() < PATIENCE, "it does not answer:\n{}", self.log());
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Megabytes of memory that it has; `None` where the system does not say.
    pub fn memory(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        Some(field(&status, "VmRSS")? * 1_024.0 / 1e6)
    }

    /// How often a second it wakes up, its threads together, looked at for so long; `None` where the system does not
    /// say.
    pub async fn wake_ups(&self, period: Duration) -> Option<f64> {
        let before = self.switches()?;
        sleep(period).await;
        let after = self.switches()?;
        let since = |(thread, count): (&String, &f64)| count - before.get(thread).unwrap_or(&0.0);
        Some(after.iter().map(since).sum::<f64>() / period.as_secs_f64())
    }

    /// Of each thread, how often it went to sleep.
    fn switches(&self) -> Option<BTreeMap<String, f64>> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?.flatten();
        let of = |thread: fs::DirEntry| {
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            let name = thread.file_name().to_string_lossy().into_owned();
            Some((name, field(&status, "voluntary_ctxt_switches")?))
        };
        Some(threads.filter_map(of).collect())
    }
}

/// A number of a file below `/proc`.
fn field(status: &str, name: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Asked by hand, since a client would take its time to get ready.
async fn answers(port: u16, path: &str) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(&head == b"HTTP/1.1 200")
}
