//! Connectors for tokio-postgres: they see the stream of each TCP connection, encrypted or not.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Socket,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};

use super::sqlstate::SqlStateStream;

/// A connector whose streams put the SQLSTATE in front of each error message.
#[derive(Clone)]
pub(super) struct Annotated<T>(pub(super) T);

impl<T: MakeTlsConnect<Socket>> MakeTlsConnect<Socket> for Annotated<T>
where
    T::Stream: Send + 'static,
    T::TlsConnect: Send + 'static,
    T::Error: 'static,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send + 'static,
    <T::TlsConnect as TlsConnect<Socket>>::Error: 'static,
{
    type Stream = SqlStateStream<T::Stream>;
    type TlsConnect = Annotated<T::TlsConnect>;
    type Error = T::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        self.0.make_tls_connect(domain).map(Annotated)
    }
}

impl<T: TlsConnect<Socket>> TlsConnect<Socket> for Annotated<T>
where
    T::Stream: Send + 'static,
    T::Future: Send + 'static,
    T::Error: 'static,
{
    type Stream = SqlStateStream<T::Stream>;
    type Error = T::Error;
    type Future = BoxFuture<'static, Result<Self::Stream, T::Error>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let connecting = self.0.connect(socket);
        async move { Ok(SqlStateStream::new(connecting.await?, TlsStream::channel_binding)) }.boxed()
    }
}

/// A connector that does not encrypt.
#[derive(Clone, Copy)]
pub(super) struct PlainText;

/// A TCP stream in the place of a TLS stream.
pub(super) struct PlainStream(Socket);

impl MakeTlsConnect<Socket> for PlainText {
    type Stream = PlainStream;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _: &str) -> io::Result<Self> {
        Ok(*self)
    }
}

impl TlsConnect<Socket> for PlainText {
    type Stream = PlainStream;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<PlainStream>>;

    fn connect(self, socket: Socket) -> Self::Future {
        std::future::ready(Ok(PlainStream(socket)))
    }
}

impl TlsStream for PlainStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for PlainStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
