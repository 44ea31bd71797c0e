//! Connectors for tokio-postgres over TCP. Their streams put the SQLSTATE in front of the error messages of the server.

use std::{io, sync::Arc};

use futures_util::{FutureExt, TryFutureExt, future::BoxFuture};
use rustls::{
    ClientConfig,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio_postgres::{
    Socket,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{channel_binding::server_end_point, sqlstate::SqlStateStream};

/// A connector that does not encrypt.
#[derive(Clone, Copy)]
pub(super) struct PlainText;

/// A connector that encrypts with TLS.
#[derive(Clone)]
pub(super) struct Encrypted(TlsConnector);

/// A connector that encrypts with TLS, for one host.
pub(super) struct EncryptedTo {
    tls: TlsConnector,
    host: ServerName<'static>,
}

impl Encrypted {
    pub(super) fn new(config: ClientConfig) -> Self {
        Self(Arc::new(config).into())
    }
}

impl MakeTlsConnect<Socket> for PlainText {
    type Stream = SqlStateStream<Socket>;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _: &str) -> io::Result<Self> {
        Ok(*self)
    }
}

impl TlsConnect<Socket> for PlainText {
    type Stream = SqlStateStream<Socket>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Stream>>;

    fn connect(self, socket: Socket) -> Self::Future {
        std::future::ready(Ok(SqlStateStream::new(socket, |_| ChannelBinding::none())))
    }
}

impl MakeTlsConnect<Socket> for Encrypted {
    type Stream = SqlStateStream<TlsStream<Socket>>;
    type TlsConnect = EncryptedTo;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<EncryptedTo, InvalidDnsNameError> {
        Ok(EncryptedTo { tls: self.0.clone(), host: ServerName::try_from(host)?.to_owned() })
    }
}

impl TlsConnect<Socket> for EncryptedTo {
    type Stream = SqlStateStream<TlsStream<Socket>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Stream>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let connecting = self.tls.connect(self.host, socket);
        connecting.map_ok(|stream| SqlStateStream::new(stream, channel_binding)).boxed()
    }
}

fn channel_binding(stream: &TlsStream<Socket>) -> ChannelBinding {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    match certificate.and_then(|certificate| server_end_point(certificate)) {
        Some(hash) => ChannelBinding::tls_server_end_point(hash),
        None => ChannelBinding::none(),
    }
}
