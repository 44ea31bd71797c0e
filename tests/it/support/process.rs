//! Processes that the tests start, such as the binary `saas`, and temporary directories.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::io::AsyncWriteExt;

use super::{
    TEST_TIMEOUT,
    app::SECRET,
    servers::{TestDatabase, servers, unique},
};

/// Returns a command that runs `saas` with only the environment variables below.
pub fn saas(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saas"));
    command.args(args).env_clear().current_dir("/");
    for name in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE", "REDIS_SERVER"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Returns a command that runs `saas` on the database of a test, with `DEBUG` off as in production. Unlike in production,
/// rate limits are off and password hashes are cheap.
pub async fn production_command(args: &[&str], database: &TestDatabase, prefix: &str) -> Command {
    let mut command = saas(args);
    command
        .env("DATABASE_URL", &database.url)
        .env("REDIS_URL", servers().await.redis_url())
        .env("REDIS_KEY_PREFIX", prefix)
        .env("SECRET_KEY", SECRET)
        .env("FIRST_SUPERUSER_PASSWORD", "a password of ours")
        // Tests send many requests from one address. The tests of rate limits turn the limits on.
        .env("RATE_LIMITS", "false")
        .env("BCRYPT_COST", "4")
        .env("ALLOW_WEAK_HASHES", "true");
    command
}

/// Starts `saas serve`. Returns the process and the address that it listens on.
pub async fn start_server(command: Command) -> (Running, String) {
    let mut server = Running::start(command);
    let rest = server.wait_for_output("\"address\":\"").await;
    let address = rest.split('"').next().unwrap().to_owned();
    (server, address)
}

/// Runs a command until it ends.
pub async fn run(command: Command) -> Ended {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(TEST_TIMEOUT, command.spawn().unwrap().wait_with_output()).await;
    Ended::of(output.expect("the process does not end").unwrap())
}

/// Runs a command with `input` on its standard input until it ends.
pub async fn run_with_input(command: Command, input: &str) -> Ended {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    // The process may exit without reading its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = tokio::time::timeout(TEST_TIMEOUT, child.wait_with_output()).await;
    Ended::of(output.expect("the process does not end").unwrap())
}

/// The exit code and the output of a process.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Asserts that the process succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Asserts that standard error contains `words` and no panic. Accepts any exit code.
    #[track_caller]
    pub fn assert_stderr(self, words: &str) {
        assert!(self.stderr.contains(words) && !self.stderr.contains("panicked"), "{}", self.stderr);
    }

    /// Asserts that the process exited with `code`, that standard error contains all `words`, and that it has
    /// no panic.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {}", self.stderr);
        }
        assert!(
            !self.stderr.contains("panicked") && !self.stderr.contains("RUST_BACKTRACE"),
            "{}",
            self.stderr
        );
        self
    }
}

/// A running process, killed when it is dropped.
pub struct Running {
    child: std::process::Child,
    output: Arc<Mutex<String>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), output.clone());
        collect(child.stderr.take().unwrap(), output.clone());
        Self { child, output }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until the output contains `words`. Returns the rest of that line.
    pub async fn wait_for_output(&mut self, words: &str) -> String {
        let start = Instant::now();
        loop {
            let output = self.output();
            if let Some((_, after)) = output.split_once(words) {
                return after.lines().next().unwrap_or_default().to_owned();
            }
            assert!(start.elapsed() < TEST_TIMEOUT, "the output never contained {words:?}:\n{output}");
            let ended = self.child.try_wait().unwrap();
            pause().await;
            if let Some(status) = ended {
                let output = self.output();
                assert!(
                    output.contains(words),
                    "the process ended with {status} without printing {words:?}:\n{output}"
                );
            }
        }
    }

    pub fn signal(&self, signal: &str) {
        // Uses the builtin of the shell, because some systems have no program `kill`.
        let status = Command::new("/bin/sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", signal, &self.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits until the process has ended.
    pub async fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < TEST_TIMEOUT, "the process does not end:\n{}", self.output());
            pause().await;
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(15)).await;
}

fn collect(mut stream: impl Read + Send + 'static, output: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            output.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    });
}

/// A temporary directory, removed when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// Creates a directory in memory if the system has `/dev/shm`, so that other disk traffic does not delay
    /// an fsync.
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::below(memory) } else { Self::new() }
    }

    fn below(parent: &Path) -> Self {
        let dir = parent.join(format!("saas-test-dir-{}-{}", std::process::id(), unique()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        // If root runs `saas dev`, `dev::data_dir` may put the data of its servers below `/var/lib/saas-dev`, in a directory
        // whose name begins with the path of this directory, without the first `/` and with `-` for each other special
        // character.
        let path: String = self.0.to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let prefix = format!("{}-", path.trim_matches('-'));
        for entry in std::fs::read_dir("/var/lib/saas-dev").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}
