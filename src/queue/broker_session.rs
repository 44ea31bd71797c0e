//! The worker's round trips: settle, fetch, give back.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{OptionFuture, join, join_all};
use redis::{RedisResult, aio::MultiplexedConnection};

use super::{
    client::Queue,
    delivery::Delivery,
    disposition::{CompletedDelivery, Disposition},
    leases::Leases,
    queues::Queues,
    reconnecting_connection::ReconnectingConnection,
    scripts,
    signals::JobSignals,
    worker_options::Options,
};

pub(super) struct BrokerSession {
    connection: ReconnectingConnection,
    prefix: String,
    worker: String,
    queues: Queues,
    lease: Duration,
    leases: Leases,
    /// What has ended and has not been settled yet.
    unsettled: Vec<Batch>,
    /// A fetch whose answer has not come.
    unanswered: Option<String>,
}

/// What a round trip brought.
pub(super) struct FlushResult {
    pub(super) fetched: Vec<Delivery>,
    /// When a rate limit lets more through.
    pub(super) again: Option<Duration>,
    /// Whether everything was answered.
    pub(super) complete: bool,
    /// Whether jobs were ended, which may have let others through.
    pub(super) settled: bool,
}

impl BrokerSession {
    pub(super) fn new(queue: &Queue, worker: &str, options: &Options, leases: Leases) -> Self {
        Self {
            connection: ReconnectingConnection::new(queue.client(), "worker"),
            prefix: queue.prefix().to_owned(),
            worker: worker.to_owned(),
            queues: options.queues.clone(),
            lease: options.lease,
            leases,
            unsettled: Vec::new(),
            unanswered: None,
        }
    }

    /// Takes what has ended, to be settled by the next flush.
    pub(super) fn add(&mut self, ended: impl IntoIterator<Item = CompletedDelivery>) {
        // One batch a queue: a lease is told to be over with, and never before, the last of its jobs.
        Batch::group(&mut self.unsettled, ended, &self.leases);
    }

    /// Whether there is something that has to be said to Redis.
    pub(super) fn is_busy(&self) -> bool {
        !self.unsettled.is_empty() || self.unanswered.is_some()
    }

    /// Settles what has ended and fetches up to `want` jobs, in one round trip. What is not answered is said again
    /// by the next flush, also when this one is dropped: settling twice is harmless, since a token counts once, and
    /// a fetch whose answer was lost is given back by its token.
    pub(super) async fn flush(&mut self, want: usize) -> FlushResult {
        let settled = !self.unsettled.is_empty();
        let mut flushed = FlushResult { fetched: Vec::new(), again: None, complete: false, settled };
        let Some(conn) = self.connection.get().await else { return flushed };
        let lost = self.unanswered.take();
        let token = (want > 0 && lost.is_none()).then(|| uuid::Uuid::new_v4().simple().to_string());
        self.unanswered = lost.clone().or_else(|| token.clone());

        let settling = join_all(self.unsettled.iter().map(|batch| batch.settle(&self.prefix, conn.clone())));
        let fetching =
            OptionFuture::from(token.as_deref().map(|token| self.fetch(token, want, conn.clone())));
        let releasing = OptionFuture::from(lost.as_deref().map(|token| self.release(token, conn.clone())));
        let ((settled, fetched), released) = join(join(settling, fetching), releasing).await;

        let mut fault = None;
        for (batch, result) in std::mem::take(&mut self.unsettled).into_iter().zip(settled) {
            match result {
                Ok(rejected) => batch.settled(&rejected, &self.leases),
                Err(error) => {
                    fault = Some(error);
                    self.unsettled.push(batch);
                }
            }
        }
        match (fetched, released) {
            (Some(Ok((deliveries, again))), _) => {
                self.unanswered = None;
                flushed.fetched = deliveries;
                flushed.again = (again > 0).then(|| Duration::from_millis(again));
            }
            (_, Some(Ok(()))) => self.unanswered = None,
            (Some(Err(error)), _) | (_, Some(Err(error))) => fault = Some(error),
            (None, None) => {}
        }
        match fault {
            Some(error) => self.connection.failed(&error),
            None => {
                self.connection.worked();
                flushed.complete = lost.is_none();
            }
        }
        flushed
    }

    async fn fetch(
        &self,
        token: &str,
        want: usize,
        mut conn: MultiplexedConnection,
    ) -> RedisResult<(Vec<Delivery>, u64)> {
        type Taken = (String, Vec<String>, Vec<Vec<u8>>, Vec<Option<u32>>, Vec<Option<u32>>);
        let mut call = scripts::FETCH.key(&self.prefix);
        call.arg(&self.worker)
            .arg(token)
            .arg(self.lease.as_millis() as u64)
            .arg(want)
            .arg(self.queues.order());
        let asked = Instant::now();
        let (now, taken, again): (i64, Vec<Taken>, u64) = call.invoke_async(&mut conn).await?;
        let mut deliveries = Vec::with_capacity(want);
        for (index, (queue, ids, envelopes, failures, crashes)) in taken.into_iter().enumerate() {
            let token: Arc<str> = format!("{token}.{index}").into();
            let lease: Arc<str> = format!("{token}|{}", ids.join(",")).into();
            let queue: Arc<str> = queue.into();
            let mut stops = HashMap::with_capacity(ids.len());
            for (((id, envelope), failures), crashes) in
                ids.into_iter().zip(envelopes).zip(failures).zip(crashes)
            {
                let (id, stop): (Arc<str>, _) = (id.into(), JobSignals::default());
                stops.insert(id.clone(), stop.clone());
                deliveries.push(Delivery {
                    id,
                    token: token.clone(),
                    lease: lease.clone(),
                    queue: queue.clone(),
                    envelope,
                    failures: failures.unwrap_or(0),
                    crashes: crashes.unwrap_or(0),
                    fetched: now,
                    stop,
                });
            }
            self.leases.add(lease, queue, asked, stops);
        }
        Ok((deliveries, again))
    }

    async fn release(&self, token: &str, mut conn: MultiplexedConnection) -> RedisResult<()> {
        let mut call = scripts::RELEASE.key(&self.prefix);
        let jobs: u64 = call.arg(token).arg(self.queues.names()).invoke_async(&mut conn).await?;
        if jobs > 0 {
            tracing::warn!(jobs, "the answer to a fetch was lost; its jobs are back in the queue");
        }
        Ok(())
    }
}

/// What has ended in one queue.
struct Batch {
    queue: Arc<str>,
    ended: Vec<CompletedDelivery>,
    /// Leases of which these were the last jobs.
    over: Vec<Arc<str>>,
}

impl Batch {
    fn group(batches: &mut Vec<Self>, ended: impl IntoIterator<Item = CompletedDelivery>, leases: &Leases) {
        for end in ended {
            let over = leases.end(&end.lease, &end.id).then(|| end.lease.clone());
            let batch = match batches.iter_mut().find(|batch| batch.queue == end.queue) {
                Some(batch) => batch,
                None => {
                    batches.push(Self { queue: end.queue.clone(), ended: Vec::new(), over: Vec::new() });
                    let last = batches.len() - 1;
                    &mut batches[last]
                }
            };
            batch.over.extend(over);
            batch.ended.push(end);
        }
    }

    async fn settle(&self, prefix: &str, mut conn: MultiplexedConnection) -> RedisResult<Vec<usize>> {
        let mut call = scripts::SETTLE.key(prefix);
        call.arg(&*self.queue).arg(self.over.len());
        for lease in &self.over {
            call.arg(&**lease);
        }
        for end in &self.ended {
            let (op, arg, ttl, text) = match &end.disposition {
                Disposition::Finished { outcome, ttl, clear } => {
                    ("ok", u64::from(*clear), *ttl, outcome.as_str())
                }
                Disposition::Canceled { outcome, ttl } => ("cancel", 1, *ttl, outcome.as_str()),
                Disposition::Retry { after, error } => ("retry", after.as_millis() as u64, 0, error.as_str()),
                Disposition::Snooze { after } => ("snooze", after.as_millis() as u64, 0, ""),
                Disposition::Unknown { after, most, error } => {
                    ("unknown", after.as_millis() as u64, *most, error.as_str())
                }
                Disposition::Dead { error } => ("dead", 0, 0, error.as_str()),
                Disposition::Release => ("release", 0, 0, ""),
            };
            call.arg(op).arg(&*end.id).arg(&*end.token).arg(arg).arg(ttl).arg(text);
        }
        call.invoke_async(&mut conn).await
    }

    fn settled(&self, rejected: &[usize], leases: &Leases) {
        self.over.iter().for_each(|lease| leases.forget(lease));
        if !rejected.is_empty() {
            // After a settle whose answer was lost this is the second telling, else a lease ran out unnoticed.
            tracing::warn!(
                jobs = rejected.len(),
                queue = &*self.queue,
                "outcomes not taken: the jobs were no longer held"
            );
        }
    }
}
