//! The job engine: a state machine in Redis, whose every transition is one atomic script.
//!
//! It knows Redis and the [`Job`] trait, and nothing of this application's tasks: a worker is handed a table of
//! [`JobType`]s and the state that they run with.
//!
//! | file | concern |
//! |---|---|
//! | `client` | the connections of those who enqueue and look |
//! | `enqueue` | enqueuing, one by one or many at once, now or later |
//! | `push`, `script_client` | calls of the scripts |
//! | `combine` | group commit of what is enqueued at the same time |
//! | `inspect`, `status` | looking at queues and jobs |
//! | `control` | cancel, requeue, purge, pause, limit |
//! | `server` | whether a Redis can be trusted with jobs |
//! | `job` | the trait a task implements, its context and outcomes, the envelope on the wire |
//! | `cron` | jobs that run by the clock |
//! | `worker` | the life of a worker: fetch, run, settle, stop |
//! | `queues` | which queues it takes from, and in what order |
//! | `exchange` | its round trips to Redis |
//! | `waker` | how it waits while it is idle |
//! | `delivery` | one job from fetch to outcome |
//! | `lease` | which deliveries this process holds, and the thread that renews them |
//! | `registry` | the workers that live |
//! | `scheduler` | promotes what is due and takes back what dead workers held |
//! | `link` | connections that come back |
//! | `scripts` | the transitions, in Lua |

mod client;
mod combine;
mod control;
mod cron;
mod delivery;
mod enqueue;
mod error;
mod exchange;
mod inspect;
mod job;
mod lease;
mod link;
mod push;
mod queues;
mod registry;
mod scheduler;
mod script_client;
mod scripts;
mod server;
mod status;
mod waker;
mod worker;

pub use client::{Queue, QueueOptions};
pub use control::{Cancel, Rate};
pub use cron::{Missed, Schedule};
pub use enqueue::{Keep, Origin, Place, Unique, When};
pub use error::Error;
pub use inspect::{QueueInfo, Totals};
pub use job::{Context, Failure, Job, JobType, Then};
pub use queues::Queues;
pub use registry::WorkerInfo;
pub use server::{Server, passes};
pub use status::{JobStatus, State};
pub use worker::{Options, Summary, Worker};
