//! Health checks for load balancers and orchestrators.

use diesel::result::Error as DieselError;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    payload::Json,
    types::{Example, ToJSON},
};

use super::tag::Tag;
use crate::{
    app::App,
    db::migrations,
    error::{Error, Result},
    services::job_relay::{self, WaitingCounts},
};

/// Maximum number of mails, and of jobs that were set aside, that the readiness check counts in the outbox.
const MAX_COUNTED_JOBS: i64 = 1_000;

/// Health checks.
pub(super) struct Health(pub(super) App);

/// The process is running.
#[derive(Object)]
#[oai(example)]
struct Alive {
    /// `healthy`.
    status: String,
    /// Name of the product.
    service: String,
    /// Version of the program.
    version: String,
}

impl Example for Alive {
    fn example() -> Self {
        Self { status: "healthy".into(), service: "saas".into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// The health of the database.
#[derive(Object)]
#[oai(skip_serializing_if_is_none, example)]
struct DatabaseHealth {
    /// `healthy` or `unhealthy`.
    status: String,
    /// `ok` or `error`.
    database: String,
    /// The result of `SELECT 1`.
    result: Option<i32>,
}

impl Example for DatabaseHealth {
    fn example() -> Self {
        Self { status: status_text(true), database: check_text(true), result: Some(1) }
    }
}

/// The health of Redis.
#[derive(Object)]
#[oai(example)]
struct RedisHealth {
    /// `healthy` or `unhealthy`.
    status: String,
    /// `ok` or `error`.
    redis: String,
}

impl Example for RedisHealth {
    fn example() -> Self {
        Self { status: status_text(true), redis: check_text(true) }
    }
}

/// Whether the process can serve requests.
#[derive(Object)]
#[oai(skip_serializing_if_is_none, example)]
struct Readiness {
    /// `healthy` or `unhealthy`.
    status: String,
    /// `ok`, or `error` if a query fails or the database accepts no writes.
    database: String,
    /// `ok`, `pending` if some migrations are not applied yet, or `error` in the same cases as `database`.
    migrations: String,
    /// `ok`, or `degraded` if Redis does not answer in time or refuses writes. Does not change the status: most
    /// operations work without Redis.
    redis: String,
    /// `no server` if no mail can be sent, because `SMTP_URL` is not set; else absent. Does not change the status.
    mail: Option<String>,
    /// Number of mails that wait for a mail server, at most 1000. Absent if mails can be sent, or if the number is unknown.
    waiting_mails: Option<u32>,
    /// Number of jobs that were set aside because they cannot be enqueued, at most 1000. Absent if there are none, or if the
    /// number is unknown. Does not change the status. The log contains the reasons.
    set_aside_jobs: Option<u32>,
    /// Whether this process is shutting down.
    stopping: bool,
}

impl Example for Readiness {
    fn example() -> Self {
        Self {
            status: status_text(true),
            database: check_text(true),
            migrations: check_text(true),
            redis: check_text(true),
            mail: None,
            waiting_mails: None,
            set_aside_jobs: None,
            stopping: false,
        }
    }
}

#[derive(ApiResponse)]
enum HealthResponse<T: ToJSON + Send + Sync> {
    /// Healthy.
    #[oai(status = 200)]
    Healthy(Json<T>),
    /// Unhealthy. The log contains the cause of each `error`.
    #[oai(status = 503)]
    Unhealthy(Json<T>),
}

impl<T: ToJSON + Send + Sync> HealthResponse<T> {
    fn new(healthy: bool, body: T) -> Self {
        if healthy { Self::Healthy(Json(body)) } else { Self::Unhealthy(Json(body)) }
    }
}

fn status_text(healthy: bool) -> String {
    if healthy { "healthy" } else { "unhealthy" }.into()
}

fn check_text(ok: bool) -> String {
    if ok { "ok" } else { "error" }.into()
}

/// Logs the error of a failed check. The response does not contain it.
fn log_failure<T>(what: &str, result: Result<T>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(what, error = crate::error::chain(error), "health check failed"))
        .ok()
}

impl Health {
    /// Returns the result of `SELECT 1`; `None` if the query fails.
    async fn database(&self) -> Option<i32> {
        let one = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("1"));
        log_failure("database", self.0.db.run(async |conn| Ok(one.get_result::<i32>(conn).await?)).await)
    }

    async fn redis_works(&self) -> bool {
        let key = format!("{}:health", self.0.config.redis.redis_key_prefix);
        log_failure("redis", self.0.redis.probe(&key).await).is_some()
    }

    /// Counts the jobs of the outbox; `None` if a query fails, for example because the database does not answer.
    async fn outbox(&self) -> Option<WaitingCounts> {
        log_failure(
            "outbox",
            self.0.db.run(async |conn| job_relay::count(conn, MAX_COUNTED_JOBS).await).await,
        )
    }

    /// Returns whether all migrations are applied; `None` if a query fails, or if the database accepts no writes.
    async fn migrated(&self) -> Option<bool> {
        // Converts an error of diesel like any other query does, so that the pool discards an unusable connection.
        let converted =
            |error: anyhow::Error| error.downcast::<DieselError>().map_or_else(Error::internal, Error::from);
        let query = async |conn: &mut AsyncPgConnection| migrations::pending(conn).await.map_err(converted);
        log_failure("migrations", self.0.db.run_on_primary(query).await).map(|pending| pending.is_empty())
    }
}

#[OpenApi(prefix_path = "/health", tag = "Tag::Health")]
impl Health {
    /// Returns the name and version of the service.
    ///
    /// Does not check the database or Redis.
    #[oai(path = "/", method = "get", operation_id = "health")]
    async fn health(&self) -> Json<Alive> {
        let service = self.0.config.core.project_name.clone();
        Json(Alive { status: status_text(true), service, version: env!("CARGO_PKG_VERSION").into() })
    }

    /// Checks that the process is running.
    ///
    /// For liveness probes: does not check the database or Redis.
    #[oai(path = "/live", method = "get", operation_id = "health_live")]
    async fn live(&self) -> Json<Alive> {
        self.health().await
    }

    /// Checks that the database answers.
    ///
    /// The status is 503 if `SELECT 1` fails.
    #[oai(path = "/db", method = "get", operation_id = "health_db")]
    async fn db(&self) -> HealthResponse<DatabaseHealth> {
        let result = self.database().await;
        let healthy = result.is_some();
        HealthResponse::new(
            healthy,
            DatabaseHealth { status: status_text(healthy), database: check_text(healthy), result },
        )
    }

    /// Checks that Redis answers and accepts writes.
    ///
    /// The status is 503 if Redis does not answer in time, or refuses writes, for example because it is full or read-only.
    #[oai(path = "/redis", method = "get", operation_id = "health_redis")]
    async fn redis(&self) -> HealthResponse<RedisHealth> {
        let healthy = self.redis_works().await;
        HealthResponse::new(healthy, RedisHealth { status: status_text(healthy), redis: check_text(healthy) })
    }

    /// Checks that the process can serve requests.
    ///
    /// For readiness probes: checks the database and its migrations, and fails during a shutdown. It also fails if the database
    /// is a read-only standby. The response also reports problems that do not change the status: of Redis, of mails without a
    /// mail server, and of jobs that were set aside.
    #[oai(path = "/ready", method = "get", operation_id = "health_ready")]
    async fn ready(&self) -> HealthResponse<Readiness> {
        let (migrated, redis, outbox) = tokio::join!(self.migrated(), self.redis_works(), self.outbox());
        let can_send = self.0.mailer.can_send();
        let count = |count: usize| u32::try_from(count).ok();
        let waiting_mails = outbox.as_ref().filter(|_| !can_send).and_then(|outbox| count(outbox.mails));
        let set_aside_jobs =
            outbox.filter(|outbox| outbox.set_aside > 0).and_then(|outbox| count(outbox.set_aside));
        let stopping = self.0.is_stopping();
        let healthy = migrated == Some(true) && !stopping;
        let migrations = match migrated {
            Some(true) => "ok",
            Some(false) => "pending",
            None => "error",
        };
        HealthResponse::new(
            healthy,
            Readiness {
                status: status_text(healthy),
                database: check_text(migrated.is_some()),
                migrations: migrations.into(),
                redis: if redis { "ok" } else { "degraded" }.into(),
                mail: (!can_send).then(|| "no server".into()),
                waiting_mails,
                set_aside_jobs,
                stopping,
            },
        )
    }
}
