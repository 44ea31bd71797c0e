//! Shuts the server down under load, and counts the requests that get no response.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, anyhow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{fixture::Fixture, process::Running, wrk::Request};

const CONNECTIONS: u32 = 64;
/// Requests per second over all connections.
pub const RATE: u32 = 5_000;
const LOAD_BEFORE_STOP: Duration = Duration::from_secs(2);

/// The requests and the duration of a shutdown.
#[derive(Default)]
pub struct Outcome {
    /// Requests that got a response.
    pub answered: u64,
    /// Requests without a response over a connection that had carried a response before.
    pub lost: u64,
    /// Connections that were closed before their first response.
    pub turned_away: u64,
    /// Milliseconds from SIGTERM to the exit of the server.
    pub took: f64,
}

/// The numbers of answered, lost and turned-away requests. All clients add to the same counts.
#[derive(Default)]
struct Counts([AtomicU64; 3]);

/// Sends [`RATE`] requests per second over keep-alive connections, and sends SIGTERM to the server after two seconds.
pub async fn measure(fixture: &Fixture, server: Running, request: &Request) -> Result<Outcome> {
    let (counts, text) = (Arc::new(Counts::default()), request.text());
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(request_until_closed(fixture.port(), text.clone(), counts.clone()));
    }
    sleep(LOAD_BEFORE_STOP).await;
    let took = server.terminate().await?;
    while clients.join_next().await.is_some() {}
    let [answered, lost, turned_away] = counts.0.each_ref().map(|count| count.load(Ordering::Relaxed));
    Ok(Outcome { answered, lost, turned_away, took })
}

async fn request_until_closed(port: u16, request: String, counts: Arc<Counts>) {
    let mut pace = interval(Duration::from_secs(1) * CONNECTIONS / RATE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let [answered, lost, turned_away] = counts.0.each_ref();
    // Reconnects until the port is closed.
    while let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
        let mut first = true;
        loop {
            pace.tick().await;
            match exchange(&mut stream, request.as_bytes()).await {
                Ok(open) => {
                    answered.fetch_add(1, Ordering::Relaxed);
                    first = false;
                    if !open {
                        break;
                    }
                }
                Err(_) => {
                    (if first { turned_away } else { lost }).fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
    }
}

/// Sends a request and reads the response. Returns whether the connection may be used again.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<bool> {
    stream.write_all(request).await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Err(anyhow!("the connection was closed without a response")),
            read => answer.extend_from_slice(&buffer[..read]),
        }
        let text = std::str::from_utf8(&answer)?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.unwrap_or("0").parse::<usize>()? {
            return Ok(!head.contains("connection: close"));
        }
    }
}
