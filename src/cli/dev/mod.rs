mod database;
mod servers;

use std::{
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use self::servers::Servers;
use super::{
    environment::Findings,
    serve::{bind, serve},
    shutdown::Shutdown,
    startup::{check_dev_settings, is_loopback, migrate as apply_migrations, refuse_default_password},
    worker::{reserved_queue, retention, work},
};
use crate::{
    api::PREFIX,
    app::App,
    config::{self, Config, FirstAdmin, Http, Listen, secret},
    dev::{self, DEFAULT_STATE_DIR, LOCK_FILE, RunningServers},
    logging,
    queue::{Options, Queues},
    security,
};

/// Maximum time to finish requests and jobs on Ctrl-C, in seconds. Short, because a developer waits for it.
const MAX_SHUTDOWN_SECONDS: u64 = 3;
/// Minimum length of a key, in characters. A file with fewer was not written completely, and is replaced.
const MIN_KEY_CHARS: usize = 32;

/// Run the whole product in this terminal, for development.
///
/// Starts a private PostgreSQL and a private Redis, each unless the settings name a server. Applies migrations, creates an
/// admin, and runs the API and a worker. The data of the private servers is in `.saas`; if root runs the command and the account
/// of the servers cannot reach `.saas`, it is below /var/lib/saas-dev. Ctrl-C stops everything that was started. While `saas dev`
/// runs with the default --state-dir, the other commands in the same directory use these servers, unless the settings name
/// others or have DEBUG=false.
///
/// A database that you configure is migrated only if you confirm it or add --migrate, and gets no admin with the default
/// password.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  saas dev\n  saas dev --port 8001\n  saas dev --reset     delete all data first"
)]
pub(super) struct Args {
    /// Delete the data of earlier runs, then start.
    #[arg(long)]
    reset: bool,
    /// Apply pending migrations to a configured database. The private database is always migrated.
    #[arg(long)]
    migrate: bool,
    /// Directory of the servers' data, the captured mails and the keys of this project.
    #[arg(long, default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
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
    pub(super) async fn run(mut self, findings: &Findings) -> anyhow::Result<ExitCode> {
        self.config.core.debug = true;
        check_dev_settings(&self.config, &self.http)?;
        let _log = logging::init(&self.config.core, &self.config.logs)?;
        findings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let shutdown = Shutdown::on_signals()?;
        let is_private = !self.config.database.is_set();
        if is_private {
            refuse_public_default(self.listen.host, &self.config.auth.admin)?;
        }
        // Binds the port before any server is started, so that a port in use is reported at once.
        let listener = bind(&self.listen)?;
        if !is_private && !self.migrate {
            self.migrate = tokio::select! {
                confirmed = database::confirm_migrations(&self.config.database) => confirmed?,
                () = shutdown.graceful.cancelled() => return Ok(ExitCode::SUCCESS),
            };
        }
        let _lock = dev::lock_state(&self.state_dir).await?;
        if self.reset {
            if !is_private {
                let database = self.config.database.location();
                tracing::warn!(
                    database,
                    "--reset deletes the data of the private servers, not this database"
                );
            }
            dev::wipe(&self.state_dir, &[LOCK_FILE])
                .await
                .context("cannot delete the data of earlier runs")?;
        }
        let state_dir = self.state_dir.clone();
        let mut servers = Servers::default();
        let result = tokio::select! {
            result = self.run_product(&mut servers, listener, &shutdown) => result,
            () = shutdown.immediate.cancelled() => Ok(()),
        };
        let removed = RunningServers::remove(&state_dir);
        servers.stop().await;
        result?;
        removed.context("cannot remove the URLs of the private servers")?;
        Ok(ExitCode::SUCCESS)
    }

    async fn run_product(
        self,
        servers: &mut Servers,
        listener: std::net::TcpListener,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let Self { listen, migrate, mut http, worker, mut config, queues, state_dir, .. } = self;
        let data = state_dir.join("servers");
        let started = tokio::select! {
            started = servers.start(&mut config, &data) => started,
            () = shutdown.graceful.cancelled() => return Ok(()),
        };
        started?;
        servers.running().publish(&state_dir).context("cannot write the URLs of the private servers")?;
        if secret(&config.auth.secret_key).is_none() {
            config.auth.secret_key = Some(project_key(&state_dir, "secret-key")?);
        }
        config.mail.mail_dir = state_dir.join("mail");
        create_mail_dir(&config.mail.mail_dir).context("cannot create the directory of captured mails")?;
        http.shutdown_timeout_seconds = http.shutdown_timeout_seconds.min(MAX_SHUTDOWN_SECONDS);
        http.dev_pages = true;
        let mut hosts = http.allowed_hosts.get()?.cloned().unwrap_or_default();
        hosts.insert(match listen.host.to_canonical() {
            IpAddr::V4(ip) => Host::Ipv4(ip),
            IpAddr::V6(ip) => Host::Ipv6(ip),
        });
        http.allowed_hosts = hosts.into();
        if !config.mail.public_url.is_set() {
            config.mail.public_url = Url::parse(&own_url(listener.local_addr()?))?.into();
        }
        if secret(&config.auth.two_factor_key).is_none() {
            config.auth.two_factor_key = Some(project_key(&state_dir, "two-factor-key")?);
        }

        let is_private = servers.postgres.is_some();
        if is_private || migrate {
            for name in apply_migrations(&config.database, &config.organizations.personal).await? {
                tracing::info!(migration = name, "migration applied");
            }
        }
        let core = config.core.clone();
        let app = App::new(config)?;
        let login = create_admin(&app, is_private, listen.host).await?;
        print_banner(listener.local_addr()?, &app, servers, &login)?;

        let options = Options {
            queues,
            concurrency: worker.concurrency.into(),
            lease: worker.lease_duration(),
            grace: Duration::from_secs(worker.shutdown_grace_seconds.min(MAX_SHUTDOWN_SECONDS)),
            burst: false,
            scheduler: true,
            reserved: reserved_queue(&worker),
            max_running_per_owner: Some(app.config.user_jobs.user_max_running_jobs),
            retention: retention(&worker),
        };
        tokio::try_join!(
            serve(app.clone(), &core, &http, listener, shutdown),
            work(app, options, &worker.health, shutdown)
        )?;
        Ok(())
    }
}

/// Creates the directory of captured mails, which only this user can read: a link in a mail can set a password.
fn create_mail_dir(dir: &Path) -> io::Result<()> {
    dev::create_private_dir(dir)?;
    dev::make_files_private(dir, "eml")
}

/// Returns a random key, stored in the file `name` of the state directory `dir`. The first run creates the file, so tokens
/// and encrypted values stay valid after a restart.
fn project_key(dir: &Path, name: &str) -> anyhow::Result<SecretString> {
    let path = dir.join(name);
    if let Ok(key) = fs::read_to_string(&path)
        && key.len() >= MIN_KEY_CHARS
    {
        return Ok(key.into());
    }
    let key = security::random_secret()?;
    let mut file = dev::open_private_file(&path, File::options().truncate(true))?;
    file.write_all(key.as_bytes())?;
    Ok(key.into())
}

/// Creates the first admin in the private database or in an external one. Returns the text of the banner about the login.
///
/// # Errors
/// If other machines can connect and an admin has the default password, or the admin cannot be created.
async fn create_admin(app: &App, is_private: bool, host: IpAddr) -> anyhow::Result<String> {
    if !is_private {
        refuse_default_password(app, host).await?;
        return database::create_external_admin(app).await;
    }
    if !is_loopback(host) {
        refuse_default_password(app, host).await.map_err(|error| {
            anyhow::anyhow!(
                "{error} while `saas dev` runs without --host, with the DATABASE_URL that it prints. Or delete all data \
                 with --reset"
            )
        })?;
    }
    database::create_private_admin(app).await
}

/// Refuses to let other machines log in with the default password, which is public.
fn refuse_public_default(host: IpAddr, admin: &FirstAdmin) -> anyhow::Result<()> {
    if is_loopback(host) || admin.chosen_password().is_some() {
        return Ok(());
    }
    bail!(
        "other machines can connect to {host}, and the admin {} would have the default password, which is public: set \
         FIRST_SUPERUSER_PASSWORD, or remove --host and HOST",
        admin.first_superuser_email
    )
}

/// Returns the URL at which this machine reaches a server that listens on the address.
fn own_url(address: SocketAddr) -> String {
    let ip = address.ip().to_canonical();
    let names_localhost = [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)].contains(&ip);
    match names_localhost || ip.is_unspecified() {
        true => format!("http://localhost:{}", address.port()),
        false => format!("http://{address}"),
    }
}

fn print_banner(address: SocketAddr, app: &App, servers: &Servers, login: &str) -> anyhow::Result<()> {
    let url = own_url(address);
    // The passwords of private servers are shown to the developer. Those of configured servers are not.
    let database = match &servers.postgres {
        Some(server) => server.url.expose_secret().to_owned(),
        None => app.config.database.location(),
    };
    let redis = match &servers.redis {
        Some(server) => server.url.expose_secret(),
        None => "see REDIS_URL",
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n  {} is running\n\n  API       {url}{}\n  Docs      {url}/docs\n  Redoc     {url}/redoc\n  Mail      {url}/dev/mail\n  Login     {login}\n\
         \n  Database  {database}\n  Redis     {redis}\n\n  Ctrl-C stops everything. `saas dev --reset` deletes all data first.\n",
        app.config.core.project_name, PREFIX,
    )?;
    out.flush()?;
    Ok(())
}
