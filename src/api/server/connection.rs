//! A TCP connection that times out if the client is too slow to send the head of a request or to read a response. It also
//! replaces the responses of hyper to requests that hyper refuses.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Buf, Bytes};
use poem::Response;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{
    limits::Limits,
    refusal::{Refusal, encode},
    slots::Activity,
};

/// The HTTP/2 client preface (RFC 9113 section 3.4) without its last 6 bytes. hyper responds to this prefix with 400,
/// but closes the connection without a response after the full preface. So the bytes after this prefix in the same read are
/// dropped.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// The beginning of a request with the method HEAD, whose response has no body (RFC 9110 section 9.3.2).
const HEAD_METHOD: &[u8; 5] = b"HEAD ";

/// Returns the endpoint's response to a request that hyper has refused. `None` if the endpoint cannot respond to
/// refusals.
type Refuse = Box<dyn Fn(Refusal) -> Option<Response> + Send>;

/// A TCP connection with the time limits of [`Limits`].
pub(super) struct Connection {
    stream: TcpStream,
    /// The state that this value shares with the rest of the server. Reads have no time limit while a request is being handled.
    activity: Arc<Activity>,
    /// Whether the time limit of a head applies: the client must send its first request, or has sent a part of a head.
    in_head: bool,
    first_line: FirstLine,
    read_timeout: Timeout,
    limits: Limits,
    write_timeout: Timeout,
    refuse: Refuse,
    replacement: Option<Replacement>,
}

impl Connection {
    /// Wraps a new connection. The caller must record the beginning and the end of each request in `activity`.
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, limits: Limits, refuse: Refuse) -> Self {
        Self {
            stream,
            activity,
            // A client must send its first request at once after connecting, so the time limit of a head applies.
            in_head: true,
            first_line: FirstLine::default(),
            read_timeout: Timeout::default(),
            limits,
            write_timeout: Timeout::default(),
            refuse,
            replacement: None,
        }
    }
}

/// The length and the first octets of the first line of a head, as far as it has arrived.
#[derive(Default)]
struct FirstLine {
    bytes: usize,
    is_complete: bool,
    start: [u8; HEAD_METHOD.len()],
}

impl FirstLine {
    fn read(&mut self, head: &[u8]) {
        if !self.is_complete {
            for (place, octet) in self.start.iter_mut().skip(self.bytes).zip(head) {
                *place = *octet;
            }
            let end = head.iter().position(|octet| *octet == b'\n');
            self.bytes += end.unwrap_or(head.len());
            self.is_complete = end.is_some();
        }
    }

    fn is_head_request(&self) -> bool {
        self.start == *HEAD_METHOD
    }
}

/// A response that is being sent instead of hyper's refusal of a request.
struct Replacement {
    /// The bytes that are not sent yet.
    rest: Bytes,
    /// The length of hyper's response.
    replaced_bytes: usize,
}

/// A timer for the next read or write. The first poll starts it, and so does the first poll after [`Self::stop`].
#[derive(Default)]
struct Timeout {
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Timeout {
    /// Returns a time-out error when `time` has passed since the timer started.
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
        // The first byte of a request ends the idle time and starts the time limit of the head.
        if !this.in_head && buf.filled().len() > before {
            this.in_head = true;
            this.first_line = FirstLine::default();
            this.read_timeout.stop();
        }
        if buf.filled()[before..].starts_with(HTTP2_PREFACE) {
            buf.set_filled(before + HTTP2_PREFACE.len());
        }
        this.first_line.read(&buf.filled()[before..]);
        read
    }
}

impl Connection {
    /// Returns the result of a write. Returns an error after the time limit of writes, or if the connection must close to
    /// make room.
    fn limit_write<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.activity.record_progress();
            self.write_timeout.stop();
            // hyper writes only responses. So the time limit of the head ends, and the idle time begins.
            self.in_head = false;
            self.read_timeout.stop();
            return wrote;
        }
        if let Poll::Ready(closed) = self.activity.poll_closed(cx) {
            return Poll::Ready(Err(closed));
        }
        Poll::Ready(Err(ready!(self.write_timeout.poll(cx, self.limits.write))))
    }

    /// Sends the endpoint's response instead of `bytes`, if `bytes` are hyper's refusal of a request. Returns the result
    /// that a write of `bytes` would have. `None` if the caller must write `bytes`: they are not a refusal, or the endpoint
    /// has no response to it.
    fn poll_replace(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.replacement.is_none() {
            // hyper refuses a request before the endpoint receives it, and only after the response to the previous request.
            if self.activity.is_responding() {
                return None;
            }
            let response = (self.refuse)(Refusal::of(bytes, self.first_line.bytes)?)?;
            let rest = encode(response, bytes, self.first_line.is_head_request())?.into();
            self.replacement = Some(Replacement { rest, replaced_bytes: bytes.len() });
        }
        loop {
            let rest = &self.replacement.as_ref()?.rest;
            let wrote = Pin::new(&mut self.stream).poll_write(cx, rest);
            let written = match self.limit_write(cx, wrote) {
                Poll::Ready(Ok(written @ 1..)) => written,
                unwritten => return Some(unwritten),
            };
            let Replacement { rest, replaced_bytes } = self.replacement.as_mut()?;
            rest.advance(written);
            if rest.is_empty() {
                let replaced_bytes = *replaced_bytes;
                self.replacement = None;
                return Some(Poll::Ready(Ok(replaced_bytes)));
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(replaced) = self.poll_replace(cx, bytes) {
            return replaced;
        }
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.limit_write(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper's refusal of a request has no body, so it is a single slice.
        if let [bytes] = slices
            && let Some(replaced) = self.poll_replace(cx, bytes)
        {
            return replaced;
        }
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.limit_write(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // hyper flushes after it has written a response.
        this.activity.record_flushed();
        // hyper may not poll the next read at once. So this poll starts the idle time, and registers the task for a
        // wake-up.
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
