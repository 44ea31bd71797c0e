//! The threads that renew the leases of a worker, and stop jobs whose lease is about to expire.
//!
//! They are threads, not tasks, and heartbeats have their own connection. A job that blocks the async runtime would delay a
//! task, and the leases of all other jobs would expire.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use redis::RedisError;
use tokio::sync::oneshot;

use super::{
    connector::Connector, leases::Leases, reconnecting_connection::is_closed, scripts, signals::StopReason,
    worker_record::WorkerRecord,
};

/// How long a worker that stops may take to remove itself from the list of workers.
const SIGN_OFF_TIMEOUT: Duration = Duration::from_millis(500);

/// The running heartbeat threads of a worker. Dropping this tells them to end.
pub(super) struct Heartbeat {
    leases: Leases,
    signed_off: oneshot::Receiver<()>,
}

impl Heartbeat {
    /// Starts two threads. One sends heartbeats; the other never waits for the network, and stops the jobs of leases
    /// that were not renewed in time.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn start(leases: Leases, heartbeats: HeartbeatLoop) -> io::Result<Self> {
        let (renewed, fenced, lease) = (leases.clone(), leases.clone(), heartbeats.lease);
        let named = |name: &str| thread::Builder::new().name(name.into());
        let (sender, signed_off) = oneshot::channel();
        named("heartbeat").spawn(move || {
            heartbeats.run(&renewed);
            let _ = sender.send(());
        })?;
        named("fence").spawn(move || {
            while fenced.wait_until_held() && fenced.wait(lease / 20) {
                fenced.fence(lease);
            }
        })?;
        Ok(Self { leases, signed_off })
    }

    /// Tells the threads to end. Waits for at most [`SIGN_OFF_TIMEOUT`] until the thread that sends heartbeats has ended. At its
    /// end, this thread tries to remove the worker from the list of workers, if it is connected to Redis.
    pub(super) async fn stop(mut self) {
        self.leases.close();
        let _ = tokio::time::timeout(SIGN_OFF_TIMEOUT, &mut self.signed_off).await;
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        // Nothing renews the leases from now on.
        self.leases.stop_all(StopReason::Lost);
        self.leases.close();
    }
}

/// Sends the heartbeats of one worker.
pub(super) struct HeartbeatLoop {
    pub(super) connector: Arc<dyn Connector>,
    pub(super) prefix: String,
    pub(super) worker: String,
    pub(super) record: WorkerRecord,
    pub(super) lease: Duration,
}

/// The answer of Redis to a heartbeat.
struct Beat {
    /// When the heartbeat was sent. The worker counts leases from this time, so that they expire in the worker before they
    /// expire in Redis.
    sent_at: Instant,
    /// Leases that Redis no longer has.
    lost: Vec<String>,
    /// Ids of all running jobs whose cancellation was requested, also of other workers.
    canceled: Vec<String>,
}

impl HeartbeatLoop {
    fn run(mut self, leases: &Leases) {
        // At most a second, because the answer also says which running jobs were canceled.
        let interval = (self.lease / 4).min(Duration::from_secs(1));
        let mut conn = None;
        // Progress that Redis may not have, because the last heartbeat failed.
        let mut unsent = Vec::new();
        let mut primary_changes = self.connector.primary_changes();
        loop {
            if primary_changes.has_changed().unwrap_or(false) {
                primary_changes.mark_unchanged();
                conn = None;
            }
            let held = leases.held();
            self.record.running = leases.uncompleted_jobs();
            let (mut progress, is_reused) = (leases.take_progress(), conn.is_some());
            unsent.retain(|(id, ..): &(Arc<str>, _, _)| progress.iter().all(|(newer, ..)| newer != id));
            progress.append(&mut unsent);
            let mut beat = self.beat(&mut conn, &held, &progress);
            if is_reused
                && let Err(error) = &beat
                && is_closed(error)
            {
                tracing::debug!(connection = "heartbeat", error = %error, "Redis connection was closed, reconnecting");
                conn = None;
                beat = self.beat(&mut conn, &held, &progress);
            }
            match beat {
                Ok(beat) => {
                    leases.mark_renewed(&held, beat.sent_at);
                    for lease in &beat.lost {
                        leases.lose(lease);
                    }
                    leases.cancel(&beat.canceled);
                }
                Err(error) => {
                    conn = None;
                    unsent = progress;
                    // Logged only if an open connection fails. The other connections of the worker log that Redis is unavailable.
                    if is_reused {
                        tracing::warn!(error = %error, "heartbeat failed, retrying");
                    }
                }
            }
            if !leases.wait(interval) {
                if let Some(conn) = &mut conn {
                    self.sign_off(conn);
                }
                return;
            }
        }
    }

    /// Removes the worker from the list of workers. If that fails, the list omits the worker 30 seconds after its last
    /// heartbeat.
    fn sign_off(&self, conn: &mut redis::Connection) {
        let mut both = redis::pipe();
        both.zrem(format!("{}:alive", self.prefix), &self.worker).ignore();
        both.hdel(format!("{}:card", self.prefix), &self.worker).ignore();
        let _: redis::RedisResult<()> = both.query(conn);
    }

    /// Sends one heartbeat. `held` are the leases to renew, as pairs of queue and lease. `progress` is the progress to store, as
    /// id, token and JSON.
    fn beat(
        &self,
        conn: &mut Option<redis::Connection>,
        held: &[(Arc<str>, Arc<str>)],
        progress: &[(Arc<str>, String, String)],
    ) -> Result<Beat, RedisError> {
        let timeout = (self.lease / 4).clamp(Duration::from_millis(250), Duration::from_secs(3));
        let conn = match conn {
            Some(conn) => conn,
            None => {
                let fresh = self.connector.connect_blocking(timeout)?;
                tracing::debug!(connection = "heartbeat", "connected to Redis");
                fresh.set_read_timeout(Some(timeout))?;
                fresh.set_write_timeout(Some(timeout))?;
                conn.insert(fresh)
            }
        };
        let mut call = scripts::BEAT.key(&self.prefix);
        call.arg(self.lease.as_millis() as u64).arg(&self.worker).arg(self.record.to_json()).arg(held.len());
        for (queue, lease) in held {
            call.arg(&**queue).arg(&**lease);
        }
        for (id, token, progress) in progress {
            call.arg(&**id).arg(token).arg(progress);
        }
        let sent_at = Instant::now();
        let (lost, canceled) = call.invoke(conn)?;
        Ok(Beat { sent_at, lost, canceled })
    }
}
