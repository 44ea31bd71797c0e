use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::liveness_file;
use crate::{
    api::PREFIX,
    config::{Listen, WorkerHealth},
};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum number of bytes of the response that are read. They contain the status line.
const MAX_RESPONSE_BYTES: u64 = 4_096;

/// Exit with 0 if the local server is up, for a container's health check. With --worker, if the workers make progress.
///
/// --worker checks the running workers that have a file in WORKER_HEALTH_DIR, by default those of this user on this machine or
/// in this container, and fails if there is none. A worker that waits for Redis or PostgreSQL, or whose jobs run for hours, is
/// healthy. A worker that is suspended (SIGSTOP) or hangs, or whose jobs block the async runtime, is unhealthy.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  saas healthcheck && echo up\n  saas healthcheck --worker")]
pub(super) struct Args {
    /// Check the workers instead of the server.
    #[arg(long)]
    worker: bool,
    /// With --worker: a worker is unhealthy after this many seconds without progress. During an outage of Redis, a healthy
    /// worker makes progress only about every 20 seconds.
    #[arg(long, requires = "worker", default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(5..=3600))]
    max_age_seconds: u64,
    #[command(flatten)]
    health: WorkerHealth,
    #[command(flatten)]
    listen: Listen,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.worker {
            true => liveness_file::check(&self.health, Duration::from_secs(self.max_age_seconds))?,
            false => self.check_server().await?,
        }
        writeln!(std::io::stdout(), "healthy")?;
        Ok(ExitCode::SUCCESS)
    }

    async fn check_server(&self) -> anyhow::Result<()> {
        // If the server listens on all interfaces, the check connects to the loopback interface.
        let host = match self.listen.host {
            IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            host => host,
        };
        let address = SocketAddr::new(host, self.listen.port);
        let status = tokio::time::timeout(RESPONSE_TIMEOUT, status_line(address))
            .await
            .with_context(|| format!("no response from {address} within {} s", RESPONSE_TIMEOUT.as_secs()))?
            .with_context(|| format!("no server answers at {address}"))?;
        if !status.contains(" 200 ") {
            bail!("the server at {address} responds with {status:?}");
        }
        Ok(())
    }
}

/// Requests the liveness check and returns the status line. One request does not justify an HTTP client.
async fn status_line(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET {PREFIX}/health/live HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    // The error is converted to text: `main` would treat a broken pipe as a closed standard output, and report success.
    stream.write_all(request.as_bytes()).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
    let text = String::from_utf8_lossy(&response);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
