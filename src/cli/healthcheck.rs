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

const PATIENCE: Duration = Duration::from_secs(4);

/// Exit with 0 if the local server answers; for a container's health check.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  saas healthcheck && echo up")]
pub(super) struct Args {
    #[command(flatten)]
    listen: Listen,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        // A server that listens everywhere is asked on the loopback interface.
        let host = match self.listen.host {
            IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            host => host,
        };
        let address = SocketAddr::new(host, self.listen.port);
        let status = tokio::time::timeout(PATIENCE, ask(address))
            .await
            .with_context(|| format!("no answer from {address} within {} s", PATIENCE.as_secs()))?
            .with_context(|| format!("no server answers at {address}"))?;
        if !status.contains(" 200 ") {
            bail!("the server at {address} answers {status:?}");
        }
        writeln!(std::io::stdout(), "healthy")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// One request by hand, so that a health check of every container needs no HTTP client in the binary.
async fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET {PREFIX}/health/live HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    // As text: a pipe that closes here is not the one of our own output.
    stream.write_all(request.as_bytes()).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
