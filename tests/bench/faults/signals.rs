//! Suspends and kills processes by signals.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Processes that are suspended until this value is dropped.
#[derive(Default)]
pub struct Frozen(Vec<Pid>);

impl Frozen {
    /// Suspends a process.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn freeze(&mut self, process: i32) -> Result<()> {
        let process = parse_pid(process)?;
        kill_process(process, Signal::STOP)?;
        self.0.push(process);
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.0 {
            // The process may have ended.
            let _ = kill_process(*process, Signal::CONT);
        }
    }
}

/// Kills a process.
///
/// # Errors
/// If the process has ended.
pub fn kill(process: i32) -> Result<()> {
    Ok(kill_process(parse_pid(process)?, Signal::KILL)?)
}

fn parse_pid(process: i32) -> Result<Pid> {
    Pid::from_raw(process).context("0 is no process")
}
