//! A SaaS backend in one binary.
//!
//! | module | is | may use |
//! |---|---|---|
//! | [`cli`] | one file per subcommand | everything |
//! | [`api`] | one file per resource: contract types and operations | services, models, jobs, queue, app, config, error, telemetry |
//! | [`services`] | business rules that span queries | models, security, app, error |
//! | [`jobs`] | the tasks, one file each | services, models, app, mail, queue, error |
//! | [`queue`] | the job engine; knows nothing of this product | config, error, telemetry |
//! | [`models`] | the tables and their queries; knows nothing of HTTP | schema |
//! | [`app`] | the composition root | config, db, queue, mail, security |
//! | [`db`], [`mail`], [`security`] | PostgreSQL, SMTP, passwords and tokens | config, error, telemetry |
//! | [`dev`] | the private servers of `saas dev` and the tests | config |
//! | [`config`], [`error`], [`telemetry`], [`schema`] | settings, errors, logs, tables | telemetry: config |
//!
//! A test reads the `use crate::` lines and holds this.

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod db;
pub mod dev;
pub mod error;
pub mod jobs;
pub mod mail;
pub mod models;
pub mod queue;
pub mod schema;
pub mod security;
pub mod services;
pub mod telemetry;
