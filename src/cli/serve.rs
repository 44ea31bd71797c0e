use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use diesel_async::AsyncPgConnection;
use tokio::net::TcpSocket;

use super::{
    environment::Findings,
    open_files,
    server_checks::{check_tenant_role, wait_for_database, wait_for_usable_redis},
    shutdown::Shutdown,
    startup::{
        check_settings, create_first_admin, log_warnings, migrate as apply_migrations,
        refuse_default_password, refused_settings, warn_of_clock_difference,
    },
};
use crate::{
    api,
    app::App,
    config::{Config, Core, Http, Listen},
    db::migrations,
    logging,
    services::{api_key_uses, session_uses},
};

/// Maximum number of connections that wait to be accepted. The system drops further requests to connect; the systems of the
/// clients send them again after a second.
const LISTEN_BACKLOG: u32 = 4_096;

/// Serve the HTTP API in production.
///
/// Refuses to start if a setting is invalid or unsafe, migrations are pending, an active admin has the default password, or
/// PostgreSQL does not isolate the data of organizations. Ends if Redis refuses the login or is not safe for jobs. On SIGTERM,
/// running requests have SHUTDOWN_TIMEOUT_SECONDS to finish, after SHUTDOWN_DELAY_SECONDS. A second SIGTERM stops at once.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  SECRET_KEY=$(openssl rand -base64 32) \\\n  \
    DATABASE_URL=postgres://app:secret@db:5432/app REDIS_URL=redis://redis:6379/0 saas serve --host 0.0.0.0")]
pub(super) struct Args {
    /// Apply pending migrations first.
    #[arg(long)]
    migrate: bool,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    http: Http,
    #[command(flatten)]
    config: Config,
}

impl Args {
    /// Returns the problems of the parsed settings: invalid and unsafe values.
    pub(super) fn refused_settings(&self) -> Vec<String> {
        refused_settings(&self.config, Some(&self.http))
    }

    pub(super) async fn run(self, findings: &Findings) -> anyhow::Result<ExitCode> {
        let Self { migrate, listen, http, config } = self;
        check_settings(&config, Some(&http))?;
        let _log = logging::init(&config.core, &config.logs)?;
        log_warnings(&config, findings);
        let shutdown = Shutdown::on_signals()?;
        let core = config.core.clone();
        let app = App::new(config)?;
        // The port is closed while the server waits for the database, so a readiness probe fails at once.
        let conn = tokio::select! {
            conn = wait_for_database(&app.config) => conn?,
            () = shutdown.graceful.cancelled() => return Ok(ExitCode::SUCCESS),
        };
        let listener = bind(&listen)?;
        check_migrations(&app, migrate, conn).await?;
        {
            let conn = app.db.get().await?;
            check_tenant_role(&conn).await?;
        }
        refuse_default_password(&app, listen.host).await?;
        create_first_admin(&app).await?;
        warn_of_clock_difference(&app).await?;
        // While Redis is unavailable, the server runs, and only requests that need Redis fail. If Redis cannot be used for
        // another reason, such as a wrong password, the server stops.
        let (queue, redis) = (app.queue.clone(), app.config.redis.clone());
        let redis_refused = async move {
            wait_for_usable_redis(&queue, &redis).await?;
            std::future::pending::<anyhow::Result<()>>().await
        };
        tokio::select! {
            refused = redis_refused => refused?,
            served = serve(app, &core, &http, listener, &shutdown) => served?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Binds the address and listens on it.
///
/// # Errors
/// If the address cannot be used.
pub(super) fn bind(listen: &Listen) -> anyhow::Result<std::net::TcpListener> {
    let address = SocketAddr::new(listen.host, listen.port);
    let listener = listen_on(address).with_context(|| match listen.port {
        0 => format!("cannot listen on {address}"),
        port => format!(
            "cannot listen on {address}; choose another port with --port {} or PORT",
            port.wrapping_add(1).max(1024)
        ),
    })?;
    Ok(listener)
}

fn listen_on(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Allows the port of a process that has just ended, whose connections are in the state TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)?.into_std()
}

async fn check_migrations(app: &App, migrate: bool, conn: AsyncPgConnection) -> anyhow::Result<()> {
    if migrate {
        drop(conn);
        for name in apply_migrations(&app.config.database, &app.config.organizations.personal).await? {
            tracing::info!(migration = name, "migration applied");
        }
        return Ok(());
    }
    let pending = migrations::pending(&conn).await?;
    if !pending.is_empty() {
        bail!(
            "the database has pending migrations ({}): run `saas migrate up`, or start with --migrate",
            pending.join(", ")
        );
    }
    Ok(())
}

/// Serves requests until a shutdown is requested, and for `SHUTDOWN_DELAY_SECONDS` more. Then waits for running requests, for
/// up to `SHUTDOWN_TIMEOUT_SECONDS`, and writes the times of use of sessions and API keys that are not in the database yet. A
/// second request to shut down ends all waits.
///
/// # Errors
/// If a setting is invalid or the listener fails.
pub(super) async fn serve(
    app: App,
    core: &Core,
    http: &Http,
    listener: std::net::TcpListener,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let pool_size = app.config.database_pool.database_pool_size;
    let endpoint = api::endpoint(app.clone(), core, http)?;
    let limits = api::Limits {
        connections: open_files::reserve_connections(http.max_connections, pool_size),
        grace: Duration::from_secs(http.shutdown_timeout_seconds),
        ..api::Limits::default()
    };
    tracing::info!(%address, "listening");
    let delay = Duration::from_secs(http.shutdown_delay_seconds);
    let stopping = async {
        shutdown.graceful.cancelled().await;
        // The readiness check fails first, so that load balancers stop sending requests before the port is closed.
        app.begin_stopping();
        tracing::info!("stopping: finishing running requests");
        tokio::time::sleep(delay).await;
    };
    tokio::select! {
        ended = api::serve(listener, endpoint, stopping, limits) => ended?,
        () = session_uses::flush_regularly(&app) => {}
        () = api_key_uses::flush_regularly(&app) => {}
        () = app.rate_limits.settle_regularly() => {}
        () = shutdown.immediate.cancelled() => tracing::warn!("stopping at once: running requests are dropped"),
    }
    let flush_last = async { tokio::join!(session_uses::flush_last(&app), api_key_uses::flush_last(&app)) };
    tokio::select! {
        _ = flush_last => {}
        () = shutdown.immediate.cancelled() => {}
    }
    tracing::info!("stopped");
    Ok(())
}
