//! A SaaS backend in one binary: accounts, an HTTP API, database migrations and background jobs.
//!
//! [`cli::serve`](cli) starts the server. [`api`] parses each request, authenticates the caller unless the operation is public,
//! and calls a service. For a simple read, [`api`] calls [`models`] directly. [`services`] contain the business rules and run
//! the transaction; [`models`] contain the queries. Mails and other deferred work are jobs: a worker of [`queue`] runs the
//! tasks of [`jobs`]. The API, the services and the jobs share [`app::App`], which has the connections and the settings.
//!
//! # Modules, and what each may import
//!
//! | module | contains | may import |
//! |---|---|---|
//! | [`cli`] | one file per subcommand | everything |
//! | [`api`] | one file per resource: contract types and operations | services, models, jobs, queue, app, db, rate_limits, security, context, email_address |
//! | [`services`] | business rules that span queries, and the transaction | models, queue, security, app, attempts, cache, db, mail, context, email_address |
//! | [`jobs`] | the tasks, one file each, and the list of them | services, models, app, mail, queue, context |
//! | [`queue`] | the job engine, which depends on Redis only | |
//! | [`models`] | the tables and their queries | schema, db, email_address |
//! | [`app`] | the composition root | attempts, cache, db, queue, mail, rate_limits, security, models |
//! | [`attempts`] | counters of attempts, in Redis and in the process | |
//! | [`cache`] | typed cache-aside over Redis | |
//! | [`context`] | the request that a service works for | queue |
//! | [`db`] | the PostgreSQL pool, transactions, migrations | context |
//! | [`mail`] | messages, their templates, SMTP | email_address |
//! | [`rate_limits`] | token buckets of requests, in each process and synchronized through Redis | context |
//! | [`security`] | passwords, tokens, encryption | |
//! | [`email_address`] | which addresses are accepted, and when two spellings are the same address | |
//! | [`dev`] | the private servers of `saas dev` and of the tests | |
//! | [`config`] | the settings, part of the base | email_address |
//! | [`error`], [`logging`], [`lookups`], [`pool`], [`redis_pool`], [`redis_servers`] | the base: every module except `queue` may import these modules and `config` | |
//!
//! The test `tree::modules_import_only_what_the_table_allows` reads this table, and `import_cycles` finds files that import
//! each other.

pub mod api;
pub mod app;
pub mod attempts;
pub mod cache;
pub mod cli;
pub mod config;
pub mod context;
pub mod db;
pub mod dev;
pub mod email_address;
pub mod error;
pub mod jobs;
pub mod logging;
pub mod lookups;
pub mod mail;
pub mod models;
pub mod pool;
pub mod queue;
pub mod rate_limits;
pub mod redis_pool;
pub mod redis_servers;
pub mod schema;
pub mod security;
pub mod services;

// The integration tests include this file, too.
#[cfg(test)]
#[path = "../tests/it/support/property.rs"]
mod property;
