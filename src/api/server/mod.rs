//! The HTTP/1.1 server, with limits for connections and slow clients, and with a graceful shutdown.
//!
//! This server replaces poem's server, which has three problems. It has no time limit for the head of a request, so a
//! client that sends one byte a minute keeps its connection forever (Slowloris). It does not limit the number of
//! connections. On shutdown, it closes the port while clients still wait in the backlog.

mod connection;
mod limits;
mod refusal;
mod slots;

pub use limits::Limits;
pub(super) use refusal::Refusal;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use futures_util::{FutureExt, StreamExt, stream};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use poem::{
    Addr, Body, Endpoint, Request, Response,
    http::{HeaderValue, header, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use self::{
    connection::Connection,
    limits::{MAX_HEAD_BYTES, MAX_HEADERS},
    slots::{Activity, Slot, Slots},
};

/// In the last step of a shutdown, the port is closed when no client has connected for this time and the limit of
/// connections is not reached. After that, hyper has at least this time to read the first requests of the accepted
/// connections.
const DRAIN_QUIET: Duration = Duration::from_millis(20);
/// During a shutdown, idle connections from before the shutdown are closed after this time. In the last step, the port is
/// closed after this time even if clients still connect.
const MAX_DRAIN: Duration = Duration::from_millis(500);
/// Time between two checks of whether connections are still open, during a shutdown.
const OPEN_CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Delay before the next accept after a failed accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves requests until `stop` completes, then shuts down gracefully: finishes the running requests, and serves new
/// connections until the port is closed. Returns at the latest `limits.grace` and about one second after `stop`. The
/// requests that are still running then are dropped when the runtime ends.
///
/// The port stays open until the connections from before the shutdown have ended, but not much longer than half of
/// `limits.grace`. Clients are refused while no process listens on the port. Idle connections from before the shutdown stay
/// open for up to `MAX_DRAIN`, because a request may already be on its way. During the shutdown, the endpoint should set
/// `Connection: close`.
///
/// # Errors
/// If the listener cannot be registered with the runtime, or cannot be deregistered.
pub async fn serve(
    listener: std::net::TcpListener,
    endpoint: impl Endpoint<Output = Response> + 'static,
    stop: impl Future<Output = ()>,
    limits: Limits,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let slots = Slots::new(limits);
    let server = Arc::new(Server { endpoint, limits });
    let connections = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &slots) => server.spawn(accepted, &connections, true),
        }
    }
    // First, the connections from before the shutdown end, while new connections get one response each. If old requests
    // take longer than half of the grace period, the port is closed before they end: so each new request has about the
    // other half.
    let idle_until = Instant::now() + MAX_DRAIN;
    let (accept_until, grace_end) = (idle_until + limits.grace / 2, idle_until + limits.grace);
    let late_connections = GracefulShutdown::new();
    let serve_once = |connection: AcceptedConnection| server.spawn(connection, &late_connections, false);
    let finished = finish(connections, idle_until, grace_end);
    tokio::pin!(finished);
    let is_finished = loop {
        tokio::select! {
            () = &mut finished => break true,
            () = sleep_until(accept_until) => break false,
            accepted = accept(&listener, &slots) => serve_once(accepted),
        }
    };
    // Then the port is closed, and all connections end.
    let deadline = Instant::now() + MAX_DRAIN;
    drain_backlog(listener, &slots, deadline, serve_once).await?;
    let late_finished = finish(late_connections, deadline.max(Instant::now() + DRAIN_QUIET), grace_end);
    if is_finished {
        late_finished.await;
    } else {
        tokio::join!(finished, late_finished);
    }
    Ok(())
}

/// Waits until all connections are closed. From `idle_until` on, closes idle connections, and each other connection after
/// its running request. Stops waiting at `grace_end`, or [`DRAIN_QUIET`] after `idle_until` if that is later.
///
/// hyper's shutdown closes each connection from which hyper has not read anything. Until `idle_until`, hyper has time to read
/// the first requests.
async fn finish(connections: GracefulShutdown, idle_until: Instant, grace_end: Instant) {
    while connections.count() > 0 && Instant::now() < idle_until {
        sleep(OPEN_CHECK_INTERVAL).await;
    }
    // Idle connections need a moment to close.
    let end = grace_end.max(Instant::now() + DRAIN_QUIET);
    if timeout_at(end, connections.shutdown()).await.is_err() {
        tracing::warn!("dropped requests that were still running after SHUTDOWN_TIMEOUT_SECONDS");
    }
}

/// A connection, the address of the client, and the slot that the connection takes.
type AcceptedConnection = (TcpStream, SocketAddr, Slot);

/// Accepts the connections in the backlog until no client has connected for [`DRAIN_QUIET`] while a slot was free, at most until
/// `deadline`. Then closes the port.
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
    // When the port is closed, the operating system resets the connections that are still in the backlog. So this loop accepts
    // as many of them as the limit permits. There is no await between its last accept and the close, so that few clients
    // connect in this time.
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

/// Waits for a free slot and accepts the next connection. Retries after errors, and logs only the first of them.
async fn accept(listener: &TcpListener, slots: &Slots) -> AcceptedConnection {
    let mut logged = false;
    loop {
        let permit = slots.acquire(listener).await;
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, slots.open(peer.ip(), permit)),
            // The errors are transient: for example, the client has disconnected, or the process has too many open files.
            Err(error) => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(%error, "cannot accept a connection");
                }
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// The state that all connections share.
struct Server<E> {
    endpoint: E,
    limits: Limits,
}

impl<E: Endpoint<Output = Response> + 'static> Server<E> {
    /// Spawns a task that serves the requests of a connection. Without `keep_alive`, it serves only the first request.
    fn spawn(
        self: &Arc<Self>,
        (stream, peer, slot): AcceptedConnection,
        graceful: &GracefulShutdown,
        keep_alive: bool,
    ) {
        let Ok(local) = stream.local_addr() else { return };
        // Disables Nagle's algorithm (RFC 896), which combines small writes. It would only delay responses, because hyper
        // writes most of them with one call.
        let _ = stream.set_nodelay(true);
        let activity = slot.activity.clone();
        let server = self.clone();
        let refuse = Box::new(move |refusal| server.refuse(refusal, local, peer));
        let connection = Connection::new(stream, activity.clone(), self.limits, refuse);
        let server = self.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            activity.begin_request(!request.body().is_end_stream());
            let (server, activity) = (server.clone(), activity.clone());
            async move {
                let (local, peer) = addresses(local, peer);
                let request = watch_body((request, local, peer, Scheme::HTTP).into(), &activity);
                let mut response = server.endpoint.get_response(request).await;
                // hyper closes the connection if the rest of the request body has not arrived. This header tells the
                // client, so that it sends neither the rest nor another request (RFC 9112 section 9.6).
                if activity.has_unread_body() {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                activity.end_request();
                Ok::<hyper::Response<_>, Infallible>(response.into())
            }
        });
        let served = http1::Builder::new()
            // The type `Connection` enforces the time limits. The limit of hyper would include the idle time.
            .header_read_timeout(None)
            // A client may close its sending side after the request and still wait for the response.
            .half_close(true)
            .keep_alive(keep_alive)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(connection), service);
        let served = graceful.watch(served);
        tokio::spawn(async move {
            // The client disconnected, was too slow or sent a malformed request, or the connection was closed to make room.
            // None of these is an error of the server.
            if let Err(error) = served.await {
                tracing::debug!(error = crate::error::chain(&error), "connection failed");
            }
            drop(slot);
        });
    }

    /// Returns the endpoint's response to a request that hyper has refused. `None` if the endpoint does not handle refusals.
    fn refuse(&self, refusal: Refusal, local: SocketAddr, peer: SocketAddr) -> Option<Response> {
        let (local, peer) = addresses(local, peer);
        // The endpoint responds to refusals without waiting, so one poll is enough.
        let response = self.endpoint.get_response(refusal.request(local, peer)).now_or_never()?;
        (response.status() == refusal.status()).then_some(response)
    }
}

fn addresses(local: SocketAddr, peer: SocketAddr) -> (LocalAddr, RemoteAddr) {
    (LocalAddr(Addr::SocketAddr(local)), RemoteAddr(Addr::SocketAddr(peer)))
}

/// Wraps the body of a request, so that `activity` records when the endpoint has read it to its end.
fn watch_body(mut request: Request, activity: &Arc<Activity>) -> Request {
    if activity.has_unread_body() {
        let activity = activity.clone();
        let chunks = request.take_body().into_bytes_stream();
        let end = stream::poll_fn(move |_| {
            activity.record_body_end();
            Poll::Ready(None)
        });
        request.set_body(Body::from_bytes_stream(chunks.chain(end)));
    }
    request
}
