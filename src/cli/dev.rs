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
    startup::check_dev_settings,
    stop::Stop,
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

/// Run the whole product in this terminal.
///
/// Starts a private PostgreSQL and Redis (unless DATABASE_URL or REDIS_URL names one), migrates, makes the admin,
/// and runs the API and a worker. What it keeps is in `.saas`. Ctrl-C stops everything that it started.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  saas dev\n  saas dev --port 8001\n  saas dev --reset     start over with nothing"
)]
pub(super) struct Args {
    /// Forget everything that earlier runs have kept, then start.
    #[arg(long)]
    reset: bool,
    /// Where the servers' data, the captured mails and the key of this project are kept.
    #[arg(long, default_value = ".saas", value_name = "DIR")]
    state_dir: PathBuf,
    /// Queues that the worker takes jobs from.
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
        let stop = Stop::on_signals()?;
        check_dev_settings(&self.config, &self.http)?;
        // The port first: it is what most often is in the way, and nothing has been started yet.
        let listener = bind(&self.listen)?;
        let _lock = lock(&self.state_dir)?;
        if self.reset {
            dev::wipe(&self.state_dir, &["lock"])
                .await
                .context("cannot remove what earlier runs have kept")?;
        }
        let mut servers = Servers::default();
        let result = tokio::select! {
            result = self.product(&mut servers, listener, &stop) => result,
            () = stop.hurry.cancelled() => Ok(()),
        };
        servers.stop().await;
        result?;
        Ok(ExitCode::SUCCESS)
    }

    async fn product(
        self,
        servers: &mut Servers,
        listener: std::net::TcpListener,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let Self { listen: _, mut http, worker, mut config, queues, state_dir, .. } = self;
        let data = state_dir.join("servers");
        let started = tokio::select! {
            started = servers.start(&mut config, &data) => started,
            () = stop.asked.cancelled() => return Ok(()),
        };
        started?;
        if secret(&config.auth.secret_key).is_none() {
            config.auth.secret_key = Some(project_key(&state_dir, "secret-key")?);
        }
        config.mail.mail_dir = state_dir.join("mail");
        http.shutdown_timeout_seconds = http.shutdown_timeout_seconds.min(3);
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
        let login = first_admin(&app).await?;
        banner(listener.local_addr()?, &app, servers, &login)?;

        let options = Options {
            queues,
            concurrency: worker.concurrency.into(),
            lease: worker.lease(),
            grace: Duration::from_secs(worker.shutdown_grace_seconds.min(3)),
            burst: false,
            scheduler: true,
        };
        tokio::try_join!(serve(app.clone(), &core, &http, listener, stop), work(app, options, stop))?;
        Ok(())
    }
}

/// The servers that this run has started.
#[derive(Default)]
struct Servers {
    postgres: Option<Server>,
    redis: Option<Server>,
}

impl Servers {
    /// Starts those that the settings do not name, and puts their addresses there.
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

/// One run at a time in a folder; the lock goes with the process.
fn lock(dir: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "`saas dev` is running in this folder already ({}); stop it first, or give this one its own --state-dir and --port",
            path.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// A key of this project, so that a restart logs nobody out.
fn project_key(dir: &Path, name: &str) -> anyhow::Result<SecretString> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join(name);
    if let Ok(key) = fs::read_to_string(&path)
        && key.len() >= 32
    {
        return Ok(key.into());
    }
    let key = security::random_secret()?;
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    file.write_all(key.as_bytes())?;
    Ok(key.into())
}

/// Makes the development admin, and says how to sign in.
async fn first_admin(app: &App) -> anyhow::Result<String> {
    let settings = &app.config.auth.admin;
    let (email, password) =
        (&settings.first_superuser_email, settings.first_superuser_password.expose_secret());
    let mut conn = app.db.get().await?;
    let made =
        services::users::ensure_admin(&mut conn, &app.passwords, email, Some(password.to_owned()), false)
            .await?;
    Ok(match made {
        // A password that somebody chose is theirs to know.
        Admin::Created | Admin::AlreadyThere if password == config::DEFAULT_ADMIN_PASSWORD => {
            format!("{email} / {password}")
        }
        Admin::PlainUser => format!("{email} is no admin; see `saas create-admin --promote`"),
        _ => format!("{email}, with the password of FIRST_SUPERUSER_PASSWORD"),
    })
}

fn own_url(address: std::net::SocketAddr) -> String {
    let host = if address.ip().is_loopback() { "localhost".to_owned() } else { address.ip().to_string() };
    format!("http://{host}:{}", address.port())
}

fn banner(address: std::net::SocketAddr, app: &App, servers: &Servers, login: &str) -> anyhow::Result<()> {
    let url = own_url(address);
    // The private servers' passwords are for whoever runs this; those of others are not ours to show.
    let private = |server: &Option<Server>, setting| match server {
        Some(server) => server.url.expose_secret().to_owned(),
        None => format!("as {setting} says"),
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n  {} is running\n\n  API       {url}{}\n  Docs      {url}/docs\n  Redoc     {url}/redoc\n  Mail      {url}/dev/mail\n  Login     {login}\n\
         \n  Database  {}\n  Redis     {}\n\n  Ctrl-C stops everything. `saas dev --reset` starts over.\n",
        app.config.core.project_name,
        PREFIX,
        private(&servers.postgres, "DATABASE_URL"),
        private(&servers.redis, "REDIS_URL"),
    )?;
    out.flush()?;
    Ok(())
}
