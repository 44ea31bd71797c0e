//! The HTTP/1.1 server: connections taken, bounded, and let go.
//!
//! poem's own has no time limit for the head of a request, so that a client which sends a byte a minute holds a
//! connection for ever (slowloris), nor a bound of connections, and it closes the port on those that wait to be taken.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
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
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

/// Bytes of a request's head, at most; a longer one is answered with 431.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
/// Once nobody has connected for so long, the door is closed.
const DRAIN: Duration = Duration::from_millis(20);
/// Or after so long, however many go on connecting.
const MAX_DRAIN: Duration = Duration::from_millis(500);
/// A pause where the system has no file descriptor to give.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// What a server lets its clients do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the system's queue.
    pub connections: usize,
    /// How long requests under way may take once the server is told to stop.
    pub grace: Duration,
    /// How long a request's head may take from its first byte on.
    pub head: Duration,
    /// How long a connection may be idle.
    pub idle: Duration,
    /// How long a client may take to make room for more of an answer.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            grace: Duration::from_secs(25),
            head: Duration::from_secs(10),
            // Load balancers keep theirs for a minute; it should be they who close, lest a request meets a closing door.
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
        }
    }
}

/// Answers requests until `stop` ends, and then those that are under way or have reached the port.
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
    let (endpoint, graceful) = (Arc::new(endpoint), GracefulShutdown::new());
    let room = Arc::new(Semaphore::new(limits.connections));
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            (stream, peer, permit) = accept(&listener, &room) => {
                answer(stream, peer, permit, &endpoint, &graceful, limits);
            }
        }
    }
    // Whoever has connected by now counts on an answer.
    let last = Instant::now() + MAX_DRAIN;
    loop {
        let until = last.min(Instant::now() + DRAIN);
        let Ok((stream, peer, permit)) = tokio::time::timeout_at(until, accept(&listener, &room)).await
        else {
            break;
        };
        answer(stream, peer, permit, &endpoint, &graceful, limits);
    }
    // And those of this very moment, without a look at anything else between the last one and the end.
    let listener = listener.into_std()?;
    while let Ok((stream, peer)) = listener.accept() {
        stream.set_nonblocking(true)?;
        let Ok(permit) = room.clone().try_acquire_owned() else { break };
        answer(TcpStream::from_std(stream)?, peer, permit, &endpoint, &graceful, limits);
    }
    drop(listener);
    // hyper closes a connection at once that has not been looked at yet; what has just been taken is looked at first.
    tokio::time::sleep(DRAIN).await;
    if tokio::time::timeout(limits.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way are dropped: they take longer than SHUTDOWN_TIMEOUT");
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            // The client has gone again, which is no fault; or too many files are open, which passes.
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(OUT_OF_FILES).await;
            }
        }
    }
}

fn answer<E: Endpoint<Output = Response> + 'static>(
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    endpoint: &Arc<E>,
    graceful: &GracefulShutdown,
    limits: Limits,
) {
    let Ok(local) = stream.local_addr() else { return };
    // Answers are written whole, so that there is nothing to wait for (RFC 896).
    let _ = stream.set_nodelay(true);
    let busy = Arc::new(AtomicBool::new(false));
    let connection = Connection {
        stream,
        busy: busy.clone(),
        begun: false,
        reading: Clock::default(),
        limits,
        writing: Clock::default(),
    };
    let endpoint = endpoint.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        busy.store(true, Ordering::Relaxed);
        let (endpoint, busy) = (endpoint.clone(), busy.clone());
        async move {
            let (local, peer) = (LocalAddr(Addr::SocketAddr(local)), RemoteAddr(Addr::SocketAddr(peer)));
            let response = endpoint.get_response((request, local, peer, Scheme::HTTP).into()).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<hyper::Response<_>, Infallible>(response.into())
        }
    });
    let served = http1::Builder::new()
        // See `Connection`: hyper's own would count idle time as well.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(2 * MAX_HEAD)
        .serve_connection(TokioIo::new(connection), service);
    let served = graceful.watch(served);
    tokio::spawn(async move {
        // A client that breaks off or is too slow is no fault of ours.
        if let Err(error) = served.await {
            tracing::debug!(error = crate::telemetry::chain(&error), "a connection ended");
        }
        drop(permit);
    });
}

/// A connection that gives up on a client which neither goes on nor begins.
struct Connection {
    stream: TcpStream,
    /// Whether a request is being answered: the client may then wait.
    busy: Arc<AtomicBool>,
    /// Whether a part of a request's head is here.
    begun: bool,
    reading: Clock,
    limits: Limits,
    writing: Clock,
}

/// The time that a client has for its next step.
#[derive(Default)]
struct Clock {
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Clock {
    /// Ready once the client has had its time since this was first asked.
    fn poll(&mut self, cx: &mut Context<'_>, time: Duration) -> Poll<io::Error> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        if !self.running {
            self.running = true;
            sleep.as_mut().reset(Instant::now() + time);
        }
        sleep.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn stop(&mut self) {
        self.running = false;
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let busy = this.busy.load(Ordering::Relaxed);
        if busy {
            this.begun = false;
            this.reading.stop();
            return read;
        }
        if read.is_pending() {
            let time = if this.begun { this.limits.head } else { this.limits.idle };
            return this.reading.poll(cx, time).map(Err);
        }
        // The time of a head begins with its first byte.
        if !this.begun && buf.filled().len() > before {
            this.begun = true;
            this.reading.stop();
        }
        read
    }
}

impl Connection {
    fn written<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.writing.stop();
            // What was answered is over: the next head begins anew.
            self.begun = false;
            self.reading.stop();
            return wrote;
        }
        Poll::Ready(Err(ready!(self.writing.poll(cx, self.limits.write))))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // The answer is out, and nothing may be read before the client goes on: this wakes who waits for that.
        if !this.busy.load(Ordering::Relaxed) && !this.begun {
            let _ = this.reading.poll(cx, this.limits.idle);
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
