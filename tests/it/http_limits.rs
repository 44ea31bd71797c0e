//! The server against clients that are slow, many, greedy or gone.

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

use crate::support::{PATIENCE, eventually};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const SHORT: Duration = Duration::from_millis(150);
const FOR_EVER: Duration = Duration::from_secs(3_600);

struct Server {
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<std::io::Result<()>>,
}

impl Server {
    fn start(endpoint: impl Endpoint<Output = Response> + 'static, limits: Limits) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopping = async { drop(stopped.await) };
        let ended = tokio::spawn(api::serve(listener, endpoint, stopping, limits));
        Self { address, stop: Some(stop), ended }
    }

    fn hello(limits: Limits) -> Self {
        Self::start(make(async |_| Ok::<_, poem::Error>(Response::builder().body("hello"))), limits)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Connects and sends something.
    async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

/// All that comes until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it never closes");
    String::from_utf8(bytes).unwrap()
}

/// The next answer on a connection.
async fn next(stream: &mut TcpStream) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 1024]);
    while !text.ends_with("hello") {
        let read =
            tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("no answer").unwrap();
        assert_ne!(read, 0, "it closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

#[tokio::test]
async fn smoke_a_head_that_never_ends_is_given_up() {
    let server = Server::hello(Limits { head: SHORT, ..Limits::default() });
    for part in [&b""[..], b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx-more: "] {
        assert_eq!(rest(server.send(part).await).await, "");
    }
    // Also of one that sends a little all the time, and after a good request.
    let mut trickle = server.send(GET).await;
    assert!(next(&mut trickle).await.starts_with("HTTP/1.1 200"));
    trickle.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let dripping = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while trickle.write_all(b"x: y\r\n").await.is_ok() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, dripping).await.expect("it listens for ever");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_used_one_is_not() {
    let idle = Duration::from_millis(500);
    let server = Server::hello(Limits { idle, ..Limits::default() });
    let (mut stream, begun) = (server.connect().await, Instant::now());
    let mut pace = tokio::time::interval(idle / 20);
    while begun.elapsed() < 3 * idle {
        pace.tick().await;
        stream.write_all(GET).await.unwrap();
        assert!(next(&mut stream).await.ends_with("hello"));
    }
    assert_eq!(rest(stream).await, "");
}

#[tokio::test]
async fn a_request_may_take_longer_than_its_head() {
    let (go, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, tell) = (go.clone(), begun.clone());
    let endpoint = make(move |_| {
        let (wait, tell) = (wait.clone(), tell.clone());
        async move {
            tell.notify_one();
            wait.notified().await;
            Ok::<_, poem::Error>(Response::builder().body("hello"))
        }
    });
    let server = Server::start(endpoint, Limits { head: SHORT, idle: SHORT, ..Limits::default() });
    let mut stream = server.send(GET).await;
    begun.notified().await;
    // Others are given up meanwhile.
    rest(server.connect().await).await;
    rest(server.send(b"G").await).await;
    go.notify_one();
    assert!(next(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = Server::hello(Limits::default());
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "y".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-one: y\r\n".repeat(101));
    for head in [many, long] {
        let answer = rest(server.send(head.as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    }
    let answer = rest(server.send(b"nonsense\r\n\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
}

#[tokio::test]
async fn a_burst_of_connections_is_served_a_few_at_a_time() {
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
    let burst = join_all((0..300).map(|_| async { rest(server.send(GET).await).await })).await;
    assert!(burst.iter().all(|answer| answer.starts_with("HTTP/1.1 200")));
    assert!(most.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn clients_that_break_off_leave_their_place() {
    // None of them is given up for being slow.
    let server =
        Server::hello(Limits { connections: 2, head: FOR_EVER, idle: FOR_EVER, ..Limits::default() });
    for _ in 0..20 {
        let reset = server.send(b"GET / HTT").await;
        reset.set_zero_linger().unwrap();
        drop(reset);
        let mut half = server.send(b"GET / HTTP/1.1\r\n").await;
        half.shutdown().await.unwrap();
        assert_eq!(rest(half).await, "");
    }
    assert!(next(&mut server.send(GET).await).await.ends_with("hello"));
}

#[tokio::test]
async fn a_client_may_close_its_side_and_wait_for_the_answer() {
    let server = Server::hello(Limits { head: FOR_EVER, idle: FOR_EVER, ..Limits::default() });
    let mut stream = server.send(GET).await;
    stream.shutdown().await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer:?}");
}

#[tokio::test]
async fn smoke_what_has_reached_the_port_is_answered_before_the_end() {
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
    let under_way = server.send(GET).await;
    eventually("it is under way", || async { (begun.load(Ordering::SeqCst) == 1).then_some(()) }).await;
    // The server is told to stop before it has had a chance to take this one.
    let at_the_door = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(&mut &at_the_door, GET).unwrap();
    server.stop();
    at_the_door.set_nonblocking(true).unwrap();
    let at_the_door = TcpStream::from_std(at_the_door).unwrap();
    eventually("both are under way", || async { (begun.load(Ordering::SeqCst) == 2).then_some(()) }).await;
    assert_eq!(rest(idle).await, "", "nobody waits for who asks nothing");
    go.notify_waiters();
    for stream in [under_way, at_the_door] {
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer:?}");
    }
    server.ended.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn it_ends_under_load_and_answers_whom_it_has_taken() {
    let mut server = Server::hello(Limits::default());
    let (answered, address) = (Arc::new(AtomicUsize::new(0)), server.address);
    let clients = (0..8).map(|_| {
        let answered = answered.clone();
        tokio::spawn(async move {
            // Until the port is closed.
            while let Ok(mut stream) = TcpStream::connect(address).await {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
                assert!(rest(stream).await.ends_with("hello"), "it was taken and not answered");
                answered.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    eventually("it is busy", || async { (answered.load(Ordering::SeqCst) > 200).then_some(()) }).await;
    server.stop();
    tokio::time::timeout(PATIENCE, &mut server.ended).await.expect("it never ends").unwrap().unwrap();
    let lost = join_all(clients).await.iter().filter(|client| client.is_err()).count();
    // One may connect in the very moment in which the port closes; the system tells neither side of it.
    assert!(lost <= 1, "{lost} of {} were lost", answered.load(Ordering::SeqCst));
}

#[tokio::test]
async fn the_grace_ends_what_does_not() {
    let endpoint = make(async |_| std::future::pending::<poem::Result<Response>>().await);
    let mut server = Server::start(endpoint, Limits { grace: SHORT, ..Limits::default() });
    let _stuck = server.send(GET).await;
    server.stop();
    tokio::time::timeout(PATIENCE, &mut server.ended).await.expect("it never ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_given_up() {
    // More than the system keeps on its way.
    let endpoint = make(async |request: poem::Request| {
        let length = if request.uri().path() == "/large" { 64 << 20 } else { 0 };
        Ok::<_, poem::Error>(Response::builder().body("x".repeat(length) + "hello"))
    });
    let server = Server::start(endpoint, Limits { connections: 1, write: SHORT, ..Limits::default() });
    let deaf = server.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // Whoever comes next has to wait for its place.
    assert!(next(&mut server.send(GET).await).await.ends_with("hello"));
    drop(deaf);
}
