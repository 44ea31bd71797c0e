//! A child process that cannot outlive its parent.
//!
//! Between the two stands a small shell that reads from a pipe whose other end this process holds. However this
//! process ends, `kill -9` included, the pipe closes; the shell then stops the child. It has a process group of
//! its own, so that Ctrl-C in the terminal reaches the parent alone, which stops things in order.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::Context;

/// Arguments: the signal that stops the child, a folder to remove once it was told to stop, with its parent if that
/// is empty (or nothing), the command.
const GUARD: &str = r#"
stop=$1 wipe=$2; shift 2
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
(
    while read -r _; do :; done
    [ -n "$wipe" ] && : >"$wipe/stopping"
    kill -s "$stop" "$child"
    tries=0
    while kill -0 "$child" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -s KILL "$child"
) <&3 2>/dev/null &
reader=$!
wait "$child"
code=$?
kill "$reader" 2>/dev/null
[ -n "$wipe" ] && [ -e "$wipe/stopping" ] && rm -rf "$wipe" && rmdir "${wipe%/*}" 2>/dev/null
exit "$code"
"#;

/// The account that a server runs under when this process is root's.
pub(super) struct Account {
    pub(super) name: &'static str,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// `None` unless this process is root's.
    pub(super) fn unprivileged() -> anyhow::Result<Option<Self>> {
        if id("-u", None) != Some(0) {
            return Ok(None);
        }
        ["postgres", "_postgres", "nobody"]
            .into_iter()
            .find_map(|name| Some(Self { name, uid: id("-u", Some(name))?, gid: id("-g", Some(name))? }))
            .map(Some)
            .context(
                "running as root, and there is no account postgres or nobody that PostgreSQL could run under",
            )
    }

    pub(super) fn reaches(&self, dir: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd \"$0\" && : > .reached && rm .reached"]).arg(dir).stderr(Stdio::null());
        self.drop_to(&mut command);
        // The shell starts in this process's folder, which the account need not reach either.
        command.current_dir("/").status().is_ok_and(|status| status.success())
    }

    pub(super) fn drop_to(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

fn id(what: &str, name: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(what).args(name).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A guarded child.
pub struct Guarded {
    guard: Child,
    log: PathBuf,
}

impl Guarded {
    /// Starts `command`, whose output goes to the file `log`. It is stopped with `signal`; then the folder `wipe`
    /// is removed.
    ///
    /// # Errors
    /// When the process or the log cannot be made.
    pub(super) fn start(
        command: &[&str],
        signal: &str,
        log: &Path,
        wipe: Option<&Path>,
        account: Option<&Account>,
    ) -> anyhow::Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut guard = Command::new("/bin/sh");
        guard
            .args(["-c", GUARD, "guard", signal])
            .arg(wipe.unwrap_or(Path::new("")))
            .args(command)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        if let Some(account) = account {
            account.drop_to(&mut guard);
        }
        Ok(Self { guard: guard.spawn().context("cannot start /bin/sh")?, log: log.to_owned() })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.guard.try_wait().ok().flatten()
    }

    /// The last of what it said.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Stops it and waits for it.
    pub(super) fn stop(mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
