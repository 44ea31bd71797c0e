//! A connection that gives up on a client which neither goes on nor begins.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::limits::Limits;

pub(super) struct Connection {
    stream: TcpStream,
    /// Whether a request is being answered: the client may then wait.
    busy: Arc<AtomicBool>,
    /// Whether a part of a request's head is here.
    begun: bool,
    reading: Clock,
    limits: Limits,
    writing: Clock,
}

impl Connection {
    /// `busy` tells whether a request is being answered.
    pub(super) fn new(stream: TcpStream, busy: Arc<AtomicBool>, limits: Limits) -> Self {
        let (reading, writing) = (Clock::default(), Clock::default());
        // The first head is due: whoever has connected wants something.
        Self { stream, busy, begun: true, reading, limits, writing }
    }
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
