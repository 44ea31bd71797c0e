//! The HTTP/1.1 server, with limits for connections and slow clients, and with a graceful shutdown.
//!
//! It replaces poem's server. That one has no time limit for the head of a request, so a client that sends one byte a
//! minute keeps its connection forever (slowloris). It does not limit the number of connections. On shutdown it closes
//! the port while connections still wait in the backlog.

mod connection;
mod limits;
mod slots;

pub use limits::Limits;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use poem::{
    Addr, Endpoint, Response,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout, timeout_at},
};

use self::{
    connection::Connection,
    slots::{Slot, Slots},
};

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
    let slots = Slots::new(limits);
    let server = Arc::new(Server { endpoint, limits });
    let graceful = GracefulShutdown::new();
    let spawn = |(stream, peer, slot): AcceptedConnection| server.spawn(stream, peer, slot, &graceful);
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
    // hyper's shutdown closes connections whose first request it has not read yet, so give it time to read them.
    let deadline = deadline.max(Instant::now() + DRAIN_QUIET);
    let _ = timeout_at(deadline, slots.wait_until_empty()).await;
    if timeout(limits.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("dropped requests that were still running after SHUTDOWN_TIMEOUT_SECONDS");
    }
    Ok(())
}

/// A connection, the address of the client, and the slot that the connection takes.
type AcceptedConnection = (TcpStream, SocketAddr, Slot);

/// Accepts the connections in the backlog, then closes the port.
async fn drain_backlog(
    listener: TcpListener,
    slots: &Slots,
    deadline: Instant,
    spawn: impl Fn(AcceptedConnection),
) -> io::Result<()> {
    loop {
        let until = match slots.is_full() {
            true => deadline,
            false => deadline.min(Instant::now() + DRAIN_QUIET),
        };
        let Ok(accepted) = timeout_at(until, accept(&listener, slots)).await else { break };
        spawn(accepted);
    }
    // No await between the last accept and the close: connections that arrive in between are reset.
    let listener = listener.into_std()?;
    while let Some(permit) = slots.try_acquire() {
        let Ok((stream, peer)) = listener.accept() else { break };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            spawn((stream, peer, slots.open(peer.ip(), permit)));
        }
    }
    Ok(())
}

/// Waits for a free slot and accepts the next connection. Retries after errors, and logs the first of them.
async fn accept(listener: &TcpListener, slots: &Slots) -> AcceptedConnection {
    let mut logged = false;
    loop {
        let permit = slots.acquire(listener).await;
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, slots.open(peer.ip(), permit)),
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
    fn spawn(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, slot: Slot, graceful: &GracefulShutdown) {
        let Ok(local) = stream.local_addr() else { return };
        // A response is written in one call, so Nagle's algorithm (RFC 896) would only delay it.
        let _ = stream.set_nodelay(true);
        let activity = slot.activity.clone();
        let connection = Connection::new(stream, activity.clone(), self.limits);
        let server = self.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            activity.set_busy(true);
            let (server, activity) = (server.clone(), activity.clone());
            async move {
                let (local, peer) = (LocalAddr(Addr::SocketAddr(local)), RemoteAddr(Addr::SocketAddr(peer)));
                let request = (request, local, peer, Scheme::HTTP).into();
                let response = server.endpoint.get_response(request).await;
                activity.set_busy(false);
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
            drop(slot);
        });
    }
}
