//! The round trips of a worker to Redis: settle, fetch, release.

use std::{
    borrow::Cow,
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

/// Maximum number of jobs that one fetch takes ahead of free slots from weighted queues.
const MAX_AHEAD_IF_WEIGHTED: usize = 10;

/// Fetches and settles the jobs of one worker, and repeats settlements that Redis did not confirm.
pub(super) struct BrokerSession {
    connection: ReconnectingConnection,
    prefix: String,
    worker: String,
    queues: Queues,
    reserved: Option<String>,
    /// How many jobs of one owner may run, in all workers together. 0 for no limit.
    max_running_per_owner: u32,
    lease: Duration,
    leases: Leases,
    unsettled: Vec<SettlementBatch>,
    /// The token of a fetch that Redis has not answered, or has answered with an error.
    unanswered_fetch: Option<String>,
}

/// How many jobs a fetch may return.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// Jobs of all queues, for free slots.
    pub(super) total: usize,
    /// How many of these jobs may come from shared queues, which are not reserved.
    pub(super) shared: usize,
    /// Further jobs of shared queues, which are fetched before there are free slots for them.
    pub(super) ahead: usize,
}

impl Room {
    pub(super) fn is_empty(self) -> bool {
        self.total == 0 && self.ahead == 0
    }
}

/// The result of one round trip.
pub(super) struct FlushResult {
    pub(super) fetched: Vec<Delivery>,
    /// Time until a used-up rate limit allows another job. `None` if this fetch has used up no rate limit, and no used-up
    /// rate limit holds jobs back.
    pub(super) retry_after: Option<Duration>,
    /// Whether all calls have succeeded, and none of them released a lost fetch. A flush that releases a lost fetch fetches no
    /// jobs.
    pub(super) complete: bool,
    /// Whether the flush had jobs to settle. Jobs that depend on the settled jobs may have become ready.
    pub(super) settled: bool,
}

impl BrokerSession {
    pub(super) fn new(queue: &Queue, worker: &str, options: &Options, leases: Leases) -> Self {
        Self {
            connection: ReconnectingConnection::new(queue.connector(), "worker"),
            prefix: queue.prefix().to_owned(),
            worker: worker.to_owned(),
            queues: options.queues.clone(),
            reserved: options.reserved_name().map(str::to_owned),
            max_running_per_owner: options.max_running_per_owner.unwrap_or(0),
            lease: options.lease,
            leases,
            unsettled: Vec::new(),
            unanswered_fetch: None,
        }
    }

    /// Adds deliveries for the next flush to settle.
    pub(super) fn add(&mut self, completed: impl IntoIterator<Item = CompletedDelivery>) {
        // One batch per queue, because one call of the script `settle` settles jobs of one queue.
        SettlementBatch::group(&mut self.unsettled, completed, &self.leases);
    }

    /// Returns whether there are deliveries to settle or a fetch to release.
    pub(super) fn has_pending_work(&self) -> bool {
        !self.unsettled.is_empty() || self.unanswered_fetch.is_some()
    }

    /// Settles completed deliveries and fetches jobs, in one round trip.
    ///
    /// Even if this future is dropped, the next flush repeats settlements that Redis did not confirm, and releases a fetch
    /// whose answer was lost or was an error. If Redis has applied a settlement, a repetition has no effect, because a token
    /// settles a job once.
    pub(super) async fn flush(&mut self, want: Room) -> FlushResult {
        let settled = !self.unsettled.is_empty();
        let mut flushed = FlushResult { fetched: Vec::new(), retry_after: None, complete: false, settled };
        let Some(conn) = self.connection.get().await else { return flushed };
        let lost = self.unanswered_fetch.take();
        let token = (!want.is_empty() && lost.is_none()).then(|| uuid::Uuid::new_v4().simple().to_string());
        self.unanswered_fetch = lost.clone().or_else(|| token.clone());

        let settling = join_all(self.unsettled.iter().map(|batch| batch.settle(&self.prefix, conn.clone())));
        let fetching =
            OptionFuture::from(token.as_deref().map(|token| self.fetch(token, want, conn.clone())));
        let releasing = OptionFuture::from(lost.as_deref().map(|token| self.release(token, conn.clone())));
        let exchange = join(join(settling, fetching), releasing);
        let ((settled, fetched), released) = match self.connection.answer(exchange).await {
            Ok(answers) => answers,
            Err(error) => {
                self.connection.record_failure(&error);
                return flushed;
            }
        };

        let mut failure = None;
        for (batch, result) in std::mem::take(&mut self.unsettled).into_iter().zip(settled) {
            match result {
                Ok(rejected) => batch.finish_settlement(&rejected, &self.leases),
                Err(error) => {
                    failure = Some(error);
                    self.unsettled.push(batch);
                }
            }
        }
        match (fetched, released) {
            (Some(Ok((deliveries, retry_after_ms))), _) => {
                self.unanswered_fetch = None;
                flushed.fetched = deliveries;
                flushed.retry_after = (retry_after_ms > 0).then(|| Duration::from_millis(retry_after_ms));
            }
            (_, Some(Ok(()))) => self.unanswered_fetch = None,
            (Some(Err(error)), _) | (_, Some(Err(error))) => failure = Some(error),
            (None, None) => {}
        }
        match failure {
            Some(error) => self.connection.record_failure(&error),
            None => {
                self.connection.record_success();
                flushed.complete = lost.is_none();
            }
        }
        flushed
    }

    /// Fetches jobs. Also returns [`FlushResult::retry_after`] in milliseconds, or 0 for `None`.
    async fn fetch(
        &self,
        token: &str,
        want: Room,
        mut conn: MultiplexedConnection,
    ) -> RedisResult<(Vec<Delivery>, u64)> {
        type Batch = (String, Vec<String>, Vec<Vec<u8>>, Vec<Option<u32>>, Vec<Option<u32>>, String);
        // Each fetch draws a random order of weighted queues, and takes jobs from the first queue first. With small fetches, a
        // new order is drawn after few jobs, so the shares of the queues soon approach their weights.
        let ahead =
            want.ahead.min(if self.queues.are_weighted() { MAX_AHEAD_IF_WEIGHTED } else { usize::MAX });
        let mut call = scripts::FETCH.key(&self.prefix);
        call.arg(&self.worker)
            .arg(token)
            .arg(self.lease.as_millis() as u64)
            .arg(want.total)
            .arg(want.shared)
            .arg(self.max_running_per_owner)
            .arg(ahead)
            .arg(self.reserved.as_deref().unwrap_or_default());
        // If there is no room for jobs of shared queues, the call does not name these queues. Otherwise the script would set
        // wake-ups for jobs that this worker cannot run.
        if want.shared + want.ahead > 0 {
            let is_shared = |name: &&str| Some(*name) != self.reserved.as_deref();
            call.arg(self.queues.order().into_iter().filter(is_shared).collect::<Vec<_>>());
        }
        let sent_at = Instant::now();
        let (now, batches, retry_after_ms): (i64, Vec<Batch>, u64) = call.invoke_async(&mut conn).await?;
        let mut deliveries = Vec::with_capacity(want.total + want.ahead);
        for (index, (queue, ids, envelopes, failures, crashes, mark)) in batches.into_iter().enumerate() {
            let token: Arc<str> = format!("{token}.{index}{mark}").into();
            let lease: Arc<str> = format!("{token}|{}", ids.join(",")).into();
            let queue: Arc<str> = queue.into();
            let mut jobs = HashMap::with_capacity(ids.len());
            for (((id, envelope), failures), crashes) in
                ids.into_iter().zip(envelopes).zip(failures).zip(crashes)
            {
                let (id, signals): (Arc<str>, _) = (id.into(), JobSignals::default());
                jobs.insert(id.clone(), signals.clone());
                deliveries.push(Delivery {
                    id,
                    token: token.clone(),
                    queue: queue.clone(),
                    envelope,
                    failures: failures.unwrap_or(0),
                    crashes: crashes.unwrap_or(0),
                    has_records: failures.is_some() || crashes.is_some(),
                    is_ahead: !mark.is_empty(),
                    fetched_at: now,
                    signals,
                });
            }
            self.leases.add(lease, queue, sent_at, jobs);
        }
        Ok((deliveries, retry_after_ms))
    }

    async fn release(&self, token: &str, mut conn: MultiplexedConnection) -> RedisResult<()> {
        let mut call = scripts::RELEASE.key(&self.prefix);
        call.arg(token).arg(self.queues.names()).arg(&self.reserved);
        let jobs: u64 = call.invoke_async(&mut conn).await?;
        if jobs > 0 {
            tracing::warn!(jobs, "the answer to a fetch was lost; its jobs are back in the queue");
        }
        Ok(())
    }
}

/// Completed deliveries of one queue, settled by one call.
struct SettlementBatch {
    queue: Arc<str>,
    deliveries: Vec<CompletedDelivery>,
    /// The leases whose last job is among the deliveries.
    ended_leases: Vec<Arc<str>>,
}

impl SettlementBatch {
    fn group(
        batches: &mut Vec<Self>,
        completed: impl IntoIterator<Item = CompletedDelivery>,
        leases: &Leases,
    ) {
        for delivery in completed {
            let ended = leases.complete(&delivery.token, &delivery.id);
            let batch = match batches.iter_mut().find(|batch| batch.queue == delivery.queue) {
                Some(batch) => batch,
                None => {
                    let queue = delivery.queue.clone();
                    batches.push(Self { queue, deliveries: Vec::new(), ended_leases: Vec::new() });
                    let last = batches.len() - 1;
                    &mut batches[last]
                }
            };
            batch.ended_leases.extend(ended);
            batch.deliveries.push(delivery);
        }
    }

    /// Settles the deliveries. Returns the positions, from 1, of the deliveries that Redis rejected.
    async fn settle(&self, prefix: &str, mut conn: MultiplexedConnection) -> RedisResult<Vec<usize>> {
        let mut call = scripts::SETTLE.key(prefix);
        call.arg(&*self.queue).arg(self.ended_leases.len());
        for lease in &self.ended_leases {
            call.arg(&**lease);
        }
        for delivery in &self.deliveries {
            let (op, arg, ttl, text) = match &delivery.disposition {
                Disposition::Finished { outcome, ttl, origin, has_records } => {
                    ("ok", records_and_origin(*has_records, origin), *ttl, outcome.as_str())
                }
                Disposition::Canceled { outcome, ttl, origin } => {
                    ("cancel", records_and_origin(true, origin), *ttl, outcome.as_str())
                }
                Disposition::Retry { after, error } => ("retry", milliseconds(*after), 0, error.as_str()),
                Disposition::Snooze { after } => ("snooze", milliseconds(*after), 0, ""),
                Disposition::UnknownTask { after, max_redeliveries, error } => {
                    ("unknown", milliseconds(*after), *max_redeliveries, error.as_str())
                }
                Disposition::Dead { error } => ("dead", Cow::Borrowed("0"), 0, error.as_str()),
                Disposition::Release => ("release", Cow::Borrowed("0"), 0, ""),
            };
            call.arg(op).arg(&*delivery.id).arg(&*delivery.token).arg(&*arg).arg(ttl).arg(text);
        }
        call.invoke_async(&mut conn).await
    }

    /// Removes the leases whose last job was settled or rejected, and logs the number of rejected deliveries.
    fn finish_settlement(&self, rejected: &[usize], leases: &Leases) {
        self.ended_leases.iter().for_each(|lease| leases.remove(lease));
        if !rejected.is_empty() {
            // Usually a settlement was repeated because its answer was lost, or a lease has expired.
            tracing::warn!(
                jobs = rejected.len(),
                queue = &*self.queue,
                "outcomes rejected: this worker no longer held the jobs"
            );
        }
    }
}

/// Returns the argument `arg` of the settle script for an ended job: 1 if Redis may hold records of the job that must be
/// deleted, else 0, followed by the owner and the scope of the job.
fn records_and_origin(has_records: bool, origin: &str) -> Cow<'static, str> {
    match (has_records, origin) {
        (false, "") => "0".into(),
        (true, "") => "1".into(),
        _ => format!("{}{origin}", u8::from(has_records)).into(),
    }
}

fn milliseconds(duration: Duration) -> Cow<'static, str> {
    duration.as_millis().to_string().into()
}
