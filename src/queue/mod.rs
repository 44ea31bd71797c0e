//! The job engine: a state machine in Redis, in which every transition is one atomic script.
//!
//! The engine depends on Redis and the [`Job`] trait, and on nothing else of this crate. A worker gets a table of
//! [`JobType`]s and the state that their jobs use.
//!
//! | files | concern |
//! |---|---|
//! | `job`, `failure`, `schedule`, `job_type` | the types for the author of a job, and the table of job types |
//! | `envelope`, `outcome`, `state`, `limits` | the records that Redis stores about a job, and their limits |
//! | `client` | the client of the queue |
//! | `enqueue`, `enqueue_options`, `push`, `push_client`, `push_batches` | enqueue jobs, one or many, now or later |
//! | `prepared` | jobs that are written elsewhere first, such as in a transaction, and enqueued later |
//! | `owner` | the jobs of users and of scopes: who may enqueue them, how many, and their groups |
//! | `inspect`, `status`, `status_batches`, `control`, `rate` | inspect and operate queues and jobs |
//! | `relocate` | moves jobs to another prefix or server |
//! | `server` | checks whether a Redis server is safe for jobs |
//! | `worker`, `worker_options`, `runner`, `slots`, `prefetch`, `shutdown`, `liveness` | a worker: fetch, run, settle, stop |
//! | `broker_session`, `connector`, `reconnecting_connection`, `idle_notifier` | a worker's connections to Redis |
//! | `delivery`, `disposition`, `signals` | one job from fetch to outcome |
//! | `leases`, `heartbeat`, `worker_record` | the leases of a worker, the heartbeat that renews them, and the list of workers |
//! | `scheduler`, `cron`, `queues` | due and periodic jobs, jobs of crashed workers, expired records, the order of queues |
//! | `scripts`, `script_client`, `batcher` | the transitions as Lua scripts, the client that calls them, batches of concurrent calls |
//! | `error` | the errors of the engine |

mod batcher;
mod broker_session;
mod client;
mod connector;
mod control;
mod cron;
mod delivery;
mod disposition;
mod enqueue;
mod enqueue_options;
mod envelope;
mod error;
mod failure;
mod heartbeat;
mod idle_notifier;
mod inspect;
mod job;
mod job_type;
mod leases;
mod limits;
mod liveness;
mod outcome;
mod owner;
mod prefetch;
mod prepared;
mod push;
mod push_batches;
mod push_client;
mod queues;
mod rate;
mod reconnecting_connection;
mod relocate;
mod runner;
mod schedule;
mod scheduler;
mod script_client;
mod scripts;
mod server;
mod shutdown;
mod signals;
mod slots;
mod state;
mod status;
mod status_batches;
mod worker;
mod worker_options;
mod worker_record;

pub use client::{Queue, QueueOptions};
pub use connector::Connector;
pub use control::{Cancel, QueueChanges};
pub use enqueue_options::{EnqueueOptions, OnDuplicate, Unique, When};
pub use envelope::Origin;
pub use error::{BoxError, Error, OwnerLimit};
pub use failure::Failure;
pub use inspect::{JobPosition, QueueInfo, Totals};
pub use job::{Context, Job, JobState, MayRun};
pub use job_type::JobType;
pub use liveness::Liveness;
pub use owner::{EnqueueBy, OwnerLimits, PurgedOwner};
pub use prepared::PreparedJob;
pub use queues::Queues;
pub use rate::Rate;
pub use relocate::{MoveError, Moved, OtherPrefix};
pub use schedule::{Missed, Schedule};
pub use server::{Server, is_transient};
pub use state::State;
pub use status::JobStatus;
pub use worker::Worker;
pub use worker_options::{Options, ReservedQueue, Retention, Summary};
pub use worker_record::WorkerInfo;
