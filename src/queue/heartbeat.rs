//! The thread that renews the leases of this process.
//!
//! It is a thread of its own, with a connection of its own, because jobs are other people's code: one that
//! starves the async runtime must not cost its neighbours their leases.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::RedisError;
use tokio::sync::oneshot;

use super::{leases::Leases, scripts, signals::StopReason, worker_record::WorkerRecord};

/// How long signing off may take.
const SIGN_OFF_TIMEOUT: Duration = Duration::from_millis(500);

/// Two threads, which end when this is dropped: one shows that the worker lives and renews; the other, which no
/// network can hold up, stops the jobs of leases that were not renewed.
pub(super) struct Heartbeat {
    leases: Leases,
    /// Ends when the worker has signed off.
    gone: oneshot::Receiver<()>,
}

impl Heartbeat {
    pub(super) fn start(leases: Leases, pulse: HeartbeatLoop) -> std::io::Result<Self> {
        let (renewing, fencing, lease) = (leases.clone(), leases.clone(), pulse.lease);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let (left, gone) = oneshot::channel();
        thread("heartbeat").spawn(move || {
            pulse.run(&renewing);
            let _ = left.send(());
        })?;
        thread("fence").spawn(move || {
            while fencing.wait_for_some() && fencing.wait(lease / 20) {
                fencing.fence(lease);
            }
        })?;
        Ok(Self { leases, gone })
    }
}

impl Heartbeat {
    /// Ends it, and has the worker struck off the list of those that live.
    pub(super) async fn stop(mut self) {
        self.leases.close();
        let _ = tokio::time::timeout(SIGN_OFF_TIMEOUT, &mut self.gone).await;
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        // Nobody renews them from now on.
        self.leases.stop_all(StopReason::Lost);
        self.leases.close();
    }
}

/// What the heartbeat needs to know.
pub(super) struct HeartbeatLoop {
    pub(super) client: redis::Client,
    pub(super) prefix: String,
    pub(super) worker: String,
    pub(super) card: WorkerRecord,
    pub(super) lease: Duration,
}

type Beat = (Instant, Vec<String>, Vec<String>);

impl HeartbeatLoop {
    fn run(mut self, leases: &Leases) {
        // Once a second at least, since this is also how a cancellation reaches a running job.
        let beat = (self.lease / 4).min(Duration::from_secs(1));
        let mut conn = None;
        loop {
            let held = leases.held();
            self.card.running = leases.running();
            match self.renew(&mut conn, &held, &leases.progress()) {
                Ok((asked, lost, canceled)) => {
                    leases.renewed(&held, asked);
                    for member in &lost {
                        leases.lose(member);
                    }
                    leases.cancel(&canceled);
                }
                Err(error) => {
                    // Once: the worker's other connections tell the rest.
                    if conn.take().is_some() {
                        tracing::warn!(error = %error, "a heartbeat failed, trying again");
                    }
                }
            }
            if !leases.wait(beat) {
                if let Some(conn) = &mut conn {
                    self.sign_off(conn);
                }
                return;
            }
        }
    }

    /// If it cannot be said, the worker fades from the list.
    fn sign_off(&self, conn: &mut redis::Connection) {
        let mut both = redis::pipe();
        both.zrem(format!("{}:alive", self.prefix), &self.worker).ignore();
        both.hdel(format!("{}:card", self.prefix), &self.worker).ignore();
        let _: redis::RedisResult<()> = both.query(conn);
    }

    fn renew(
        &self,
        conn: &mut Option<redis::Connection>,
        held: &[(Arc<str>, Arc<str>)],
        progress: &[(Arc<str>, String, String)],
    ) -> Result<Beat, RedisError> {
        let timeout = (self.lease / 4).clamp(Duration::from_millis(250), Duration::from_secs(3));
        let conn = match conn {
            Some(conn) => conn,
            None => {
                let fresh = self.client.get_connection_with_timeout(timeout)?;
                fresh.set_read_timeout(Some(timeout))?;
                fresh.set_write_timeout(Some(timeout))?;
                conn.insert(fresh)
            }
        };
        let mut call = scripts::BEAT.key(&self.prefix);
        call.arg(self.lease.as_millis() as u64).arg(&self.worker).arg(self.card.text()).arg(held.len());
        for (queue, member) in held {
            call.arg(&**queue).arg(&**member);
        }
        for (id, token, words) in progress {
            call.arg(&**id).arg(token).arg(words);
        }
        // The lease is counted from before the question, so that it never seems longer here than it is there.
        let asked = Instant::now();
        let (lost, canceled) = call.invoke(conn)?;
        Ok((asked, lost, canceled))
    }
}
