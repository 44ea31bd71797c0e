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
};

pub(super) struct Health(pub(super) App);

#[derive(Object)]
#[oai(example)]
struct Alive {
    status: String,
    service: String,
    version: String,
}

impl Example for Alive {
    fn example() -> Self {
        Self { status: "healthy".into(), service: "saas".into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// How one dependency is.
#[derive(Object)]
#[oai(skip_serializing_if_is_none, example)]
struct DatabaseHealth {
    status: String,
    database: String,
    result: Option<i32>,
}

impl Example for DatabaseHealth {
    fn example() -> Self {
        Self { status: status(true), database: state(true), result: Some(1) }
    }
}

#[derive(Object)]
#[oai(example)]
struct RedisHealth {
    status: String,
    redis: String,
}

impl Example for RedisHealth {
    fn example() -> Self {
        Self { status: status(true), redis: state(true) }
    }
}

#[derive(Object)]
#[oai(example)]
struct Readiness {
    status: String,
    /// `ok` or `error`.
    database: String,
    /// `ok`, `pending` or `error`.
    migrations: String,
    /// `ok`, or `degraded` if Redis does not answer in time or refuses writes. Does not change the status: most
    /// operations work without Redis.
    redis: String,
    /// Whether this process is shutting down.
    stopping: bool,
}

impl Example for Readiness {
    fn example() -> Self {
        Self {
            status: status(true),
            database: state(true),
            migrations: state(true),
            redis: state(true),
            stopping: false,
        }
    }
}

#[derive(ApiResponse)]
enum Answer<T: ToJSON + Send + Sync> {
    /// It is well.
    #[oai(status = 200)]
    Healthy(Json<T>),
    /// It is not; the cause is in the log.
    #[oai(status = 503)]
    Unhealthy(Json<T>),
}

impl<T: ToJSON + Send + Sync> Answer<T> {
    fn new(healthy: bool, body: T) -> Self {
        if healthy { Self::Healthy(Json(body)) } else { Self::Unhealthy(Json(body)) }
    }
}

fn status(healthy: bool) -> String {
    if healthy { "healthy" } else { "unhealthy" }.into()
}

fn state(ok: bool) -> String {
    if ok { "ok" } else { "error" }.into()
}

/// Logs why a check failed; the answer never says.
fn ok<T>(what: &str, result: Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(what, error = crate::error::chain(error), "unhealthy")).ok()
}

impl Health {
    async fn database(&self) -> Option<i32> {
        let one = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("1"));
        ok("database", self.0.db.run(async |conn| Ok(one.get_result::<i32>(conn).await?)).await)
    }

    async fn redis_works(&self) -> bool {
        let key = format!("{}:health", self.0.config.redis.redis_key_prefix);
        ok("redis", self.0.redis.probe(&key).await).is_some()
    }

    /// Whether no migration is pending; `None` where the database does not say.
    async fn migrated(&self) -> Option<bool> {
        let ask =
            async |conn: &mut AsyncPgConnection| migrations::pending(conn).await.map_err(Error::internal);
        ok("migrations", self.0.db.run(ask).await).map(|pending| pending.is_empty())
    }
}

#[OpenApi(prefix_path = "/health", tag = "Tag::Health")]
impl Health {
    /// Is the service up?
    #[oai(path = "/", method = "get", operation_id = "health")]
    async fn health(&self) -> Json<Alive> {
        let service = self.0.config.core.project_name.clone();
        Json(Alive { status: status(true), service, version: env!("CARGO_PKG_VERSION").into() })
    }

    /// Is the process alive? For a liveness probe: it asks nothing else.
    #[oai(path = "/live", method = "get", operation_id = "health_live")]
    async fn live(&self) -> Json<Alive> {
        self.health().await
    }

    /// Does the database answer?
    #[oai(path = "/db", method = "get", operation_id = "health_db")]
    async fn db(&self) -> Answer<DatabaseHealth> {
        let result = self.database().await;
        let healthy = result.is_some();
        Answer::new(healthy, DatabaseHealth { status: status(healthy), database: state(healthy), result })
    }

    /// Does Redis answer and accept writes?
    #[oai(path = "/redis", method = "get", operation_id = "health_redis")]
    async fn redis(&self) -> Answer<RedisHealth> {
        let healthy = self.redis_works().await;
        Answer::new(healthy, RedisHealth { status: status(healthy), redis: state(healthy) })
    }

    /// May traffic be sent here? For a readiness probe: the database, its migrations, and not shutting down.
    #[oai(path = "/ready", method = "get", operation_id = "health_ready")]
    async fn ready(&self) -> Answer<Readiness> {
        let (migrated, redis) = tokio::join!(self.migrated(), self.redis_works());
        let stopping = self.0.is_stopping();
        let healthy = migrated == Some(true) && !stopping;
        let migrations = match migrated {
            Some(true) => "ok",
            Some(false) => "pending",
            None => "error",
        };
        Answer::new(
            healthy,
            Readiness {
                status: status(healthy),
                database: state(migrated.is_some()),
                migrations: migrations.into(),
                redis: if redis { "ok" } else { "degraded" }.into(),
                stopping,
            },
        )
    }
}
