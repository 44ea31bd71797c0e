//! A child process that is stopped when its parent ends.
//!
//! The parent starts a small shell, the guard, which starts the child and reads from a pipe whose other end the parent holds.
//! When the parent ends, even by `kill -9`, the pipe closes and the guard stops the child. Guard and child have their own
//! process group, so that Ctrl-C in the terminal reaches only the parent, which then stops its children in order.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::Context;

use super::private::open_private_file;

/// The script of the guard. Arguments: the signal that stops the child; the directory to remove after the guard has stopped the
/// child, or an empty text; the command. The parent of this directory is removed too if it is empty. The umask makes the files
/// of the child inaccessible to other users.
const GUARD_SCRIPT: &str = r#"
umask 077
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

/// Maximum number of lines that [`Guarded::log_tail`] returns.
const LOG_TAIL_LINES: usize = 8;

/// The unprivileged account that servers run under if this process runs as root.
pub(super) struct Account {
    pub(super) name: &'static str,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// If this process runs as root, returns the account that servers run under; otherwise `None`.
    ///
    /// # Errors
    /// If this process runs as root and no suitable account exists.
    pub(super) fn unprivileged() -> anyhow::Result<Option<Self>> {
        if id("-u", None) != Some(0) {
            return Ok(None);
        }
        ["postgres", "_postgres", "nobody"]
            .into_iter()
            .find_map(|name| Some(Self { name, uid: id("-u", Some(name))?, gid: id("-g", Some(name))? }))
            .map(Some)
            .context(
                "this process runs as root, and PostgreSQL needs another account: create the account postgres",
            )
    }

    /// Returns whether this account can create a file in `dir`, by trying it.
    pub(super) fn can_write_to(&self, dir: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd \"$0\" && : > .reached && rm .reached"]).arg(dir).stderr(Stdio::null());
        self.drop_to(&mut command);
        // The working directory of this process may be inaccessible to the account.
        command.current_dir("/").status().is_ok_and(|status| status.success())
    }

    /// Makes `command` run under this account.
    pub(super) fn drop_to(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// Runs the program `id` with a flag, and parses the number that it prints.
fn id(flag: &str, name: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(flag).args(name).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A running child process, stopped when this value is dropped.
pub(super) struct Guarded {
    guard: Child,
    log: PathBuf,
}

impl Guarded {
    /// Starts `command` and writes its output to the file `log`.
    ///
    /// To stop the child, the guard sends `signal`, and SIGKILL if the child still runs after 10 s. Then it removes the directory
    /// `wipe`.
    ///
    /// # Errors
    /// If the process cannot be started or the log cannot be created.
    pub(super) fn start(
        command: &[&str],
        signal: &str,
        log: &Path,
        wipe: Option<&Path>,
        account: Option<&Account>,
    ) -> anyhow::Result<Self> {
        let file = open_private_file(log, fs::File::options().truncate(true))
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut guard = Command::new("/bin/sh");
        guard
            .args(["-c", GUARD_SCRIPT, "guard", signal])
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

    /// Returns the exit status if the child has ended.
    pub(super) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.guard.try_wait().ok().flatten()
    }

    /// Returns the last lines of the child's output.
    pub(super) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Stops the child and waits until it has ended.
    pub(super) fn stop(mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
