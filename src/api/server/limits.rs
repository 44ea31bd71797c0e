use std::time::Duration;

/// Maximum size of the head of a request. The response to a larger head is 431, or 414 if its first line is longer than
/// half of the limit.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Maximum number of header lines of a request.
pub(super) const MAX_HEADERS: usize = 100;

/// Limits of connections and time limits of the HTTP server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of open connections. Further connections wait in the backlog of the operating system.
    pub connections: usize,
    /// While the limit of connections is reached and clients wait in the backlog, the server closes connections that
    /// have made it wait for this time. The time decreases while the clients wait.
    pub reclaim_after: Duration,
    /// Maximum time for running requests during a shutdown. It starts half a second after the shutdown begins, when the server
    /// closes idle connections.
    pub grace: Duration,
    /// Maximum time in which a client must send the head of a request. For the first request, the time starts with the
    /// connection. For a later request, it starts with the first byte.
    pub head: Duration,
    /// Maximum time that a connection may be idle between two requests.
    pub idle: Duration,
    /// Maximum time that a write may block because the client does not read the response.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            reclaim_after: Duration::from_secs(1),
            grace: Duration::from_secs(25),
            head: Duration::from_secs(10),
            // Longer than the idle timeout of common load balancers (60 seconds), so that the load balancer closes an
            // idle connection first. A request that arrives while the server closes the connection would be lost.
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
        }
    }
}
