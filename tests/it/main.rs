//! The integration tests, in one binary, with real PostgreSQL, Redis, HTTP and workers.
//!
//! The binary starts private servers. Each test has its own database and key prefix, and all run in parallel. Tests
//! with the prefix `smoke_` are the quick subset.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

mod allowed_hosts;
mod api_admin;
mod api_auth;
mod api_errors;
mod api_health;
mod api_jobs;
mod api_me;
mod api_outage;
mod api_user_admin;
mod api_users;
mod audit;
mod auth_cookies;
mod auth_links;
mod auth_rate_limits;
mod auth_redis;
mod auth_sessions;
mod auth_two_factor;
mod cache;
mod cli;
mod cli_dev;
mod cli_dev_database;
mod cli_queue;
mod cli_queue_control;
mod cli_serve;
mod cli_settings;
mod cli_worker;
mod database;
mod database_errors;
mod default_admin;
mod dev_mail;
mod history;
mod http_limits;
mod identity_copies;
mod import_cycles;
mod locales;
mod mail;
mod mail_delivery;
mod mail_encryption;
mod mail_greetings;
mod mail_without_server;
mod openapi;
mod openapi_access;
mod outbox;
mod query_plans;
mod queue;
mod queue_cron;
mod queue_edges;
mod queue_enqueue;
mod queue_faults;
mod queue_operations;
mod queue_owners;
mod queue_processes;
mod queue_redis;
mod queue_reserved;
mod registration_limits;
mod replicas;
mod secrets_in_logs;
mod security_events;
mod tree;
mod user_jobs;
