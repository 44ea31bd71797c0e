//! The SQLSTATE of a PostgreSQL error (PostgreSQL documentation, appendix "Error Codes").
//!
//! The product distinguishes the errors of the server by SQLSTATE, because the server translates its messages. diesel does not
//! return the SQLSTATE, so the stream of a connection puts it in front of the message: `[57014] canceling statement due to …`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use diesel::result::Error as DieselError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// The longest error message that is rewritten, in bytes. A longer one is passed on unchanged.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// The size of the header of a message: a byte for its type, and four for its length. The length includes its own four bytes,
/// but not the type.
const HEADER_BYTES: usize = 5;

/// Returns the SQLSTATE of an error that the server has reported. `None` for other errors, and for an error that
/// `SqlStateStream` has passed on unchanged.
pub fn sqlstate(error: &DieselError) -> Option<&str> {
    let DieselError::DatabaseError(_, info) = error else { return None };
    let (code, _) = info.message().strip_prefix('[')?.split_once(']')?;
    (code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

/// A stream of plaintext from a PostgreSQL server that puts the SQLSTATE in front of the message of each error. An error without
/// a SQLSTATE, or with more than [`MAX_ERROR_BYTES`], is passed on unchanged.
pub(super) struct SqlStateStream<S> {
    inner: S,
    channel_binding: fn(&S) -> ChannelBinding,
    scanner: Scanner,
    /// An error message that has not arrived completely. While it is rewritten, also the bytes that were received after it.
    error: Vec<u8>,
    /// Bytes that are ready for the caller of `poll_read`.
    ready: Vec<u8>,
}

impl<S> SqlStateStream<S> {
    pub(super) fn new(inner: S, channel_binding: fn(&S) -> ChannelBinding) -> Self {
        let scanner = Scanner::default();
        Self { inner, channel_binding, scanner, error: Vec::new(), ready: Vec::new() }
    }

    /// Rewrites complete errors, and moves them and the bytes after them from `error` to `ready`.
    fn rewrite_complete(&mut self) {
        while let Some(length) = self.error.first_chunk::<HEADER_BYTES>().map(message_bytes) {
            if length <= MAX_ERROR_BYTES && self.error.len() < length {
                return;
            }
            let rest = if length > MAX_ERROR_BYTES {
                self.scanner.skip(length);
                std::mem::take(&mut self.error)
            } else {
                let rest = self.error.split_off(length);
                self.ready.extend(with_sqlstate(&self.error));
                self.error.clear();
                rest
            };
            match self.scanner.find_error(&rest) {
                Some(at) => {
                    self.ready.extend_from_slice(&rest[..at]);
                    self.error = rest[at..].to_vec();
                }
                None => self.ready.extend(rest),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SqlStateStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready[..n]);
                this.ready.drain(..n);
                return Poll::Ready(Ok(()));
            }
            if !this.error.is_empty() {
                let mut chunk = [0; 4_096];
                let mut chunk = ReadBuf::new(&mut chunk);
                ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
                if chunk.filled().is_empty() {
                    // The connection ended in the middle of an error.
                    this.ready = std::mem::take(&mut this.error);
                    if this.ready.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                }
                this.error.extend_from_slice(chunk.filled());
                this.rewrite_complete();
                continue;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let Some(at) = this.scanner.find_error(&buf.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            this.error = buf.filled()[before + at..].to_vec();
            buf.set_filled(before + at);
            this.rewrite_complete();
            if at > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SqlStateStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for SqlStateStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        (self.channel_binding)(&self.inner)
    }
}

/// Finds the errors among the messages of the server, without keeping the messages.
#[derive(Default)]
struct Scanner {
    /// Number of bytes of the current message that are not read yet.
    left: usize,
    /// The beginning of a header that has not arrived completely.
    header: Vec<u8>,
}

impl Scanner {
    /// Ignores the next `length` bytes.
    fn skip(&mut self, length: usize) {
        self.left = length;
    }

    /// Returns where the first error begins; `None` if no error begins in these bytes. After an error, the caller must continue
    /// with the bytes after this error, or [`skip`](Self::skip) the error.
    fn find_error(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len() - at);
                self.left -= skipped;
                at += skipped;
                continue;
            }
            if self.header.is_empty() && bytes[at] == b'E' {
                return Some(at);
            }
            let wanted = HEADER_BYTES - self.header.len();
            let found = wanted.min(bytes.len() - at);
            self.header.extend_from_slice(&bytes[at..at + found]);
            at += found;
            if let Some(header) = self.header.first_chunk::<HEADER_BYTES>() {
                self.left = message_bytes(header) - HEADER_BYTES;
                self.header.clear();
            }
        }
        None
    }
}

/// Returns the number of bytes of a message, including its type.
fn message_bytes(header: &[u8; HEADER_BYTES]) -> usize {
    let [_, length @ ..] = *header;
    // A length below 4 is invalid; the client reports that.
    (u32::from_be_bytes(length) as usize).max(4) + 1
}

/// Puts the SQLSTATE of an ErrorResponse in front of its text. Each field of the message is a type and a string that ends with
/// NUL (PostgreSQL documentation, "Error and Notice Message Fields"). Leaves out an internal statement, such as one of
/// PL/pgSQL, and the position in it, because diesel would return the position as one in the client's statement.
fn with_sqlstate(message: &[u8]) -> Vec<u8> {
    let fields = || message[HEADER_BYTES..].split(|byte| *byte == 0).filter(|field| !field.is_empty());
    let Some(code) = fields().find_map(|field| field.strip_prefix(b"C")) else { return message.to_vec() };
    let mut body = Vec::with_capacity(message.len() + 8);
    for field in fields().filter(|field| !field.starts_with(b"p") && !field.starts_with(b"q")) {
        if let Some(text) = field.strip_prefix(b"M") {
            body.extend([b"M[", code, b"] ", text].concat());
        } else {
            body.extend_from_slice(field);
        }
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [b"E".as_slice(), &length.to_be_bytes(), &body].concat()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind], length.to_be_bytes().as_slice(), body].concat()
    }

    async fn read(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut server, client) = tokio::io::duplex(step);
        let mut stream = SqlStateStream::new(client, |_| ChannelBinding::none());
        let sent = bytes.to_vec();
        let writer = tokio::spawn(async move {
            server.write_all(&sent).await.unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        writer.await.unwrap();
        received
    }

    #[tokio::test]
    async fn errors_carry_their_sqlstate_however_they_are_split() {
        let error = |text: &str| message(b'E', format!("SFEHLER\0C57014\0M{text}\0Rx\0\0").as_bytes());
        let row = message(b'D', b"E\0\0\0\x05 no error");
        let (ready, empty) = (message(b'Z', b"I"), message(b'I', b""));
        let sent = [&row[..], &error("Abbruch"), &ready, &empty, &error("a"), &error("b"), &row].concat();
        let wanted = [
            &row[..],
            &error("[57014] Abbruch"),
            &ready,
            &empty,
            &error("[57014] a"),
            &error("[57014] b"),
            &row,
        ]
        .concat();
        for step in [1, 2, 3, 5, 7, 64, 4_096] {
            assert_eq!(read(&sent, step).await, wanted, "{step} bytes at a time");
        }
    }

    #[tokio::test]
    async fn a_position_in_an_internal_statement_is_left_out() {
        let with = |position: &str| message(b'E', format!("C42601\0Mtext\0{position}Rx\0\0").as_bytes());
        let expected =
            |position: &str| message(b'E', format!("C42601\0M[42601] text\0{position}Rx\0\0").as_bytes());
        assert_eq!(read(&with("p7\0qSELECT x\0"), 4_096).await, expected(""));
        assert_eq!(read(&with("P7\0"), 4_096).await, expected("P7\0"));
    }

    #[tokio::test]
    async fn an_error_that_cannot_be_rewritten_is_passed_on_unchanged() {
        let large = message(b'E', &vec![b'x'; MAX_ERROR_BYTES]);
        let without_code = message(b'E', b"SERROR\0Mtext\0\0");
        let sent = [&large[..], &without_code, &message(b'Z', b"I"), b"E\0\0\0\x20half"].concat();
        for step in [3, 1_000, 1_000_000] {
            assert_eq!(read(&sent, step).await, sent, "{step} bytes at a time");
        }
    }
}
