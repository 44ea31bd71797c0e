//! A TCP proxy that simulates a cut network.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const BUFFER_BYTES: usize = 64 * 1024;

pub struct Proxy {
    pub port: u16,
    is_cut: watch::Sender<bool>,
}

impl Proxy {
    /// Starts a proxy for the server at a port of the loopback interface.
    pub async fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (is_cut, state) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target, state.clone()));
            }
        });
        Ok(Self { port, is_cut })
    }

    /// Cuts or restores the network. Open connections stay open, as when packets are lost, and new ones are accepted. The proxy
    /// holds data back while the network is cut, and delivers the data when the network is restored.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

async fn carry(near: TcpStream, target: u16, state: watch::Receiver<bool>) {
    let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    for side in [&near, &far] {
        // Without TCP_NODELAY, the system delays small packets.
        let _ = side.set_nodelay(true);
    }
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = copy(near_read, far_write, state.clone()) => {}
        () = copy(far_read, near_write, state) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if state.wait_for(|is_cut| !is_cut).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
