//! A steady load: 100 enqueues and 100 reads of `/users/me` per second. The rate does not depend on the responses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use chrono::{DateTime, Utc};
use tokio::{task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;

use crate::http::{
    fixture::{enqueue_lasting, me},
    wrk::Request,
};

/// Time between two requests of the same kind.
const INTERVAL: Duration = Duration::from_millis(10);
/// Time limit of a request. The time limits of the server are shorter, so a running server answers earlier, at least with an
/// error.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The job of every tenth user takes a second, so that jobs are running when a fault begins. The other jobs end at once.
const LONG_JOB_EVERY: usize = 10;

/// The requests of a load. The users take turns: at each tick, one user sends an enqueue and a read.
pub struct Load {
    client: reqwest::Client,
    url: Arc<str>,
    enqueues: Vec<Request>,
    reads: Vec<Request>,
}

/// A request and its response.
pub struct Sample {
    pub sent: Instant,
    pub answered: Instant,
    pub is_success: bool,
    /// The id of the accepted job. `None` for a read, and for an enqueue that failed.
    pub job: Option<String>,
}

/// The responses of a load.
pub struct Samples {
    pub enqueues: Vec<Sample>,
    pub reads: Vec<Sample>,
    pub begun: Instant,
    /// When the load stopped sending requests.
    pub ended: Instant,
    /// The same moment as `ended` by the system clock, which log lines use.
    pub ended_at: DateTime<Utc>,
}

impl Load {
    pub fn new(url: &str, tokens: &[String]) -> Result<Self> {
        let seconds = |user: usize| u32::from(user.is_multiple_of(LONG_JOB_EVERY));
        let enqueue = |(user, token): (usize, &String)| enqueue_lasting(token, seconds(user));
        Ok(Self {
            client: reqwest::Client::builder().no_proxy().timeout(RESPONSE_TIMEOUT).build()?,
            url: url.into(),
            enqueues: tokens.iter().enumerate().map(enqueue).collect(),
            reads: tokens.iter().map(|token| me(token)).collect(),
        })
    }

    /// Sends requests until `stop` is canceled, and waits for all responses.
    pub async fn run(&self, stop: &CancellationToken) -> Samples {
        let (mut enqueues, mut reads) = (JoinSet::new(), JoinSet::new());
        let (mut ticks, begun) = (interval(INTERVAL), Instant::now());
        for (enqueue, read) in self.enqueues.iter().zip(&self.reads).cycle() {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            enqueues.spawn(send(self.client.clone(), self.url.clone(), enqueue.clone()));
            reads.spawn(send(self.client.clone(), self.url.clone(), read.clone()));
        }
        let (ended, ended_at) = (Instant::now(), Utc::now());
        let (enqueues, reads) = (enqueues.join_all().await, reads.join_all().await);
        Samples { enqueues, reads, begun, ended, ended_at }
    }
}

async fn send(client: reqwest::Client, url: Arc<str>, request: Request) -> Sample {
    let sent = Instant::now();
    let answer = request.send(&client, &url).await;
    let job = answer.as_ref().ok().and_then(|answer| answer["job_id"].as_str()).map(str::to_owned);
    Sample { sent, answered: Instant::now(), is_success: answer.is_ok(), job }
}

impl Samples {
    /// Returns the ids of the accepted jobs.
    pub fn accepted(&self) -> Vec<String> {
        self.enqueues.iter().filter_map(|sample| sample.job.clone()).collect()
    }

    /// Returns the time from `over`, when the cause of the fault had ended, until the last failed request was sent. Returns
    /// zero if no request that was sent after `over` failed.
    pub fn recovery(&self, over: Instant) -> Duration {
        let failed = self.enqueues.iter().chain(&self.reads).filter(|sample| !sample.is_success);
        failed.map(|sample| sample.sent.saturating_duration_since(over)).max().unwrap_or_default()
    }

    /// Returns the longest time without a successful response among `samples`.
    pub fn outage(&self, samples: &[Sample]) -> Duration {
        let successes = samples.iter().filter(|sample| sample.is_success);
        let mut times: Vec<_> = successes.map(|sample| sample.answered).collect();
        times.extend([self.begun, self.ended]);
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap_or_default()
    }
}
