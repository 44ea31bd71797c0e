//! A token bucket, stored as the time at which it is full again (generic cell rate algorithm, ITU-T I.371). All times are
//! those of [`Clock`](super::Clock), in nanoseconds.

use super::subject::{Caller, Class, Subject};

/// The time in which an empty bucket becomes full.
pub(super) const WINDOW: u64 = 60 * SECOND;
/// Minimum time between two logged refusals of a bucket.
const LOG_INTERVAL: u64 = 60 * SECOND;
const SECOND: u64 = 1_000_000_000;

/// A number of requests per minute. All of them may be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    quota: u32,
    /// Time in which the bucket gets one token.
    interval: u64,
}

impl Limit {
    /// Allows `quota` requests a minute, at least 1.
    pub const fn per_minute(quota: u32) -> Self {
        let quota = if quota == 0 { 1 } else { quota };
        Self { quota, interval: WINDOW / quota as u64 }
    }
}

/// Whether a request is allowed, and the state of its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub is_allowed: bool,
    /// The number of further requests that are allowed at once.
    pub remaining: u32,
    /// Seconds until the bucket is full or, if no request remains, until the next request is allowed. Rounded up, at least 1.
    pub reset_seconds: u64,
    /// Whether to log the refusal: no refusal of this bucket was logged in the last minute.
    pub is_reported: bool,
}

/// The bucket of a subject. A full bucket allows as many requests as a new one, so the bucket of another subject may replace it.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    pub(super) subject: Subject,
    /// When the bucket is full again. The bucket is empty if this time is a minute from now, and has a debt if it is later.
    pub(super) full_at: u64,
    /// The `interval` of the limit of the last request.
    interval: u64,
    /// The earliest time at which a refusal is logged again.
    log_at: u64,
    /// Allowed requests that are not reported to Redis yet.
    unsettled: u32,
    /// The time from which the unsettled requests count: a bucket that was full before them is full again at this time plus
    /// their cost.
    unsettled_from: u64,
}

/// The requests of a bucket that are not reported to Redis yet.
pub(super) struct Usage {
    pub(super) subject: Subject,
    /// How much later the bucket is full because of the requests, in microseconds.
    pub(super) cost_micros: u64,
    /// The time from which the cost counts if the bucket was full before the requests.
    pub(super) counts_from: u64,
}

impl Bucket {
    /// The initial value of each place in the table: a full bucket, whose subject is arbitrary.
    pub(super) const UNUSED: Self = Self::new(Subject { caller: Caller::Network(None), class: Class::Auth });

    /// Creates a full bucket.
    pub(super) const fn new(subject: Subject) -> Self {
        Self { subject, full_at: 0, interval: 0, log_at: 0, unsettled: 0, unsettled_from: 0 }
    }

    /// Takes a token if the bucket has one.
    pub(super) fn take(&mut self, now: u64, limit: Limit) -> Decision {
        let Limit { quota, interval } = limit;
        self.interval = interval;
        let full_at = self.full_at.max(now) + interval;
        let is_allowed = full_at <= now + WINDOW;
        if is_allowed {
            self.full_at = full_at;
            // If the bucket was full for some time between two unsettled requests, this time does not count.
            let cost = u64::from(self.unsettled) * interval;
            self.unsettled_from = self.unsettled_from.max(now.saturating_sub(cost));
            self.unsettled = self.unsettled.saturating_add(1);
        }
        let is_reported = !is_allowed && self.log_at <= now;
        if is_reported {
            self.log_at = now + LOG_INTERVAL;
        }
        let missing = self.full_at.max(now) - now;
        let remaining = WINDOW.saturating_sub(missing) / interval;
        // If less than one token remains, the sum is greater than the window.
        let wait = if remaining > 0 { missing } else { (missing + interval).saturating_sub(WINDOW) };
        Decision {
            is_allowed,
            remaining: u32::try_from(remaining).unwrap_or(quota).min(quota - 1),
            reset_seconds: wait.div_ceil(SECOND).max(1),
            is_reported,
        }
    }

    /// Returns the requests that are not reported to Redis, and marks them as reported. `None` if there are no such requests.
    pub(super) fn take_unsettled(&mut self) -> Option<Usage> {
        let requests = std::mem::take(&mut self.unsettled);
        let cost_micros = (u64::from(requests) * self.interval).div_ceil(1_000);
        let (subject, counts_from) = (self.subject, self.unsettled_from);
        (requests > 0).then_some(Usage { subject, cost_micros, counts_from })
    }

    /// Updates the bucket with the requests of all processes. `full_at` is the time at which the bucket in Redis is full.
    ///
    /// An update never adds tokens, so that the bucket is not refilled if Redis has lost its data.
    pub(super) fn settle(&mut self, full_at: u64) {
        self.full_at = self.full_at.max(full_at + u64::from(self.unsettled) * self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit::per_minute(3);
    const START: u64 = 1_000 * SECOND;

    /// Takes a token. Returns `is_allowed`, `remaining` and `reset_seconds` of the decision.
    fn take(bucket: &mut Bucket, seconds: u64) -> (bool, u32, u64) {
        let decision = bucket.take(START + seconds * SECOND, LIMIT);
        (decision.is_allowed, decision.remaining, decision.reset_seconds)
    }

    fn take_cost(bucket: &mut Bucket) -> Option<u64> {
        bucket.take_unsettled().map(|usage| usage.cost_micros)
    }

    #[test]
    fn a_bucket_has_the_quota_at_once_and_refills_evenly() {
        let mut bucket = Bucket::UNUSED;
        for (second, expected) in [
            (0, (true, 2, 20)),
            (0, (true, 1, 40)),
            (0, (true, 0, 20)),
            (0, (false, 0, 20)),
            (19, (false, 0, 1)),
            (20, (true, 0, 20)),
            (20, (false, 0, 20)),
            // The refused requests have taken no tokens.
            (60, (true, 1, 40)),
            (1_000, (true, 2, 20)),
        ] {
            assert_eq!(take(&mut bucket, second), expected, "after {second} s");
        }
    }

    #[test]
    fn exactly_the_quota_is_allowed_at_once() {
        for quota in [1, 7, 60, 1_001, 99_999] {
            let (mut bucket, limit) = (Bucket::UNUSED, Limit::per_minute(quota));
            assert_eq!(bucket.take(START, limit).remaining, quota - 1);
            let allowed = (0..quota).filter(|_| bucket.take(START, limit).is_allowed).count();
            assert_eq!(allowed + 1, quota as usize);
        }
    }

    #[test]
    fn requests_at_other_processes_count_also_if_redis_loses_its_data() {
        let mut bucket = Bucket::UNUSED;
        take(&mut bucket, 0);
        assert_eq!(take_cost(&mut bucket), Some(20_000_000));
        take(&mut bucket, 0);
        // Another process has used two tokens, so Redis knows three requests. It does not know the last request above yet.
        bucket.settle(START + 60 * SECOND);
        assert_eq!(take(&mut bucket, 39), (false, 0, 1));
        assert_eq!(take(&mut bucket, 40), (true, 0, 20));
        bucket.settle(0);
        assert_eq!(take(&mut bucket, 40), (false, 0, 20), "Redis has lost its data");
        assert_eq!((take_cost(&mut bucket), take_cost(&mut bucket)), (Some(40_000_000), None));
    }

    #[test]
    fn reported_requests_count_from_the_time_of_the_requests() {
        let mut bucket = Bucket::UNUSED;
        for (seconds, cost, from) in [
            (&[100][..], 20, 100),
            (&[205, 210], 40, 205),
            // The first request no longer counts after 320 s. The bucket is full again at 350 s, which is 310 s plus the cost of
            // both requests, 40 s.
            (&[300, 330], 40, 310),
            // The last request is refused.
            (&[400, 400, 400, 401], 60, 400),
        ] {
            for second in seconds {
                take(&mut bucket, *second);
            }
            let usage = bucket.take_unsettled().unwrap();
            let found = (usage.cost_micros, usage.counts_from);
            assert_eq!(found, (cost * 1_000_000, START + from * SECOND), "{seconds:?}");
        }
    }

    #[test]
    fn a_refusal_is_logged_once_a_minute() {
        let mut bucket = Bucket::UNUSED;
        let mut reported = |second: u64| bucket.take(START + second * SECOND, LIMIT).is_reported;
        let at_once: Vec<_> = (0..6).map(|_| reported(0)).collect();
        assert_eq!(at_once, [false, false, false, true, false, false]);
        let later: Vec<_> = [60, 60, 60, 60, 60].into_iter().map(reported).collect();
        assert_eq!(later, [false, false, false, true, false]);
    }
}
