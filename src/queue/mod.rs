//! The job engine: a state machine in Redis, whose every transition is one atomic script.
//!
//! It knows Redis and the [`Job`] trait, and nothing of this application's tasks: a worker is handed a table of
//! [`JobType`]s and the state that they run with.
//!
//! | file | concern |
//! |---|---|
//! | `client` | enqueue, status, cancel: what the API uses |
//! | `job` | the trait a task implements, its context and outcomes, the envelope on the wire |
//! | `worker` | the life of a worker: fetch, run, settle, stop |
//! | `exchange` | its round trips to Redis |
//! | `waker` | how it waits while it is idle |
//! | `delivery` | one job from fetch to outcome |
//! | `lease` | which deliveries this process holds, and the thread that renews them |
//! | `scheduler` | promotes what is due and takes back what dead workers held |
//! | `link` | connections that come back |
//! | `scripts` | the transitions, in Lua |

mod client;
mod delivery;
mod exchange;
mod job;
mod lease;
mod link;
mod scheduler;
mod scripts;
mod status;
mod waker;
mod worker;

pub use client::{Cancel, Queue};
pub use job::{Context, Failure, Job, JobType, Origin};
pub use status::{JobStatus, State};
pub use worker::{Options, Summary, Worker};
