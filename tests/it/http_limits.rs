//! The HTTP server with slow, numerous or disconnected clients, with heads that are too long, and during its shutdown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use poem::{Endpoint, Response, endpoint::make};
use saas::api::{self, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use crate::support::{TEST_TIMEOUT, eventually};

pub const GET_ROOT: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const SHORT_TIMEOUT: Duration = Duration::from_millis(150);
/// Longer than any test, so this time limit does not end a wait.
pub const NO_TIMEOUT: Duration = Duration::from_secs(3_600);

/// The HTTP server of the product, with an endpoint that the test provides.
pub struct Server {
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub fn start(endpoint: impl Endpoint<Output = Response> + 'static, limits: Limits) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopping = async { drop(stopped.await) };
        let ended = tokio::spawn(api::serve(listener, endpoint, stopping, limits));
        Self { address, stop: Some(stop), ended }
    }

    /// Starts a server that responds `hello` to each request.
    fn start_hello(limits: Limits) -> Self {
        Self::start(make(async |_| Ok::<_, poem::Error>(Response::builder().body("hello"))), limits)
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Connects and sends `bytes`.
    pub async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

/// Reads until the server closes the connection.
pub async fn read_until_closed(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // The error is ignored, because a reset closes the connection too.
    let _ = tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut bytes))
        .await
        .expect("the server does not close the connection");
    String::from_utf8(bytes).unwrap()
}

/// Reads the next response of a connection. Its body must end with `hello`.
pub async fn read_response(stream: &mut TcpStream) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 1024]);
    while !text.ends_with("hello") {
        let read = tokio::time::timeout(TEST_TIMEOUT, stream.read(&mut buffer))
            .await
            .expect("the server does not respond")
            .unwrap();
        assert_ne!(read, 0, "the server closed the connection after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

#[tokio::test]
async fn smoke_an_incomplete_head_times_out() {
    let server = Server::start_hello(Limits { head: SHORT_TIMEOUT, ..Limits::default() });
    for part in [&b""[..], b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx-more: "] {
        assert_eq!(read_until_closed(server.send(part).await).await, "");
    }
    // The time limit of the head also applies to a client that keeps sending header lines, and to the second request of
    // a connection.
    let mut trickle = server.send(GET_ROOT).await;
    assert!(read_response(&mut trickle).await.starts_with("HTTP/1.1 200"));
    trickle.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let dripping = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while trickle.write_all(b"x: y\r\n").await.is_ok() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, dripping)
        .await
        .expect("the server reads the head without a time limit");
}

#[tokio::test]
async fn a_connection_with_requests_stays_open_and_an_idle_one_times_out() {
    let idle = Duration::from_millis(500);
    let server = Server::start_hello(Limits { idle, ..Limits::default() });
    let (mut stream, begun) = (server.connect().await, Instant::now());
    let mut pace = tokio::time::interval(idle / 20);
    while begun.elapsed() < 3 * idle {
        pace.tick().await;
        stream.write_all(GET_ROOT).await.unwrap();
        assert!(read_response(&mut stream).await.ends_with("hello"));
    }
    assert_eq!(read_until_closed(stream).await, "");
}

#[tokio::test]
async fn a_request_may_run_longer_than_the_time_limit_of_its_head() {
    let (go, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, notify) = (go.clone(), begun.clone());
    let endpoint = make(move |_| {
        let (wait, notify) = (wait.clone(), notify.clone());
        async move {
            notify.notify_one();
            wait.notified().await;
            Ok::<_, poem::Error>(Response::builder().body("hello"))
        }
    });
    let server =
        Server::start(endpoint, Limits { head: SHORT_TIMEOUT, idle: SHORT_TIMEOUT, ..Limits::default() });
    let mut stream = server.send(GET_ROOT).await;
    begun.notified().await;
    // During the slow request, other connections time out.
    read_until_closed(server.connect().await).await;
    read_until_closed(server.send(b"G").await).await;
    go.notify_one();
    assert!(read_response(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = Server::start_hello(Limits::default());
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "y".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-one: y\r\n".repeat(101));
    for head in [many, long] {
        let answer = read_until_closed(server.send(head.as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    }
    let answer = read_until_closed(server.send(b"nonsense\r\n\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
}

#[tokio::test]
async fn a_burst_of_connections_is_served_within_the_limit() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), most.clone());
    let endpoint = make(move |_| {
        let (now, most) = (counted.clone(), highest.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, poem::Error>(Response::builder().header("connection", "close").body("hello"))
        }
    });
    let server = Server::start(endpoint, Limits { connections: 4, ..Limits::default() });
    let burst =
        join_all((0..300).map(|_| async { read_until_closed(server.send(GET_ROOT).await).await })).await;
    assert!(burst.iter().all(|answer| answer.starts_with("HTTP/1.1 200")));
    assert!(most.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn disconnected_clients_free_their_connections() {
    let server = Server::start_hello(Limits {
        connections: 2,
        head: NO_TIMEOUT,
        idle: NO_TIMEOUT,
        ..Limits::default()
    });
    for _ in 0..20 {
        let reset = server.send(b"GET / HTT").await;
        reset.set_zero_linger().unwrap();
        drop(reset);
        let mut half = server.send(b"GET / HTTP/1.1\r\n").await;
        half.shutdown().await.unwrap();
        assert_eq!(read_until_closed(half).await, "");
    }
    assert!(read_response(&mut server.send(GET_ROOT).await).await.ends_with("hello"));
}

#[tokio::test]
async fn a_half_closed_connection_receives_its_response() {
    let server = Server::start_hello(Limits { head: NO_TIMEOUT, idle: NO_TIMEOUT, ..Limits::default() });
    let mut stream = server.send(GET_ROOT).await;
    stream.shutdown().await.unwrap();
    let answer = read_until_closed(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer:?}");
}

#[tokio::test]
async fn smoke_a_request_that_has_reached_the_port_is_answered_before_shutdown() {
    let (go, begun) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (wait, count) = (go.clone(), begun.clone());
    let endpoint = make(move |_| {
        let (wait, count) = (wait.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            wait.notified().await;
            Ok::<_, poem::Error>(Response::builder().body("hello"))
        }
    });
    let mut server = Server::start(endpoint, Limits::default());
    let idle = server.connect().await;
    let running = server.send(GET_ROOT).await;
    eventually("the first request is running", || async {
        (begun.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    // The test does not await anything between here and `stop`, so the server accepts this connection only after `stop`.
    let in_backlog = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(&mut &in_backlog, GET_ROOT).unwrap();
    server.stop();
    in_backlog.set_nonblocking(true).unwrap();
    let in_backlog = TcpStream::from_std(in_backlog).unwrap();
    eventually("both requests are running", || async { (begun.load(Ordering::SeqCst) == 2).then_some(()) })
        .await;
    assert_eq!(read_until_closed(idle).await, "", "a connection without a request is closed");
    // The port is open until the running requests have finished.
    let late = server.send(GET_ROOT).await;
    eventually("the late request is running", || async { (begun.load(Ordering::SeqCst) == 3).then_some(()) })
        .await;
    go.notify_waiters();
    for stream in [running, in_backlog, late] {
        let answer = read_until_closed(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer:?}");
    }
    server.ended.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_under_load_answers_accepted_connections() {
    let mut server = Server::start_hello(Limits::default());
    let (answered, address) = (Arc::new(AtomicUsize::new(0)), server.address);
    let clients = (0..8).map(|_| {
        let answered = answered.clone();
        tokio::spawn(async move {
            // Reconnects until the port is closed.
            while let Ok(mut stream) = TcpStream::connect(address).await {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
                assert!(
                    read_until_closed(stream).await.ends_with("hello"),
                    "the connection was accepted and not answered"
                );
                answered.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    eventually("the server is under load", || async {
        (answered.load(Ordering::SeqCst) > 200).then_some(())
    })
    .await;
    server.stop();
    tokio::time::timeout(TEST_TIMEOUT, &mut server.ended)
        .await
        .expect("the server does not stop")
        .unwrap()
        .unwrap();
    let lost = join_all(clients).await.iter().filter(|client| client.is_err()).count();
    // One client may connect just before the port is closed. The server can no longer accept that connection.
    assert!(lost <= 1, "{lost} clients failed after {} responses", answered.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_request_that_exceeds_the_grace_period_is_dropped() {
    let endpoint = make(async |_| std::future::pending::<poem::Result<Response>>().await);
    let mut server = Server::start(endpoint, Limits { grace: SHORT_TIMEOUT, ..Limits::default() });
    let _stuck = server.send(GET_ROOT).await;
    server.stop();
    tokio::time::timeout(TEST_TIMEOUT, &mut server.ended)
        .await
        .expect("the server does not stop")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_times_out() {
    // The large response does not fit into the socket buffers, so the server waits for the client to read.
    let endpoint = make(async |request: poem::Request| {
        let length = if request.uri().path() == "/large" { 64 << 20 } else { 0 };
        Ok::<_, poem::Error>(Response::builder().body("x".repeat(length) + "hello"))
    });
    let server =
        Server::start(endpoint, Limits { connections: 1, write: SHORT_TIMEOUT, ..Limits::default() });
    let stalled = server.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // The only permitted connection is taken, so the next client waits until the server closes it.
    assert!(read_response(&mut server.send(GET_ROOT).await).await.ends_with("hello"));
    drop(stalled);
}
