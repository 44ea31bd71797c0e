//! The HTTP/1.1 server: connections taken, bounded, and let go.
//!
//! poem's own has no time limit for the head of a request, so that a client which sends a byte a minute holds a
//! connection for ever (slowloris), nor a bound of connections, and it closes the port on those that wait to be taken.

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

/// Bytes of a request's head, at most; a longer one is answered with 431.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
/// Once nobody has connected for so long, the port is closed.
const DRAIN: Duration = Duration::from_millis(20);
/// Or after so long, however many go on connecting. Whoever has a connection and has asked nothing by then is not
/// waited for.
const MAX_DRAIN: Duration = Duration::from_millis(500);
/// A pause where the system has no file descriptor to give.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// Answers requests until `stop` ends, and then those that are under way or have reached the port.
///
/// A connection that is idle then is not closed at once: a request may be on its way over it, and would be lost. The
/// answers of an endpoint that knows of the end should say that their connection is to be closed.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    endpoint: impl Endpoint<Output = Response> + 'static,
    stop: impl Future<Output = ()>,
    limits: Limits,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(limits.connections));
    let server = Arc::new(Server { endpoint, limits });
    let graceful = GracefulShutdown::new();
    let answer = |(stream, peer, permit): Accepted| server.answer(stream, peer, permit, &graceful);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &room) => answer(accepted),
        }
    }
    let last = Instant::now() + MAX_DRAIN;
    accept_last(listener, &room, last, answer).await?;
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    // hyper would close at once what it has not looked at yet.
    let last = last.max(Instant::now() + DRAIN);
    let _ = timeout_at(last, room.acquire_many(all)).await;
    if timeout(limits.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way are dropped: they take longer than SHUTDOWN_TIMEOUT_SECONDS");
    }
    Ok(())
}

/// A connection, the address of the client, and the room that the connection takes up.
type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// Accepts the clients that have connected by now and expect a response, then closes the port.
async fn accept_last(
    listener: TcpListener,
    room: &Arc<Semaphore>,
    last: Instant,
    answer: impl Fn(Accepted),
) -> io::Result<()> {
    loop {
        let until = match room.available_permits() {
            0 => last,
            _ => last.min(Instant::now() + DRAIN),
        };
        let Ok(accepted) = timeout_at(until, accept(&listener, room)).await else { break };
        answer(accepted);
    }
    // Those of this very moment too: nothing else may run between the last accept and the close.
    let listener = listener.into_std()?;
    while let Ok(permit) = room.clone().try_acquire_owned() {
        let Ok((stream, peer)) = listener.accept() else { break };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            answer((stream, peer, permit));
        }
    }
    Ok(())
}

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Accepted {
    let mut told = false;
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            // The client has gone again, which is no fault; or too many files are open, which passes.
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                tokio::time::sleep(OUT_OF_FILES).await;
            }
        }
    }
}

struct Server<E> {
    endpoint: E,
    limits: Limits,
}

impl<E: Endpoint<Output = Response> + 'static> Server<E> {
    /// Answers what comes over a connection.
    fn answer(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
    ) {
        let Ok(local) = stream.local_addr() else { return };
        // Answers are written whole, so that there is nothing to wait for (RFC 896).
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
            // See `Connection`: hyper's own would count idle time as well.
            .header_read_timeout(None)
            // A client that has sent all it wants may close its side, and still wait for the answer.
            .half_close(true)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD)
            .max_buf_size(2 * MAX_HEAD)
            .serve_connection(TokioIo::new(connection), service);
        let served = graceful.watch(served);
        tokio::spawn(async move {
            // A client that breaks off or is too slow is no fault of ours.
            if let Err(error) = served.await {
                tracing::debug!(error = crate::error::chain(&error), "a connection ended");
            }
            drop(permit);
        });
    }
}
