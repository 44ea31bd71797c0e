//! The HTTP/1.1 server, with limits for connections and slow clients, and with a graceful shutdown.
//!
//! It replaces poem's server. That one has no time limit for the head of a request, so a client that sends one byte a
//! minute keeps its connection forever (slowloris). It does not limit the number of connections. On shutdown it closes
//! the port while connections still wait in the backlog.

mod connection;
mod limits;

pub use limits::Limits;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use poem::{
    Addr, Endpoint, Response,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use connection::Connection;

/// The maximum size of the head of a request. The response to a larger one is 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The maximum number of headers of a request.
const MAX_HEADERS: usize = 100;
/// The port is closed when no client has connected for this long during the shutdown.
const DRAIN_QUIET: Duration = Duration::from_millis(20);
/// The port is closed after this time even if clients still connect. Connections without a request are then closed.
const MAX_DRAIN: Duration = Duration::from_millis(500);
/// How long to wait before the next accept after a failed one.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves requests until `stop` completes, then shuts down gracefully: it finishes running requests and serves the
/// connections in the backlog.
///
/// Idle connections stay open for up to [`MAX_DRAIN`], because a request may already be on its way. During the shutdown
/// the endpoint should set `Connection: close`.
///
/// # Errors
/// If the listener cannot be registered with the runtime.
pub async fn serve(
    listener: std::net::TcpListener,
    endpoint: impl Endpoint<Output = Response> + 'static,
    stop: impl Future<Output = ()>,
    limits: Limits,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(limits.connections));
    let server = Arc::new(Server { endpoint, limits });
    let graceful = GracefulShutdown::new();
    let spawn = |(stream, peer, permit): AcceptedConnection| server.spawn(stream, peer, permit, &graceful);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &slots) => spawn(accepted),
        }
    }
    let deadline = Instant::now() + MAX_DRAIN;
    drain_backlog(listener, &slots, deadline, spawn).await?;
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    // hyper's shutdown closes connections whose first request it has not read yet, so give it time to read them.
    let deadline = deadline.max(Instant::now() + DRAIN_QUIET);
    let _ = timeout_at(deadline, slots.acquire_many(all)).await;
    if timeout(limits.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("dropped requests that were still running after SHUTDOWN_TIMEOUT_SECONDS");
    }
    Ok(())
}

/// A connection, the address of the client, and the permit that counts the connection.
type AcceptedConnection = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// Accepts the connections in the backlog, then closes the port.
async fn drain_backlog(
    listener: TcpListener,
    slots: &Arc<Semaphore>,
    deadline: Instant,
    spawn: impl Fn(AcceptedConnection),
) -> io::Result<()> {
    loop {
        let until = match slots.available_permits() {
            0 => deadline,
            _ => deadline.min(Instant::now() + DRAIN_QUIET),
        };
        let Ok(accepted) = timeout_at(until, accept(&listener, slots)).await else { break };
        spawn(accepted);
    }
    // No await between the last accept and the close: connections that arrive in between are reset.
    let listener = listener.into_std()?;
    while let Ok(permit) = slots.clone().try_acquire_owned() {
        let Ok((stream, peer)) = listener.accept() else { break };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            spawn((stream, peer, permit));
        }
    }
    Ok(())
}

/// Waits for a free slot and accepts the next connection. Retries after errors, and logs the first of them.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> AcceptedConnection {
    let mut logged = false;
    loop {
        let Ok(permit) = slots.clone().acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            // The client has disconnected already, or the process has too many open files. Both are transient.
            Err(error) => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(%error, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// What all connections share.
struct Server<E> {
    endpoint: E,
    limits: Limits,
}

impl<E: Endpoint<Output = Response> + 'static> Server<E> {
    /// Spawns a task that serves the requests of a connection.
    fn spawn(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
    ) {
        let Ok(local) = stream.local_addr() else { return };
        // A response is written in one call, so Nagle's algorithm (RFC 896) would only delay it.
        let _ = stream.set_nodelay(true);
        let busy = Arc::new(AtomicBool::new(false));
        let connection = Connection::new(stream, busy.clone(), self.limits);
        let server = self.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            busy.store(true, Ordering::Relaxed);
            let (server, busy) = (server.clone(), busy.clone());
            async move {
                let (local, peer) = (LocalAddr(Addr::SocketAddr(local)), RemoteAddr(Addr::SocketAddr(peer)));
                let request = (request, local, peer, Scheme::HTTP).into();
                let response = server.endpoint.get_response(request).await;
                busy.store(false, Ordering::Relaxed);
                Ok::<hyper::Response<_>, Infallible>(response.into())
            }
        });
        let served = http1::Builder::new()
            // `Connection` has the time limits. This one of hyper would include the idle time.
            .header_read_timeout(None)
            // A client may close its sending side after the request and still wait for the response.
            .half_close(true)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(connection), service);
        let served = graceful.watch(served);
        tokio::spawn(async move {
            // The client disconnected or was too slow, which is not an error of the server.
            if let Err(error) = served.await {
                tracing::debug!(error = crate::error::chain(&error), "connection failed");
            }
            drop(permit);
        });
    }
}
