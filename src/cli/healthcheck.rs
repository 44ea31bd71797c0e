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

use crate::{api::PREFIX, config::Listen};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(4);
/// Bytes of the response that are read: the status line is in them.
const MAX_RESPONSE_BYTES: u64 = 4_096;

/// Exit with 0 if the local server is up, for a container's health check.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  saas healthcheck && echo up")]
pub(super) struct Args {
    #[command(flatten)]
    listen: Listen,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        // A server that listens on all interfaces is reached on the loopback interface.
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
        writeln!(std::io::stdout(), "healthy")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Requests the liveness check and returns the status line. One request does not justify an HTTP client.
async fn status_line(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET {PREFIX}/health/live HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    // Converted to text: `main` would treat a broken pipe as a closed standard output, and report success.
    stream.write_all(request.as_bytes()).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
    let text = String::from_utf8_lossy(&response);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
