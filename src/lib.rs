//! A SaaS backend in one binary.
//!
//! | module | is | may use |
//! |---|---|---|
//! | [`cli`] | one file per subcommand | everything |
//! | [`api`] | one file per resource: contract types and operations | services, models, jobs, queue, app, db, security |
//! | [`services`] | business rules that span queries | models, security, app, cache, db, mail |
//! | [`jobs`] | the tasks, one file each | services, models, app, mail, queue |
//! | [`queue`] | the job engine; knows nothing of this product | |
//! | [`models`] | the tables and their queries; knows nothing of HTTP | schema |
//! | [`app`] | the composition root | cache, db, queue, mail, security |
//! | [`cache`] | copies of what was read from the database | db, security |
//! | [`db`], [`mail`], [`security`] | PostgreSQL, letters and SMTP, passwords and tokens | |
//! | [`dev`] | the private servers of `saas dev` and the tests | |
//! | [`config`], [`error`], [`telemetry`], [`pool`], [`redis_pool`] | the ground, which everybody may use | |
//!
//! A test reads the `use crate::` lines and holds this.

pub mod api;
pub mod app;
pub mod cache;
pub mod cli;
pub mod config;
pub mod context;
pub mod db;
pub mod dev;
pub mod error;
pub mod jobs;
pub mod mail;
pub mod models;
pub mod pool;
pub mod queue;
pub mod redis_pool;
pub mod schema;
pub mod security;
pub mod services;
pub mod telemetry;
