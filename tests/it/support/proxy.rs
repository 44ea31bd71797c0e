//! A TCP proxy that simulates faults of a network.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The state of the network between clients and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Up,
    /// Open and new connections are closed.
    Cut,
    /// Connections stay open, but no data passes.
    Stalled,
}

pub struct Proxy {
    pub address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    link: watch::Sender<Link>,
    /// Each value that is sent closes the open connections.
    closing: watch::Sender<()>,
    answers: Answers,
}

/// The responses of the server.
#[derive(Clone, Default)]
struct Answers {
    /// The next response that contains these bytes is lost.
    to_lose: Arc<Mutex<Option<Vec<u8>>>>,
    /// The number of bytes that the server has sent.
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, state) = watch::channel(Link::Up);
        let closing = watch::Sender::new(());
        let answers = Answers::default();
        let (carried, closed) = (answers.clone(), closing.clone());
        let target = Arc::new(Mutex::new(target));
        let current = target.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let target = *current.lock().unwrap();
                tokio::spawn(carry(near, target, state.clone(), closed.subscribe(), carried.clone()));
            }
        });
        Self { address, target, link, closing, answers }
    }

    /// Starts a proxy in front of the server of a URL. Returns the proxy, and the URL with the address of the proxy.
    pub async fn before(url: &str) -> (Self, String) {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (login, host) = rest.split_once('@').unwrap();
        let (host, path) = host.split_once('/').unwrap();
        let proxy = Self::to(host.parse().unwrap()).await;
        let through = format!("{scheme}://{login}@{}/{path}", proxy.address);
        (proxy, through)
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Connects new clients to another server, as after a change of DNS. Open connections stay connected to the old
    /// server.
    pub fn repoint(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }

    /// Closes all open connections, as a server does with idle ones. Clients can reconnect at once.
    pub fn close_all(&self) {
        self.closing.send_replace(());
    }

    /// Drops the next response that contains this text, and closes its connection. The server has executed the request.
    pub fn lose_answer(&self, with: &str) {
        *self.answers.to_lose.lock().unwrap() = Some(with.into());
    }

    /// Returns whether the response that [`Self::lose_answer`] describes was lost.
    pub fn has_lost_answer(&self) -> bool {
        self.answers.to_lose.lock().unwrap().is_none()
    }

    /// Returns how many bytes the server has sent through all connections of the proxy.
    pub fn bytes_answered(&self) -> u64 {
        self.answers.bytes.load(Ordering::SeqCst)
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    state: watch::Receiver<Link>,
    mut closing: watch::Receiver<()>,
    answers: Answers,
) {
    if *state.borrow() == Link::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut cut = state.clone();
    tokio::select! {
        () = copy(near_read, far_write, state.clone(), None) => {}
        () = copy(far_read, near_write, state, Some(answers)) => {}
        _ = cut.wait_for(|link| *link == Link::Cut) => {}
        _ = closing.changed() => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<Link>,
    answers: Option<Answers>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if state.wait_for(|link| *link != Link::Stalled).await.is_err() {
            return;
        }
        if let Some(answers) = &answers {
            answers.bytes.fetch_add(read as u64, Ordering::SeqCst);
            if answers.lose(&buffer[..read]) {
                return;
            }
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

impl Answers {
    /// Returns whether this part of a response must be lost. Only the first part that matches is lost.
    fn lose(&self, answer: &[u8]) -> bool {
        let mut expected = self.to_lose.lock().unwrap();
        let found = expected
            .as_ref()
            .is_some_and(|bytes| answer.windows(bytes.len().max(1)).any(|part| part.starts_with(bytes)));
        if found {
            *expected = None;
        }
        found
    }
}
