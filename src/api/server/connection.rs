//! A TCP connection that fails with a time-out if the client is too slow to send a request or to read a response.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{limits::Limits, slots::Activity};

/// A TCP connection with the time limits of [`Limits`].
pub(super) struct Connection {
    stream: TcpStream,
    /// Reads have no time limit while a request is being handled.
    activity: Arc<Activity>,
    /// Whether the head of a request is expected or has arrived in part.
    in_head: bool,
    read_timeout: Timeout,
    limits: Limits,
    write_timeout: Timeout,
}

impl Connection {
    /// Wraps a new connection. The caller records in `activity` when it handles a request.
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, limits: Limits) -> Self {
        let (read_timeout, write_timeout) = (Timeout::default(), Timeout::default());
        // A client that connects has to send a request at once, so the time limit of a head applies.
        Self { stream, activity, in_head: true, read_timeout, limits, write_timeout }
    }
}

/// A time limit for the next read or write. It starts with the first poll after a stop.
#[derive(Default)]
struct Timeout {
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Timeout {
    /// Returns the time-out error when `time` has passed since the first poll.
    fn poll(&mut self, cx: &mut Context<'_>, time: Duration) -> Poll<io::Error> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        if !self.running {
            self.running = true;
            sleep.as_mut().reset(Instant::now() + time);
        }
        sleep.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    /// Stops the timer; the next poll starts it again.
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
        if read.is_ready() {
            this.activity.record_progress();
        } else if let Poll::Ready(closed) = this.activity.poll_closed(cx) {
            return Poll::Ready(Err(closed));
        }
        if this.activity.is_busy() {
            this.in_head = false;
            this.read_timeout.stop();
            return read;
        }
        if read.is_pending() {
            let time = if this.in_head { this.limits.head } else { this.limits.idle };
            return this.read_timeout.poll(cx, time).map(Err);
        }
        // The first byte ends the idle time and starts the time of the head.
        if !this.in_head && buf.filled().len() > before {
            this.in_head = true;
            this.read_timeout.stop();
        }
        read
    }
}

impl Connection {
    /// Applies the time limit of writes to the result of a write.
    fn limit_write<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.activity.record_progress();
            self.write_timeout.stop();
            // The response is written, so the connection is idle until the next request.
            self.in_head = false;
            self.read_timeout.stop();
            return wrote;
        }
        if let Poll::Ready(closed) = self.activity.poll_closed(cx) {
            return Poll::Ready(Err(closed));
        }
        Poll::Ready(Err(ready!(self.write_timeout.poll(cx, self.limits.write))))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.limit_write(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.limit_write(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // hyper may not poll the next read at once. This poll starts the idle time and registers the task to be woken.
        if !this.activity.is_busy() && !this.in_head {
            let _ = this.read_timeout.poll(cx, this.limits.idle);
            let _ = this.activity.poll_closed(cx);
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
