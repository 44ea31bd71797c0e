//! The limit of connections. At the limit, the server closes a connection that waits for its client, and accepts a new
//! connection.

use std::{sync::Arc, time::Duration};

use poem::{Endpoint, Request, Response, endpoint::make};
use saas::api::Limits;
use tokio::sync::Notify;

use crate::http_limits::{GET_ROOT, NO_TIMEOUT, Server, read_response, read_until_closed};

/// Starts a server that holds two connections at most. The time limits for its clients are longer than any test.
fn start_with_two_connections(endpoint: impl Endpoint<Output = Response> + 'static) -> Server {
    let (head, idle, write) = (NO_TIMEOUT, NO_TIMEOUT, NO_TIMEOUT);
    let limits =
        Limits { connections: 2, reclaim_after: Duration::ZERO, head, idle, write, ..Limits::default() };
    Server::start(endpoint, limits)
}

fn hello_endpoint() -> impl Endpoint<Output = Response> + 'static {
    make(async |mut request: Request| {
        let _ = request.take_body().into_bytes().await;
        // A large response does not fit into the socket buffers, so the server waits for the client to read.
        let length = if request.uri().path() == "/large" { 32 << 20 } else { 0 };
        Ok::<_, poem::Error>(Response::builder().body("x".repeat(length) + "hello"))
    })
}

#[tokio::test]
async fn smoke_a_client_that_holds_all_connections_does_not_block_others() {
    let held: [&[u8]; 5] = [
        b"",
        b"GET / HTT",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx",
        b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n",
        GET_ROOT,
    ];
    for bytes in held {
        let server = start_with_two_connections(hello_endpoint());
        let mut holders = [server.send(bytes).await, server.send(bytes).await];
        if bytes == GET_ROOT {
            for holder in &mut holders {
                read_response(holder).await;
            }
        }
        // More clients than the limit, so later clients also take the connections of earlier ones.
        let mut others = Vec::new();
        for _ in 0..4 {
            let mut other = server.send(GET_ROOT).await;
            assert!(read_response(&mut other).await.starts_with("HTTP/1.1 200"), "{bytes:?}");
            others.push(other);
        }
    }
}

#[tokio::test]
async fn a_request_that_is_being_handled_keeps_its_connection() {
    let (go, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, notify) = (go.clone(), begun.clone());
    let server = start_with_two_connections(make(move |request: Request| {
        let (wait, notify) = (wait.clone(), notify.clone());
        async move {
            if request.uri().path() == "/slow" {
                notify.notify_one();
                wait.notified().await;
            }
            Ok::<_, poem::Error>(Response::builder().body("hello"))
        }
    }));
    let mut slow = server.send(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    begun.notified().await;
    let mut idle = server.send(GET_ROOT).await;
    read_response(&mut idle).await;
    for _ in 0..3 {
        // The connection of the slow request is the oldest, but it waits for the server and not for its client.
        let mut other = server.send(GET_ROOT).await;
        read_response(&mut other).await;
        assert_eq!(read_until_closed(idle).await, "");
        idle = other;
    }
    go.notify_one();
    assert!(read_response(&mut slow).await.starts_with("HTTP/1.1 200"));
}
