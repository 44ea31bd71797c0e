use std::{
    fs::{self, File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    serve::{bind, serve},
    shutdown::Shutdown,
    startup::check_dev_settings,
    worker::work,
};
use crate::{
    api::PREFIX,
    app::App,
    config::{self, Config, Http, Listen, secret},
    db::migrations,
    dev::{self, Purpose, Server},
    logging,
    queue::{Options, Queues},
    security,
    services::{self, users::Admin},
};

/// Longest time to finish requests and jobs on Ctrl-C, in seconds. A developer does not want to wait.
const MAX_SHUTDOWN_SECONDS: u64 = 3;
/// A shorter key file is incomplete.
const MIN_KEY_CHARS: usize = 32;

/// Run the whole product in this terminal, for development.
///
/// Starts a private PostgreSQL and Redis unless DATABASE_URL and REDIS_URL are set, applies migrations, creates the admin,
/// and runs the API and a worker. All data is in `.saas`. Ctrl-C stops everything that was started.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  saas dev\n  saas dev --port 8001\n  saas dev --reset     delete all data first"
)]
pub(super) struct Args {
    /// Delete the data of earlier runs, then start.
    #[arg(long)]
    reset: bool,
    /// Directory of the servers' data, the captured mails and the keys of this project.
    #[arg(long, default_value = ".saas", value_name = "DIR")]
    state_dir: PathBuf,
    /// Queues to take jobs from.
    #[arg(long, default_value = "default", value_name = "NAMES")]
    queues: Queues,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    http: Http,
    #[command(flatten)]
    worker: config::Worker,
    #[command(flatten)]
    config: Config,
}

impl Args {
    pub(super) async fn run(mut self) -> anyhow::Result<ExitCode> {
        self.config.core.debug = true;
        logging::init(&self.config.core)?;
        let shutdown = Shutdown::on_signals()?;
        check_dev_settings(&self.config, &self.http)?;
        // Before anything is started, since a port in use is the most common problem.
        let listener = bind(&self.listen)?;
        let _lock = lock(&self.state_dir)?;
        if self.reset {
            dev::wipe(&self.state_dir, &["lock"]).await.context("cannot delete the data of earlier runs")?;
        }
        let mut servers = Servers::default();
        let result = tokio::select! {
            result = self.run_product(&mut servers, listener, &shutdown) => result,
            () = shutdown.immediate.cancelled() => Ok(()),
        };
        servers.stop().await;
        result?;
        Ok(ExitCode::SUCCESS)
    }

    async fn run_product(
        self,
        servers: &mut Servers,
        listener: std::net::TcpListener,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let Self { listen: _, mut http, worker, mut config, queues, state_dir, .. } = self;
        let data = state_dir.join("servers");
        let started = tokio::select! {
            started = servers.start(&mut config, &data) => started,
            () = shutdown.graceful.cancelled() => return Ok(()),
        };
        started?;
        if secret(&config.auth.secret_key).is_none() {
            config.auth.secret_key = Some(project_key(&state_dir, "secret-key")?);
        }
        config.mail.mail_dir = state_dir.join("mail");
        http.shutdown_timeout_seconds = http.shutdown_timeout_seconds.min(MAX_SHUTDOWN_SECONDS);
        http.dev_pages = true;
        if !config.mail.public_url.is_set() {
            config.mail.public_url = Url::parse(&own_url(listener.local_addr()?))?.into();
        }
        if secret(&config.auth.two_factor_key).is_none() {
            config.auth.two_factor_key = Some(project_key(&state_dir, "two-factor-key")?);
        }

        for name in migrations::up(&config.database).await? {
            tracing::info!(migration = name, "migration applied");
        }
        let core = config.core.clone();
        let app = App::new(config)?;
        let login = create_first_admin(&app).await?;
        print_banner(listener.local_addr()?, &app, servers, &login)?;

        let options = Options {
            queues,
            concurrency: worker.concurrency.into(),
            lease: worker.lease(),
            grace: Duration::from_secs(worker.shutdown_grace_seconds.min(MAX_SHUTDOWN_SECONDS)),
            burst: false,
            scheduler: true,
        };
        tokio::try_join!(serve(app.clone(), &core, &http, listener, shutdown), work(app, options, shutdown))?;
        Ok(())
    }
}

/// The private servers that this run has started.
#[derive(Default)]
struct Servers {
    postgres: Option<Server>,
    redis: Option<Server>,
}

impl Servers {
    /// Starts a server for each database that is not configured, and sets its URL in `config`.
    async fn start(&mut self, config: &mut Config, dir: &Path) -> anyhow::Result<()> {
        let database = &mut config.database;
        if secret(&database.database_url).is_none()
            && database.postgres_server.as_deref().unwrap_or_default().is_empty()
        {
            let server = Server::postgres(dir, Purpose::Development).await?;
            database.database_url = Some(server.url.clone());
            self.postgres = Some(server);
        }
        if secret(&config.redis.redis_url).is_none() && config.redis.redis_host.is_none() {
            let server = Server::redis(dir, Purpose::Development).await?;
            config.redis.redis_url = Some(server.url.clone());
            self.redis = Some(server);
        }
        Ok(())
    }

    async fn stop(self) {
        for server in [self.redis, self.postgres].into_iter().flatten() {
            server.stop().await;
        }
    }
}

/// Locks the state directory until this process ends.
///
/// # Errors
/// If another `saas dev` uses the directory.
fn lock(dir: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create the directory {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "`saas dev` already runs in this directory ({}): stop it, or use another --state-dir and --port",
            path.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Returns a key of this project, created on the first run. Tokens stay valid after a restart.
fn project_key(dir: &Path, name: &str) -> anyhow::Result<SecretString> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join(name);
    if let Ok(key) = fs::read_to_string(&path)
        && key.len() >= MIN_KEY_CHARS
    {
        return Ok(key.into());
    }
    let key = security::random_secret()?;
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    file.write_all(key.as_bytes())?;
    Ok(key.into())
}

/// Creates the admin of the settings unless the user exists. Returns how to sign in.
async fn create_first_admin(app: &App) -> anyhow::Result<String> {
    let settings = &app.config.auth.admin;
    let (email, password) =
        (&settings.first_superuser_email, settings.first_superuser_password.expose_secret());
    let mut conn = app.db.get().await?;
    let admin =
        services::users::ensure_admin(&mut conn, &app.passwords, email, Some(password.to_owned()), false)
            .await?;
    Ok(match admin {
        // Only the default password is shown, not one that was set.
        Admin::Created | Admin::AlreadyThere if password == config::DEFAULT_ADMIN_PASSWORD => {
            format!("{email} / {password}")
        }
        Admin::PlainUser => format!("{email} is not an admin: run `saas create-admin --promote`"),
        _ => format!("{email} / the value of FIRST_SUPERUSER_PASSWORD"),
    })
}

/// Returns the URL of a local server.
fn own_url(address: std::net::SocketAddr) -> String {
    let host = if address.ip().is_loopback() { "localhost".to_owned() } else { address.ip().to_string() };
    format!("http://{host}:{}", address.port())
}

fn print_banner(
    address: std::net::SocketAddr,
    app: &App,
    servers: &Servers,
    login: &str,
) -> anyhow::Result<()> {
    let url = own_url(address);
    // The passwords of private servers are shown to the developer. Those of configured servers are not.
    let address_of = |server: &Option<Server>, setting| match server {
        Some(server) => server.url.expose_secret().to_owned(),
        None => format!("see {setting}"),
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n  {} is running\n\n  API       {url}{}\n  Docs      {url}/docs\n  Redoc     {url}/redoc\n  Mail      {url}/dev/mail\n  Login     {login}\n\
         \n  Database  {}\n  Redis     {}\n\n  Ctrl-C stops everything. `saas dev --reset` deletes all data first.\n",
        app.config.core.project_name,
        PREFIX,
        address_of(&servers.postgres, "DATABASE_URL"),
        address_of(&servers.redis, "REDIS_URL"),
    )?;
    out.flush()?;
    Ok(())
}
